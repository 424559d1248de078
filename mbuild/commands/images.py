"""`mbuild images`: the images that the store keeps by name."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

from cache.index import Kind
from cache.names import NamedImage
from cache.store import Store
from engine.images.reference import Reference
from engine.imagestore import manifests_of
from machinefile.errors import StoreError
from mbuild.arguments import Parser, add_format_option, add_store_option
from mbuild.progress.text import label
from mbuild.progress.units import size
from mbuild.session import open_store


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """List the images."""
    parser = Parser(prog="mbuild images", description="List the images in the store.")
    add_store_option(parser)
    add_format_option(parser)
    options = parser.parse_args(arguments)
    with open_store(options.cache_dir) as store:
        images = [(image, _size(store, image)) for image in store.names.all()]
        machines = {image.digest for image, _ in images if _has_machine(store, image)}
    if options.format == "json":
        rows = [
            {"name": i.name, "digest": i.digest, "size": total, "kept": i.kept, "machine": i.digest in machines}
            for i, total in images
        ]
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(_name(image)) for image, _ in images), default=0)
    for image, total in images:
        shown = "gone" if total is None else size(total)
        mark = "machine" if image.digest in machines else ""
        print(f"{_name(image):<{width}}  {image.digest[:19]}  {shown:>8}  {label(image.kept):<20}  {mark}".rstrip())
    return 0


def _has_machine(store: Store, image: NamedImage) -> bool:
    """Whether mbuild run restores a machine for that name."""
    return isinstance(store.index.get(Kind.MACHINE, image.digest), str)


def _name(image: NamedImage) -> str:
    return label(Reference.parse(image.name).short)


def _size(store: Store, image: NamedImage) -> int | None:
    """Bytes of its layers, compressed; of all its images, if it is an index; None when something is missing."""
    try:
        layers = {layer.digest: layer.size for one in manifests_of(store, image.digest) for layer in one.layers}
    except StoreError:
        return None
    return sum(layers.values())
