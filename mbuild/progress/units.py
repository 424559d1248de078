"""Sizes and times as people read them."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes in decimal units: `999 B`, `1.2 kB`, `45.6 MB`."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def duration(seconds: float) -> str:
    """`0.3s`, `59.9s`, `2m05s`, `1h02m`."""
    if seconds < 59.95:
        return f"{max(seconds, 0.0):.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def moved(done: int, total: int | None) -> str:
    """How much of a transfer is done: `12.3 MB / 45.6 MB`."""
    return size(done) if total is None else f"{size(done)} / {size(total)}"
