"""What registries and images may say, whatever it is: it is understood or refused, and nothing else happens."""

from __future__ import annotations

import json

import hypothesis.strategies as st
from hypothesis import given, settings

from cache.carry.artifact import ARTIFACT_TYPE, ArtifactIndexBlob
from cache.carry.entry import is_digest
from cache.carry.index import MEDIA_TYPE, parse_index
from engine.carry.inline import parse_inline
from engine.carry.tagged import INDEX_ANNOTATION, is_plain_image, recognise
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.image import LayerDescriptor
from machinefile.errors import UntrustedDataError

DIGEST = "sha256:" + "0" * 64
WORDS = st.sampled_from(
    [
        "",
        DIGEST,
        "sha256:" + "1" * 64,
        ARTIFACT_TYPE,
        ARTIFACT_TYPE + "0",
        MEDIA_TYPE,
        mediatype.OCI_CONFIG,
        mediatype.OCI_MANIFEST,
        mediatype.OCI_INDEX,
        "application/vnd.buildkit.cacheconfig.v0",
        "\ud800",
    ]
)
NAMES = st.sampled_from(
    [
        "artifactType",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "annotations",
        INDEX_ANNOTATION,
        "digest",
        "size",
        "schemaVersion",
        "steps",
        "packing",
        "blobs",
        "platform",
    ]
)
NUMBERS = st.one_of(st.integers(-2, 5), st.just(1 << 70), st.floats())
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=5))
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=25
)
DESCRIPTORS = st.fixed_dictionaries({"mediaType": WORDS | PLAIN, "digest": WORDS | PLAIN, "size": NUMBERS})
MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "artifactType": WORDS | PLAIN,
        "mediaType": WORDS | PLAIN,
        "config": DESCRIPTORS | VALUES,
        "layers": st.lists(DESCRIPTORS | VALUES, max_size=4) | VALUES,
        "manifests": st.lists(DESCRIPTORS | VALUES, max_size=4) | VALUES,
        "annotations": st.dictionaries(st.just(INDEX_ANNOTATION), WORDS) | VALUES,
    },
)
STEPS = st.lists(st.tuples(WORDS, WORDS, st.none() | NUMBERS | WORDS) | VALUES, max_size=6)
DOCUMENTS = st.fixed_dictionaries({"steps": STEPS | VALUES, "packing": WORDS | VALUES, "blobs": VALUES}) | VALUES
LAYERS = [LayerDescriptor(Descriptor(mediatype.OCI_LAYER_GZIP, DIGEST, number), DIGEST) for number in range(3)]


@settings(max_examples=300)
@given(MANIFESTS | VALUES)
def test_a_manifest_is_recognised_or_refused(value: object) -> None:
    data = json.dumps(value).encode()
    try:
        found = recognise(data, "it")
    except UntrustedDataError:
        return
    if isinstance(found, ArtifactIndexBlob):
        assert is_digest(found.digest)
        assert 0 < found.size <= 64 << 20
        assert isinstance(is_plain_image(data), bool)


@settings(max_examples=300)
@given(DOCUMENTS)
def test_what_an_image_says_is_understood_or_refused(value: object) -> None:
    try:
        index = parse_inline(json.dumps(value), LAYERS, "it")
    except UntrustedDataError:
        return
    assert all(is_digest(entry.key) and is_digest(entry.content) for entry in index.entries.values())
    assert parse_index(index.to_json(), "it") == index


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    try:
        recognise(data, "it")
    except UntrustedDataError:
        return
    raise AssertionError(data)
