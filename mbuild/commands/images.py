"""`mbuild images`: the images that the store keeps by name."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

from engine.images.manifest import Manifest, parse_manifest
from engine.images.reference import Reference
from mbuild.arguments import Parser, add_format_option, add_store_option
from mbuild.session import open_store


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """List the images."""
    parser = Parser(prog="mbuild images", description="List the images in the store.")
    add_store_option(parser)
    add_format_option(parser)
    options = parser.parse_args(arguments)
    with open_store(options.cache_dir) as store:
        rows = []
        for image in store.names.all():
            manifest = parse_manifest(store.blobs.read(image.digest)) if store.blobs.has(image.digest) else None
            size = sum(layer.size for layer in manifest.layers) if isinstance(manifest, Manifest) else None
            rows.append({"name": image.name, "digest": image.digest, "size": size, "kept": image.kept})
    if options.format == "json":
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        shown = "gone" if row["size"] is None else f"{int(str(row['size'])) / 1e6:.1f} MB"
        print(f"{Reference.parse(str(row['name'])).short}  {str(row['digest'])[:19]}  {shown}  {row['kept']}")
    return 0
