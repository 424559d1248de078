"""The index of a cache that travels: written, read, put together; and what others may have put in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from carry_support import GZIP, digest_of, entry, index, layer, mount
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.carry import index as module
from cache.carry.artifact import (
    MAX_MANIFEST_BYTES,
    manifest_of,
    pack_index,
    parse_artifact,
    unpack_index,
)
from cache.carry.entry import CacheEntry, CarriedBlob, CarriedMount, Signature
from cache.carry.index import MAX_BYTES, MEDIA_TYPE, CacheIndex, parse_index
from cache.results import StepResult
from machinefile.errors import UntrustedDataError

NAMES = st.integers(0, 6).map(lambda number: digest_of(b"%d" % number))
LAYERS = st.integers(0, 6).map(lambda number: layer(b"layer %d" % number))
SIGNATURES = st.builds(Signature, st.sampled_from(["a" * 64, "b" * 64]), st.just("A" * 86 + "=="))
RESULTS = st.builds(
    StepResult,
    st.lists(st.none() | LAYERS, max_size=4).map(tuple),
    st.floats(0, 1e6),
    st.integers(0, 1 << 32).map(float),
)
ENTRIES = st.builds(
    CacheEntry, NAMES, NAMES, RESULTS, st.integers(0, 50_000), NAMES | st.just(""), st.lists(SIGNATURES).map(tuple)
).map(lambda one: replace(one, signatures=one.signatures[:8]))
MOUNTS = st.builds(
    CarriedMount, NAMES.map(lambda name: name[7:]), st.text().filter(str.isprintable), NAMES, st.integers(0, 1 << 40),
    st.integers(0, 1 << 32), st.lists(SIGNATURES, max_size=8).map(tuple),
)  # fmt: skip
PACKS = st.builds(CarriedBlob, NAMES, st.integers(0, 1 << 40))


def test_an_older_entry_that_says_otherwise_of_a_blob_goes() -> None:
    """Else the document would say of both what one of them says."""
    true, other = entry("true", b"blob"), entry("other", b"another")
    lie = entry("lie", b"blob", b"another")
    (first, second) = lie.result.layers
    lie = replace(lie, result=replace(lie.result, steps=(replace(first, diff_id=digest_of(b"x")), second)))
    both = index(lie, other).merged(index(true))
    assert both == index(true, other)
    assert parse_index(both.to_json(), "it") == both


@st.composite
def indexes(draw: st.DrawFn) -> CacheIndex:
    made = CacheIndex(
        {one.key: one for one in draw(st.lists(ENTRIES, max_size=5))},
        {one.identity: one for one in draw(st.lists(MOUNTS, max_size=3))},
        {one.digest: one for one in draw(st.lists(PACKS, max_size=3))},
    )
    packed = st.sampled_from(["gzip-6-deflate0.9", "zstd-3-zstd1.5.7"])
    return replace(made, packings={digest: draw(packed) for digest in made.layers()})


@given(indexes())
def test_an_index_reads_as_it_was_written(made: CacheIndex) -> None:
    assert parse_index(made.to_json(), "it") == made
    assert unpack_index(pack_index(made), "it") == made


@settings(max_examples=50)
@given(indexes(), indexes())
def test_what_is_new_and_what_was_there_are_all(older: CacheIndex, newer: CacheIndex) -> None:
    both = older.merged(newer)
    assert older.merged(both.since(older.trimmed())) == both
    assert both.merged(both) == both
    assert both.since(both) == CacheIndex()
    assert {**both.entries, **newer.entries} == both.entries
    assert both.trimmed() == both


@given(indexes())
def test_equal_indexes_are_equal_bytes(made: CacheIndex) -> None:
    turned = CacheIndex(
        *(dict(reversed(part.items())) for part in (made.entries, made.mounts, made.packs, made.packings))
    )
    assert turned.to_json() == made.to_json()
    assert pack_index(turned) == pack_index(made)


@given(indexes(), st.data())
def test_what_has_lost_a_blob_goes(made: CacheIndex, data: st.DataObject) -> None:
    blobs = made.blobs()
    there = {digest: size for digest, size in blobs.items() if data.draw(st.booleans())}
    whole = made.whole(there)
    assert whole.blobs().items() <= there.items()
    for one in made.entries.values():
        complete = all(there.get(each.digest) == each.size for each in one.result.layers)
        assert (one.key in whole.entries) == complete


def document() -> dict[str, Any]:
    made = replace(
        index(replace(entry("step", b"layer"), records=digest_of(b"pack")), mounts=[mount("pip")]),
        packs={digest_of(b"pack"): CarriedBlob(digest_of(b"pack"), 4)},
        packings={digest_of(b"layer"): "gzip"},
    )
    found: dict[str, Any] = json.loads(made.to_json())
    return found


def read(changed: dict[str, Any]) -> CacheIndex:
    return parse_index(json.dumps(changed).encode(), "it")


HUGE = 10**30
WRONG = [None, True, -1, 1.5, HUGE, "", "x", [], {}, [[]], float("nan"), float("inf"), "\ud800"]


@pytest.mark.parametrize("field", ["content", "steps", "seconds", "created", "used", "records", "signatures"])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_an_entry_that_makes_no_sense_is_left_out(field: str, value: object) -> None:
    made = document()
    (before,) = read(made).entries.values()
    next(iter(made["entries"].values()))[field] = value
    for one in read(made).entries.values():
        # What is left is an entry like any other: it can be signed, written and read.
        assert parse_index(index(one).to_json(), "it").entries == {one.key: one}
        assert one.payload()
        fits = [("steps", []), ("records", ""), ("seconds", 1.5)]
        assert (field, value) in fits or one == before


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_layer_that_makes_no_sense_takes_its_entries_along(position: int, value: object) -> None:
    made = document()
    next(iter(made["layers"].values()))[position] = value
    found = read(made)
    is_text = isinstance(value, str)
    if (position == 3 and is_text) or (position == 2 and value == "x"):
        assert len(found.entries) == 1
    else:
        assert not found.entries
    assert found.to_json()


@pytest.mark.parametrize("field", ["id", "digest", "size", "created", "signatures"])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_mount_that_makes_no_sense_is_left_out(field: str, value: object) -> None:
    made = document()
    next(iter(made["mounts"].values()))[field] = value
    for one in read(made).mounts.values():
        assert one.payload()
        assert (field, value) in [("id", ""), ("id", "x")] or (field == "signatures" and one.signatures == ())


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_pack_that_makes_no_sense_is_left_out(value: object) -> None:
    made = document()
    made["packs"] = {digest_of(b"pack"): value, "x": 4}
    assert read(made).packs == {}


@pytest.mark.parametrize("name", ["x", "", "sha256:" + "A" * 64, "sha256:" + "a" * 65, "sha512:" + "a" * 64])
def test_names_that_are_no_digests_are_left_out(name: str) -> None:
    made = document()
    made["entries"] = {name: next(iter(made["entries"].values()))}
    made["mounts"] = {name: next(iter(made["mounts"].values()))}
    found = read(made)
    assert not found.entries
    assert not found.mounts


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000,
        b'{"version":1,"layers":[],"entries":{},"mounts":{},"packs":{}}',
        b'{"version":1,"entries":{},"mounts":{},"packs":{}}',
        b'{"a":[' + b"[]," * module._MOST_LISTS + b"0]}",
        b"[" + b"0," * module._MOST_VALUES + b"0]",
    ],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        parse_index(data, "the registry x")
    assert caught.value.code == "cache-invalid"
    assert "the registry x" in caught.value.message


def test_a_document_that_is_too_large_is_not_read() -> None:
    with pytest.raises(UntrustedDataError):
        parse_index(document_bytes() + b" " * MAX_BYTES, "it")


def document_bytes() -> bytes:
    return json.dumps(document()).encode()


def test_another_version_is_told() -> None:
    with pytest.raises(UntrustedDataError) as caught:
        read({**document(), "version": 2})
    assert caught.value.code == "cache-version"


def test_of_names_that_come_twice_the_last_counts() -> None:
    (value,) = document()["packs"].values()
    text = document_bytes().replace(b'"packs": {', b'"packs": {"%s": 9, ' % digest_of(b"pack").encode())
    assert [pack.size for pack in parse_index(text, "it").packs.values()] == [value]


def test_a_step_without_its_layer_is_left_out() -> None:
    assert not read({**document(), "layers": {}}).entries


@pytest.mark.parametrize(
    ("bound", "most", "left"),
    [("MOST_ENTRIES", 3, 3), ("MOST_LAYERS", 4, 4), ("MOST_STEPS", 10, 5)],
)
def test_what_was_not_used_for_longest_goes(monkeypatch: pytest.MonkeyPatch, bound: str, most: int, left: int) -> None:
    made = index(*(entry(f"step {number}", b"layer %d" % number, used=number) for number in range(8)))
    monkeypatch.setattr(module, bound, most)
    kept = {entry(f"step {number}").key for number in range(8 - left, 8)}
    assert set(made.trimmed().entries) == kept
    assert set(parse_index(made.to_json(), "it").entries) == kept
    assert set(made.trimmed().layers()) == {layer(b"layer %d" % number).digest for number in range(8 - left, 8)}


def test_the_oldest_mounts_go(monkeypatch: pytest.MonkeyPatch) -> None:
    made = index(mounts=[mount(f"m{number}", created=number) for number in range(5)])
    monkeypatch.setattr(module, "MOST_MOUNTS", 2)
    assert {one.id for one in parse_index(made.to_json(), "it").mounts.values()} == {"m3", "m4"}


def test_an_index_as_large_as_allowed_can_be_read() -> None:
    """The bounds fit one another: what `trimmed` leaves, `parse_index` and a registry take."""
    one = CacheIndex({one.key: one for one in [replace(entry("x"), records=digest_of(b"r"))]})
    signature = Signature("a" * 64, "A" * 86 + "==")
    key = "s" * 73
    signed = replace(next(iter(one.entries.values())), signatures=(signature,) * module.MOST_SIGNATURES)
    an_entry = len(index(signed).to_json()) + len(str(1 << 40)) * 2
    a_layer = len(json.dumps({key: [key, 1 << 50, "x" * 127, "x" * 100]}))
    a_mount = len(index(mounts=[replace(mount("m" * 512), signatures=signed.signatures)]).to_json())
    steps = module.MOST_STEPS * (len(key) + 3)
    whole = an_entry * module.MOST_ENTRIES + a_layer * module.MOST_LAYERS + a_mount * module.MOST_MOUNTS + steps
    assert whole < MAX_BYTES
    lists = (module.MOST_SIGNATURES + 3) * (module.MOST_ENTRIES + module.MOST_MOUNTS) + module.MOST_LAYERS
    assert lists + 100 < module._MOST_LISTS
    values = (module.MOST_SIGNATURES * 2 + 8) * (module.MOST_ENTRIES + module.MOST_MOUNTS) + 5 * module.MOST_LAYERS
    assert values + module.MOST_STEPS < module._MOST_VALUES
    descriptor = len(json.dumps({"mediaType": "x" * 127, "digest": key, "size": 1 << 50}))
    assert descriptor * (module.MOST_LAYERS + module.MOST_MOUNTS + 2) < MAX_MANIFEST_BYTES


@settings(max_examples=30)
@given(indexes())
def test_a_manifest_lists_every_blob_and_leads_to_the_index(made: CacheIndex) -> None:
    packed = pack_index(made)
    manifest = manifest_of(made, packed)
    found = parse_artifact(manifest, "it")
    assert (found.digest, found.size) == (digest_of(packed), len(packed))
    first, *others = json.loads(manifest)["layers"]
    assert first == {"mediaType": MEDIA_TYPE, "digest": digest_of(packed), "size": len(packed)}
    assert {one["digest"]: one["size"] for one in others} == made.blobs()


def test_a_layer_has_its_own_type_in_the_manifest() -> None:
    made = index(entry("step", b"layer"))
    assert json.loads(manifest_of(made, pack_index(made)))["layers"][1]["mediaType"] == GZIP


def artifact(**changes: object) -> bytes:
    made = CacheIndex()
    return json.dumps({**json.loads(manifest_of(made, pack_index(made))), **changes}).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "cache-invalid"),
        (b"[" * 100_000, "cache-invalid"),
        (b"{}", "cache-invalid"),
        (artifact(artifactType="application/vnd.oci.image"), "cache-invalid"),
        (artifact(artifactType="application/vnd.mbuild.cache.v2"), "cache-version"),
        (artifact(layers=[]), "cache-invalid"),
        (artifact(layers=[{"mediaType": MEDIA_TYPE, "digest": "x", "size": 1}]), "cache-invalid"),
        (artifact(layers=[{"mediaType": MEDIA_TYPE, "digest": digest_of(b""), "size": 0}]), "cache-invalid"),
        (
            artifact(layers=[{"mediaType": MEDIA_TYPE, "digest": digest_of(b""), "size": MAX_BYTES + 1}]),
            "cache-invalid",
        ),
        (artifact(layers=[{"mediaType": GZIP, "digest": digest_of(b""), "size": 5}]), "cache-invalid"),
        (artifact() + b" " * MAX_MANIFEST_BYTES, "cache-invalid"),
    ],
    ids=range(11),
)
def test_another_manifest_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        parse_artifact(data, "it")
    assert caught.value.code == code


PACKED = pack_index(index(entry("step", b"layer")))


def without_size() -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(write_content_size=False).compress(CacheIndex().to_json())


def bomb() -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    "make",
    [
        bytes,
        lambda: b"nothing",
        lambda: PACKED[:-1],
        lambda: PACKED[:9],
        lambda: PACKED + b"x",
        lambda: PACKED[:30] + bytes([PACKED[30] ^ 1]) + PACKED[31:],
        without_size,
        bomb,
    ],
    ids=["empty", "nonsense", "cut", "cut early", "more", "flipped", "without size", "bomb"],
)
def test_a_damaged_index_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        unpack_index(make(), "it")
    assert caught.value.code == "cache-invalid"
