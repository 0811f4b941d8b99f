"""A gate: what passes, blocks or decides nothing; files with mistakes named by line; a record outside the seal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agilab import AgiEnv, Run
from agilab.compare import compare
from agilab.digest import of_bytes
from agilab.errors import EvidenceError, SettingError
from agilab.gate import EXIT, RULES, SAME, Decision, decide, keep, read_gate
from agilab.manifest import verify
from tests.run_folder import MOMENT, RunFolder, conform, sealed_run

BASE = {"good": 100.0, "zero": 0.0, "negative": -10.0, "nan": float("nan")}
Decided = Callable[..., Decision]


class Measured(RunFolder):
    """A run with metrics of its own."""

    metrics: dict[str, float] = {}  # noqa: RUF012 - set by each test

    def facts(self, state: str = "succeeded", error: str | None = None) -> dict[str, Any]:
        """Return what the manifest says, with these metrics."""
        return {**super().facts(state, error), "metrics": self.metrics}


def measured(home: Path, number: int, metrics: dict[str, float], **how: Any) -> Run:
    """Return a succeeded run with some metrics."""
    folder = Measured(home, moment=MOMENT + number, **how)
    folder.metrics = metrics
    return Run(folder.commit_all().seal())


@pytest.fixture
def decided(home: Path, tmp_path: Path) -> Decided:
    """Return ``decided(text, metrics)``: what a gate says about a run with these metrics."""

    def call(text: str, metrics: dict[str, float] | None = None, **how: Any) -> Decision:
        path = tmp_path / "gate.toml"
        path.write_text(text)
        runs = measured(home, 1, BASE), measured(home, 2, {**BASE, **(metrics or {})}, **how)
        found = decide(read_gate(path), compare(AgiEnv(), runs))
        conform(found.to_json(), "agilab.gate/1")
        json.dumps(found.to_json(), allow_nan=False)
        return found

    return call


@pytest.mark.parametrize(
    ("rule", "value", "verdict"),
    [
        ("good.min = 100", 100.0, "pass"),
        ("good.min = 100", 99.9, "block"),
        ("good.max = 100", 100.0, "pass"),
        ("good.max = 100", 100.1, "block"),
        ("good.min = -inf", 1.0, "pass"),
        ("good.max_increase = 5", 105.0, "pass"),
        ("good.max_increase = 5", 105.1, "block"),
        ("good.max_increase = 5", 0.0, "pass"),
        ("good.max_decrease = 5", 95.0, "pass"),
        ("good.max_decrease = 5", 94.9, "block"),
        ("good.max_decrease = 0", 100.0, "pass"),
        ("good.max_decrease = 0", 1e9, "pass"),
        ("good.max_decrease = '10%'", 90.0, "pass"),
        ("good.max_decrease = '10%'", 89.9, "block"),
        ("good.max_increase = '0.1 %'", 100.1, "pass"),
        ("good.max_increase = '0%'", 100.1, "block"),
        ("negative.max_decrease = '10%'", -11.0, "pass"),
        ("negative.max_decrease = '10%'", -11.1, "block"),
        ("zero.max_increase = '10%'", 0.0, "pass"),
        ("zero.max_increase = '10%'", 0.1, "block"),
        ("nan.min = 1", float("nan"), "undecided"),
        ("nan.max_increase = 1", 1.0, "undecided"),
        ("good.min = 1", float("inf"), "pass"),
        ("good.max_increase = 1", float("inf"), "undecided"),
    ],
)
def test_a_threshold_on_a_metric(decided: Decided, rule: str, value: float, verdict: str) -> None:
    name = rule.partition(".")[0]
    found = decided(f"[metrics]\n{rule}\n", {name: value})
    assert [item.verdict for item in found.rules] == [verdict]
    assert found.decision == {"pass": "promote"}.get(verdict, verdict)
    assert bool(found.rules[0].reason) is (verdict != "pass")


def test_a_missing_metric_is_undecided(decided: Decided) -> None:
    [rule] = decided("[metrics.nosuch]\nmin = 1\n").rules
    assert (rule.verdict, rule.reason) == ("undecided", "the candidate has no metric 'nosuch'")
    [rule] = decided("[metrics.fresh]\nmax_increase = 1\n", {"fresh": 1.0}).rules
    assert (rule.verdict, rule.reason) == ("undecided", "the baseline has no metric 'fresh'")
    assert decided("[metrics.fresh]\nmin = 1\n", {"fresh": 1.0}).decision == "promote"


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ("sample_s.equals = 30", "pass"),
        ("sample_s.equals = 60", "block"),
        ("sample_s.equals = '30'", "block"),
        ("sample_s.same = true", "block"),
        ("token.same = true", "pass"),
        ("sample_s.one_of = [30, 60]", "pass"),
        ("sample_s.one_of = [60]", "block"),
        ("sample_s.min = 30", "pass"),
        ("sample_s.max = 29", "block"),
        ("token.min = 1", "undecided"),
        ("nosuch.equals = 1", "undecided"),
        ("days.equals = ['2013-07-04']", "pass"),
        ("days.equals = [2013-07-04]", "pass"),
        ("'model.depth'.equals = 3", "pass"),
    ],
)
def test_a_rule_on_a_setting(decided: Decided, rule: str, verdict: str) -> None:
    settings = {"sample_s": 30, "days": ["2013-07-04"], "model": {"depth": 3}}
    found = decided(f"[settings]\n{rule}\n", settings=settings)
    assert [item.verdict for item in found.rules] == [verdict]


def test_costs_may_be_bounded(decided: Decided) -> None:
    text = "[costs]\nduration_s.max = 5.0\n'tracks.peak_rss_bytes'.max_increase = '5%'\n'tracks.wall_s'.max = 1\n"
    assert [item.verdict for item in decided(text).rules] == ["pass", "pass", "block"]


def test_sections_may_have_to_be_the_same(decided: Decided) -> None:
    found = decided('same = ["settings", "inputs", "artifacts"]\n', settings={"sample_s": 30, "more": 1})
    assert [item.verdict for item in found.rules] == ["block", "pass", "pass"]
    assert found.rules[0].reason == "settings differ in sample_s, more"


def test_a_rule_that_blocks_outweighs_one_that_is_undecided(decided: Decided) -> None:
    assert decided("[metrics]\nnosuch.min = 1\ngood.min = 101\n").decision == "block"


def test_every_decision_has_an_exit_code() -> None:
    assert EXIT == {"promote": 0, "block": 1, "undecided": 2}


def test_the_record_says_what_was_decided_on_what(decided: Decided, tmp_path: Path) -> None:
    found = decided("# a gate\n[metrics.good]\nmin = 1\n").to_json()
    assert found["gate"] == {
        "path": str(tmp_path / "gate.toml"),
        "sha256": of_bytes((tmp_path / "gate.toml").read_bytes()),
    }
    assert [item["rule"] for item in found["conditions"]] == [
        "baseline succeeded",
        "baseline verified",
        "candidate succeeded",
        "candidate verified",
    ]
    [rule] = found["rules"]
    assert (rule["rule"], rule["line"], rule["limit"], rule["candidate"]) == ("metrics.good.min", 3, 1, 100.0)


# --- what comes before all rules -----------------------------------------------


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Return a gate file that every run passes."""
    path = tmp_path / "gate.toml"
    path.write_text("[settings.sample_s]\nequals = 60\n")
    return path


def outcome(gate: Path, old: Run, new: Run) -> Decision:
    """Return the decision, which is that nothing can be decided."""
    found = decide(read_gate(gate), compare(AgiEnv(), [old, new]))
    conform(found.to_json(), "agilab.gate/1")
    assert found.decision == "undecided"
    return found


@pytest.mark.parametrize("state", ["failed", "cancelled"])
@pytest.mark.parametrize("role", ["baseline", "candidate"])
def test_a_run_that_did_not_succeed_decides_nothing(home: Path, gate: Path, state: str, role: str) -> None:
    good = Run(sealed_run(home))
    bad = Run(RunFolder(home, moment=MOMENT + 1).commit_all().seal(state, "why" if state == "failed" else None))
    pair = (good, bad) if role == "candidate" else (bad, good)
    found = outcome(gate, *pair)
    assert [item.title for item in found.conditions if item.verdict != "pass"] == [f"{role} succeeded"]


def test_a_run_without_a_seal_decides_nothing(home: Path, gate: Path) -> None:
    lost = Run(RunFolder(home, moment=MOMENT + 1).commit_all().paths)
    found = outcome(gate, Run(sealed_run(home)), lost)
    assert found.to_json()["candidate"]["seal_sha256"] is None


def test_a_run_that_was_changed_decides_nothing(home: Path, gate: Path) -> None:
    old, new = sealed_run(home), sealed_run(home, moment=MOMENT + 1)
    (new.partition("tracks", "p0") / "note.txt").write_text("tampered")
    found = outcome(gate, Run(old), Run(new))
    [wrong] = [item for item in found.conditions if item.verdict != "pass"]
    assert wrong.title == "candidate verified"
    assert wrong.reason.startswith("changed: artifacts/tracks/p0/note.txt")


def test_runs_of_two_apps_decide_nothing(home: Path, gate: Path) -> None:
    class Other(RunFolder):
        def facts(self, state: str = "succeeded", error: str | None = None) -> dict[str, Any]:
            found = super().facts(state, error)
            return {**found, "app": {**found["app"], "uuid": "00000000-0000-4000-8000-000000000000"}}

    other = Run(Other(home, app="other", moment=MOMENT + 1).commit_all().seal())
    found = outcome(gate, Run(sealed_run(home)), other)
    assert found.conditions[-1].title == "same app"


# --- files with mistakes -------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rule, so it would promote anything"),
        ("schema = 'agilab.gate/1'\n", "has no rule"),
        (
            "schema = 'agilab.gate/2'\n",
            "this version of AGILAB reads 'agilab.gate/1' (FILE:1)",
        ),
        (
            "[metrics.x]\nmin = 1\n[metric.y]\nmin = 1\n",
            "key 'metric'; did you mean 'metrics'? (FILE:3)",
        ),
        ("[metrics.x]\n\nmim = 1\n", "unknown rule 'mim'; did you mean 'min'? (FILE:3)"),
        ("[metrics.x]\nequals = 1\n", "unknown rule 'equals'; known are min, max, max_increase, max_decrease (FILE:2)"),
        ("[settings.x]\nmax_increase = 1\n", "unknown rule 'max_increase'"),
        ("[metrics.x]\nmin = 'high'\n", "min is 'high'; allowed: a number (FILE:2)"),
        ("[metrics.x]\nmin = '5%'\n", "min is '5%'; allowed: a number (FILE:2)"),
        ("[metrics.x]\nmin = true\n", "min is True; allowed: a number (FILE:2)"),
        ("[metrics.x]\nmin = nan\n", "allowed: a number (FILE:2)"),
        ("[metrics.x]\nmax_increase = -1\n", "allowed: a number >= 0 or a text such as '5%' of the baseline (FILE:2)"),
        ("[metrics.x]\nmax_decrease = '5'\n", "max_decrease is '5'"),
        ("[metrics.x]\nmax_decrease = '-5%'\n", "max_decrease is '-5%'"),
        ("[metrics]\nx = 1\n", "'x' is 1; write [metrics.NAME] and below it any of min, max"),
        ("[metrics.x]\n", "'x' is {}; write [metrics.NAME]"),
        ("metrics = 3\n", "'metrics' is 3; write [metrics.NAME]"),
        ("[[metrics]]\nmin = 1\n", "write [metrics.NAME]"),
        ("same = 'inputs'\n", "same is 'inputs'; allowed: a list of seed, settings"),
        ("same = ['input']\n", "same lists 'input'; did you mean 'inputs'? (FILE:1)"),
        ("same = ['costs']\n", "same lists 'costs'"),
        ("same = [[1]]\n", "same lists [1]"),
        ("[settings.x]\nsame = false\n", "same is False; allowed: true, or leave the rule out (FILE:2)"),
        ("[settings.x]\none_of = 3\n", "one_of is 3; allowed: a list of values (FILE:2)"),
        ("[settings.x]\none_of = []\n", "one_of is []"),
        ("[metrics.x\nmin = 1\n", "FILE:1:11 is not valid TOML"),
        ("a = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(SettingError) as caught:
        read_gate(path)
    assert said in str(caught.value).replace(str(path), "FILE")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no gate file"):
        read_gate(tmp_path / "nosuch.toml")
    with pytest.raises(SettingError, match="cannot be read"):
        read_gate(tmp_path)
    (tmp_path / "big.toml").write_bytes(b"#" * 2_000_000)
    with pytest.raises(SettingError, match="larger than"):
        read_gate(tmp_path / "big.toml")


def test_what_rules_may_say_is_known() -> None:
    assert set(RULES) == {"metrics", "costs", "settings"}
    assert "run" not in SAME


# --- the record ----------------------------------------------------------------


def test_decisions_are_kept_beside_the_run_and_outside_its_seal(home: Path, gate: Path) -> None:
    old, new = Run(sealed_run(home)), Run(sealed_run(home, moment=MOMENT + 1))
    found = decide(read_gate(gate), compare(AgiEnv(), [old, new]))
    files = [keep(found, new.paths) for _ in range(3)]
    assert [file.relative_to(new.paths.root).as_posix() for file in files] == [
        f"sidecar/gates/{number}.json" for number in (1, 2, 3)
    ]
    assert all(json.loads(file.read_text()) == found.to_json() for file in files)
    assert sorted(path.name for path in (new.paths.sidecar / "gates").iterdir()) == ["1.json", "2.json", "3.json"]
    assert (files[0].stat().st_mode & 0o777, files[0].parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert verify(new.paths).ok


@pytest.mark.parametrize("place", ["sidecar", "sidecar/gates"])
def test_no_decision_is_written_through_a_link(home: Path, gate: Path, tmp_path: Path, place: str) -> None:
    old, new = Run(sealed_run(home)), Run(sealed_run(home, moment=MOMENT + 1))
    (tmp_path / "elsewhere").mkdir()
    (new.paths.root / place).parent.mkdir(exist_ok=True)
    (new.paths.root / place).symlink_to(tmp_path / "elsewhere")
    found = decide(read_gate(gate), compare(AgiEnv(), [old, new]))
    with pytest.raises(EvidenceError, match="is a link"):
        keep(found, new.paths)
    assert not list((tmp_path / "elsewhere").iterdir())
