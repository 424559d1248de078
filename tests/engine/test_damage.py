"""What somebody, or a disk, does to the files of a store: a build finds it and makes it anew."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from cache.finding import Finding, Harm
from cache.index import Kind
from cache.names import NamedImage
from cache.results import Layer, StepResult
from cache.store import Store
from engine.events import Note
from engine.images import mediatype
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.upload import Open
from engine.imagestore import push
from engine.machines.library import Library
from engine.output.spec import parse_output
from engine.storecheck import StoreCheck
from machinefile.errors import InterruptedBuildError, StoreError

if TYPE_CHECKING:
    from conftest import Workshop

SPEC = """\
FROM base AS build
RUN write out/made made
RUN write out/more more
FROM base
WORKDIR /srv
COPY --from=build /out /srv/out
COPY . .
RUN write srv/last last
"""
NAME = "docker.io/library/app:latest"


def flip(path: Path) -> None:
    """Other bytes, the same length."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))  # however coarse the clock: it was touched


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def blobs_of(store: Store) -> list[Path]:
    return sorted((store.root / "blobs" / "sha256").iterdir())


def swap_blobs(store: Store) -> None:
    paths = blobs_of(store)
    for one, other in zip(paths[::2], paths[1::2], strict=False):
        swap(one, other)


def each_blob(harm: Callable[[Path], None]) -> Callable[[Store], None]:
    def harm_all(store: Store) -> None:
        for path in blobs_of(store):
            harm(path)

    return harm_all


def each_of(folder: str, harm: Callable[[Path], None]) -> Callable[[Store], None]:
    def harm_all(store: Store) -> None:
        paths = list((store.root / folder).iterdir())
        assert paths
        for path in paths:
            harm(path)

    return harm_all


def swap_of(folder: str) -> Callable[[Store], None]:
    def swap_all(store: Store) -> None:
        one, other, *_ = sorted((store.root / folder).iterdir())
        swap(one, other)

    return swap_all


def rows(store: Store, statement: str) -> None:
    store.index.close()
    database = sqlite3.connect(store.root / "index" / "cache.db")
    with database:
        database.execute(statement)
    database.close()


def swap_entries(store: Store) -> None:
    """Every result stands under another's key."""
    store.index.close()
    database = sqlite3.connect(store.root / "index" / "cache.db")
    with database:
        for kind in ("result", "content", "variant"):
            found = database.execute(
                f"SELECT rowid, value FROM Cache WHERE key LIKE '{kind}:%' ORDER BY rowid"
            ).fetchall()
            assert len(found) > 1
            for (rowid, _), (_, value) in zip(found, [*found[1:], found[0]], strict=True):
                database.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (value, rowid))
    database.close()


def forget_seals(store: Store) -> None:
    """As in a store that was copied."""
    rows(store, "DELETE FROM Cache WHERE key LIKE 'seal:%'")


def spoil_database(store: Store) -> None:
    store.index.close()
    for path in (store.root / "index").iterdir():
        path.write_bytes(b"this is no database" * 1000)


HARMS: dict[str, Callable[[Store], None]] = {
    "flipped blobs": each_blob(flip),
    "cut blobs": each_blob(cut),
    "swapped blobs": swap_blobs,
    "blobs that are gone": each_blob(Path.unlink),
    "flipped layer indexes": each_of("layers", flip),
    "cut layer indexes": each_of("layers", cut),
    "swapped layer indexes": swap_of("layers"),
    "flipped disks": each_of("disks", flip),
    "cut disks": each_of("disks", cut),
    "swapped disks": swap_of("disks"),
    "swapped entries": swap_entries,
    "flipped entries": lambda store: rows(
        store, "UPDATE Cache SET value = CAST(replace(value, 'a', 'b') AS BLOB) WHERE key NOT LIKE 'seal:%'"
    ),
    "seals that are gone": forget_seals,
    "an index that is none": spoil_database,
}


def disks_of(workshop: Workshop) -> list[bytes]:
    """What the last RUN got to see, byte for byte."""
    return [path.read_bytes() for path in workshop.sandbox.executions[-1].disks]


@pytest.fixture
def built(workshop: Workshop) -> str:
    workshop.write("main.c", "int main;")
    return workshop.build(SPEC, names=(NAME,)).digest


@pytest.mark.parametrize("harm", HARMS.values(), ids=list(HARMS))
def test_what_was_harmed_is_made_anew_in_the_same_build(
    workshop: Workshop, built: str, harm: Callable[[Store], None], tmp_path: Path
) -> None:
    disks = disks_of(workshop)
    workshop.store.index.close()
    harm(workshop.store)
    with Store(workshop.store.root) as fresh:
        workshop.store = fresh
        tree = parse_output(f"type=local,dest={tmp_path / 'tree'}")
        report = workshop.build(SPEC, names=(NAME,), outputs=(tree,))
        assert report.digest == built
        assert (tmp_path / "tree" / "srv" / "out" / "made").read_text() == "made"
        assert (tmp_path / "tree" / "srv" / "last").read_text() == "last"
        # A step more: it must get the right disks.
        workshop.build(SPEC + "RUN write srv/beyond beyond\n")
        assert disks_of(workshop)[: len(disks)] == disks
        # What no step of this build needs is still as it was.
        for finding in harms_of(fresh):
            assert finding.repair() == ""
        assert harms_of(fresh) == []


def harms_of(store: Store, *, fast: bool = False) -> list[Finding]:
    check = StoreCheck(store, lambda event: None, threading.Event(), fast=fast)
    return [finding for finding in check.run() if finding.harm.is_damage]


CODES = {
    "flipped blobs": Harm.BLOB,
    "cut blobs": Harm.BLOB,
    "swapped blobs": Harm.BLOB,
    "blobs that are gone": Harm.IMAGE,
    "flipped layer indexes": Harm.LAYER,
    "cut layer indexes": Harm.LAYER,
    "swapped layer indexes": Harm.LAYER,
    "flipped disks": Harm.DISK,
    "cut disks": Harm.DISK,
    "swapped disks": Harm.DISK,
    "swapped entries": Harm.ENTRY,
    "flipped entries": Harm.ENTRY,
}


@pytest.mark.parametrize("fast", [False, True], ids=["whole", "fast"])
@pytest.mark.parametrize("name", CODES)
def test_a_check_finds_what_was_harmed_and_mends_it(workshop: Workshop, built: str, name: str, fast: bool) -> None:
    assert harms_of(workshop.store, fast=fast) == []
    HARMS[name](workshop.store)
    found = harms_of(workshop.store, fast=fast)
    assert CODES[name] in {finding.harm for finding in found}
    check = StoreCheck(workshop.store, lambda event: None, threading.Event(), fast=fast)
    assert [finding.repair() for finding in check.run()] == [""] * len(found), "and what was found follows from them"
    assert harms_of(workshop.store) == []
    assert workshop.build(SPEC, names=(NAME,)).digest == built
    assert harms_of(workshop.store) == []


@pytest.mark.parametrize("fast", [False, True], ids=["whole", "fast"])
def test_to_look_after_the_store_is_not_to_use_it(workshop: Workshop, built: str, fast: bool) -> None:
    """Otherwise nothing would be old any more for those who clean it."""
    for mark in (workshop.store.root / "used").iterdir():
        os.utime(mark, (1, 1))
    with Store(workshop.store.root) as other:
        before = other.uses.times()
        assert len(before) > 3
        assert harms_of(other, fast=fast) == []
        assert other.uses.times() == before


def test_a_cached_build_reads_no_layer(workshop: Workshop, built: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def opened(self: object, digest: str) -> object:
        read.append(digest)
        raise AssertionError

    monkeypatch.setattr("cache.blobs.BlobStore._check", opened)
    with Store(workshop.store.root) as fresh:
        workshop.store = fresh
        assert workshop.build(SPEC, names=(NAME,)).digest == built
    assert read == []


def test_a_blob_that_goes_while_a_build_runs_is_made_again(workshop: Workshop) -> None:
    """Somebody cleans up with rm, between two steps."""
    spec = "FROM scratch\nCOPY a a\nRUN write b b\n"
    workshop.write("a", "content")
    behave = workshop.sandbox._behave
    removed: list[str] = []

    def remove_first(execution: object) -> tuple[int, bytes, bytes]:
        if not removed:
            for path in blobs_of(workshop.store):
                removed.append(path.name)
                path.unlink()
        return behave(execution)  # type: ignore[arg-type]

    workshop.sandbox._behave = remove_first
    report = workshop.build(spec, names=(NAME,))
    assert removed
    assert workshop.files(report.digest) == {"a": b"content", "b": b"b"}
    assert any(
        "building again what is missing" in event.message for event in workshop.events if isinstance(event, Note)
    )
    assert harms_of(workshop.store) == []


def test_a_disk_that_keeps_nothing_does_not_keep_a_build_forever(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.write("a", "content")
    monkeypatch.setattr("cache.seals.Seals.holds", lambda self, path: False)
    monkeypatch.setattr("cache.blobs.BlobStore._check", lambda self, digest, file: False)
    with pytest.raises(StoreError) as caught:
        workshop.build("FROM scratch\nCOPY a a\nRUN write b b\n")
    assert caught.value.code in ("blob-corrupt", "blob-missing")


def test_decay_that_leaves_no_trace_is_found_by_what_reads(workshop: Workshop, built: str, tmp_path: Path) -> None:
    """No time, no size, no inode tells of it."""
    manifest, _ = workshop.image(built)
    path = workshop.store.blobs.path(manifest.layers[-1].digest)
    flip(path)
    workshop.store.seals.put(path)
    assert [finding.harm for finding in harms_of(workshop.store, fast=True)] == []
    assert {finding.harm for finding in harms_of(workshop.store)} == {Harm.BLOB, Harm.IMAGE}
    output = parse_output(f"type=oci,dest={tmp_path / 'out'},tar=false")
    assert workshop.build(SPEC, outputs=(output,)).digest == built
    assert harms_of(workshop.store) == []


def test_a_push_of_a_damaged_image_stops_and_drops_what_is_damaged(
    workshop: Workshop, built: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers, nobody = workshop.image(built)[0].layers, cast(RegistryClient, None)
    flip(workshop.store.blobs.path(layers[-1].digest))

    def send(client: object, reference: object, manifest: bytes, open_blob: Open, **_: object) -> None:
        for layer in layers:
            open_blob(layer.digest).close()

    monkeypatch.setattr("engine.imagestore.push_image", send)
    with pytest.raises(StoreError) as caught:
        push(workshop.store, nobody, built, Reference.parse("registry.test/app"), lambda event: None)
    assert caught.value.code == "blob-corrupt"
    assert not workshop.store.blobs.has(layers[-1].digest)
    assert workshop.build(SPEC, names=(NAME,)).digest == built
    assert workshop.store.blobs.has(layers[-1].digest)


def test_what_is_evicted_is_no_damage_unless_an_image_needs_it(workshop: Workshop, built: str) -> None:
    manifest, _ = workshop.image(built)
    needed = {built, manifest.config.digest, *(layer.digest for layer in manifest.layers)}
    for path in blobs_of(workshop.store):
        if f"sha256:{path.name}" not in needed:
            path.unlink()
    assert harms_of(workshop.store) == []
    workshop.store.blobs.drop(manifest.layers[0].digest)
    (finding,) = harms_of(workshop.store)
    assert (finding.harm, finding.subject) == (Harm.IMAGE, NAME)
    assert finding.repair() == ""
    assert workshop.store.names.get(NAME) is None


def test_a_result_that_names_the_wrong_layer_is_found(workshop: Workshop, built: str) -> None:
    store = workshop.store
    packed = workshop.image(built)[0].layers[-1]
    wrong = StepResult((Layer("sha256:" + "0" * 64, packed.digest, packed.size, packed.media_type),))
    store.index.put(Kind.RESULT, "sha256:" + "1" * 64, wrong.to_json())
    (finding,) = harms_of(store)
    assert finding.harm is Harm.RESULT
    assert finding.repair() == ""
    assert harms_of(store) == []


ODD_ENTRIES: list[tuple[Kind, object]] = [
    (Kind.RESULT, {"steps": [], "seconds": float("inf"), "created": 0}),
    (Kind.RECORD, {"packed": "no base64"}),
    (Kind.PAST, {"linux/amd64 0.0": [["k", "run", "RUN x", 10**400, 0]]}),
    (Kind.PAST, {"linux/amd64 0.0": [["k", "run", "RUN x", 0, float("nan")]]}),
    (Kind.PAST, {"linux/amd64 0.0": [["k"]]}),
    (Kind.PAST, []),
    (Kind.BASE, {"name": "x"}),
    (Kind.MACHINE, ["unhashable"]),
    (Kind.ORIGIN, [1]),
    (Kind.REMOTE, ["sha256:x", 1, "", ""]),
    (Kind.SEAL, [1, 2, 3]),
    (Kind.DISK, 1),
    (Kind.VARIANT, {}),
]


def test_entries_that_are_none_of_their_kind_are_found(workshop: Workshop, built: str) -> None:
    store = workshop.store
    for number, (kind, value) in enumerate(ODD_ENTRIES):
        store.index.put(kind, f"odd{number}", value)
    found = harms_of(store)
    assert {finding.harm for finding in found} == {Harm.ENTRY}
    expected = {f"{kind.value} odd{number}" for number, (kind, _) in enumerate(ODD_ENTRIES)}
    assert {finding.subject for finding in found} == expected
    Library(store).drop("sha256:other")  # it looks at all machines
    assert [finding.repair() for finding in found] == [""] * len(found)
    assert harms_of(store) == []


def test_names_that_cannot_be_read_are_set_aside_and_kept(workshop: Workshop, built: str) -> None:
    path = workshop.store.root / "index.json"
    whole = path.read_bytes()
    cut(path)
    torn = path.read_bytes()
    assert Harm.NAMES in {finding.harm for finding in harms_of(workshop.store)}
    workshop.build(SPEC, names=("docker.io/library/other:latest",))
    (aside,) = workshop.store.names.set_aside()
    assert aside.read_bytes() == torn
    assert len(torn) < len(whole)
    assert harms_of(workshop.store) == []


@pytest.mark.parametrize("text", ["[]", "5", '{"manifests": 5}', '{"manifests": [5]}', "[" * 100_000, '"\\ud800"'])
def test_names_of_any_other_form_are_no_traceback(workshop: Workshop, text: str) -> None:
    (workshop.store.root / "index.json").write_text(text)
    assert workshop.store.names.all() == ()
    image = NamedImage("a", "sha256:" + "1" * 64, 3, mediatype.OCI_MANIFEST)
    workshop.store.names.put(image)
    assert workshop.store.names.all() == (image,)


def test_strays_are_found_and_removed_and_strangers_left_alone(workshop: Workshop, built: str) -> None:
    root = workshop.store.root
    strays = [
        root / "blobs" / "sha256" / "half",
        root / "blobs" / "md5",
        root / "layers" / "x",
        root / "disks" / ".making-1.squashfs",
        root / "machines" / "k.new",
        root / "tmp" / "loose",
    ]
    for path in strays:
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if path.name in ("md5", "k.new") else path.write_text("half")
    (root / "notes.txt").write_text("mine")
    aside = root / "index.damaged.0"
    shutil.copytree(root / "index", aside)
    check = StoreCheck(workshop.store, lambda event: None, threading.Event())
    found = list(check.run())
    assert {root / one.subject for one in found if one.harm is Harm.STRAY} == set(strays)
    assert [one.subject for one in found if one.harm is Harm.UNKNOWN] == ["notes.txt"]
    assert [one.subject for one in found if one.harm is Harm.SET_ASIDE] == [aside.name]
    for finding in found:
        finding.repair()
    assert not any(map(os.path.lexists, [*strays, aside]))
    assert (root / "notes.txt").exists()


def test_a_check_can_be_stopped(workshop: Workshop, built: str) -> None:
    stop = threading.Event()
    check = StoreCheck(workshop.store, lambda event: stop.set(), stop)
    with pytest.raises(InterruptedBuildError):
        list(check.run())


def test_a_check_finds_nothing_while_builds_run(workshop: Workshop) -> None:
    """Everything that a build writes is whole when it has its name."""
    over = threading.Event()
    found: list[Finding] = []

    def look() -> None:
        with Store(workshop.store.root) as store:
            while not over.is_set():
                found.extend(harms_of(store))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(4):
            workshop.write("main.c", f"int main{number};")
            workshop.build(SPEC, names=(NAME,))
    finally:
        over.set()
        thread.join()
    assert found == []
