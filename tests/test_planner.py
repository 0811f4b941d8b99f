"""App code answers as JSON, here or in a child process, and whatever else it does is one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agilab import Artifact, Partition
from agilab.errors import AgilabError, PlanError, ProjectError, SettingError
from agilab.home import is_ours
from agilab.paths import HomePaths
from agilab.planner import Child, Planner
from agilab.project import find
from agilab.testing import make_probe

HEAD = """
import agilab, param
from agilab import Partition, Stage, WorkPlan

class Probe(agilab.App):
    class Settings(agilab.Settings):
        count = param.Integer(2, bounds=(1, 10), doc="How many [partitions]")
"""
GOOD = """
    def plan(self):
        parts = [Partition(f"p{n}", params={"n": n, "pair": (n, n)}) for n in range(self.settings.count)]
        return WorkPlan([Stage("one", parts), Stage("two", after="one")])

    def plan_stage(self, stage, artifacts):
        return [Partition(stage, params={"seen": [art.name for art in artifacts]})]

    def summarize(self, results):
        return {"rows": sum(result.metrics["rows"] for result in results), "parts": len(results)}
"""
RECORD = {"metrics": [{"name": "rows", "value": 1.0, "step": 0}, {"name": "rows", "value": 2.0, "step": 1}]}
ART = Artifact("one", "p0", "x", "json", "artifacts/one/p0/x.json", 1, "0" * 64)

Make = Callable[..., Planner]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a maker of planners for an app with some manager code."""
    root = make_probe(tmp_path)

    def planner(body: str = GOOD, *, head: str = HEAD, in_process: bool = True) -> Planner:
        (root / "src" / "probe" / "__init__.py").write_text(head + body)
        return Planner(find(root), HomePaths(tmp_path / "home"), root, in_process=in_process)

    forget()
    yield planner
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name == "probe" or name.startswith("probe.")]:
        del sys.modules[name]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of child processes that were started."""
    started: list[Any] = []

    class Counted(Child):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    monkeypatch.setattr("agilab.planner.Child", Counted)
    return started


@pytest.mark.parametrize("in_process", [True, False])
def test_every_question_has_the_same_answer_here_and_in_a_child(
    make: Make, children: list[Any], *, in_process: bool
) -> None:
    planner = make(in_process=in_process)
    [count] = planner.fields()
    assert (count.name, count.default, count.unit) == ("count", 2, "partitions")
    inputs, plan = planner.plan({"count": 3})
    assert inputs == ()
    assert [part.params for part in plan.stage("one").partitions or ()] == [{"n": n, "pair": [n, n]} for n in range(3)]
    assert plan.stage("two").planned_later
    assert planner.plan_stage({"count": 3}, "two", [ART]) == (Partition("two", params={"seen": ["x"]}),)
    record = {**RECORD, "artifacts": [ART.to_json()]}
    parts = [Partition("p0", "one"), Partition("p1", "one")]
    assert planner.summarize({"count": 3}, parts, {"p0": record, "p1": record}) == {"rows": 4.0, "parts": 2.0}
    assert bool(children) is not in_process


def test_the_settings_are_asked_once_per_state_of_the_code(make: Make, children: list[Any]) -> None:
    make(in_process=False).fields()
    make(in_process=False).fields()
    assert len(children) == 1
    cached = next(make().home.cache.glob("fields/*.json"))
    cached.write_text("damaged")
    assert len(make(in_process=False).fields()) == 1
    make(GOOD + "    x = 1\n", in_process=False).fields()
    assert len(children) == 3


def test_a_home_that_is_asked_before_anything_else_is_ours_afterwards(make: Make) -> None:
    planner = make()
    planner.fields()
    assert is_ours(planner.home.marker)


def test_code_that_this_process_has_imported_in_another_state_is_asked_in_a_child(
    make: Make, children: list[Any]
) -> None:
    assert len(make().plan({"count": 2})[1].partitions) == 2
    loaded = sys.modules["probe"]
    changed = make(GOOD.replace("range(self.settings.count)", "range(5)"))
    assert len(changed.plan({"count": 2})[1].partitions) == 5
    assert sys.modules["probe"] is loaded
    assert len(children) == 1
    assert len(make().plan({"count": 2})[1].partitions) == 2
    assert len(children) == 1


def test_code_that_somebody_else_imported_is_asked_in_a_child(
    make: Make, children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = make()
    monkeypatch.syspath_prepend(planner.project.manager.parent)
    __import__("probe")
    planner.plan({"count": 2})
    assert len(children) == 1


@pytest.mark.parametrize("in_process", [True, False])
@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("    def plan(self): raise ValueError('first\\nsecond')", PlanError, "plan raised ValueError: first; see "),
        ("    def plan(self): raise SystemExit(0)", PlanError, "plan raised SystemExit: 0; see "),
        ("    def plan(self): return 3", PlanError, "Probe.plan returned int; return an agilab.WorkPlan"),
        ("    x = 1", PlanError, "Probe does not say what to do; define plan"),
        ("    def inputs(self): return ['a']\n" + GOOD, PlanError, "plan raised "),
        (
            "    def __init__(self, settings, *, data_root): raise OSError('no')\n" + GOOD,
            PlanError,
            "raised OSError: no",
        ),
        (
            "    def plan(self): return WorkPlan([Stage('one', [Partition('a', params={'x': {1}})])])",
            PlanError,
            "not JSON",
        ),
        (
            "    def plan(self): return WorkPlan([Stage('one', [Partition('a', params={'x': float('nan')})])])",
            PlanError,
            "not JSON",
        ),
        ("    def plan(self): return WorkPlan([Stage('one', after='nobody')])", PlanError, "waits for 'nobody'"),
        ("raise RuntimeError('at import')", ProjectError, "probe cannot be imported: RuntimeError: at import; see "),
        ("raise SystemExit(0)", ProjectError, "probe cannot be imported: SystemExit: 0; see "),
        ("import nowhere_to_be_found", ProjectError, "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ],
)
def test_what_app_code_does_wrong_is_said_in_one_line(
    make: Make, body: str, kind: type[AgilabError], *, said: str, in_process: bool
) -> None:
    with pytest.raises(kind) as refused:
        make(body, in_process=in_process).plan({"count": 2})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    if "; see " in said:
        assert "probe/__init__.py:" in str(refused.value)


def test_settings_are_validated_before_the_app_is_asked(make: Make) -> None:
    with pytest.raises(SettingError, match="count"):
        make(in_process=False).plan({"count": 99})


def test_a_child_that_ends_its_process_is_named_with_its_exit_code(make: Make) -> None:
    for code in (0, 3):
        planner = make(f"    def plan(self): import os; os._exit({code})", in_process=False)
        with pytest.raises(PlanError, match=f"probe:Probe ended its process with exit code {code} before it answered"):
            planner.plan({"count": 2})


def test_a_child_that_does_not_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agilab.planner.TIMEOUT_S", 1.0)
    planner = make("    def plan(self):\n        while True: pass", in_process=False)
    with pytest.raises(PlanError, match=r"probe:Probe took more than 1 s to answer; look at its plan\(\)"):
        planner.plan({"count": 2})


def test_what_a_child_prints_is_not_its_answer(make: Make) -> None:
    noisy = "\nimport os; print('hello'); os.system('echo from a shell')\n"
    assert len(make(GOOD + noisy, in_process=False).plan({"count": 2})[1].partitions) == 2


def test_a_module_of_the_current_folder_is_not_mistaken_for_another(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('the wrong json')")
    monkeypatch.chdir(tmp_path)
    assert make(in_process=False).fields()


def test_a_package_that_failed_half_way_is_imported_anew_when_it_is_corrected(make: Make) -> None:
    planner = make("from probe import part\nraise RuntimeError(part.VALUE)")
    part = planner.project.manager / "part.py"
    part.write_text("VALUE = 'old'")
    with pytest.raises(ProjectError, match="RuntimeError: old"):
        planner.plan({"count": 2})
    part.write_text("VALUE = 'newer'")
    with pytest.raises(ProjectError, match="RuntimeError: newer"):
        planner.plan({"count": 2})


def test_nothing_of_the_app_stays_on_the_path(make: Make) -> None:
    before = sys.path.copy()
    make().plan({"count": 2})
    assert sys.path == before


def test_a_snapshot_is_the_manager_package_by_digest_and_can_be_asked(make: Make) -> None:
    planner = make()
    folder = planner.snapshot()
    assert folder.name == planner.project.manager_digest()
    assert planner.snapshot() == folder
    make("raise RuntimeError('changed since')")
    old = Planner(planner.project, planner.home, planner.data_root, source=folder, in_process=False)
    assert len(old.plan({"count": 4})[1].partitions) == 4


def test_a_child_that_is_kept_answers_as_often_as_it_is_asked(make: Make, children: list[Any]) -> None:
    body = """
    def plan(self):
        import os
        if self.settings.count == 9:
            os._exit(3)
        return WorkPlan([Stage("one", [Partition("p", params={"pid": os.getpid()})])])
"""
    with closing(Child()) as child:
        kept = replace(make(body), child=child)
        pids = {part.params["pid"] for _ in range(2) for part in kept.plan({"count": 2})[1].partitions}
        assert pids == {child.process.pid}
        with pytest.raises(SettingError, match="count"):
            kept.plan({"count": 11})
        with pytest.raises(PlanError, match="ended its process with exit code 3"):
            kept.plan({"count": 9})
    assert not children
