"""The merged file system of layers: overriding, whiteouts, symlinks, and the time it takes."""

from __future__ import annotations

import io
import time

import pytest

from engine.layers.entry import Entry, EntryType
from engine.layers.index import LayerIndex
from engine.layers.root import RootView
from engine.layers.tarwrite import Item, write_layer
from machinefile.errors import StepError, StoreError

D, F, L, H, W = (
    EntryType.DIRECTORY,
    EntryType.FILE,
    EntryType.SYMLINK,
    EntryType.HARDLINK,
    EntryType.WHITEOUT,
)


def layer(*entries: Entry, **contents: bytes) -> LayerIndex:
    return write_layer([Item(entry) for entry in entries], io.BytesIO()).index


def file(path: str, mode: int = 0o644) -> Entry:
    return Entry(path, F, mode)


def directory(path: str, mode: int = 0o755, opaque: bool = False) -> Entry:
    return Entry(path, D, mode, opaque=opaque)


def link(path: str, target: str) -> Entry:
    return Entry(path, L, 0o777, link=target)


BASE = layer(
    directory("etc", 0o700),
    file("etc/a"),
    file("etc/b"),
    directory("etc/d"),
    file("etc/d/x"),
    link("lib", "usr/lib"),
    file("usr/lib/so"),
)


def paths(view: RootView) -> list[str]:
    return [located.entry.path for located in view.walk()]


def test_an_image_without_layers_has_a_root() -> None:
    view = RootView([])
    assert paths(view) == [""]
    assert view.children("") == ()
    assert view.lookup("etc") is None


def test_the_top_layer_wins() -> None:
    view = RootView([BASE, layer(file("etc/a", 0o600))])
    found = view.lookup("etc/a")
    assert found is not None
    assert (found.entry.mode, found.layer) == (0o600, 1)
    below = view.lookup("etc/b")
    assert below is not None
    assert below.layer == 0


def test_a_directory_that_a_layer_only_stands_in_keeps_its_metadata() -> None:
    view = RootView([BASE, layer(file("etc/new"))])
    found = view.lookup("etc")
    assert found is not None
    assert (found.entry.mode, found.layer) == (0o700, 0)
    assert view.implied(view.indexes[1])["etc"].mode == 0o700
    assert view.children("etc") == ("a", "b", "d", "new")


def test_a_whiteout_removes_a_file_and_a_whole_directory() -> None:
    view = RootView([BASE, layer(Entry("etc/a", W), Entry("etc/d", W))])
    assert view.children("etc") == ("b",)
    assert view.lookup("etc/d/x") is None


def test_an_opaque_directory_hides_what_is_below() -> None:
    view = RootView([BASE, layer(directory("etc", opaque=True), file("etc/new"))])
    assert view.children("etc") == ("new",)
    assert view.lookup("etc/a") is None
    assert view.lookup("etc/d/x") is None


def test_a_file_in_place_of_a_directory_hides_it_for_good() -> None:
    view = RootView([BASE, layer(file("etc")), layer(directory("etc"), file("etc/new"))])
    assert view.children("etc") == ("new",)


def test_a_directory_that_is_only_implied_takes_the_place_of_a_file() -> None:
    view = RootView([BASE, layer(file("etc/a/inside"))])
    found = view.lookup("etc/a")
    assert found is not None
    assert (found.entry.type, found.entry.mode) == (D, 0o755)


def test_what_was_removed_can_come_again() -> None:
    view = RootView([BASE, layer(Entry("etc", W)), layer(file("etc/z"))])
    assert view.children("etc") == ("z",)


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("", ""),
        ("/", ""),
        ("lib/so", "usr/lib/so"),
        ("/lib/../lib/so", "usr/lib/so"),
        ("lib/../etc", "usr/etc"),
        ("../../etc/./a", "etc/a"),
        ("loop-free/x/y", "loop-free/x/y"),
        ("abs/so", "usr/lib/so"),
        ("far/etc/a", "etc/a"),
    ],
)
def test_symlinks_are_followed_inside_the_root(path: str, resolved: str) -> None:
    view = RootView([BASE, layer(link("abs", "/usr/lib"), link("far", "../../../.."))])
    assert view.resolve(path) == resolved


def test_the_last_symlink_can_be_left_alone() -> None:
    view = RootView([BASE, layer(link("usr/lib/end", "so"))])
    assert view.resolve("lib/end", follow_last=False) == "usr/lib/end"
    assert view.resolve("lib/end") == "usr/lib/so"


@pytest.mark.parametrize("target", ["loop", "loop/loop", "/other"])
def test_symlinks_in_a_circle_are_an_error(target: str) -> None:
    view = RootView([layer(link("loop", target), link("other", "loop"))])
    with pytest.raises(StepError) as caught:
        view.resolve("loop/x")
    assert caught.value.code == "symlink-loop"


def test_hard_links_lead_to_their_file_in_their_own_layer() -> None:
    view = RootView([layer(file("a", 0o640), Entry("b", H, link="a")), layer(Entry("a", W))])
    found = view.lookup("b")
    assert found is not None
    assert view.file(found).entry.mode == 0o640


def test_a_large_base_with_many_layers_is_looked_into_at_once() -> None:
    big = layer(*[file(f"usr/share/doc/p{number % 500}/f{number}") for number in range(20_000)])
    saved = big.to_bytes()
    small = [layer(file(f"app/{number}"), Entry(f"usr/share/doc/p{number}", W)) for number in range(20)]
    started = time.process_time()
    view = RootView([LayerIndex.from_bytes(saved), *small])
    for number in range(100):
        view.lookup(f"usr/share/doc/p7{number}/f{number}")
    spent = time.process_time() - started
    assert view.lookup("usr/share/doc/p3/f3") is None
    assert view.lookup("usr/share/doc/p33/f33") is not None
    assert spent < 0.5  # about 0.03 on an idle machine


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-10],
        lambda data: data.replace(b"index 1\n", b"index 0\n"),
        lambda data: data[:40] + bytes(20) + data[60:],
        lambda data: data[: data.index(b"\n") + 1] + b"x\x9cc\x00\x00\x00\x01\x00\x01",
    ],
)
def test_an_index_that_cannot_be_used_says_so(damage) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StoreError) as caught:
        LayerIndex.from_bytes(damage(BASE.to_bytes()))
    assert caught.value.code == "index-unusable"
