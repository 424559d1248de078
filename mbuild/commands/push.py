"""`mbuild push`: an image of the store goes into a registry."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from engine.events import Note
from engine.images.push import Pushed
from engine.images.reference import Reference
from engine.imagestore import find, push
from mbuild.arguments import Parser, add_registry_options, add_store_option, registry_flags
from mbuild.machines import machine_alone
from mbuild.progress import create
from mbuild.session import open_images
from mbuild.transfers import add_progress_options, progress_mode


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Push an image, or an index with all its images."""
    parser = Parser(prog="mbuild push", description="Push an image of the store into a registry.")
    add_store_option(parser)
    add_registry_options(parser)
    add_progress_options(parser)
    parser.add_argument("--machine", action="store_true", help="push the machine that was made of the image")
    parser.add_argument("name", metavar="NAME", help="the name it has in the store, or a machine's folder")
    parser.add_argument(
        "destination", nargs="?", default="", metavar="DEST", help="the name to push it as (default: NAME)"
    )
    options = parser.parse_args(arguments)
    destination = Reference.parse(options.destination or options.name)
    with (
        create(progress_mode(options), sys.stderr) as display,
        open_images(options.cache_dir, display, cancelled, registry_flags(options)) as (store, source),
    ):
        machine = machine_alone(store, options.name, wanted=options.machine)
        if machine is not None:
            from engine.machines.transfer import push_machine

            done = push_machine(store, source.registry(), machine, destination, display, cancelled)
        else:
            image = find(store, options.name)
            done = push(store, source.registry(), image.digest, destination, display, cancelled)
        display(Note(f"pushed {destination.short}: {_counted(done)}"))
    if options.quiet or not sys.stdout.isatty():
        print(done.digest)
    return 0


def _counted(done: Pushed) -> str:
    counts = (
        (done.sent, "sent"),
        (done.mounted, "taken from elsewhere in the registry"),
        (done.there, "there already"),
    )
    return "blobs " + ", ".join(f"{number} {what}" for number, what in counts if number)
