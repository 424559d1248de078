"""`mbuild cache check`: looks through the store for what is damaged, and removes it if asked to."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict

from cache.finding import Finding, Seen
from engine.storecheck import StoreCheck
from machinefile.errors import StoreError
from mbuild.arguments import Parser, add_format_option, add_store_option
from mbuild.progress import ProgressMode, create
from mbuild.progress.text import label
from mbuild.progress.units import size
from mbuild.session import open_store_to_clean


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Look through the store; 0 when nothing is wrong any more, else 3."""
    parser = Parser(
        prog="mbuild cache check",
        description="Look through the store for what is damaged: blobs, entries, disks, images that are not whole. "
        "What was merely removed is no damage. Builds may go on meanwhile.",
    )
    add_store_option(parser)
    add_format_option(parser)
    parser.add_argument(
        "--repair", action="store_true", help="remove what is damaged: what is needed of it is made anew when it is"
    )
    parser.add_argument(
        "--fast", action="store_true", help="read only files that were touched since they were last known to be right"
    )
    options = parser.parse_args(arguments)
    rows: list[dict[str, object]] = []
    left = 0
    mode = ProgressMode.TTY if sys.stderr.isatty() else ProgressMode.QUIET
    with open_store_to_clean(options.cache_dir) as store, create(mode, sys.stderr) as display:
        check = StoreCheck(store, display, cancelled, fast=options.fast)
        for finding in check.run():
            hindrance = finding.repair() if options.repair else ""
            repaired = options.repair and not hindrance
            left += finding.harm.is_damage and not repaired
            rows.append(_row(finding, repaired=repaired, hindrance=hindrance))
    if options.format == "text":
        for row in rows:
            print(_line(row))
        print(_summary(check.seen, left, len(rows), repair=options.repair))
    else:
        print(json.dumps({"damaged": left > 0, "found": rows, "checked": asdict(check.seen)}, indent=2))
    return StoreError.exit_code if left else 0


def _row(finding: Finding, *, repaired: bool, hindrance: str) -> dict[str, object]:
    return {
        "kind": finding.harm.value,
        "damage": finding.harm.is_damage,
        "subject": finding.subject,
        "message": finding.message,
        "repaired": repaired,
        "hindrance": hindrance,
    }


def _line(row: dict[str, object]) -> str:
    mark = "mended" if row["repaired"] else "DAMAGE" if row["damage"] else "note"
    line = f"{mark:<7} {row['kind']:<20} {label(str(row['subject']))}: {label(str(row['message']))}"
    return f"{line}\n        not mended: {label(str(row['hindrance']))}" if row["hindrance"] else line


def _summary(seen: Seen, left: int, found: int, *, repair: bool) -> str:
    looked = f"{seen.blobs} blobs, {seen.entries} entries and {seen.images} images; {size(seen.bytes)} of blobs read"
    if not left:
        return f"nothing is wrong{' any more' if found and repair else ''}: {looked}"
    advice = "" if repair else "; mbuild cache check --repair removes it, and what is needed of it is made anew"
    return f"{left} damaged: {looked}{advice}"
