"""What `mbuild cache du` and `prune` share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from cache.collection.policy import Filters, parse_filters
from cache.store import Store
from engine.images.reference import Reference
from engine.imagestore import find


def add_filter_option(parser: argparse.ArgumentParser) -> None:
    """--filter."""
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only what was not used for so long (until=24h), is of this kind (type=step), has an id that begins so "
        "(id=12ab), or is part of this image (image=NAME); may be repeated",
    )


def read_filters(texts: Sequence[str]) -> Filters:
    """Raises UsageError (`usage`, `reference-invalid`)."""
    filters = parse_filters(texts)
    return replace(filters, images=tuple(str(Reference.parse(name)) for name in filters.images))


def check_images(store: Store, filters: Filters) -> None:
    """Raises UsageError (`image-unknown`) when a filter names an image that the store does not have."""
    for name in filters.images:
        find(store, name)


def ago(seconds: float, now: float) -> str:
    """How long before `now` a time (seconds since 1970) was: `5 minutes ago`."""
    if seconds <= 0:
        return "never"
    past = max(now - seconds, 0.0)
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if past >= length:
            count = int(past // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
