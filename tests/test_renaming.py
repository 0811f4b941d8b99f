"""What follows an app's new name and what does not, also when the old one is an everyday word."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agilab.renaming import Renaming, dashed, title

WORD = Renaming("best", "top", ("Best", "BestWorker"), frozenset({"model", "Best"}))
WORDS = Renaming("my_app", "our_thing", ("MyApp", "MyAppWorker"), frozenset({"MyApp"}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import best", "import top"),
        ("import best.model as m, best_worker", "import top.model as m, top_worker"),
        ("from best import Best", "from top import Top"),
        ("from best.model import x", "from top.model import x"),
        ("from best_worker.x import BestWorker as W", "from top_worker.x import TopWorker as W"),
        ("from .best import Best", "from .best import Top"),
        ("from other import best", "from other import best"),
        ("if x: import best", "if x: import top"),
        ("a = 1; import best", "a = 1; import top"),
        ("best = 1; best.x = f(best=best)", "best = 1; best.x = f(best=best)"),
        ("import best\nbest.x(best=1)", "import top\ntop.x(best=1)"),
        ("import best\nx.best", "import top\nx.best"),
        ('import best\nf"{best.x} best"', 'import top\nf"{top.x} best"'),
        ("import best as b\nbest = 1", "import top as b\nbest = 1"),
        ('Stage("best", best)', 'Stage("best", best)'),
        ('AgiEnv("best")', 'AgiEnv("top")'),
        ("find('best')", "find('top')"),
        ('import_module("best.model")', 'import_module("top.model")'),
        ('patch("best.model.x"), "best.csv"', 'patch("top.model.x"), "best.csv"'),
        ('x = "best_worker:BestWorker", "best:Best"', 'x = "top_worker:TopWorker", "top:Top"'),
        ('"src/best", "src/bestiary", "best_project"', '"src/top", "src/bestiary", "top_project"'),
        ('__all__ = ["Best", "best"]', '__all__ = ["Top", "best"]'),
        ('def f(x: "Best") -> "Best": ...', 'def f(x: "Top") -> "Top": ...'),
        ('{"a": "Best"}', '{"a": "Best"}'),
        ("class BestWorker(Worker): ...", "class TopWorker(Worker): ..."),
        ("import best\nbest.Best", "import top\ntop.Top"),
        ("# the best of best_worker", "# the best of top_worker"),
        ('"""The best of `best` and package best."""', '"""The best of `top` and package top."""'),
        ("class (", "class ("),
    ],
)
def test_python_follows_where_only_the_app_can_be_meant(before: str, after: str) -> None:
    assert WORD.python(before) == after


def test_a_class_of_that_name_from_elsewhere_stays() -> None:
    path = Renaming("path", "way", ("Path",))
    text = "from pathlib import Path\nimport pathlib\nfrom path_worker import x\npathlib.Path(Path(x))\n"
    assert path.python(text) == text.replace("path_worker", "way_worker")
    assert path.python("class Path(App): ...") == "class Way(App): ..."


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# best", "# top"),
        ("# Best\r\n", "# Top\r\n"),
        ("the best of it", "the best of it"),
        ("run `best` with", "run `top` with"),
        ("    agilab run best --count 3", "    agilab run top --count 3"),
        ("    agilab apps clone best mine", "    agilab apps clone top mine"),
        ("from best import Best", "from top import Top"),
        ('AgiEnv("best"), AgiEnv(\\"best\\")', 'AgiEnv("top"), AgiEnv(\\"top\\")'),
        ("src/best/__init__.py", "src/top/__init__.py"),
        ("best-worker, best-of", "top-worker, best-of"),
    ],
)
def test_text_follows_where_only_the_app_can_be_meant(before: str, after: str) -> None:
    assert WORD.prose(before) == after


def test_a_name_of_several_words_is_followed_everywhere_in_text() -> None:
    before = "# My app\n\nmy_app and my-app, MyApp, MyAppWorker; not my_app_two, my-app-two, dummy_app, MyApple\n"
    after = "# Our thing\n\nour_thing and our-thing, OurThing, OurThingWorker; not my_app_two, my-app-two, "
    assert WORDS.prose(before) == after + "dummy_app, MyApple\n"
    assert WORDS.python('Stage("my_app")  # my_app') == 'Stage("my_app")  # our_thing'


def test_toml_follows_in_names_tables_of_tools_and_references() -> None:
    before = """\
[project]
name = "best"
description = "the best of best_worker"
[project.entry-points."agilab.apps"]
best = "best:Best"
[tool.agilab]
app = "best.model:Best"
worker = "best_worker.x:BestWorker"
[tool.agilab.kinds.best]
doc = "best"
[tool.hatch.build.targets.wheel]
packages = ["src/best", "src/best_worker"]
[tool.hatch.build.targets.wheel.force-include]
"pyproject.toml" = "best/_project/pyproject.toml"
[tool.setuptools.package-data]
best = ["*.toml"]
"""
    after = """\
[project]
name = "top"
description = "the best of top_worker"
[project.entry-points."agilab.apps"]
top = "top:Top"
[tool.agilab]
app = "top.model:Top"
worker = "top_worker.x:TopWorker"
[tool.agilab.kinds.best]
doc = "best"
[tool.hatch.build.targets.wheel]
packages = ["src/top", "src/top_worker"]
[tool.hatch.build.targets.wheel.force-include]
"pyproject.toml" = "top/_project/pyproject.toml"
[tool.setuptools.package-data]
top = ["*.toml"]
"""
    assert WORD.toml(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("src/best/x/best.py", "src/top/x/best.py"),
        ("src/best_worker/best.py", "src/top_worker/best.py"),
        ("src/bestiary/x.py", "src/bestiary/x.py"),
        ("tests/test_best.py", "tests/test_top.py"),
        ("tests/test_best_case.py", "tests/test_top_case.py"),
        ("tests/test_bestiary.py", "tests/test_bestiary.py"),
        ("notebooks/best.ipynb", "notebooks/top.ipynb"),
        ("data/best.csv", "data/best.csv"),
        ("src", "src"),
    ],
)
def test_packages_and_tests_get_the_new_name(before: str, after: str) -> None:
    assert WORD.path(before) == after


def test_other_files_are_left_alone() -> None:
    assert WORDS.text("data/x.csv", "my_app") == "my_app"


def test_names_in_other_forms() -> None:
    assert (title("flight_telemetry"), dashed("flight_telemetry")) == ("FlightTelemetry", "flight-telemetry")


SOURCES = sorted(Path(__file__).parent.glob("test_*.py"))[:12]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_name_that_is_not_there_changes_nothing(source: Path) -> None:
    text = source.read_text()
    assert Renaming("zzz_qqq", "other", ("ZzzQqq",)).python(text) == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("best_ \n\t()[]{}:;,.'\"\\#=@fimpor\x0c\u2028é"), max_size=80))
def test_any_text_is_rewritten_without_an_error(text: str) -> None:
    for rewrite in (WORD.python, WORD.prose, WORD.toml):
        assert isinstance(rewrite(text), str)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["import best\n", "x = best\n", "f(best=1)\n", "'best'\n", "# best\n", "y = x.best\n"]))
)
def test_what_was_python_stays_python_of_the_same_shape(lines: list[str]) -> None:
    before = ast.parse("".join(lines))
    after = ast.parse(WORD.python("".join(lines)))
    assert [type(node) for node in ast.walk(before)] == [type(node) for node in ast.walk(after)]
