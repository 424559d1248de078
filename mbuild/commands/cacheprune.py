"""`mbuild cache prune`: remove what nothing needs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence

from cache.collection.item import Item
from cache.collection.policy import Policy, parse_age
from engine.collection.prune import Pruned, prune
from engine.collection.wording import titled
from machinefile.errors import UsageError
from machinefile.sizes import parse_size
from mbuild.arguments import Parser, add_format_option, add_store_option
from mbuild.collecting import add_filter_option, ago, check_images, read_filters
from mbuild.commands.cachedu import thing_json
from mbuild.progress.text import label
from mbuild.progress.units import size
from mbuild.session import open_store_to_clean


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Remove, and say what."""
    parser = Parser(
        prog="mbuild cache prune",
        description="Remove what nothing needs. What an image with a name or a running build needs always stays.",
    )
    add_store_option(parser)
    add_format_option(parser)
    add = parser.add_argument
    add("--all", "-a", action="store_true", help="also results, bases, caches: all but images")
    add(
        "--keep-storage",
        default="",
        metavar="SIZE",
        help="remove what was not used for longest until no more than this is left",
    )
    add("--keep-duration", default="", metavar="DURATION", help="leave what was used since, for example 24h or 7d")
    add_filter_option(parser)
    add("--dry-run", action="store_true", help="only say what would go")
    add("--force", "-f", action="store_true", help="accepted: nothing is asked anyway")
    options = parser.parse_args(arguments)
    policy = Policy(
        everything=options.all,
        keep_storage=_size(options.keep_storage) if options.keep_storage else None,
        keep_duration=parse_age(options.keep_duration, "--keep-duration") if options.keep_duration else 0.0,
        filters=read_filters(options.filter),
    )
    all_goes = not (options.dry_run or options.filter or options.keep_duration)
    with open_store_to_clean(options.cache_dir, aside=all_goes) as store:
        check_images(store, policy.filters)
        done = prune(store, policy, dry_run=options.dry_run, cancelled=cancelled)
        removed = titled(store, done.removed)
    if options.format == "json":
        print(json.dumps(_json(done, removed, dry_run=options.dry_run), indent=2))
        return 0
    now = time.time()
    for item in removed:
        print(_line(item, now))
    print(f"{'would free' if options.dry_run else 'freed'} {size(done.freed)}; {size(done.left)} left")
    return 0


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(
            f"--keep-storage {text}: this is no size", code="usage", hint="for example --keep-storage 20G"
        ) from error


def _json(done: Pruned, removed: Sequence[Item], *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "freed": done.freed,
        "left": done.left,
        "removed": [thing_json(item) for item in removed],
    }


def _line(item: Item, now: float) -> str:
    short = item.id.removeprefix("sha256:")[:20]
    facts = f"{item.sort.value:<8}  {short:<20}  {size(item.size):>8}  {ago(item.used, now):<14}"
    return f"{facts}  {label(item.title)[:80]}".rstrip()
