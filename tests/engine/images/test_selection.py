"""Which image of an index suits a platform."""

from __future__ import annotations

import pytest

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Index, Manifest
from engine.images.selection import acceptable, choose, select
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.platform import Platform


def digest(text: str) -> str:
    return digest_of(text.encode())


def entry(platform: str | None, kind: str = mediatype.OCI_MANIFEST) -> Descriptor:
    return Descriptor(kind, digest(str(platform)), 1, Platform.parse(platform) if platform else None)


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/amd64/v3"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], "linux/amd64/v2"),
        ("linux/amd64", ["linux/386"], "linux/386"),
        ("linux/amd64", ["windows/amd64"], None),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/arm64", ["linux/arm64/v8", "linux/arm/v7"], "linux/arm64"),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/riscv64", ["linux/riscv64"], "linux/riscv64"),
        ("linux/amd64", [], None),
    ],
)
def test_the_best_match_is_chosen(wanted: str, offered: list[str], chosen: str | None) -> None:
    found = choose(Index(tuple(map(entry, offered))), Platform.parse(wanted))
    assert (found and str(found.platform)) == chosen


def test_of_two_equal_matches_the_first_is_chosen() -> None:
    first = Descriptor("", digest("1"), 1, Platform("linux", "amd64"))
    second = Descriptor("", digest("2"), 1, Platform("linux", "amd64"))
    assert choose(Index((first, second)), Platform("linux", "amd64")) == first


def test_a_strange_variant_does_not_upset_anything() -> None:
    assert acceptable(Platform("linux", "arm", "v99999999999")) == (Platform("linux", "arm", "v99999999999"),)
    assert acceptable(Platform("linux", "arm64", "v9"))[1] == Platform("linux", "arm64")


class World:
    """Blobs by digest."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.reads = 0

    def add(self, thing: Manifest | Index, platform: Platform | None = None) -> Descriptor:
        data = thing.to_json()
        self.blobs[digest_of(data)] = data
        return Descriptor(thing.media_type, digest_of(data), len(data), platform)

    def read(self, descriptor: Descriptor) -> bytes:
        self.reads += 1
        return self.blobs[descriptor.digest]


AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def manifest(name: str) -> Manifest:
    return Manifest(Descriptor(mediatype.OCI_CONFIG, digest(name), 1), ())


def test_an_index_within_an_index_is_followed() -> None:
    world = World()
    inner = world.add(Index((world.add(manifest("arm"), ARM64), world.add(manifest("amd"), AMD64))))
    root = world.add(Index((inner,)))
    descriptor, found, data = select(root, AMD64, world.read, "x")
    assert found == manifest("amd")
    assert digest_of(data) == descriptor.digest


def test_a_lone_manifest_is_taken_whatever_it_runs_on() -> None:
    world = World()
    assert select(world.add(manifest("m")), ARM64, world.read, "x")[1] == manifest("m")


def test_an_index_of_one_that_names_no_platform_needs_no_choice() -> None:
    world = World()
    assert select(world.add(Index((world.add(manifest("m")),))), ARM64, world.read, "x")[1] == manifest("m")


def test_a_missing_platform_says_which_there_are() -> None:
    world = World()
    attestation = world.add(manifest("a"), Platform("unknown", "unknown"))
    root = world.add(Index((world.add(manifest("m"), AMD64), world.add(manifest("n"), ARM64), attestation)))
    with pytest.raises(TransferError, match=r"it has linux/amd64, linux/arm64$") as caught:
        select(root, Platform("linux", "s390x"), world.read, "debian:12")
    assert caught.value.code == "platform-missing"


def test_an_empty_index_has_nothing() -> None:
    world = World()
    with pytest.raises(TransferError, match="none at all"):
        select(world.add(Index(())), AMD64, world.read, "x")


def test_indexes_nested_without_end_are_refused() -> None:
    world = World()
    root = world.add(manifest("m"), AMD64)
    for _ in range(50):
        root = world.add(Index((root,)))
    with pytest.raises(UntrustedDataError) as caught:
        select(root, AMD64, world.read, "x")
    assert caught.value.code == "index-too-deep"
    assert world.reads < 10


def test_indexes_that_branch_without_end_are_refused() -> None:
    world = World()
    leaves = tuple(world.add(Index((), annotations=(("n", str(n)),))) for n in range(500))
    with pytest.raises(UntrustedDataError) as caught:
        select(world.add(Index(leaves)), AMD64, world.read, "x")
    assert caught.value.code == "index-too-deep"
    assert world.reads < 50
