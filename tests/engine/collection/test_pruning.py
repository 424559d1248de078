"""Cleaning stores that real builds filled, with fake microVMs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from cache.collection.choose import left_over
from cache.collection.item import Holdings, Sort
from cache.collection.policy import Filters, Policy
from cache.index import Kind
from cache.store import Store
from engine.collection.prune import Pruned, prune
from engine.collection.survey import survey
from engine.imagestore import manifests_of, untag

if TYPE_CHECKING:
    from conftest import Workshop

EVERYTHING = Policy(everything=True)
TEXT = "FROM base\nRUN write a {0}\nRUN write b {0}\n"


def whole(store: Store) -> None:
    """What must be true of a store at every moment: images have all they are made of, results all their layers, and
    the index speaks of nothing that is gone."""
    for image in store.names.all():
        for manifest in manifests_of(store, image.digest):
            for blob in (manifest.config, *manifest.layers):
                assert store.blobs.path(blob.digest).stat().st_size == blob.size
    holdings = survey(store)
    assert left_over(holdings.references, holdings.items) == ()


def sorts(pruned: Pruned) -> set[Sort]:
    return {item.sort for item in pruned.removed}


def held(holdings: Holdings, sort: Sort) -> list[str]:
    return sorted(item.id for item in holdings.items if item.sort is sort)


def test_an_image_that_lost_its_name_goes_and_its_results_stay(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"), names=("docker.io/library/app:latest",))
    assert sorts(prune(workshop.store, Policy())) == set(), "all of it is needed"
    untag(workshop.store, ["app"])
    assert sorts(prune(workshop.store, Policy())) == {Sort.VARIANT, Sort.BLOB}
    whole(workshop.store)
    again = workshop.build(TEXT.format("x"))
    assert again.run == 0


def test_with_all_only_images_stay_and_the_next_build_gives_the_same(workshop: Workshop) -> None:
    first = workshop.build(TEXT.format("x"), names=("docker.io/library/app:latest",))
    other = workshop.build(TEXT.format("y"))
    done = prune(workshop.store, EVERYTHING)
    assert {Sort.STEP, Sort.LAYER, Sort.VARIANT, Sort.LISTING} <= sorts(done)
    whole(workshop.store)
    assert held(survey(workshop.store), Sort.STEP) == []
    assert workshop.files(first.digest)["a"] == b"x"
    assert not workshop.store.blobs.has(other.digest)
    assert done.left == survey(workshop.store).size
    again = workshop.build(TEXT.format("x"))
    assert (again.digest, again.run) == (first.digest, 2)


def test_an_evicted_step_is_told_from_one_that_was_never_built(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"))
    prune(workshop.store, EVERYTHING)
    reasons = [planned.reason for planned in workshop.plan(TEXT.format("x")).steps[1:]]
    assert reasons == ["built before, but its layers are gone from the store"] * 2
    assert "never built" in workshop.plan(TEXT.format("new")).steps[1].reason


def test_a_dry_run_removes_nothing_and_says_the_same(workshop: Workshop) -> None:
    workshop.build(TEXT.format("x"))
    before = survey(workshop.store)
    told = prune(workshop.store, EVERYTHING, dry_run=True)
    assert survey(workshop.store).items == before.items
    assert {item.name for item in prune(workshop.store, EVERYTHING).removed} == {item.name for item in told.removed}


def age(store: Store, days: float) -> None:
    """Make everything in the store older than it is."""
    past = time.time() - days * 86_400
    for path in (*store.root.rglob("blobs/sha256/*"), *store.root.glob("used/*"), *store.root.glob("layers/*")):
        os.utime(path, (past, past))


def test_what_was_used_last_stays_when_room_is_made(workshop: Workshop) -> None:
    old, new = TEXT.format("old" * 2000), TEXT.format("new" * 2000)
    workshop.build(old)
    workshop.build(new)
    age(workshop.store, 3)
    workshop.plan(new)  # the same process noted its use already
    with Store(workshop.store.root) as other:
        workshop.store = other
        workshop.build(new)
        with other.uses.gate.alone():
            pass
    with Store(workshop.folder / "store") as store:
        workshop.store = store
        for kind in (Kind.RESULT,):
            assert list(store.index.facts(kind))
        for item in survey(store).items:
            assert item.sort is not Sort.STEP or item.used > 0
        size = survey(store).size
        prune(store, Policy(keep_storage=size - 1, filters=Filters(sorts=frozenset([Sort.STEP]))))
        whole(store)
        assert workshop.build(new).run == 0
