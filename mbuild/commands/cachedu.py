"""`mbuild cache du`: what the store holds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from cache.collection.item import Item, Standing
from engine.collection.survey import survey
from engine.collection.usage import Row, Usage, usage
from engine.collection.wording import titled
from mbuild.arguments import Parser, add_format_option, add_store_option
from mbuild.collecting import add_filter_option, ago, check_images, read_filters
from mbuild.progress.text import label
from mbuild.progress.units import size
from mbuild.session import open_store_to_clean

_LISTS: dict[str, Callable[[Usage], tuple[Row, ...]]] = {
    "kind": Usage.kinds,
    "step": Usage.steps,
    "image": Usage.images,
}


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Print it."""
    parser = Parser(prog="mbuild cache du", description="Show what the store holds, and what of the disk that takes.")
    add_store_option(parser)
    add_format_option(parser)
    parser.add_argument("--by", choices=tuple(_LISTS), default="kind", help="what to list (default: kind)")
    parser.add_argument("--verbose", "-v", action="store_true", help="list every single thing too")
    add_filter_option(parser)
    options = parser.parse_args(arguments)
    filters = read_filters(options.filter)
    with open_store_to_clean(options.cache_dir) as store:
        check_images(store, filters)
        now = time.time()
        holdings = survey(store, cancelled)
        if options.verbose or options.by == "step":
            holdings = replace(holdings, items=titled(store, holdings.items))
        found = usage(holdings, filters, now)
    rows = _LISTS[options.by](found)
    if options.format == "json":
        print(json.dumps(_json(found, options.by, rows, verbose=options.verbose), indent=2))
        return 0
    for line in _table(options.by, rows, now):
        print(line)
    if options.verbose:
        print()
        for line in _things(found, now):
            print(line)
    print(f"\nreclaimable  {size(found.reclaimable):>9}\ntotal        {size(found.total):>9}")
    return 0


def _json(found: Usage, by: str, rows: Sequence[Row], *, verbose: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "total": found.total,
        "reclaimable": found.reclaimable,
        "by": by,
        "rows": [_row_json(by, row) for row in rows],
    }
    if verbose:
        document["things"] = [thing_json(item) | {"reclaimable": item.name in found.freeable} for item in found.items]
    return document


def _row_json(by: str, row: Row) -> dict[str, object]:
    told: dict[str, object] = {"id": row.id, "size": row.size}
    match by:
        case "kind":
            return told | {"reclaimable": row.own, "count": row.count, "used": _time(row.used)}
        case "step":
            facts = {"instruction": row.title, "shared": row.own < row.size}
            return told | facts | {"created": _time(row.created), "used": _time(row.used)}
    return told | {"own": row.own, "shared": row.size - row.own}


def thing_json(item: Item) -> dict[str, object]:
    """A thing of the store, for other programs."""
    return {
        "type": item.sort.value,
        "id": item.id,
        "title": item.title,
        "size": item.size,
        "created": _time(item.created),
        "used": _time(item.used),
    }


def _time(seconds: float) -> float | None:
    return round(seconds, 3) or None


def _table(by: str, rows: Sequence[Row], now: float) -> list[str]:
    match by:
        case "kind":
            kinds = [(row.id, str(row.count), size(row.size), size(row.own), ago(row.used, now)) for row in rows]
            return _aligned(("kind", "number", "size", "reclaimable", "last used"), kinds, left=(0, 4))
        case "step":
            steps = [
                (
                    row.id[7:19],
                    size(row.size) + ("*" if row.own < row.size else " "),
                    ago(row.created, now),
                    ago(row.used, now),
                    label(row.title)[:80],
                )
                for row in rows
            ]
            shared = ["* shared with another step"] if any(row.own < row.size for row in rows) else []
            return _aligned(("key", "size ", "made", "last used", "step"), steps, left=(0, 2, 3, 4)) + shared
    images = [(label(row.title), size(row.size), size(row.own), size(row.size - row.own)) for row in rows]
    return _aligned(("image", "size", "own", "shared"), images, left=(0,))


def _things(found: Usage, now: float) -> list[str]:
    lines = [
        (
            item.sort.value,
            item.id.removeprefix("sha256:")[:20],
            size(item.size),
            ago(item.used, now),
            "" if item.name in found.freeable or item.standing is not Standing.KEPT else "needed",
            label(item.title)[:60],
        )
        for item in found.items
    ]
    return _aligned(("kind", "id", "size", "last used", "", "what"), lines, left=(0, 1, 3, 4, 5))


def _aligned(head: tuple[str, ...], lines: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    rows = [tuple(word.upper() for word in head), *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
