"""What pages show as numbers, from run folders without a server; and following a run of many partitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agilab_dashboards import markup, rows
from agilab_dashboards.charts import Timeline
from agilab_dashboards.components import elsewhere_line
from agilab_dashboards.live import LogFilter, Watch, log_lines, sources
from agilab_dashboards.resources import Sampler

from agilab.events import EventLog
from agilab.paths import HomePaths
from agilab.run import Run, RunStore
from tests.run_folder import RunFolder, sealed_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(sealed_run(tmp_path))


def test_a_history_has_a_row_per_run_newest_first(tmp_path: Path) -> None:
    old, new = sealed_run(tmp_path, moment=1_700_000_000), sealed_run(tmp_path, app="other", moment=1_700_000_100)
    found = rows.history(RunStore(HomePaths(tmp_path)).list())
    assert [(row["run"], row["app"], row["state"], row["partitions"]) for row in found] == [
        (new.run_id, "other", "succeeded", "4/4"),
        (old.run_id, "flights", "succeeded", "4/4"),
    ]


def test_hosts_that_hold_artifacts_are_rows_and_a_line_with_the_command(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.away = frozenset({"points"})
    run = Run(folder.commit_all().seal())
    assert rows.elsewhere(run) == [{"host": "alpha", "count": 3, "size_bytes": 780}]
    assert "3 (780 B) on host alpha. To have them here: " in str(elsewhere_line(run))
    assert f"agilab fetch {run.run_id}" in str(elsewhere_line(run))


def test_a_damaged_run_stands_in_the_history_too(tmp_path: Path) -> None:
    paths = sealed_run(tmp_path)
    paths.manifest.write_text("{}")
    (tmp_path / "runs" / "flights" / "20200101-000000-0000").mkdir()
    found = rows.history(RunStore(HomePaths(tmp_path)).list())
    assert [row["state"] for row in found] == ["unreadable", "lost"]


def test_settings_have_their_source_and_secrets_stay_references(run: Run) -> None:
    assert rows.settings(run) == [
        {"name": "sample_s", "value": "60", "source": "workspace file", "where": "app_settings.toml:3"},
        {"name": "token", "value": "env:TOKEN", "source": "default", "where": ""},
    ]
    assert {row["name"] for row in rows.settings(run, "cluster")} == {"backend", "workers", "timeout_s"}


def test_artifacts_metrics_stages_and_environment_are_told(run: Run) -> None:
    found = rows.artifacts(run)
    assert [row["stage"] for row in found] == ["tracks"] * 6 + ["summary"]
    assert found[0]["kind"] == "text"
    assert len(found[0]["sha256"]) == 64
    assert rows.kinds(run) == [
        {"kind": "text", "count": 7, "size_bytes": sum(r["size_bytes"] for r in found), "doc": "UTF-8 text"}
    ]
    assert rows.metrics(run) == [{"name": "rows", "value": 3.0}]
    assert [(row["stage"], row["committed"]) for row in rows.stages(run)] == [("tracks", 3), ("summary", 1)]
    assert ("worker Python", "3.12.1 on linux-x86_64") in rows.environment(run)
    assert rows.lock(run) == ["pyarrow==17.0.0"]
    assert [row["worker"] for row in rows.partitions(run)] == ["local-0", "local-1", "local-0", "local-0"]


def test_metrics_by_step_are_told_for_each_partition(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=2)
    folder.commit("tracks", "p0", files={"points": b"1"}, steps={2: 0.5, 1: 0.75})
    folder.commit("tracks", "p1", files={"points": b"1"}, steps={1: 0.25})
    assert rows.series(Run(folder.paths)) == {"loss": {"p0": [(1, 0.75), (2, 0.5)], "p1": [(1, 0.25)]}}


def test_reading_leaves_a_run_folder_as_it_was(run: Run) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in run.paths.root.rglob("*")}

    before = state()
    rows.history([run]), rows.artifacts(run), rows.partitions(run)
    log_lines(Watch(run).look())
    assert state() == before


def test_a_watch_reads_what_is_new_and_keeps_batches(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, partitions=2)
    watch = Watch(Run(folder.paths))
    folder.commit("tracks", "p0", files={"points": b"1"})
    folder.log.sync()
    assert [span.partition for span in watch.look().spans] == ["p0"]
    folder.commit("tracks", "p1", files={"points": b"2"})
    folder.log.sync()
    assert [span.partition for span in watch.look().spans] == ["p0"], "it was read a moment ago"
    watch.forget_end()
    assert [span.partition for span in watch.look().spans] == ["p0", "p1"]
    assert watch.counts()[0]["committed"] == 2


def test_a_worker_runs_one_partition_after_the_other_in_the_timeline(tmp_path: Path) -> None:
    paths = RunFolder(tmp_path).paths
    moments = iter([0.0, 1.0, 1.0, 3.0, 4.0])
    paths.events.unlink()
    with EventLog(paths.events, now=lambda: next(moments)) as log:
        log.append("created", {"run_id": paths.run_id, "app": "flights"})
        ids = [{"partition": name, "stage": "tracks", "worker": "local-0", "attempt": 1} for name in ("a", "b")]
        for one in ids:
            log.append("dispatched", one)
        for one in ids:
            log.append("committed", one)
    spans = Watch(Run(paths)).look().spans
    assert [(span.start_s, span.end_s) for span in spans] == [(1.0, 3.0), (3.0, 4.0)]


def test_ten_thousand_partitions_are_sent_in_one_batch(tmp_path: Path) -> None:
    paths = RunFolder(tmp_path).paths
    with EventLog(paths.events) as log:
        for number in range(10_000):
            one = {"partition": f"p{number}", "stage": "tracks", "worker": f"local-{number % 8}", "attempt": 1}
            log.append("dispatched", one)
            log.append("committed", one)
    watch = Watch(Run(paths)).look()
    assert len(watch.spans) == 10_000
    timeline = Timeline(["tracks"], [], partitions=10_000)
    told: list[object] = []
    timeline.figure.renderers[0].data_source.on_change("data", lambda attr, old, new: told.append(attr))
    timeline.add(watch.spans)
    timeline.add([])
    assert (timeline.sent, len(told)) == (10_000, 1)
    assert len(timeline.figure.y_range.factors) == 8
    assert timeline.figure.output_backend == "webgl"


def test_a_log_is_filtered_and_shows_control_characters(run: Run) -> None:
    watch = Watch(run).look()
    assert sources(run) == ["run", "local-0", "supervisor"]
    assert log_lines(watch, LogFilter(said_by="local-0", words="red")) == ["local-0: hello \\x1b[31mred\\x1b[0m"]
    assert log_lines(watch, LogFilter(words="HELLO")) == ["local-0: hello \\x1b[31mred\\x1b[0m"]
    assert log_lines(watch, LogFilter(said_by="run", words="sealing"), zone="Asia/Tokyo") == [
        "run: 2023-11-15 07:13:20 state sealing: succeeded"
    ]


def test_a_log_is_filtered_by_level_stage_and_worker(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for stage, part, worker in (("tracks", "a", "local-0"), ("summary", "b", "local-1")):
        folder.log.append("dispatched", {"partition": part, "stage": stage, "worker": worker, "attempt": 1})
        for level in ("DEBUG", "WARNING", "CRITICAL"):
            folder.log.append("log", {"partition": part, "level": level, "text": f"{level} of {part}"})
    folder.log.sync()
    watch = Watch(Run(folder.paths)).look()

    def texts(**chosen: str) -> list[str]:
        return [line.rpartition(": ")[2] for line in log_lines(watch, LogFilter(**chosen))]

    assert texts(level="error") == ["CRITICAL of a", "CRITICAL of b"]
    assert texts(level="warning", stage="summary") == ["WARNING of b", "CRITICAL of b"]
    assert texts(level="debug", said_by="local-0") == ["DEBUG of a", "WARNING of a", "CRITICAL of a"]
    assert len(texts()) > 6


def test_what_the_processes_of_a_run_use_is_read_by_their_marker() -> None:
    code = "import sys; held = b'x' * (50 << 20); print('there', flush=True); sys.stdin.read()"
    variables = {**os.environ, "AGILAB_RUN": "20200101-000000-0000-secret"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sampler, other = Sampler("20200101-000000-0000"), Sampler("20200101-000000-0001")
        for each in (sampler, other, sampler):  # the second time it is not looked: there is a fresh one
            each.look()
        assert process.stdin is not None
        process.stdin.close()
    [sample] = sampler.samples
    assert (sample.processes, sample.cores, sampler.taken) == (1, 0.0, 1)
    assert sample.memory_bytes > 50 << 20
    assert other.samples == []


def test_an_event_that_makes_no_sense_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.log.close()
    with open(folder.paths.events, "a") as file:
        for event in (
            {"event": "committed"},
            {"event": 3},
            {"t": "x", "event": "state"},
            {"event": "dispatched", "t": 1},
        ):
            file.write(json.dumps(event) + "\n")
    assert Watch(Run(folder.paths)).look().spans == []


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x>', "a\x1b[31mb", "\u202egnp.exe"])
def test_text_in_markup_stays_text(evil: str) -> None:
    for made in (
        markup.element("p", evil, {"title": evil}),
        markup.table((evil,), [(evil,)]),
        markup.facts([(evil, evil)]),
        markup.link(evil, evil),
        markup.markdown(evil),
    ):
        assert "<script" not in made
        assert "<img" not in made
        assert "\x1b" not in made
        assert "\u202e" not in made


def test_a_readme_has_no_scripts_pictures_or_script_links() -> None:
    made = markup.markdown("# Hi\n\n![p](http://x/y.png) [l](javascript:alert(1)) <b>bold</b>\n\n| a |\n|---|\n| 1 |")
    assert "<h1>Hi</h1>" in made
    assert "<table>" in made
    assert all(bad not in made for bad in ("<img", 'href="javascript', "<b>"))


def test_times_are_in_the_zone_of_the_reader() -> None:
    assert markup.when("2026-11-26T20:00:00Z", "Asia/Tokyo") == "2026-11-27 05:00:00"
    assert markup.when("2026-11-26T20:00:00Z") == "2026-11-26 20:00:00 UTC"
    assert markup.when(None) == "-"
    assert markup.when("nonsense") == "nonsense"
