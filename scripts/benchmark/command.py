"""The command line of scripts/bench."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark import cache, machine, memory, pull
from benchmark.comparison import NAMES, PEERS, compare
from benchmark.measure import BenchError
from benchmark.peer import discard
from benchmark.plot import svg
from benchmark.report import markdown, rewritten
from benchmark.results import Results

STEPS = ("cached", "changed-2000", "nothing", "run-1", "run-20", "restore-template", "plan-1000")
WHAT = ("compare", "steps", "machine", "cache", "pull", "memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print or write what came of it."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds is at least 1")
    unknown = [*(set(options.what) - set(WHAT)), *(set(options.scenario) - set(NAMES))]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of: {', '.join((*WHAT, *NAMES))}")
    signal.signal(signal.SIGTERM, _stop)  # `timeout` sends it, and daemons must not be left behind
    try:
        figures = _measure(options)
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
        if "compare" in figures:
            results = Results.from_json(figures["compare"])
            _write(results, options)
            return 1 if results.failed else 0
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure what builds cost.")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(WHAT)}; without it compare")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--scenario", action="append", default=[], metavar="NAME", help="only this; may be repeated")
    parser.add_argument("--peer", action="append", default=[], choices=PEERS[1:], help="only these beside mbuild")
    parser.add_argument("--alone", action="store_true", help="mbuild without the others")
    parser.add_argument("--long-alone", action="store_true", help="the same in what takes long")
    parser.add_argument(
        "--small", action="store_true", help="a base of 2 MB in place of 150 MB, and nothing flushed: only to try it"
    )
    parser.add_argument("--layer", type=float, default=3.0, metavar="GB", help="the layer that memory is measured with")
    parser.add_argument("--json", default="", metavar="FILE", help="write all figures")
    parser.add_argument("--from", dest="source", default="", metavar="FILE", help="measure nothing: read that JSON")
    parser.add_argument("--table", default="", metavar="PAGE", help="write the table between the marks in a page")
    parser.add_argument("--plot", default="", metavar="FILE", help="write the picture, SVG")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.source:
        figures: dict[str, Any] = json.loads(Path(options.source).read_text())
        return figures
    rounds: int = options.rounds
    names = options.scenario or NAMES
    peers = () if options.alone else tuple(options.peer) or PEERS
    measures: dict[str, Callable[[Path], object]] = {
        "compare": lambda folder: compare(
            folder, rounds, names, peers, small=options.small, long_alone=options.long_alone
        ).to_json(),
        "steps": lambda folder: compare(folder, rounds, STEPS, (), small=True).to_json(),
        "machine": lambda folder: machine.measure(folder, max(rounds, 5)),
        "cache": lambda folder: cache.measure(folder, rounds),
        "pull": lambda folder: pull.measure(folder, rounds),
        "memory": lambda folder: memory.measure(folder, int(options.layer * 1e9)),
    }
    figures = {}
    for what in options.what or ["compare"]:
        with _folder() as folder:
            figures["compare" if what == "steps" else what] = measures[what](folder)
    return figures


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mbuild-bench-"))
    try:
        yield folder
    finally:
        discard(folder)


def _write(results: Results, options: argparse.Namespace) -> None:
    table = markdown(results)
    print(table)
    if options.table:
        page = Path(options.table)
        page.write_text(rewritten(page.read_text(), table))
    if options.plot:
        Path(options.plot).write_text(svg(results))
