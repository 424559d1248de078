"""`mbuild run`: start an image of the store in a microVM."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence

from engine.events import Event, Note
from engine.runner import find_image, run_image
from mbuild.arguments import Parser, add_registry_options, add_store_option, registry_flags
from mbuild.session import make_sandbox, open_driver


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Run an image; gives the exit code of its command."""
    parser = Parser(prog="mbuild run", description="Start an image of the store in a microVM of its own.")
    add_store_option(parser)
    add_registry_options(parser)
    parser.add_argument("image", metavar="NAME", help="the name it was built with")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="what to run in place of its CMD")
    options = parser.parse_args(arguments)
    with open_driver(options.cache_dir, _tell, cancelled, registry_flags(options)) as driver:
        image = find_image(driver.store, options.image)
        sandbox = make_sandbox(driver.store, _tell)
        return run_image(image, tuple(options.command), driver.store, driver.source, sandbox, _pass_on, cancelled)


def _pass_on(stream: int, data: bytes) -> None:
    out = (sys.stdout if stream == 1 else sys.stderr).buffer
    out.write(data)
    out.flush()


def _tell(event: Event) -> None:
    if isinstance(event, Note):
        print(f"mbuild: {event.message}", file=sys.stderr)
