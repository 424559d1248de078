"""Results as Markdown, and the part of a page that is made from them."""

from __future__ import annotations

from benchmark.measure import BenchError, Spread
from benchmark.results import Results, Row
from benchmark.targets import ELSEWHERE, TARGETS

BEGIN = "<!-- bench: made by scripts/bench --table -->"
END = "<!-- bench: end -->"
_SHOWN = 0.0001
"""Seconds of a part that is told."""


def markdown(results: Results) -> str:
    """The scenarios, the targets, and what is missing."""
    keys = tuple(results.peers)
    rounds = f"Medians of {results.rounds} rounds" if results.rounds > 1 else "One round"
    header = ["scenario", *(results.peers[key] for key in keys)]
    header += [f"mbuild / {key}" for key in keys if key != "mbuild"]
    lines = _head(header)
    lines += [f"| {' | '.join(_cells(row, keys))} |" for row in results.rows]
    lines += [
        "",
        f"{rounds}, the lowest and the highest; processor time, its daemon's counted; memory of the largest process.",
        "",
    ]
    lines += [f"- {what}: left out: {_plain(why)}." for what, why in sorted(results.missing.items())]
    lines += [""] if results.missing else []
    for row in results.rows:
        lines += _parts(row) if row.parts else []
    lines += _head(["target", "wanted, at most", "measured", ""])
    for target in TARGETS:
        value = target.value(results)
        shown = "" if value is None else target.shown(value)
        lines.append(f"| {target.text} | {target.shown(target.limit)} | {shown} | {target.verdict(results)} |")
    return "\n".join([*lines, "", _elsewhere(results), ""])


def _elsewhere(results: Results) -> str:
    told = []
    for row in results.rows:
        theirs, ours = ELSEWHERE.get(row.name), row.spreads["mbuild"].seconds
        if theirs is not None:
            told.append(f"{row.title}: {theirs:.2f} s (mbuild, here: {ours / theirs:.2f} times that)")
    if not told:
        return ""
    return f"buildctl with a warm buildkitd took, measured once on another machine of this kind: {'; '.join(told)}."


def _head(cells: list[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def _parts(row: Row) -> list[str]:
    """What a scenario's time went into."""
    whole = sum(row.parts.values())
    lines = _head([f"{row.title}: where mbuild's time goes", "", ""])
    for name, seconds in row.parts.items():
        if seconds >= _SHOWN:
            lines.append(f"| {name} | {seconds * 1000:.1f} ms | {seconds / whole:.0%} |")
    return [*lines, "", "Medians of builds with `--profile`, where they are a tenth of a millisecond at least.", ""]


def _cells(row: Row, keys: tuple[str, ...]) -> list[str]:
    ratios = [row.ratio(key) for key in keys if key != "mbuild"]
    return [
        row.title,
        *(_spread(row.spreads.get(key)) for key in keys),
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    digits = 3 if spread.seconds < 0.2 else 2 if spread.seconds < 10 else 1
    times = f"{spread.lowest:.{digits}f} to {spread.highest:.{digits}f}"
    return f"{spread.seconds:.{digits}f} s ({times}), {spread.cpu:.{digits}f} s CPU, {spread.memory / 1e6:.0f} MB"


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").replace("|", "\\|")


def rewritten(page: str, table: str) -> str:
    """A page with the part between its two markers made anew. Raises BenchError if it does not have them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"the page does not have the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"
