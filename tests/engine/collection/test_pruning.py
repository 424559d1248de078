"""Cleaning stores that real builds filled, with fake microVMs."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.collection.choose import left_over
from cache.collection.item import Sort
from cache.collection.policy import Filters, Policy
from cache.index import Kind
from cache.store import Store
from engine.cachemounts import CacheMounts, CacheRequest
from engine.collection.prune import Pruned, prune
from engine.collection.survey import survey
from engine.collection.usage import usage
from engine.collection.wording import titled
from engine.epoch import Epoch
from engine.imagestore import manifests_of, untag
from engine.machines.library import Library
from engine.vm.inuse import keeps_in_use
from engine.vm.runfolder import file_lock
from machinefile.errors import InterruptedBuildError, StoreError
from machinefile.steps import Sharing

if TYPE_CHECKING:
    from conftest import Workshop

EVERYTHING = Policy(everything=True)
TEXT = "FROM base\nRUN write a {0}\nRUN write b {0}\n"
APP = ("docker.io/library/app:latest",)


def check_whole(store: Store) -> None:
    """What must be true of a store at every moment: images have all they are made of, and the index speaks of nothing
    that is gone."""
    for image in store.names.all():
        for manifest in manifests_of(store, image.digest):
            for blob in (manifest.config, *manifest.layers):
                assert store.blobs.path(blob.digest).stat().st_size == blob.size
    holdings = survey(store)
    assert left_over(holdings.references, holdings.items) == ()


def sorts(pruned: Pruned) -> set[Sort]:
    return {item.sort for item in pruned.removed}


def held(store: Store, sort: Sort) -> list[str]:
    return sorted(item.id for item in survey(store).items if item.sort is sort)


def test_what_an_image_had_goes_when_it_loses_its_name_and_results_stay(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"), names=APP)
    assert sorts(prune(workshop.store, Policy())) == {Sort.CONTEXT}, "all but the note of what ran is needed"
    untag(workshop.store, ["app"])
    assert sorts(prune(workshop.store, Policy())) == {Sort.VARIANT, Sort.BLOB}
    check_whole(workshop.store)
    assert workshop.build(TEXT.format("x")).run == 0


def test_what_long_results_share_stays_with_them_and_goes_with_them(workshop: Workshop) -> None:
    text = "FROM base\n" + "".join(f"WORKDIR /made/{number}\n" for number in range(70))
    workshop.build(text)
    parts = set(workshop.store.index.keys(Kind.CHAIN))
    assert len(parts) == 2
    prune(workshop.store, Policy())
    assert set(workshop.store.index.keys(Kind.CHAIN)) == parts
    assert workshop.build(text).run == 0
    prune(workshop.store, EVERYTHING)
    assert not list(workshop.store.index.keys(Kind.CHAIN))
    check_whole(workshop.store)


def test_stamped_copies_go_and_are_made_again(workshop: Workshop) -> None:
    request = replace(workshop.request(TEXT.format("x"), names=APP), epoch=Epoch(1))
    first = workshop.driver.build(request)
    stamped = {str(workshop.store.index.get(Kind.STAMPED, key)) for key in workshop.store.index.keys(Kind.STAMPED)}
    assert len(stamped) == 2
    done = prune(workshop.store, Policy())
    assert [item.sort for item in done.removed if item.sort not in (Sort.LISTING, Sort.CONTEXT)] == [Sort.VARIANT] * 2
    assert list(workshop.store.index.keys(Kind.STAMPED)) == []
    check_whole(workshop.store)
    assert workshop.driver.build(request).digest == first.digest


def test_with_all_only_images_stay_and_the_next_build_gives_the_same(workshop: Workshop) -> None:
    first = workshop.build(TEXT.format("x"), names=APP)
    workshop.build(TEXT.format("y"))
    done = prune(workshop.store, EVERYTHING)
    assert {Sort.STEP, Sort.LAYER, Sort.VARIANT, Sort.LISTING, Sort.BASE} <= sorts(done)
    check_whole(workshop.store)
    left = survey(workshop.store)
    assert {item.sort for item in left.items} == {Sort.IMAGE, Sort.VARIANT, Sort.OTHER}
    assert workshop.files(first.digest)["a"] == b"x"
    again = workshop.build(TEXT.format("x"))
    assert (again.digest, again.run) == (first.digest, 2)


def test_an_evicted_step_is_told_from_one_that_was_never_built(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"))
    prune(workshop.store, EVERYTHING)
    reasons = [planned.reason for planned in workshop.plan(TEXT.format("x")).steps if planned.step.makes_layer]
    assert reasons == ["built before, but its layers are gone from the store"] * 2
    assert "built before" not in workshop.plan(TEXT.format("new")).steps[1].reason


def test_a_dry_run_says_what_would_go_and_removes_nothing(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"))
    before = {item.name for item in survey(workshop.store).items}
    told = prune(workshop.store, EVERYTHING, dry_run=True)
    assert {item.name for item in survey(workshop.store).items} == before
    done = prune(workshop.store, EVERYTHING)
    assert done.freed == told.freed > 0
    assert {item.name for item in done.removed} == {item.name for item in told.removed} != set()


def test_what_was_used_last_stays_when_room_is_made(workshop: Workshop) -> None:
    first, second = TEXT.format("first"), TEXT.format("second")
    workshop.build(first)
    workshop.build(second)
    store = workshop.store
    with Store(workshop.folder / "store") as later:
        workshop.store = later
        workshop.plan(first)
    workshop.store = store
    steps = Filters(sorts=frozenset([Sort.STEP]))
    prune(store, Policy(keep_storage=survey(store).size + 100_000, filters=steps))
    assert len(held(store, Sort.STEP)) == 4, "there is room enough"
    prune(store, Policy(keep_storage=survey(store).size - 1, filters=steps))
    check_whole(store)
    assert len(held(store, Sort.STEP)) < 4
    assert all(planned.hit for planned in workshop.plan(first).steps)


def test_what_another_process_uses_or_made_stays(workshop: Workshop) -> None:
    old, hit, new = (TEXT.format(word) for word in ("old", "hit", "new"))
    workshop.build(old)
    workshop.build(hit)
    cleaning = workshop.store
    with Store(workshop.folder / "store") as running:
        workshop.store = running
        planned = workshop.plan(hit)
        built = workshop.build(new)
        prune(cleaning, EVERYTHING)
        check_whole(cleaning)
        assert len(held(cleaning, Sort.STEP)) == 4, "two that it planned with, two that it made"
        layers = [layer for one in planned.steps if one.result for layer in one.result.layers]
        assert all(running.blobs.path(layer.digest).exists() for layer in layers)
        assert workshop.files(built.digest)["b"] == b"new"
        assert workshop.build(hit).run == 0
    workshop.store = cleaning
    prune(cleaning, EVERYTHING)
    assert held(cleaning, Sort.STEP) == []


def test_what_goes_frees_the_room_at_once_and_leaves_no_marks(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"))
    workshop.plan(TEXT.format("x"))
    assert workshop.store.uses.times()
    prune(workshop.store, EVERYTHING)
    assert list((workshop.store.root / "blobs/sha256").iterdir()) == []
    assert workshop.store.uses.times() == {}
    assert list(workshop.store.index.keys(Kind.SEAL)) == []
    assert list(workshop.store.temporary.rglob("*")) == [workshop.store.temporary / "lock"]


def test_free_locks_go(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"))
    with workshop.store.lock("held"):
        prune(workshop.store, Policy())
        assert len(list((workshop.store.root / "locks").iterdir())) == 1


def test_the_machine_of_an_image_stays_with_its_name(workshop: Workshop) -> None:
    report = workshop.build(TEXT.format("x"), names=APP)
    library = Library(workshop.store)
    for key in ("kept", "unnamed"):
        (library.path(key)).mkdir(parents=True)
        (library.path(key) / "machine.json").write_text("{}")
    library.remember(report.digest, "kept")
    library.remember("sha256:" + "0" * 64, "unnamed")
    prune(workshop.store, EVERYTHING)
    assert held(workshop.store, Sort.MACHINE) == ["kept"]
    assert workshop.store.index.get(Kind.MACHINE, "sha256:" + "0" * 64) is None
    untag(workshop.store, ["app"])
    prune(workshop.store, Policy())
    assert held(workshop.store, Sort.MACHINE) == []


def test_a_cache_mount_in_use_stays(workshop: Workshop) -> None:
    request = CacheRequest("pip", Sharing.SHARED)
    with CacheMounts(workshop.store).borrow([request], workshop.cancelled, lambda _: None):
        disk = workshop.store.root / "mounts" / request.identity / "0" / "disk"
        disk.write_bytes(b"what pip fetched")
        assert prune(workshop.store, EVERYTHING).removed == ()
        (mount,) = [item for item in survey(workshop.store).items if item.sort is Sort.MOUNT]
        assert mount.title == "pip"
    assert prune(workshop.store, Policy()).removed == ()
    assert [item.title for item in prune(workshop.store, EVERYTHING).removed] == ["pip"]
    assert not disk.exists()
    with CacheMounts(workshop.store).borrow([request], workshop.cancelled, lambda _: None) as caches:
        assert caches[request.identity].is_new


def template(store: Store, name: str, days: float) -> Path:
    folder = store.vm_folder / "templates" / name
    folder.mkdir(parents=True)
    (folder / "ram").write_bytes(b"memory")
    folder.with_suffix(".lock").touch()
    past = time.time() - days * 86_400
    for path in (folder / "ram", folder, folder.with_suffix(".lock")):
        os.utime(path, (past, past))
    return folder


def test_templates_that_nothing_used_for_long_go_and_those_in_use_stay(workshop: Workshop) -> None:
    old, recent, used = (template(workshop.store, *about) for about in (("old", 20), ("recent", 2), ("used", 20)))
    assert keeps_in_use(used, workshop.cancelled)
    assert not keeps_in_use(old.with_name("none"), workshop.cancelled)
    assert [item.id for item in prune(workshop.store, Policy()).removed] == ["old"]
    with recent.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        prune(workshop.store, EVERYTHING)
    assert held(workshop.store, Sort.TEMPLATE) == ["recent", "used"]
    prune(workshop.store, EVERYTHING)
    assert held(workshop.store, Sort.TEMPLATE) == ["used"]


def test_who_waits_for_a_template_says_so_and_can_be_stopped(tmp_path: Path) -> None:
    """Another process may take minutes to make it."""
    folder, cancelled = tmp_path / "template", threading.Event()
    told: list[str] = []

    def waiting() -> None:
        told.append("waiting")
        cancelled.set()

    with folder.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InterruptedBuildError):
            keeps_in_use(folder, cancelled, waiting)
        with pytest.raises(InterruptedBuildError), file_lock(folder.with_suffix(".lock"), cancelled):
            pytest.fail("two hold it")
    assert told == ["waiting"]
    assert not keeps_in_use(folder, cancelled, waiting)
    folder.mkdir()
    assert keeps_in_use(folder, cancelled, waiting)
    assert told == ["waiting"]


def test_a_part_of_the_store_that_is_a_link_elsewhere_is_left_alone(workshop: Workshop) -> None:
    shared = workshop.folder / "shared"
    shared.mkdir()
    workshop.store.vm_folder.rmdir()
    workshop.store.vm_folder.symlink_to(shared)
    template(workshop.store, "old", 20)
    assert prune(workshop.store, EVERYTHING).removed == ()
    assert held(workshop.store, Sort.TEMPLATE) == ["old"]


def test_what_was_set_aside_and_what_a_context_hashed_to_goes(workshop: Workshop) -> None:
    root = workshop.store.root
    for name in ("index.damaged.1", "aside.0", "contexts"):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"x" * 5000)
    assert {item.id for item in prune(workshop.store, Policy()).removed} == {"index.damaged.1", "aside.0", "file"}
    assert not (root / "aside.0").exists()


def test_steps_and_images_are_listed_with_what_they_take(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"), names=APP)
    workshop.build(TEXT.format("x") + "RUN write c z\n", names=("docker.io/library/more:1",))
    workshop.build("FROM base\nRUN write a x\n")
    holdings = survey(workshop.store)
    found = usage(holdings, Filters(), time.time())
    app, more = sorted(found.images(), key=lambda row: row.title)
    assert more.size > app.size
    assert app.own < app.size, "the layers are the other's too"
    assert len(found.steps()) == 3
    titles = [item.title for item in titled(workshop.store, holdings.items) if item.sort is Sort.STEP]
    assert sorted(titles) == ["RUN write a x", "RUN write b x", "RUN write c z"]
    assert sum(row.size for row in found.kinds()) == found.total == holdings.size
    assert 0 < found.reclaimable < found.total
    part = usage(holdings, Filters(images=("docker.io/library/app:latest",)), time.time())
    assert 0 < part.total < found.total


def test_nothing_goes_when_nobody_knows_which_images_are_kept(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"), names=APP)
    (workshop.store.root / "index.json").write_text("{")
    with pytest.raises(StoreError) as caught:
        prune(workshop.store, EVERYTHING)
    assert caught.value.code == "store-damaged"
    assert len(held(workshop.store, Sort.STEP)) == 2


def test_a_survey_ends_when_it_is_stopped_or_takes_too_long(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"))
    with pytest.raises(InterruptedBuildError):
        prune(workshop.store, EVERYTHING, deadline=time.monotonic() - 1)
    workshop.cancelled.set()
    with pytest.raises(InterruptedBuildError):
        prune(workshop.store, EVERYTHING, cancelled=workshop.cancelled)
    assert len(held(workshop.store, Sort.STEP)) == 2
