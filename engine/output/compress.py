"""Our layers as they go out: compressed once, then remembered."""

from __future__ import annotations

from cache.index import Kind
from cache.results import Layer
from cache.store import Store
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.layers.compression import compress_gzip

_GZIP = "gzip"


def packed(layer: Layer, store: Store) -> Descriptor:
    """The descriptor of a layer's gzip blob, which is made and put into the store if it is not there."""
    key = f"{_GZIP}:{layer.diff_id}"
    match store.index.get(Kind.VARIANT, key):
        case [str(digest), int(size)] if store.blobs.has(digest, size):
            return Descriptor(mediatype.OCI_LAYER_GZIP, digest, size)
    with store.blobs.open(layer.digest) as tar, store.blobs.writer() as writer:
        compress_gzip(tar, writer)
    store.index.put(Kind.VARIANT, key, [writer.digest, writer.size])
    return Descriptor(mediatype.OCI_LAYER_GZIP, writer.digest, writer.size)
