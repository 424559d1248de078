"""Results as a picture: for each scenario a bar a builder, on a logarithmic scale of seconds. SVG, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from benchmark.results import Results, Row

_COLOURS = {"mbuild": "#1f6feb", "buildah": "#8c959f", "buildkit": "#d29922"}
_LEFT, _WIDTH, _RIGHT = 330, 520, 150
_BAR, _GAP, _TOP = 14, 12, 64


def svg(results: Results) -> str:
    """The picture, as text."""
    times = [spread.seconds for row in results.rows for spread in row.spreads.values()]
    low = math.floor(math.log10(min(times, default=0.01) * 0.9))  # the shortest is to be seen as well
    high = max(math.ceil(math.log10(max(times, default=1.0))), low + 1)

    def x(seconds: float) -> float:
        return _LEFT + _WIDTH * max(0.0, (math.log10(max(seconds, 1e-9)) - low) / (high - low))

    parts: list[str] = []
    y = _TOP
    for row in results.rows:
        parts += _row(row, y, x)
        y += len(row.spreads) * _BAR + _GAP
    grid = [_line(x(10.0**power), _TOP - 8, y) + _text(x(10.0**power), _TOP - 14, f"{10.0**power:g} s", "middle")
            for power in range(low, high + 1)]  # fmt: skip
    legend = [
        f'<rect x="{_LEFT + 220 * place}" y="12" width="12" height="12" fill="{_COLOURS[key]}"/>'
        + _text(_LEFT + 220 * place + 18, 22, label)
        for place, (key, label) in enumerate(results.peers.items())
    ]
    width = _LEFT + _WIDTH + _RIGHT
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 10}" '
        'font-family="sans-serif" font-size="11" fill="#24292f">'
        f'<rect width="{width}" height="{y + 10}" fill="#ffffff"/>'
    )
    return "\n".join([opening, *legend, *grid, *parts, "</svg>", ""])


def _row(row: Row, y: int, x: Callable[[float], float]) -> list[str]:
    parts = [_text(_LEFT - 8, y + len(row.spreads) * _BAR // 2 + 4, row.title, "end")]
    for key, spread in row.spreads.items():
        end = x(spread.seconds)
        ratio = row.ratio(key) if key != "mbuild" else None
        label = f"{spread.seconds:.3g} s" + (f", mbuild {ratio:.2f}x" if ratio is not None else "")
        parts.append(
            f'<rect x="{_LEFT}" y="{y}" width="{max(end - _LEFT, 1):.1f}" height="{_BAR - 2}" fill="{_COLOURS[key]}"/>'
        )
        parts.append(_line(x(spread.lowest), y + _BAR // 2 - 1, y + _BAR // 2 - 1, x(spread.highest), "#24292f"))
        parts.append(_text(max(end, x(spread.highest)) + 6, y + 10, label))
        y += _BAR
    return parts


def _line(x: float, top: float, bottom: float, to: float | None = None, colour: str = "#d0d7de") -> str:
    end = x if to is None else to
    return f'<line x1="{x:.1f}" y1="{top}" x2="{end:.1f}" y2="{bottom}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
