"""A request is complete, frozen and JSON, and its digest names what it asks for and nothing else."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from agilab import RunRequest
from agilab.backends.base import BACKENDS
from agilab.errors import RequestError
from agilab.request import ClusterOptions, code_digest

REQUEST = RunRequest(
    app="flights",
    app_uuid="5b2f1d0e-6a55-4a39-9d0c-0f8d3c1f2a77",
    code_digest="c" * 64,
    settings={"sample_s": 60, "when": ["2013-01-01", None]},
    cluster={"backend": "local", "workers": None, "timeout_s": None},
    seed=7,
    provenance={"sample_s": {"source": "caller", "where": ""}},
    cluster_provenance={"backend": {"source": "default", "where": ""}},
)


def test_it_survives_json() -> None:
    value = json.loads(json.dumps(REQUEST.to_json()))
    assert RunRequest.from_json(value) == REQUEST
    assert value["digest"] == REQUEST.digest


@pytest.mark.parametrize(
    "change",
    [
        {"app_uuid": "other"},
        {"code_digest": "d" * 64},
        {"settings": {"sample_s": 61, "when": ["2013-01-01", None]}},
        {"cluster": {**REQUEST.cluster, "workers": 3}},
        {"seed": 8},
    ],
)
def test_whatever_decides_what_a_run_does_is_in_the_digest(change: dict[str, Any]) -> None:
    assert replace(REQUEST, **change).digest != REQUEST.digest


@pytest.mark.parametrize("change", [{"app": "renamed"}, {"provenance": {}}, {"cluster_provenance": {}}])
def test_names_and_where_values_come_from_are_not(change: dict[str, Any]) -> None:
    assert replace(REQUEST, **change).digest == REQUEST.digest


def test_the_order_of_settings_does_not_matter() -> None:
    assert replace(REQUEST, settings=dict(reversed(REQUEST.settings.items()))).digest == REQUEST.digest


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        REQUEST.seed = 9  # type: ignore[misc]


@pytest.mark.parametrize("name", ["app", "code_digest", "settings", "cluster", "seed", "provenance"])
def test_a_request_that_is_incomplete_is_refused(name: str) -> None:
    value = {key: item for key, item in REQUEST.to_json().items() if key != name}
    with pytest.raises(RequestError, match=f"the request is incomplete: '{name}' is missing"):
        RunRequest.from_json(value)


@pytest.mark.parametrize(
    "change", [{"schema": "agilab.request/2"}, {"digest": "0" * 64}, {"seed": 8}, {"settings": {"sample_s": 60}}]
)
def test_a_request_whose_digest_is_not_that_of_its_content_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"make it again with AgiEnv\.request"):
        RunRequest.from_json({**REQUEST.to_json(), **change})


def test_every_backend_can_be_chosen_and_no_other() -> None:
    fields = {field.name: field for field in ClusterOptions.fields()}
    assert set(fields["backend"].constraints["options"]) == set(BACKENDS)
    assert all(field.doc for field in fields.values())


def test_the_code_digest_tells_manager_from_worker() -> None:
    assert code_digest("a", "b") != code_digest("b", "a")
