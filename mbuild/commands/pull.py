"""`mbuild pull`: an image of a registry comes into the store."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from engine.images.reference import Reference
from engine.imagestore import pull
from machinefile.errors import UntrustedDataError
from machinefile.platform import native
from mbuild.arguments import Parser, add_registry_options, add_store_option, registry_flags
from mbuild.progress import create
from mbuild.session import open_images
from mbuild.transfers import add_platform_option, add_progress_options, platform_of, progress_mode


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Pull an image with all its layers."""
    parser = Parser(prog="mbuild pull", description="Pull an image, or a machine, from its registry into the store.")
    add_store_option(parser)
    add_registry_options(parser)
    add_progress_options(parser)
    add_platform_option(parser, "which of several images to pull (default: the one for this machine)")
    parser.add_argument("name", metavar="NAME", help="the image's name, as docker pull takes it")
    options = parser.parse_args(arguments)
    reference, platform = Reference.parse(options.name), platform_of(options) or native()
    with (
        create(progress_mode(options), sys.stderr) as display,
        open_images(options.cache_dir, display, cancelled, registry_flags(options)) as (store, source),
    ):
        try:
            image = pull(store, source, reference, platform, display, cancelled)
        except UntrustedDataError as error:
            if error.code != "not-an-image":
                raise
            from engine.machines.transfer import pull_machine

            image = pull_machine(store, source.registry(), reference, display, cancelled)
    if options.quiet or not sys.stdout.isatty():
        print(image.digest)
    return 0
