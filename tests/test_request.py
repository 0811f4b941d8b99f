"""`RunRequest`: the same choices have one digest however they are made; a request that does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agilab import AGI, AgiEnv, RunRequest
from agilab.backends.base import BACKENDS
from agilab.backends.inline import forget
from agilab.errors import RequestError, SettingError
from agilab.records import request_digest
from agilab.request import SCHEMA, ClusterOptions
from tests.run_folder import conform
from tests.survey import make_survey

CHOICES: Mapping[str, Any] = {"count": 5, "day": "2013-02-03", "model": {"depth": 4}, "labels": {"a": [1, None]}}
FLAGS = ("--count", "5", "--day", "2013-02-03", "--model.depth", "4", "--labels", '{"a": [1, null]}')


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> AgiEnv:
    folder = tmp_path_factory.mktemp("request")
    return AgiEnv(make_survey(folder), home=folder / "home", wenv=folder / "wenv")


@pytest.fixture(scope="module")
def request_made(shared: AgiEnv) -> RunRequest:
    return shared.request(CHOICES, cluster={"workers": 1}, seed=7)


@pytest.fixture
def own(home: Path, tmp_path: Path) -> AgiEnv:
    """Return an environment whose app may be edited."""
    return AgiEnv(make_survey(tmp_path))


def by_cli(env: AgiEnv, *words: str) -> dict[str, Any]:
    """Return what ``agilab plan --json`` says, as a process of its own."""
    variables = {**os.environ, "AGILAB_HOME": str(env.home.root), "AGILAB_WENV": str(env.wenv.root)}
    command = [sys.executable, "-m", "agilab", "plan", str(env.project.root), "--json", *words]
    done = subprocess.run(command, capture_output=True, env=variables, check=True)
    found: dict[str, Any] = json.loads(done.stdout)["request"]
    return found


def written(folder: Path, value: object) -> Path:
    path = folder / "request.json"
    path.write_text(json.dumps(value))
    return path


def refusal(call: Callable[[], Any], kind: type[Exception] = RequestError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- one digest ---


def test_python_shell_and_file_give_one_digest(shared: AgiEnv, request_made: RunRequest, tmp_path: Path) -> None:
    by_flags = by_cli(shared, *FLAGS, "--workers", "1", "--seed", "7")
    assert by_flags["digest"] == request_made.digest
    assert by_flags["settings"] == request_made.settings
    complete = written(tmp_path, request_made.to_json())
    assert shared.request(file=complete).digest == request_made.digest
    assert by_cli(shared, "--request", str(complete))["digest"] == request_made.digest
    partial = written(tmp_path, {"schema": SCHEMA, "settings": dict(CHOICES), "cluster": {"workers": 1}, "seed": 7})
    assert shared.request(file=partial).digest == request_made.digest
    half = written(tmp_path, {"schema": SCHEMA, "settings": {"count": 9, "model": {"depth": 4}}, "seed": 1})
    rest = {"count": 5, "day": "2013-02-03", "labels": {"a": [1, None]}}
    assert shared.request(rest, cluster={"workers": 1}, seed=7, file=half).digest == request_made.digest


def test_a_settings_object_gives_the_same_digest_as_its_values(
    shared: AgiEnv, request_made: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datetime as dt
    from importlib import import_module

    monkeypatch.syspath_prepend(str(shared.project.manager.parent))
    forget("survey", "")
    module = import_module("survey")
    try:
        model = module.Model(depth=4)
        made = module.Survey.Settings(count=5, day=dt.date(2013, 2, 3), labels={"a": [1, None]}, model=model)
        assert shared.request(made, cluster={"workers": 1}, seed=7).digest == request_made.digest
        values = {**CHOICES, "day": dt.date(2013, 2, 3), "model": model}
        assert shared.request(values, cluster={"workers": 1}, seed=7).digest == request_made.digest
    finally:
        forget("survey", "")


def test_where_a_value_came_from_lies_outside_the_digest(
    own: AgiEnv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_caller = own.request({"count": 5, "model": {"depth": 4}}, cluster={"workers": 1})
    by_file = own.request(
        file=written(tmp_path, {"schema": SCHEMA, "settings": {"count": 5}}),
        settings={"model": {"depth": 4}},
        cluster={"workers": 1},
    )
    monkeypatch.setenv("AGILAB_SETTING_COUNT", "5")
    monkeypatch.setenv("AGILAB_CLUSTER_WORKERS", "1")
    by_variable = own.request({"model": {"depth": 4}})
    own.save_settings({"count": 5, "model": {"depth": 4}})
    monkeypatch.delenv("AGILAB_SETTING_COUNT")
    by_workspace = own.request()
    requests = (by_caller, by_file, by_variable, by_workspace)
    assert len({request.digest for request in requests}) == 1
    assert [request.provenance["count"]["source"] for request in requests] == [
        "caller",
        "caller",
        "environment",
        "workspace file",
    ]
    assert by_file.provenance["count"]["where"] == str(tmp_path / "request.json")
    assert by_variable.cluster_provenance["workers"]["where"] == "AGILAB_CLUSTER_WORKERS"


def test_the_digest_covers_settings_cluster_seed_and_code(own: AgiEnv) -> None:
    first = own.request()
    assert own.request().digest == first.digest
    assert first.seed == 0
    others = [
        own.request({"count": 51}),
        own.request({"model": {"rate": 0.25}}),
        own.request(cluster={"workers": 1}),
        own.request(cluster={"backend": "inline"}),
        own.request(seed=1),
    ]
    for file in (own.project.worker / "__init__.py", own.project.manager / "__init__.py"):
        file.write_text(file.read_text() + "# edited\n")
        others.append(own.request())
        assert dict(others[-1].settings) == dict(first.settings)
    assert len({request.digest for request in (first, *others)}) == 1 + len(others)
    assert len({request.code_digest for request in (first, *others)}) == 3


def test_an_equal_project_elsewhere_gives_the_same_request(own: AgiEnv, tmp_path: Path, shared: AgiEnv) -> None:
    assert own.project.root != shared.project.root
    assert own.request(CHOICES).digest == shared.request(CHOICES).digest


def test_anyone_can_compute_the_digest_from_the_file(request_made: RunRequest) -> None:
    assert request_digest(request_made.to_json()) == request_made.digest
    conform(request_made.to_json(), SCHEMA)


# --- files that do not fit ---


def test_a_request_file_for_another_app_or_other_code_is_refused(own: AgiEnv, tmp_path: Path) -> None:
    value = own.request({"count": 5}).to_json()
    file = written(tmp_path, {**value, "app": {"name": "other", "uuid": value["app"]["uuid"]}})
    assert f"{file} is for app " in refusal(lambda: own.request(file=file))
    file = written(tmp_path, {**value, "app": {"name": "survey", "uuid": "0"}})
    assert f"not for survey ({own.project.uuid})" in refusal(lambda: own.request(file=file))
    file = written(tmp_path, value)
    worker = own.project.worker / "__init__.py"
    worker.write_text(worker.read_text() + "# edited\n")
    said = refusal(lambda: own.request(file=file))
    assert said.startswith(f"{file} was made for code {value['code_digest'][:12]} of survey, which is now ")
    assert said.endswith("remove code_digest and digest from a copy of it to run the new code")
    written(tmp_path, {name: item for name, item in value.items() if name != "digest"})
    assert refusal(lambda: own.request(file=file)) == said
    written(tmp_path, {name: item for name, item in value.items() if name not in ("digest", "code_digest")})
    assert own.request(file=file).settings["count"] == 5


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([], 'does not say "schema": "agilab.request/1"'),
        ({"settings": {}}, 'does not say "schema": "agilab.request/1"'),
        ({"schema": "agilab.request/2"}, 'does not say "schema": "agilab.request/1"'),
        ({"schema": SCHEMA, "setings": {}, "worker": 1}, "holds setings, worker; a request has app, cluster, "),
        ({"schema": SCHEMA, "settings": [1]}, " is [1]; allowed: a table of names and values"),
        ({"schema": SCHEMA, "cluster": "local"}, " is 'local'; allowed: a table of names and values"),
        ({"schema": SCHEMA, "settings": None}, " is None; allowed: a table of names and values"),
        ({"schema": SCHEMA, "app": "survey"}, "is for app survey, not for survey ("),
        ({"schema": SCHEMA, "seed": "1"}, "seed is '1'; allowed: a whole number from 0 to 2**63 - 1"),
        ({"schema": SCHEMA, "seed": None}, "seed is None; allowed: "),
        ({"schema": SCHEMA, "digest": "0"}, "the request is incomplete: 'app' is missing"),
    ],
)
def test_a_file_that_is_no_request_is_named_in_one_line(shared: AgiEnv, tmp_path: Path, value: Any, line: str) -> None:
    file = written(tmp_path, value)
    assert line in refusal(lambda: shared.request(file=file))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_file_that_is_not_json_is_named_in_one_line(shared: AgiEnv, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(data)
    assert refusal(lambda: shared.request(file=file)).startswith(f"{file} is not a request that can be read: ")
    assert refusal(lambda: shared.request(file=tmp_path / "none")).startswith(f"{tmp_path / 'none'} is not a request")


def test_a_wrong_value_in_a_file_names_the_file(shared: AgiEnv, tmp_path: Path) -> None:
    file = written(tmp_path, {"schema": SCHEMA, "settings": {"model": {"depth": 99}}})
    said = refusal(lambda: shared.request(file=file), SettingError)
    assert said == f"setting 'model.depth' is 99; allowed: a whole number >= 1 and <= 9 ({file})"
    file = written(tmp_path, {"schema": SCHEMA, "cluster": {"worker": 1}})
    said = refusal(lambda: shared.request(file=file), SettingError)
    assert said == f"unknown setting 'worker'; did you mean 'workers'? ({file})"


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "1"])
def test_a_seed_is_a_whole_number_of_63_bits(shared: AgiEnv, seed: Any) -> None:
    assert (
        refusal(lambda: shared.request(seed=seed)) == f"seed is {seed!r}; allowed: a whole number from 0 to 2**63 - 1"
    )


def test_the_largest_seed_is_taken(shared: AgiEnv) -> None:
    assert shared.request(seed=2**63 - 1).seed == 2**63 - 1


def test_unknown_settings_and_options_are_refused_with_a_near_match(shared: AgiEnv) -> None:
    assert (
        refusal(lambda: shared.request({"cuont": 1}), SettingError) == "unknown setting 'cuont'; did you mean 'count'?"
    )
    assert "did you mean 'model.depth'?" in refusal(lambda: shared.request({"model": {"dept": 1}}), SettingError)
    assert "did you mean 'timeout_s'?" in refusal(lambda: shared.request(cluster={"timeout": 1}), SettingError)


def test_a_request_for_another_app_is_refused_by_every_verb(shared: AgiEnv, request_made: RunRequest) -> None:
    other = dataclasses.replace(request_made, app_uuid="0")
    for verb in (AGI.get_distrib, AGI.run, AGI.submit):
        assert "use env.select('survey')" in refusal(lambda verb=verb: verb(shared, other))  # type: ignore[misc]
    assert not shared.home.runs.exists()


# --- frozen ---


def test_a_request_cannot_be_changed(request_made: RunRequest) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        request_made.seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        request_made.settings["count"] = 6  # type: ignore[index]
    shown = request_made.to_json()
    shown["settings"]["model"]["depth"] = 9
    assert request_made.settings["model"]["depth"] == 4


def test_a_request_does_not_change_with_what_it_was_made_from(shared: AgiEnv) -> None:
    labels = {"a": [1]}
    made = shared.request({"labels": labels})
    before = made.digest
    labels["a"].append(2)
    assert (made.settings["labels"], made.digest) == ({"a": [1]}, before)


def test_a_request_survives_json(request_made: RunRequest) -> None:
    again = RunRequest.from_json(json.loads(json.dumps(request_made.to_json())))
    assert again == request_made
    assert again.to_json() == request_made.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"count": 6}},
        {"cluster": {"backend": "inline"}},
        {"seed": 8},
        {"code_digest": "0" * 64},
        {"app": {"name": "survey", "uuid": "0"}},
        {"digest": "0" * 64},
        {"schema": "agilab.request/2"},
    ],
)
def test_a_tampered_request_is_refused(request_made: RunRequest, change: dict[str, Any]) -> None:
    said = refusal(lambda: RunRequest.from_json({**request_made.to_json(), **change}))
    assert "the request says digest " in said
    assert said.endswith("make it again with AgiEnv.request")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"settings": None}, "settings of the request is None; allowed: a table"),
        ({"provenance": [1]}, "provenance of the request is [1]; allowed: a table"),
        ({"seed": True}, "seed is True; allowed: "),
        ({"settings": {"rate": float("nan")}}, "the request holds what is not JSON"),
        ({"settings": {"rate": "\ud800"}}, "the request holds what is not JSON"),
        ({"app": "survey"}, "the request is incomplete"),
    ],
)
def test_a_request_of_another_shape_is_refused(request_made: RunRequest, change: dict[str, Any], line: str) -> None:
    assert line in refusal(lambda: RunRequest.from_json({**request_made.to_json(), **change}))


def test_a_request_that_lacks_something_is_refused(request_made: RunRequest) -> None:
    value = request_made.to_json()
    for name in value.keys() - {"schema", "digest"}:
        left = {key: item for key, item in value.items() if key != name}
        assert f"the request is incomplete: '{name}' is missing" in refusal(
            lambda left=left: RunRequest.from_json(left)
        )  # type: ignore[misc]


# --- cluster options ---


def test_cluster_options_offer_the_backends_there_are() -> None:
    [field] = [field for field in ClusterOptions.fields() if field.name == "backend"]
    assert set(field.constraints["options"]) == set(BACKENDS)
    assert field.default in BACKENDS


def test_cluster_options_that_came_later_change_no_digest_until_they_are_used(shared: AgiEnv) -> None:
    plain = shared.request(cluster={"backend": "local"})
    assert set(plain.cluster) == set(plain.cluster_provenance) == {"backend", "workers", "timeout_s"}
    spelled = shared.request(cluster={"backend": "local", "lease_s": 0.1, "scheduler": None, "cluster_options": {}})
    assert spelled.digest == plain.digest
    used = shared.request(cluster={"backend": "local", "memory_mib": 500})
    assert used.cluster["memory_mib"] == 500
    assert used.digest != plain.digest
    assert ClusterOptions.complete(plain.cluster)["lease_s"] == 0.1
    assert ClusterOptions.complete(used.cluster)["memory_mib"] == 500


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tls://head.example:8786"])
def test_the_address_of_a_scheduler_is_checked(shared: AgiEnv, address: str) -> None:
    assert shared.request(cluster={"scheduler": address}).cluster["scheduler"] == address
    for wrong in (address.removeprefix("tcp://").removeprefix("tls://"), f"{address}/x", f"{address} --x", "ucx://a:1"):
        with pytest.raises(SettingError, match="scheduler"):
            shared.request(cluster={"scheduler": wrong})
