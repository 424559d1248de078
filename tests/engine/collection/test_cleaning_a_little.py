"""What happens between a survey and the removal: things go a few at a time, and what came to be used stays."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, cast

import pytest

from cache.collection.item import Holdings, Item, Sort
from cache.collection.policy import Policy
from cache.gate import Gate
from cache.index import Kind
from cache.names import NamedImage
from cache.store import Store
from engine.collection import prune as pruning
from engine.collection.prune import prune
from engine.collection.survey import survey
from engine.imagestore import manifests_of
from engine.report import BuildReport
from machinefile.errors import InterruptedBuildError

if TYPE_CHECKING:
    from conftest import Workshop

EVERYTHING = Policy(everything=True)
TEXT = "FROM base\nRUN write a {0}\nRUN write b {0}\n"
APP = "docker.io/library/app:latest"


def steps(store: Store) -> set[str]:
    return {item.id for item in survey(store).items if item.sort is Sort.STEP}


def build(workshop: Workshop, word: str) -> BuildReport:
    """Build, as of an hour ago: what was made and used then is older than all that follows, wherever the clock goes."""
    report = workshop.build(TEXT.format(word))
    age(workshop.store)
    return report


def age(store: Store) -> None:
    """Let all that is in a store, and was used, be an hour older."""
    for path in store.root.rglob("*"):
        if path.is_file() and not path.is_relative_to(store.root / "index"):
            past = path.stat().st_mtime - 3600
            os.utime(path, (past, past))
    with closing(sqlite3.connect(store.root / "index" / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET store_time = store_time - 3600")


def once_chosen(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Do something when it is known what is to go and before any of it goes."""
    real = pruning.choose

    def choose(holdings: Holdings, policy: Policy, now: float) -> tuple[Item, ...]:
        chosen = real(holdings, policy, now)
        work()
        return chosen

    monkeypatch.setattr(pruning, "choose", choose)


@pytest.fixture
def other(workshop: Workshop) -> Iterator[Store]:
    """The same store, for another process; it begins only when it is used."""
    opened: list[Store] = []

    class Late:
        def __getattr__(self, name: str) -> object:
            if not opened:
                opened.append(Store(workshop.store.root))
            return getattr(opened[0], name)

    yield cast(Store, Late())
    for store in opened:
        store.__exit__()


def test_the_gate_is_open_while_one_looks_what_there_is(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    build(workshop, "x")
    real, surveys, held = pruning.survey, 0, 0
    alone = Gate.alone

    def watched(*arguments: object) -> Holdings:
        nonlocal surveys
        surveys += 1
        cancelled = threading.Event()
        cancelled.set()  # whoever would have to wait for the gate is told so at once
        with alone(Gate(workshop.store.root / "used" / ".gate"), cancelled):
            return real(*arguments)  # type: ignore[arg-type]

    @contextmanager
    def counted(self: Gate, cancelled: threading.Event | None = None) -> Iterator[None]:
        nonlocal held
        held += 1
        with alone(self, cancelled):
            yield

    monkeypatch.setattr(pruning, "survey", watched)
    monkeypatch.setattr(pruning, "_BATCH", 1)
    monkeypatch.setattr(Gate, "alone", counted)
    done = prune(workshop.store, EVERYTHING)
    assert surveys == 1
    assert {Sort.STEP, Sort.LAYER, Sort.BASE} <= {item.sort for item in done.removed}
    assert held >= len(done.removed), "each had the gate for itself"
    assert {item.sort for item in survey(workshop.store).items} == {Sort.OTHER}


def test_what_was_used_since_it_was_chosen_stays_with_all_that_it_needs(
    workshop: Workshop, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("x", "y"):
        build(workshop, word)
    keys = {step: workshop.plan(TEXT.format("x")).step(step).key for step in ("0.1", "0.2")}
    used = workshop.store.index.get(Kind.RESULT, keys["0.2"])
    once_chosen(monkeypatch, lambda: other.result(Kind.RESULT, keys["0.2"]))
    prune(workshop.store, EVERYTHING)
    assert steps(workshop.store) == set(keys.values())
    assert workshop.store.index.get(Kind.RESULT, keys["0.2"]) == used
    assert workshop.store.result(Kind.RESULT, keys["0.2"]) is not None


def test_what_got_a_name_since_it_was_chosen_stays(
    workshop: Workshop, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = build(workshop, "x")
    size = workshop.store.blobs.path(report.digest).stat().st_size
    named = NamedImage(APP, report.digest, size, "application/vnd.oci.image.manifest.v1+json", "2024-01-01T00:00:00Z")
    once_chosen(monkeypatch, lambda: other.names.put(named))
    removed = prune(workshop.store, EVERYTHING).removed
    assert removed, "the steps are only a cache"
    (manifest,) = manifests_of(workshop.store, report.digest)
    assert all(workshop.store.blobs.path(one.digest).exists() for one in (manifest.config, *manifest.layers))


def test_what_a_result_was_made_of_since_it_was_chosen_stays(
    workshop: Workshop, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(workshop, "x")
    key = workshop.plan(TEXT.format("x")).step("0.2").key
    value = workshop.store.index.get(Kind.RESULT, key)
    once_chosen(monkeypatch, lambda: other.index.put(Kind.RESULT, "sha256:new", value))
    prune(workshop.store, EVERYTHING)
    assert steps(workshop.store) == {"sha256:new"}
    assert workshop.store.result(Kind.RESULT, "sha256:new") is not None


def test_an_entry_that_was_written_anew_since_it_was_chosen_stays(
    workshop: Workshop, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(workshop, "x")
    digests = list(workshop.store.index.keys(Kind.ORIGIN)) or ["sha256:" + "0" * 64]
    workshop.store.index.put(Kind.VARIANT, "gone", ["sha256:" + "1" * 64, 1])
    workshop.store.index.put(Kind.VARIANT, "gone too", ["sha256:" + "1" * 64, 1])
    age(workshop.store)
    once_chosen(monkeypatch, lambda: other.index.put(Kind.VARIANT, "gone", [digests[0], 1]))
    prune(workshop.store, EVERYTHING)
    assert workshop.store.index.has(Kind.VARIANT, "gone")
    assert not workshop.store.index.has(Kind.VARIANT, "gone too")


def test_when_time_is_up_what_went_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    build(workshop, "x")
    monkeypatch.setattr(pruning, "_BATCH", 1)
    done = prune(workshop.store, EVERYTHING, enough=time.monotonic() - 1)
    assert len(done.removed) == 1
    assert not done.complete
    assert done.left > 0
    assert prune(workshop.store, EVERYTHING).complete


def test_one_can_stop_it_between_two_batches(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    build(workshop, "x")
    monkeypatch.setattr(pruning, "_BATCH", 1)
    real = pruning.Removal.take

    def take(self: pruning.Removal, batch: Sequence[Item], cancelled: threading.Event | None) -> tuple[Item, ...]:
        workshop.cancelled.set()
        return real(self, batch, cancelled)

    monkeypatch.setattr(pruning.Removal, "take", take)
    before = len(survey(workshop.store).items)
    with pytest.raises(InterruptedBuildError):
        prune(workshop.store, EVERYTHING, cancelled=workshop.cancelled)
    workshop.cancelled.clear()
    assert 0 < before - len(survey(workshop.store).items) <= 2
