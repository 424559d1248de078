"""`mbuild tag`: a further name for an image of the store."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from engine.imagestore import tag
from mbuild.arguments import Parser, add_store_option
from mbuild.session import open_store


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Name an image once more."""
    parser = Parser(prog="mbuild tag", description="Give an image of the store a further name.")
    add_store_option(parser)
    parser.add_argument("name", metavar="NAME", help="a name that it has")
    parser.add_argument("new", metavar="NEW", help="the further name; taken from whatever had it")
    options = parser.parse_args(arguments)
    with open_store(options.cache_dir) as store:
        tag(store, options.name, options.new)
    return 0
