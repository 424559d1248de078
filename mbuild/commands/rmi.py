"""`mbuild rmi`: the store forgets the names of images."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from engine.images.reference import Reference
from engine.imagestore import untag
from engine.machines.library import Library
from mbuild.arguments import Parser, add_store_option
from mbuild.session import open_store_to_clean


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Forget names, and say which."""
    parser = Parser(
        prog="mbuild rmi",
        description="Forget the names of images; the machine of an image without a name is removed. "
        "Layers stay in the store until it is cleaned: builds may use them.",
    )
    add_store_option(parser)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a name in the store")
    options = parser.parse_args(arguments)
    with open_store_to_clean(options.cache_dir) as store:
        for image in untag(store, options.names):
            print(f"untagged {Reference.parse(image.name).short}")
            if all(other.digest != image.digest for other in store.names.all()):
                Library(store).drop(image.digest)
    return 0
