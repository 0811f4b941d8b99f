"""The values of a plan: what they take for an input, and ids for any text."""

from __future__ import annotations

import pytest

from agilab import Artifact, ArtifactRef, InputRef, Partition, Stage, WorkPlan, partition_id
from agilab.errors import PlanError
from agilab.paths import NAME_PATTERN
from agilab.plan import assign

SCORE = Artifact("fit", "fit-0", "score", "json", "artifacts/fit/fit-0/score.json", 3, "0" * 64)


def test_an_artifact_is_taken_as_an_input_by_its_reference() -> None:
    part = Partition("refit", inputs=[SCORE, InputRef("table", "a.csv"), ArtifactRef("fit", "fit-1", "score")])
    references = (
        ArtifactRef("fit", "fit-0", "score"),
        InputRef("table", "a.csv"),
        ArtifactRef("fit", "fit-1", "score"),
    )
    assert part.inputs == part.references == references
    assert Partition.from_json(part.to_json()) == part
    assert part.references[0].key == SCORE.key == "fit/fit-0/score"  # type: ignore[union-attr]


def test_an_artifact_of_a_stage_that_has_not_ended_is_refused() -> None:
    with pytest.raises(PlanError, match="reads from stage 'fit', which has not ended by then"):
        WorkPlan([Stage("refit", [Partition("refit", inputs=[SCORE])])])


def test_what_is_no_reference_is_refused_by_name() -> None:
    with pytest.raises(
        PlanError, match=r"an input of a partition is 'a\.csv'; allowed: InputRef, ArtifactRef, or an Art"
    ):
        Partition("p", inputs=["a.csv"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("texts/a.txt", "texts-a.txt-"),
        ("my file (1).csv", "my-file-1-.csv-"),
        ("données/é.csv", "donn-es-.csv-"),
        ("../x", "x-"),
        (".hidden", "hidden-"),
        ("a--b/c", "a-b-c-"),
        ("東京", ""),
        ("", ""),
        ("x" * 300, "x" * 91 + "-"),
        ("line\n", "line-"),
    ],
)
def test_any_text_makes_an_id(text: str, begins: str) -> None:
    made = partition_id(text)
    assert NAME_PATTERN.fullmatch(made)
    assert made.startswith(begins)
    assert len(made) == len(begins) + 8
    WorkPlan([Stage("read", [Partition(made)])])


def test_a_text_that_is_an_id_stays_as_it_is() -> None:
    assert partition_id("fold-3.b_c") == "fold-3.b_c"


def test_texts_that_differ_in_what_is_replaced_have_different_ids() -> None:
    texts = ["a/b", "a b", "a//b", "a-b", "á-b", "a:b", "x" * 101, "x" * 102]
    assert len({partition_id(text) for text in texts}) == len(texts)


def test_an_id_that_is_not_allowed_says_what_makes_one() -> None:
    with pytest.raises(PlanError, match=r"partition id 'a/b' is not allowed; .* agilab\.partition_id\(text\)"):
        WorkPlan([Stage("read", [Partition("a/b")])])


def test_a_faster_worker_is_planned_to_do_more() -> None:
    parts = [Partition(f"p{number}", stage="one") for number in range(9)]
    found = assign(parts, {"slow": 1.0, "fast": 2.0})
    assert {name: len(ids) for name, ids in found.items()} == {"slow": 3, "fast": 6}
    assert assign(parts, {"slow": 1.0, "fast": 2.0}) == found


def test_what_is_pinned_to_a_host_is_spread_over_its_workers_and_the_rest_around_it() -> None:
    parts = [Partition("free", weight=2.0), *(Partition(f"p{number}", pin="alpha") for number in range(4))]
    hosts = {"alpha": ("alpha-0", "alpha-1"), "beta": ("beta-0",)}
    found = assign(parts, dict.fromkeys(("alpha-0", "alpha-1", "beta-0"), 1.0), hosts=hosts)
    assert found == {"alpha-0": ("p0", "p2"), "alpha-1": ("p1", "p3"), "beta-0": ("free",)}
    with pytest.raises(PlanError, match=r"pinned to 'gamma'.* there are alpha-0, alpha-1, beta-0, on alpha, beta$"):
        assign([Partition("x", pin="gamma")], {"alpha-0": 1.0, "alpha-1": 1.0, "beta-0": 1.0}, hosts=hosts)
