"""Nothing that a host says leads elsewhere, speaks for another host, or is no value of its kind (T32, T34)."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from agilab.backends.ssh.heard import checked
from agilab.errors import EvidenceError

ARTIFACT = {"name": "x", "kind": "json", "path": "artifacts/first/a/x.json", "size_bytes": 2, "sha256": "0" * 64}
RECORD = {
    "stage": "first",
    "partition": "a",
    "started": "2026-11-27T01:00:00.000+00:00",
    "wall_s": 0.1,
    "cpu_s": 0.1,
    "peak_rss_bytes": 1,
    "metrics": [{"name": "rows", "value": float("nan"), "step": None}],
    "artifacts": [ARTIFACT],
}
COMMITTED = ["committed", RECORD, "0" * 64]
SAID = [
    COMMITTED,
    ["report", {"op": "metric", "id": "a", "name": "rows", "value": 2.0, "step": 1}],
    ["report", {"op": "progress", "id": "a", "done": 1, "total": 2.5}],
    ["report", {"op": "log", "id": "a", "level": "INFO", "text": "x"}],
    ["failed", "a", "exception", "x", ""],
    ["returned", "a"],
    ["done", "a", {"op": "done", "id": "a", "cancelled": True}],
    ["gone", "x"],
    ["broken", "x", ""],
]


def said(*path: Any, value: Any) -> list[Any]:
    """Return that a partition was committed, with one value of the record replaced."""
    found: list[Any] = copy.deepcopy(COMMITTED)
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize("one", SAID, ids=lambda one: one[0])
def test_what_our_program_says_counts_for_partitions_that_the_host_was_given(one: list[Any]) -> None:
    assert checked([one], ["a"], host="h") == [one]
    about_nobody = one[0] in ("gone", "broken")
    assert checked([one], ["b"], host="h") == ([one] if about_nobody else [])


def test_a_host_names_no_process_of_ours() -> None:
    assert checked([["started", 1, 0]], ["a"], host="h") == []


@pytest.mark.parametrize(
    "one",
    [
        *(None, [], "committed", ["explode"], ["committed"], ["committed", {}], ["failed", "a"], [["gone"], "x"]),
        *(["failed", "a", "whatever", "", ""], ["committed", {}, ""], ["committed", {"partition": "a"}, ""]),
        ["done", "a", {"cancelled": False, "artifacts": [{"path": "/etc/passwd"}]}],
        ["report", {"op": "state", "id": "a", "state": "sealing", "outcome": "succeeded"}],
        ["report", {"op": "log", "id": "a", "level": "INFO", "text": "x", "event": "state"}],
        ["report", {"op": "metric", "id": "a", "name": "x", "value": True, "step": None}],
        *(said(1, "started", value=value) for value in ("yesterday", 3, None)),
        *(said(1, "wall_s", value=value) for value in ("long", -1, True, None)),
        *(said(1, "metrics", value=value) for value in ({}, [3], [{"name": "x"}], [{**ARTIFACT}])),
        *(said(1, "artifacts", value=value) for value in ("x", [3], [{}], [ARTIFACT, ARTIFACT])),
        *(said(1, "artifacts", 0, "name", value=value) for value in ("../x", "\x1b[2J", "", 3, "-x")),
        *(said(1, "artifacts", 0, "path", value=f"artifacts/first/{name}") for name in ("b/x", "a/../x", "a/", "a")),
        *(said(1, "artifacts", 0, "path", value=name) for name in ("/etc/passwd", "artifacts/first/a/partition.json")),
        *(said(1, "artifacts", 0, "size_bytes", value=value) for value in (-1, 2.5, "2", True)),
        *(said(1, "artifacts", 0, "sha256", value=value) for value in ("", "0" * 63, "Z" * 64, None)),
    ],
    ids=str,
)
def test_everything_else_is_refused_in_one_line(one: Any) -> None:
    with pytest.raises(EvidenceError, match="which makes no sense; nothing was written") as caught:
        checked([one], ["a"], host="h")
    assert str(caught.value).isprintable()
