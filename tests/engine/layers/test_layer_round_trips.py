"""Trees made at random, written and read back in every form that layers have."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.layers.changes import layer_from_changes, read_changes
from engine.layers.changes_write import write_changes
from engine.layers.content import LayerFiles
from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.layers.flatten import Folder, flatten
from engine.layers.index import LayerIndex
from engine.layers.layerdisk import prepare_layer
from engine.layers.limits import LayerLimits
from engine.layers.root import Located, RootView
from engine.layers.tarwrite import Item, canonical, write_layer
from engine.layers.times import KEPT, NORMAL

NAMES = st.sampled_from(["a", "b", "a-b", "é", "\udcff", "n" * 120, ".whx", " ", "\n"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
XATTRS = st.dictionaries(
    st.sampled_from(["user.x", "user.y=z", "security.capability"]), st.binary(max_size=40), max_size=2
).map(lambda found: tuple(sorted(found.items())))
TIMES = st.one_of(st.just(NORMAL_TIME), st.integers(-10, 1 << 34), st.integers(0, 1 << 31).map(lambda n: n + 0.5))
FIELDS = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.sampled_from([0, 1000, 2_097_151, 2_097_152, (1 << 32) - 2]),
        "gid": st.sampled_from([0, 100, 3_000_000]),
        "mtime": TIMES,
        "xattrs": XATTRS,
    }
)
KINDS = st.sampled_from([*EntryType, EntryType.FILE, EntryType.FILE, EntryType.DIRECTORY, EntryType.DIRECTORY])
DATA = st.one_of(st.just(b""), st.binary(max_size=30), st.just(b"x" * 1500))
NODES = st.lists(st.tuples(PATHS, KINDS, FIELDS, DATA, st.booleans()), max_size=10)


def build(nodes: Sequence[tuple[str, EntryType, dict, bytes, bool]]) -> dict[str, Item]:  # type: ignore[type-arg]
    """A sound layer out of random nodes: parents become directories, hard links link to some file."""
    items: dict[str, Item] = {}
    for path, kind, fields, data, flag in nodes:
        steps = path.split("/")
        parents = ["/".join(steps[:end]) for end in range(1, len(steps))]
        if path in items or any(up in items and items[up].entry.type is not EntryType.DIRECTORY for up in parents):
            continue
        if kind is not EntryType.DIRECTORY and any(other.startswith(path + "/") for other in items):
            continue
        files = sorted(one for one, item in items.items() if item.entry.type is EntryType.FILE)
        made = node(path, kind, fields, data, flag, files)
        for up in parents:
            if flag:
                items.setdefault(up, Item(Entry(up, EntryType.DIRECTORY, 0o711)))
        items[path] = made
    return items


def node(path: str, kind: EntryType, fields: dict, data: bytes, flag: bool, files: list[str]) -> Item:  # type: ignore[type-arg]
    if kind is EntryType.FILE:
        return Item(Entry(path, kind, size=len(data), **fields), partial(io.BytesIO, data))
    if kind is EntryType.DIRECTORY:
        return Item(Entry(path, kind, opaque=flag, **fields))
    if kind is EntryType.HARDLINK and files:
        return Item(Entry(path, kind, link=files[0]))
    if kind is EntryType.WHITEOUT:
        return Item(Entry(path, kind, 0, mtime=fields["mtime"]))
    if kind in (EntryType.CHARACTER, EntryType.BLOCK):
        return Item(Entry(path, kind, device=(4, 70), **fields))
    if kind is EntryType.FIFO:
        return Item(Entry(path, kind, **fields))
    return Item(Entry(path, EntryType.SYMLINK, **(fields | {"mode": 0o777}), link="../target" if flag else "t" * 200))


LAYERS = NODES.map(build)


def tar_of(items: dict[str, Item]) -> tuple[bytes, LayerIndex]:
    out = io.BytesIO()
    index = write_layer(items.values(), out).index
    return out.getvalue(), index


@given(LAYERS)
@settings(max_examples=150, deadline=None)
def test_what_was_written_is_read_back(items: dict[str, Item]) -> None:
    data, index = tar_of(items)
    read = prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LayerLimits()).index
    assert list(read) == [item.entry for item in canonical(items.values())]
    assert read == index
    assert LayerIndex.from_bytes(index.to_bytes()) == index
    assert list(LayerIndex.from_bytes(index.to_bytes())) == list(index)
    for entry in read:
        if entry.type is EntryType.FILE:
            at = read.offset(entry.path)
            holder = next(item for item in canonical(items.values()) if item.entry.path == entry.path)
            assert holder.open is not None or not entry.size
            assert data[at : at + entry.size] == (holder.open().read() if holder.open else b"")


@given(LAYERS)
@settings(max_examples=60, deadline=None)
def test_python_sees_the_same_tree(items: dict[str, Item]) -> None:
    data, index = tar_of(items)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = sorted(member.name for member in archive)
    expected = []
    for entry in index:
        head, slash, name = entry.path.rpartition("/")
        expected.append(f"{head}{slash}.wh.{name}" if entry.type is EntryType.WHITEOUT else entry.path)
        if entry.opaque:
            expected.append(entry.path + "/.wh..wh..opq")
    assert names == sorted(expected)


@given(LAYERS)
@settings(max_examples=80, deadline=None)
def test_a_change_stream_gives_the_same_layer(items: dict[str, Item]) -> None:
    for item in list(items.values()):  # a change stream has every parent
        steps = item.entry.path.split("/")
        for end in range(1, len(steps)):
            up = "/".join(steps[:end])
            items.setdefault(up, Item(Entry(up, EntryType.DIRECTORY, 0o755)))
    ordered = {item.entry.path: item for item in canonical(items.values())}
    stream = io.BytesIO()
    write_changes(items.values(), stream)
    for times in (KEPT, NORMAL):
        out = io.BytesIO()
        layer = layer_from_changes(read_changes(stream, LayerLimits()), out, times=times)
        timed = {path: Item(times.of(item.entry), item.open) for path, item in ordered.items()}
        expected, index = tar_of(timed)
        assert out.getvalue() == expected
        assert layer.index == index


def simple_root(layers: Sequence[dict[str, Item]]) -> dict[str, Entry]:
    """The merged file system, made the way an unpacker makes it."""
    root: dict[str, Entry] = {"": Entry("", EntryType.DIRECTORY, 0o755)}

    def remove(path: str, inside_only: bool = False) -> None:
        for other in [one for one in root if one.startswith(path + "/") or (one == path and not inside_only)]:
            del root[other]

    for items in layers:
        entries = [item.entry for item in canonical(items.values())]
        for entry in entries:
            if entry.type is EntryType.WHITEOUT:
                remove(entry.path)
            elif entry.opaque:
                remove(entry.path, inside_only=True)
        for entry in entries:
            steps = entry.path.split("/")
            for end in range(1, len(steps)):
                up = "/".join(steps[:end])
                if up not in root or root[up].type is not EntryType.DIRECTORY:
                    root[up] = Entry(up, EntryType.DIRECTORY, 0o755)
            if entry.type is EntryType.WHITEOUT:
                continue
            if entry.type is not EntryType.DIRECTORY:
                remove(entry.path)
            root[entry.path] = entry
    return root


@given(st.lists(LAYERS, max_size=4))
@settings(max_examples=150, deadline=None)
def test_the_root_view_sees_what_unpacking_gives(layers: list[dict[str, Item]]) -> None:
    view = RootView([tar_of(items)[1] for items in layers])
    expected = simple_root(layers)
    assert {located.entry.path: located.entry for located in view.walk()} == expected
    for path in ["a", "b", "a/b", "a/b/a", "zzz", "a/zzz"]:
        located = view.lookup(path)
        assert (located.entry if located else None) == expected.get(path)


@given(st.lists(LAYERS, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_flattening_gives_the_same_root_and_contents(layers: list[dict[str, Item]]) -> None:
    packed = [tar_of(items) for items in layers]
    indexes = [index for _, index in packed]
    openers = [partial(io.BytesIO, data) for data, _ in packed]
    out = io.BytesIO()
    index = flatten([Folder("", indexes, openers)], out).index
    assert not any(entry.opaque or entry.type is EntryType.WHITEOUT for entry in index)
    before, after = RootView(indexes), RootView([index])
    assert [one.entry.path for one in before.walk()] == [one.entry.path for one in after.walk()]
    assert contents_of(before, openers) == contents_of(after, [partial(io.BytesIO, out.getvalue())])


def contents_of(view: RootView, openers: list) -> dict[str, bytes]:  # type: ignore[type-arg]
    found: dict[str, bytes] = {}
    wanted: list[Located] = list(view.walk())
    for located, content in LayerFiles(view.indexes, openers).stream(wanted):
        data = content.read()
        found.update({one.entry.path: data for one in located})
    return found


@given(LAYERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_disk_holds_the_layer(items: dict[str, Item]) -> None:
    data, index = tar_of(items)
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LayerLimits(), folder=Path(folder))
        assert prepared.disk is not None
        listing = subprocess.run(["sqfs2tar", str(prepared.disk)], capture_output=True, check=True, timeout=20)
    with tarfile.open(fileobj=io.BytesIO(listing.stdout)) as archive:
        found = {member.name.rstrip("/"): member for member in archive}
        for entry in index:
            member = found.pop(entry.path)
            if entry.type is EntryType.WHITEOUT:
                assert (member.type, member.devmajor, member.devminor) == (tarfile.CHRTYPE, 0, 0)
                continue
            assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
            assert int(member.mtime) == min(max(int(entry.mtime // 1), 0), (1 << 32) - 1)
            marked = member.pax_headers.get("SCHILY.xattr.trusted.overlay.opaque") == "y"
            assert marked == entry.opaque
            file = index.file(entry.path)
            if file is not None:
                content = archive.extractfile(member)
                assert content is not None
                at = index.offset(file.path)
                assert content.read() == data[at : at + file.size]
    assert set(found) <= {"", *index.implied}
