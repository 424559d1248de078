"""What the benchmark makes of a trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.breakdown import REST, breakdown
from benchmark.measure import BenchError, Sample, Spread
from benchmark.report import markdown
from benchmark.results import Results, Row
from cache.spans import Recording
from mbuild.trace import trace

SPANS = (
    ("start-up", 0, 0.0, 0.5),
    ("plan", 0, 0.5, 0.25),
    ("look up", 0, 0.5, 0.25),
    ("steps", 0, 1.0, 2.0),
    ("restore", 1, 1.0, 0.5),
    ("run", 1, 1.5, 0.25),
    ("restore ahead", 2, 1.5, 0.5),
    ("start", 2, 1.5, 0.5),
    ("take", 1, 2.0, 0.25),
    ("finish", 0, 3.0, 0.5),
    ("import", 0, 3.0, 0.25),
    ("close the store", 0, 3.5, 0.5),
)


def written(folder: Path, without: str = "") -> Path:
    events = [
        {"ph": "X", "name": name, "cat": "x", "pid": 1, "tid": row, "ts": at * 1e6, "dur": seconds * 1e6, "args": {}}
        for name, row, at, seconds in SPANS
        if name != without
    ]
    named = {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "mbuild"}}
    path = folder / "trace"
    path.write_text(json.dumps({"traceEvents": [named, *events]}))
    return path


def test_each_moment_counts_once_and_the_sum_is_the_whole_time(tmp_path: Path) -> None:
    found = breakdown(written(tmp_path))
    told = {name: seconds for name, seconds in found.items() if seconds}
    assert told == {
        "start-up": 0.5,
        "plan": 0.25,
        "restore": 0.5,
        "run": 0.25,
        "take": 0.25,
        "finish": 0.5,
        "close the store": 0.5,
        REST: 1.25,
    }
    assert sum(found.values()) == 4.0


def test_a_trace_in_which_nothing_ran_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"says nothing of: run$"):
        breakdown(written(tmp_path, without="run"))


def test_it_reads_what_mbuild_writes(tmp_path: Path) -> None:
    recording = Recording(origin=10.0)
    for name, _, at, seconds in SPANS:
        recording.add(name, "x", 10.0 + at, 10.0 + at + seconds)
    (tmp_path / "trace").write_text(json.dumps(trace(recording)))
    assert breakdown(tmp_path / "trace")["start-up"] == 0.5


def test_results_keep_it_and_the_page_shows_it() -> None:
    spreads = {"mbuild": Spread((Sample(0.5, 0.5, 1),))}
    row = Row("run-1", "one RUN", spreads, {"run": 0.03, "keep": 0.0, REST: 0.01})
    results = Results({"mbuild": "mbuild"}, {}, 1, (row,))
    assert Results.from_json(json.loads(json.dumps(results.to_json()))) == results
    lines = markdown(results).splitlines()
    assert "| one RUN: where mbuild's time goes |  |  |" in lines
    assert "| run | 30.0 ms | 75% |" in lines
    assert not any(line.startswith("| keep |") for line in lines)
    assert "where mbuild's time goes" not in markdown(replace(results, rows=(replace(row, parts={}),)))
