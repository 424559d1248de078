"""`mbuild attest`: says, beside an image of the store, where it came from and what is in it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from engine.attest.spec import DEFAULT_BUILDER, AttestSpec, ProvenanceMode
from mbuild.arguments import Parser, add_registry_options, add_store_option, registry_flags
from mbuild.progress import create
from mbuild.session import open_images
from mbuild.transfers import add_progress_options, progress_mode

_TYPES = ("provenance", "sbom")


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Attest an image, or every image of an index."""
    parser = Parser(
        prog="mbuild attest",
        description="Put attestations beside an image of the store, in place of those that it had. "
        "mbuild push sends them along.",
    )
    add_store_option(parser)
    add_registry_options(parser)
    add_progress_options(parser)
    parser.add_argument(
        "--type",
        action="append",
        default=[],
        choices=_TYPES,
        help="what to say; may be repeated (default: sbom). provenance is for an image that was built here",
    )
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in ProvenanceMode],
        default="",
        help="how much the provenance says (default: min)",
    )
    parser.add_argument("--key", default="", metavar="FILE", help="sign with this private key: Ed25519 or P-256")
    parser.add_argument("name", metavar="IMAGE", help="the name it has in the store")
    options = parser.parse_args(arguments)
    types = options.type or ["sbom"]
    if options.mode and "provenance" not in types:
        parser.error("--mode is for --type provenance")
    spec = AttestSpec(
        ProvenanceMode(options.mode or ProvenanceMode.MIN.value) if "provenance" in types else None,
        DEFAULT_BUILDER,
        "sbom" in types,
        Path(options.key) if options.key else None,
    )
    from engine.attest.make import Attester
    from engine.attest.stored import attest_stored
    from engine.bases import Bases
    from engine.layerstore import LayerStore

    with (
        create(progress_mode(options), sys.stderr) as display,
        open_images(options.cache_dir, display, cancelled, registry_flags(options)) as (store, source),
    ):
        layers = LayerStore(store, Bases(store, source, display, cancelled), cancelled=cancelled)
        done = attest_stored(
            store, Attester(spec, store, layers, cancelled), options.name, provenance="provenance" in types
        )
    print(done.digest)
    return 0
