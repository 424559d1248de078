"""SOURCE_DATE_EPOCH and caches elsewhere: what travels has the one time of all layers, whatever the image shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.index import Kind
from cache.store import Store
from engine.epoch import Epoch
from engine.vm.fake import FakeSandbox

from .test_using_caches import PUSHED, TEXT, Elsewhere

if TYPE_CHECKING:
    from conftest import Workshop

EPOCH = Epoch(1_700_000_000)


@pytest.fixture
def elsewhere(workshop: Workshop, tmp_path: Path) -> Iterator[Elsewhere]:
    with Store(tmp_path / "elsewhere") as store:
        yield Elsewhere(workshop, store, FakeSandbox(workshop.sandbox._behave))


def test_a_cache_that_was_filled_without_it_serves_a_build_with_it(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    first = elsewhere.first
    here = first.driver.build(replace(first.request(TEXT), epoch=EPOCH))
    there = elsewhere.driver.build(replace(elsewhere.request(TEXT), epoch=EPOCH))
    assert (there.digest, there.run) == (here.digest, 0)
    assert elsewhere.warnings() == []


def test_a_cache_that_was_filled_with_it_is_the_same(elsewhere: Elsewhere) -> None:
    first = elsewhere.first
    first.driver.build(replace(first.request(TEXT), epoch=EPOCH))
    elsewhere.place.take(first.store, first.plan(TEXT))
    stamped = {str(key).partition(":")[2] for key in first.store.index.keys(Kind.STAMPED)}
    carried = {layer.diff_id for layer in elsewhere.place.index.layers().values()}
    assert stamped <= carried, "what travels is what was stamped, not what came of it"
    there = elsewhere.build()
    assert (there.digest, there.run) == (first.build(TEXT).digest, 0)


def test_a_push_fetches_what_it_has_to_stamp_and_only_once(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    wanted = elsewhere.plan().results
    plan = elsewhere.plan()
    layers = elsewhere.place.index.entries[plan.step(wanted[0]).key].result.layers
    request = replace(elsewhere.request(TEXT, outputs=PUSHED), epoch=EPOCH)
    first = elsewhere.driver.build(request)
    assert sorted(elsewhere.place.fetched) == sorted(layer.digest for layer in layers)
    elsewhere.place.fetched.clear()
    assert elsewhere.driver.build(request).digest == first.digest
    assert elsewhere.place.fetched == []


def test_a_layer_that_the_cache_lost_is_made_here_and_stamped(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    plan = elsewhere.plan()
    lost = elsewhere.layer(plan, plan.results[0])
    del elsewhere.place.blobs[lost.digest]
    first = elsewhere.first
    there = elsewhere.driver.build(replace(elsewhere.request(TEXT, outputs=PUSHED), epoch=EPOCH))
    assert there.run > 0
    assert there.digest == first.driver.build(replace(first.request(TEXT), epoch=EPOCH)).digest
