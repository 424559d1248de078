"""The benchmark's arithmetic, its page and its picture; and that it runs at all."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmark import specs
from benchmark.comparison import NAMES
from benchmark.job import Job, Outcome, Output
from benchmark.measure import BenchError, Sample, Spread, run
from benchmark.peer import clear_output
from benchmark.plot import svg
from benchmark.report import BEGIN, END, markdown, rewritten
from benchmark.results import Results, Row
from benchmark.scenario import SCENARIOS, Phase, Result, Scenario
from benchmark.targets import ELSEWHERE, TARGETS, Kind, Target

ROOT = Path(__file__).parents[1]


def spread(*seconds: float, memory: int = 50_000_000) -> Spread:
    return Spread(tuple(Sample(second, second / 2, memory) for second in seconds))


RESULTS = Results(
    {"mbuild": "mbuild", "buildkit": "BuildKit <1>"},
    {"buildah": "buildah is not\ninstalled | here"},
    3,
    (
        Row("cached", "everything cached", {"mbuild": spread(0.3, 0.1, 0.2), "buildkit": spread(0.1, 0.1, 0.4)}),
        Row("cached-folder", "a folder out", {"mbuild": spread(0.2)}),
        Row("cached-tar", "a tar out", {"mbuild": spread(0.5), "buildkit": spread(0.8)}),
        Row("nothing", "nothing to run", {"mbuild": spread(0.1)}),
        Row("run-1", "one RUN", {"mbuild": spread(0.6, memory=300_000_000)}),
        Row("write-1g", "a GiB", {"mbuild": spread(9.0)}, {"run": 5.0, "diff": 1.0, "take": 2.0}),
    ),
)


def test_a_spread_tells_the_median_and_the_ends() -> None:
    row = RESULTS.rows[0]
    ours = row.spreads["mbuild"]
    assert (ours.seconds, ours.lowest, ours.highest, ours.cpu) == (0.2, 0.1, 0.3, 0.1)
    assert row.ratio("buildkit") == pytest.approx(2.0)
    assert row.ratio("buildah") is None


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target("", "cached", Kind.RATIO, 1.5, "buildkit"), 2.0, "**missed** by 0.50x (1.3 times what is wanted)"),
        (Target("", "cached", Kind.RATIO, 2.5, "buildkit"), 2.0, "held"),
        (Target("", "cached", Kind.RATIO, 0.2, "buildah"), None, "not measured"),
        (Target("", "cached-folder", Kind.RATIO, 0.3, "buildkit", "cached-tar"), 0.25, "held"),
        (
            Target("", "run-1", Kind.BESIDE, 0.3, other="nothing"),
            0.5,
            "**missed** by 0.20 s (1.7 times what is wanted)",
        ),
        (Target("", "nothing", Kind.SECONDS, 0.06), 0.1, "**missed** by 40 ms (1.7 times what is wanted)"),
        (Target("", "run-1", Kind.MEMORY, 80), 300.0, "**missed** by 220 MB (3.8 times what is wanted)"),
        (Target("", "write-1g", Kind.TAKING, 2.5), 3.0, "**missed** by 0.50 s (1.2 times what is wanted)"),
        (Target("", "run-1", Kind.TAKING, 2.5), None, "not measured"),
        (Target("", "plan-1000", Kind.SECONDS, 0.5), None, "not measured"),
    ],
    ids=[
        "ratio",
        "ratio-held",
        "no-peer",
        "another-scenario",
        "beside",
        "milliseconds",
        "memory",
        "taking",
        "no-parts",
        "no-scenario",
    ],
)
def test_a_target_is_held_or_missed_by_so_much(target: Target, value: float | None, verdict: str) -> None:
    measured = target.value(RESULTS)
    assert measured is None if value is None else measured == pytest.approx(value)
    assert target.verdict(RESULTS) == verdict


def test_targets_speak_of_scenarios_that_there_are() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {name for target in TARGETS for name in (target.scenario, target.other) if name} <= set(NAMES)
    assert set(ELSEWHERE) <= set(NAMES)


def test_results_survive_json() -> None:
    assert Results.from_json(json.loads(json.dumps(RESULTS.to_json()))) == RESULTS


def test_a_scenario_that_failed_makes_the_run_fail() -> None:
    assert not RESULTS.failed
    assert replace(RESULTS, missing={"failed: cached": "0 steps ran"}).failed


def test_the_table_has_a_line_for_each_scenario_and_target() -> None:
    table = markdown(RESULTS)
    ours = "0.20 s (0.10 to 0.30), 0.10 s CPU, 50 MB"
    theirs = "0.100 s (0.100 to 0.400), 0.050 s CPU, 50 MB"
    assert f"| everything cached | {ours} | {theirs} | 2.00 |" in table.splitlines()
    assert "| a folder out | 0.20 s (0.20 to 0.20), 0.10 s CPU, 50 MB |  |  |" in table.splitlines()
    assert "- buildah: left out: buildah is not installed \\| here." in table.splitlines()
    assert all(target.text in table for target in TARGETS)
    assert "everything cached: 0.08 s (mbuild, here: 2.50 times that)" in table


def test_a_page_is_rewritten_between_its_marks_alone() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = rewritten(page, "new\n")
    assert once == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert rewritten(once, "new\n") == once
    with pytest.raises(BenchError, match="does not have the lines"):
        rewritten("before\nafter\n", "new\n")


def test_the_page_has_the_marks() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    assert "| x |" in rewritten(page, "| x |")


def test_the_picture_has_a_bar_for_each_figure() -> None:
    root = ElementTree.fromstring(svg(RESULTS))
    space = "{http://www.w3.org/2000/svg}"
    rectangles = root.findall(f"{space}rect")
    assert len(rectangles) == 1 + len(RESULTS.peers) + sum(len(row.spreads) for row in RESULTS.rows)
    texts = [text.text or "" for text in root.findall(f"{space}text")]
    assert "BuildKit <1>" in texts
    assert "0.1 s, mbuild 2.00x" in texts
    widths = [float(bar.attrib["width"]) for bar in rectangles[3:5]]
    assert widths[0] > widths[1]  # 0.2 s and 0.1 s


def _scenario(result: Result, *, cold: bool = False) -> Scenario:
    def never(*_: object) -> Job:
        raise AssertionError

    return Scenario("x", "x", never, result, run=1, restores=1, phase=Phase.WHOLE, cold=cold)


def test_a_run_that_did_less_or_gave_something_else_does_not_count() -> None:
    same, new = _scenario(Result.SAME), _scenario(Result.NEW)
    assert not same.check(Outcome("a", 1, 1), ("a",), reproducible=True)
    assert "0 steps" in same.check(Outcome("a", 0, 0), ("a",), reproducible=True)
    assert "2 microVMs" in same.check(Outcome("a", 1, 2), ("a",), reproducible=True)
    assert "another" in same.check(Outcome("b"), ("a",), reproducible=False)
    assert not new.check(Outcome("b", 1, 1), ("a",), reproducible=True)
    assert "of before" in new.check(Outcome("a", 1, 1), ("a", "b"), reproducible=True)
    cold = _scenario(Result.SAME, cold=True)
    assert "another" in cold.check(Outcome("b", 1, 1), ("a",), reproducible=True)
    assert not cold.check(Outcome("b"), ("a",), reproducible=False)


def test_no_builder_replaces_what_another_has_pushed() -> None:
    job = Job(Path("f"), Path("c"), Output.PUSH, "127.0.0.1:1234/a:1", cache_to="127.0.0.1:1234/cache:1")
    named = job.of("buildah")
    assert (named.name, named.cache_to) == ("127.0.0.1:1234/a-buildah:1", "127.0.0.1:1234/cache-buildah:1")
    assert named.cache_from == ""


def test_an_output_that_was_not_written_is_an_error(tmp_path: Path) -> None:
    clear_output(tmp_path, wanted=Output.NAME)
    with pytest.raises(BenchError, match="no image was written"):
        clear_output(tmp_path, wanted=Output.TAR)


def test_a_command_s_marks_and_memory_are_seen(tmp_path: Path) -> None:
    script = 'import sys; x = b"x" * (64 << 20); print("#1 0.1 mark-begun"); sys.exit(len(sys.argv) - 1)'
    ran = run([sys.executable, "-c", script], {}, tmp_path)
    assert set(ran.marks) == {"begun"}
    assert 0 < ran.marks["begun"] <= ran.seconds + 1
    # Until it executes something, a child has what its parent has.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert 64 << 20 < ran.memory < max(own + (1 << 20), 1 << 30)
    with pytest.raises(BenchError, match=r"ended with 1:\n#1 0.1 mark-begun"):
        run([sys.executable, "-c", script, "fail"], {}, tmp_path)


def test_what_a_step_is_told_is_not_taken_for_what_it_says(tmp_path: Path) -> None:
    for text in (specs.COLD, specs.BIG_FILE, specs.SMALL_FILES):
        shown = text.format(base="scratch", turn=1)
        assert not run(["printf", "%s", shown], {"PATH": "/usr/bin:/bin"}, tmp_path).marks


def test_no_two_turns_ask_for_the_same_runs() -> None:
    assert specs.trivial_runs("b", 2, 1) == "FROM b\nRUN : 1 0\nRUN : 1 1\n"
    stages = [specs.parallel_stages("b", 8, turn).splitlines() for turn in (1, 2)]
    runs = [line for lines in stages for line in lines if line.startswith("RUN ")]
    assert len(runs) == len(set(runs)) == 16
    assert len(specs.many_instructions("b", 1000).splitlines()) == 1000


def test_scenarios_that_take_part_of_the_time_run_something() -> None:
    assert all(scenario.restores for scenario in SCENARIOS if scenario.phase is not Phase.WHOLE)


@pytest.mark.registry
def test_the_script_measures_and_writes_what_it_found(tmp_path: Path) -> None:
    page, picture, figures = tmp_path / "page.md", tmp_path / "plot.svg", tmp_path / "figures.json"
    page.write_text(f"# Page\n{BEGIN}\n{END}\n")
    argv = [sys.executable, str(ROOT / "scripts" / "bench"), "--rounds", "1", "--small", "--alone"]
    argv += ["--scenario", "nothing"]
    argv += ["--table", str(page), "--plot", str(picture), "--json", str(figures)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = Results.from_json(json.loads(figures.read_text())["compare"])
    assert [row.name for row in results.rows] == ["nothing"]
    assert all(row.spreads["mbuild"].seconds > 0 for row in results.rows)
    assert "| nothing to run | " in page.read_text()
    assert picture.read_text().startswith("<svg ")
