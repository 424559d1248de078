"""Builds that find their results in caches elsewhere."""

from __future__ import annotations

import errno
import gzip
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from carried_cache import MemoryCache, Vouched

from cache.blobs import BlobWriter
from cache.carry.place import CachePlace
from cache.results import Layer
from cache.store import Store
from engine.attest.spec import AttestSpec, ProvenanceMode
from engine.carry.sources import Trust
from engine.carry.spec import CacheSource, CacheType
from engine.driver import Driver
from engine.events import Event, Note, WarningRaised
from engine.images.digest import digest_of
from engine.layers.entry import Entry, EntryType
from engine.layers.tarwrite import Item, write_layer
from engine.output.compress import Compression, Compressor
from engine.output.index import Built
from engine.output.spec import parse_output
from engine.plan import Plan
from engine.report import BuildReport
from engine.vm.fake import FakeSandbox
from machinefile.errors import InterruptedBuildError, StoreError, TransferError, UntrustedDataError, UsageError

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = """\
FROM base AS build
RUN write one 1
RUN write two 2
FROM base
RUN write three 3
COPY --from=build /two /deux
RUN write four 4
"""
PUSHED = (parse_output("type=image,name=registry.example/app:1,push=true"),)


@dataclass
class Elsewhere:
    """A second machine: an empty store, with the same registry, context and caches at hand."""

    first: Workshop
    store: Store
    sandbox: FakeSandbox
    places: dict[str, MemoryCache] = field(default_factory=lambda: {"memory": MemoryCache()})
    events: list[Event] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    trust: Trust | None = None
    pushed: list[dict[str, bytes]] = field(default_factory=list)
    """The blobs that pushes asked for."""
    registry_has: set[str] = field(default_factory=set)
    """Blobs and manifests."""

    @property
    def place(self) -> MemoryCache:
        return self.places["memory"]

    def fill(self, text: str = TEXT, **options: Any) -> BuildReport:
        """Build on the first machine, and put what came of it into the cache."""
        report = self.first.build(text, **options)
        self.place.take(self.first.store, self.first.plan(text, **options))
        return report

    @property
    def driver(self) -> Driver:
        def open_source(source: CacheSource) -> CachePlace:
            return self.places[source.where]

        def open_trust(keys: Sequence[Path]) -> Trust:
            assert keys
            if self.trust is None:
                raise UsageError("no such key", code="key-unreadable")
            return self.trust

        return Driver(
            self.store,
            self.first.source,
            lambda: self.sandbox,
            self.events.append,
            self.cancelled,
            self._push,
            open_source=open_source,
            open_trust=open_trust,
        )

    def _push(
        self, built: Built, names: Sequence[str], open_blob: Callable[[str], Any], check: Callable[[], object]
    ) -> None:
        sent = {}
        if built.digest not in self.registry_has:
            check()
        for blob in built.below():
            if blob.digest not in self.registry_has:
                with open_blob(blob.digest) as file:
                    sent[blob.digest] = file.read()
        self.pushed.append(sent)

    def request(self, text: str, keys: tuple[Path, ...] = (), **options: Any) -> Any:
        platforms = options.pop("platforms", ())
        sources = tuple(CacheSource(CacheType.FSSPEC, name, verify_keys=keys) for name in self.places)
        return replace(self.first.request(text, **options), cache_from=sources, platforms=platforms)

    def plan(self, text: str = TEXT, **options: Any) -> Plan:
        return self.driver.plan(self.request(text, **options))

    def build(self, text: str = TEXT, **options: Any) -> BuildReport:
        return self.driver.build(self.request(text, **options))

    def warnings(self) -> list[str]:
        return [event.code for event in self.events if isinstance(event, WarningRaised)]

    def layer(self, plan: Plan, step: str) -> Layer:
        """What a step adds, as the cache has it."""
        layer = self.place.index.entries[plan.step(step).key].result.steps[-1]
        assert layer is not None
        return layer


@pytest.fixture
def elsewhere(workshop: Workshop, tmp_path: Path) -> Iterator[Elsewhere]:
    with Store(tmp_path / "elsewhere") as store:
        yield Elsewhere(workshop, store, FakeSandbox(workshop.sandbox._behave))


def test_an_empty_store_and_a_warm_cache_give_the_same_image_and_run_nothing(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    warm = elsewhere.build()
    assert (warm.digest, warm.run, warm.hit, warm.restores) == (cold.digest, 0, cold.total, 0)
    assert elsewhere.warnings() == []


def test_only_the_layers_that_the_image_has_are_fetched(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    plan = elsewhere.plan()
    elsewhere.build()
    wanted = {layer.digest for layer in elsewhere.place.index.entries[plan.step(plan.results[0]).key].result.layers}
    assert sorted(elsewhere.place.fetched) == sorted(wanted)
    assert len(elsewhere.place.index.layers()) == 5


def test_the_next_build_needs_the_cache_no_more(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    elsewhere.build()
    reads = elsewhere.place.reads
    plan = elsewhere.plan()
    assert plan.to_run() == ()
    assert {plan.step(step).reason for step in plan.results} == {"built before"}
    again = elsewhere.build()
    assert (again.digest, again.run, elsewhere.place.reads) == (cold.digest, 0, reads)
    assert elsewhere.place.closed == reads


def test_what_was_not_fetched_is_not_kept(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    elsewhere.build()
    plan = replace(elsewhere.first, store=elsewhere.store).plan(TEXT)
    kept = {planned.step.id for planned in plan.steps if planned.hit and planned.step.makes_layer}
    first_stage = {planned.step.id for planned in plan.steps if planned.step.stage == "build"}
    assert kept
    assert not kept & first_stage


def test_the_plan_says_where_a_result_is(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    plan = elsewhere.plan()
    assert {one.reason for one in plan.counted()} == {"in the cache memory"}
    assert plan.to_run() == ()
    assert elsewhere.place.fetched == []


def test_a_step_on_top_fetches_what_is_below_it_and_no_more(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    report = elsewhere.build(TEXT + "RUN write five 5\n")
    assert (report.run, report.restores) == (1, 1)
    assert len(elsewhere.place.fetched) == 3
    cold = elsewhere.first.build(TEXT + "RUN write five 5\n")
    assert report.digest == cold.digest


def test_no_cache_reads_no_cache(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    report = elsewhere.build(use_cache=False)
    assert (report.digest, report.run) == (cold.digest, cold.total)
    assert elsewhere.place.reads == 0


def test_a_rebuilt_parent_that_is_the_same_stops_there(elsewhere: Elsewhere) -> None:
    elsewhere.fill("FROM base\nRUN write a same\nRUN write b 2\nRUN write c 3\n")
    below = "FROM base\nRUN --network=none write a same\nRUN write b 2\nRUN write c 3\n"
    elsewhere.place.fetched.clear()
    report = elsewhere.build(below)
    assert (report.run, report.imported) == (1, 2)
    assert len(elsewhere.place.fetched) == 2
    assert elsewhere.first.build(below).digest == report.digest
    reads = elsewhere.place.reads
    again = elsewhere.build(below)
    assert (again.run, again.imported) == (0, 0)
    assert elsewhere.place.reads == reads, "what came by its content was kept too"


TTL = "FROM base\nRUN --ttl=1d write a 1\nRUN write b 2\n"


def test_a_result_elsewhere_is_as_old_as_it_is_there(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill(TTL)
    index = elsewhere.place.index
    aged = {
        key: replace(entry, result=replace(entry.result, created=entry.result.created - 2 * 86_400))
        for key, entry in index.entries.items()
    }
    elsewhere.place.index = replace(index, entries=aged)
    report = elsewhere.build(TTL)
    assert (report.digest, report.run) == (cold.digest, 1), "what stands on it came out the same"


def test_what_stands_on_a_step_with_a_time_to_live_is_found_elsewhere(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill(TTL)
    report = elsewhere.build(TTL)
    assert (report.digest, report.run) == (cold.digest, 0)
    reads = elsewhere.place.reads
    assert elsewhere.build(TTL).run == 0
    assert elsewhere.place.reads == reads


def all_of(elsewhere: Elsewhere, report: BuildReport) -> set[str]:
    manifest, _ = elsewhere.first.image(report.digest)
    return {report.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}


def test_a_push_of_what_the_registry_has_fetches_nothing(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    elsewhere.registry_has = all_of(elsewhere, cold)
    elsewhere.first.source.fetched.clear()
    report = elsewhere.build(outputs=PUSHED, names=("registry.example/app:2",))
    assert (report.digest, report.run, report.restores) == (cold.digest, 0, 0)
    assert elsewhere.place.fetched == []
    assert elsewhere.first.source.fetched == []
    assert elsewhere.pushed == [{}]
    assert list(elsewhere.store.names.all()) == []
    assert any(isinstance(event, Note) and "not kept here" in event.message for event in elsewhere.events)


def test_a_push_sends_what_the_registry_lacks(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    manifest, _ = elsewhere.first.image(cold.digest)
    base, *_, last = manifest.layers
    elsewhere.registry_has = {layer.digest for layer in manifest.layers[1:-1]}
    elsewhere.trust = Vouched(frozenset(elsewhere.place.index.entries))
    elsewhere.build(outputs=PUSHED, keys=(Path("key.pem"),))
    (sent,) = elsewhere.pushed
    assert set(sent) == {manifest.config.digest, base.digest, last.digest}
    assert digest_of(sent[last.digest]) == last.digest
    assert elsewhere.place.fetched == [last.digest], "what a trusted key has signed is as good as looked at"


def test_what_nobody_signed_is_looked_at_before_it_is_part_of_a_new_image(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    elsewhere.registry_has = all_of(elsewhere, cold)
    elsewhere.place.change(lambda layer: replace(layer, diff_id=f"sha256:{7:064x}"))
    report = elsewhere.build(outputs=PUSHED, names=("registry.example/app:2",))
    assert report.digest == cold.digest
    assert set(elsewhere.warnings()) == {"cache-layer-lost"}
    assert len(elsewhere.pushed) == 1, "nothing was sent of what turned out to be wrong"


class Everything(set[str]):
    def __contains__(self, digest: object) -> bool:
        return True


def test_an_image_of_layers_that_nobody_looked_at_gets_no_name(elsewhere: Elsewhere) -> None:
    elsewhere.build("FROM base\nRUN write other 0\n")
    elsewhere.fill()
    for data in elsewhere.place.blobs.values():
        elsewhere.store.blobs.put(data)
    elsewhere.place.change(lambda layer: replace(layer, diff_id=digest_of(layer.diff_id.encode())))
    elsewhere.registry_has = Everything()
    report = elsewhere.build(outputs=PUSHED)
    assert elsewhere.pushed == [{}]
    assert elsewhere.store.blobs.has(report.digest)
    assert list(elsewhere.store.names.all()) == []


def test_a_push_of_all_that_is_here_keeps_the_name(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    elsewhere.build(outputs=PUSHED)
    assert [image.name for image in elsewhere.store.names.all()] == []
    elsewhere.build()
    elsewhere.build(outputs=PUSHED)
    assert [image.name for image in elsewhere.store.names.all()] == ["registry.example/app:1"]


def test_images_for_several_platforms_are_pushed_without_fetching(elsewhere: Elsewhere) -> None:
    from machinefile.platform import Platform, native

    other = Platform("linux", "arm64" if native().architecture == "amd64" else "amd64")
    first = elsewhere.first
    first.source.add("base", [b""], platform=other)
    text = "FROM base\nWORKDIR /a\nCOPY <<EOF /f\nx\nEOF\n"
    platforms = (native(), other)
    request = replace(first.request(text), platforms=platforms)
    cold = first.driver.build(request)
    elsewhere.place.take(first.store, first.driver.plan(request))
    manifest = [first.image(image.digest)[0] for image in cold.images]
    elsewhere.registry_has = {blob.digest for one in manifest for blob in (one.config, *one.layers)}
    elsewhere.registry_has |= {cold.digest, *(image.digest for image in cold.images)}
    first.source.fetched.clear()
    report = elsewhere.build(text, platforms=platforms, outputs=PUSHED)
    assert (report.digest, report.run) == (cold.digest, 0)
    assert elsewhere.place.fetched == []
    assert first.source.fetched == []


def test_layers_compressed_otherwise_are_compressed_anew(elsewhere: Elsewhere) -> None:
    cold = elsewhere.first.build(TEXT)
    plan = elsewhere.first.plan(TEXT)
    elsewhere.place.take(elsewhere.first.store, plan, Compression(Compressor.ZSTD, 3))
    assert elsewhere.build(outputs=PUSHED).digest == cold.digest
    assert len(elsewhere.place.fetched) == 3


def test_a_wrong_word_on_the_compression_makes_no_broken_image(elsewhere: Elsewhere) -> None:
    cold = elsewhere.first.build(TEXT)
    said = Compression().identity
    elsewhere.place.take(elsewhere.first.store, elsewhere.first.plan(TEXT), Compression(Compressor.ZSTD, 3), said)
    assert elsewhere.build().digest == cold.digest


def test_a_local_layer_is_not_fetched_again(elsewhere: Elsewhere) -> None:
    elsewhere.build("FROM base\nRUN write three 3\n")
    elsewhere.fill()
    elsewhere.place.fetched.clear()
    elsewhere.build()
    plan = elsewhere.first.plan(TEXT)
    three = elsewhere.place.index.entries[plan.step(plan.results[0]).key].result.steps[0]
    assert three is not None
    assert len(elsewhere.place.fetched) == 2
    assert three.digest not in elsewhere.place.fetched


def test_debugging_on_top_of_a_result_elsewhere_fetches_it(elsewhere: Elsewhere) -> None:
    from engine.debug import result_spot

    elsewhere.fill()
    with elsewhere.driver.look_inside(elsewhere.request(TEXT), result_spot) as inside:
        assert inside.layers.view(inside.below).lookup("four") is not None
    assert len(elsewhere.place.fetched) == 3


def lose(place: MemoryCache, digest: str) -> None:
    del place.blobs[digest]


def cut(place: MemoryCache, digest: str) -> None:
    place.blobs[digest] = place.blobs[digest][:-1]


def lengthen(place: MemoryCache, digest: str) -> None:
    place.blobs[digest] += b"x"


def swap(place: MemoryCache, digest: str) -> None:
    place.blobs[digest] = bytes(len(place.blobs[digest]))


def swap_content(place: MemoryCache, digest: str) -> None:
    """A layer as good as any, under a diff id that is not its own."""
    out = io.BytesIO()
    write_layer([Item(Entry("evil", EntryType.DIRECTORY, 0o755))], out)
    data = gzip.compress(out.getvalue(), mtime=0)
    place.blobs[digest_of(data)] = data

    def lie(layer: Layer) -> Layer:
        return replace(layer, digest=digest_of(data), size=len(data)) if layer.digest == digest else layer

    place.change(lie)


def no_tar(place: MemoryCache, digest: str) -> None:
    data = b"no tar" * 1000
    place.blobs[digest_of(data)] = data

    def lie(layer: Layer) -> Layer:
        if layer.digest != digest:
            return layer
        return Layer(digest_of(data), digest_of(data), len(data), "application/vnd.oci.image.layer.v1.tar")

    place.change(lie)


def fail(place: MemoryCache, digest: str) -> None:
    def before(asked: str) -> None:
        if asked == digest:
            raise TransferError("the registry is down", code="registry-failed")

    place.before = before


def check_loss(elsewhere: Elsewhere, harm: Callable[[MemoryCache, str], None], outputs: Any, step: int) -> None:
    cold = elsewhere.fill()
    plan = elsewhere.first.plan(TEXT)
    layer = elsewhere.place.index.entries[plan.step(plan.results[0]).key].result.steps[step]
    assert layer is not None
    harm(elsewhere.place, layer.digest)
    report = elsewhere.build(outputs=outputs)
    assert (report.digest, report.run) == (cold.digest, 1), "the steps on top hit by their content"
    assert elsewhere.warnings() == ["cache-layer-lost"]
    assert elsewhere.build(outputs=outputs).digest == cold.digest


@pytest.mark.parametrize("harm", [lose, cut, lengthen, swap, swap_content, no_tar, fail])
def test_a_layer_that_cannot_be_had_is_made_anew(
    elsewhere: Elsewhere, harm: Callable[[MemoryCache, str], None]
) -> None:
    check_loss(elsewhere, harm, (), 0)


@pytest.mark.parametrize(("harm", "step"), [(lose, 0), (lose, -1), (swap_content, -1)])
def test_a_layer_that_is_lost_while_it_is_pushed_is_made_anew(
    elsewhere: Elsewhere, harm: Callable[[MemoryCache, str], None], step: int
) -> None:
    check_loss(elsewhere, harm, PUSHED, step)


def test_a_layer_that_a_step_reads_and_that_is_lost_is_made_before_it(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    plan = elsewhere.plan()
    two = [one.step.id for one in plan.counted() if one.step.stage == "build"][-1]
    lose(elsewhere.place, elsewhere.layer(plan, two).digest)
    text = TEXT.replace("/deux", "/zwei")
    report = elsewhere.build(text)
    assert report.digest == elsewhere.first.build(text).digest
    assert report.run == 3, "the lost one, the copy of it, and what stands on that"


def test_a_cache_that_loses_everything_is_given_up(elsewhere: Elsewhere) -> None:
    text = "FROM base\n" + "".join(f"RUN write f{number} {number}\n" for number in range(8))
    cold = elsewhere.fill(text)
    elsewhere.place.blobs.clear()
    report = elsewhere.build(text)
    assert (report.digest, report.run) == (cold.digest, 8)
    assert 1 <= len(elsewhere.warnings()) <= 4


def test_a_huge_layer_is_not_asked_for(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    elsewhere.place.change(lambda layer: replace(layer, size=1 << 60))
    report = elsewhere.build()
    assert report.run == report.total
    assert elsewhere.place.fetched == []


@pytest.mark.parametrize("none", [False, True])
def test_a_result_with_the_wrong_number_of_steps_counts_for_nothing(elsewhere: Elsewhere, none: bool) -> None:
    cold = elsewhere.fill()
    index = elsewhere.place.index
    entries = {
        key: replace(entry, result=replace(entry.result, steps=() if none else (None, *entry.result.steps)))
        for key, entry in index.entries.items()
    }
    elsewhere.place.index = replace(index, entries=entries)
    plan = elsewhere.plan()
    # The last step of one is all that its content key speaks of.
    assert not any(planned.reason.startswith("in the cache") for planned in plan.steps)
    assert bool(plan.to_run()) is none
    assert elsewhere.build().digest == cold.digest


def test_a_disk_that_is_full_is_no_fault_of_the_cache(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere.fill()
    elsewhere.plan()
    write = BlobWriter.write

    def full(self: BlobWriter, data: bytes) -> int:
        if elsewhere.place.fetched:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(BlobWriter, "write", full)
    with pytest.raises(StoreError) as caught:
        elsewhere.build()
    assert caught.value.code == "store-full"


def test_what_one_cache_lost_another_has(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    elsewhere.places["other"] = MemoryCache(elsewhere.place.index, dict(elsewhere.place.blobs), "other")
    elsewhere.place.blobs.clear()
    report = elsewhere.build()
    assert (report.digest, report.run) == (cold.digest, 0)
    assert elsewhere.warnings() == []
    assert len(elsewhere.places["other"].fetched) == 3


def test_a_cache_that_lies_costs_another_nothing(elsewhere: Elsewhere) -> None:
    """It says of the same blobs that they are something else, of more than are tolerated."""
    text = "FROM base\n" + "".join(f"RUN write f{number} {number}\n" for number in range(8))
    cold = elsewhere.fill(text)
    elsewhere.places["other"] = MemoryCache(elsewhere.place.index, dict(elsewhere.place.blobs), "other")
    elsewhere.place.change(lambda layer: replace(layer, diff_id=digest_of(layer.diff_id.encode())))
    report = elsewhere.build(text)
    assert (report.digest, report.run) == (cold.digest, 0)
    assert 1 <= len(elsewhere.warnings()) <= 4


def test_each_cache_may_lose_a_few_layers(elsewhere: Elsewhere) -> None:
    """The first names layers that nobody has, more than are tolerated."""
    stages = "".join(f"FROM base AS s{number}\nRUN write f{number} {number}\n" for number in range(6))
    text = stages + "FROM base\n" + "".join(f"COPY --from=s{number} /f{number} /a\n" for number in range(6))
    elsewhere.fill(text)
    whole = MemoryCache(elsewhere.place.index, dict(elsewhere.place.blobs), "other")
    lost = MemoryCache(elsewhere.place.index, label="lost")
    lost.change(lambda layer: replace(layer, digest=digest_of(layer.digest.encode())))
    elsewhere.places = {"lost": lost, "other": whole}
    report = elsewhere.build(text.replace("/a", "/b"))
    assert report.run == 6, "the copies"
    assert elsewhere.warnings() == ["cache-layer-lost"] * 4


def test_several_caches_have_each_a_part(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    plan = elsewhere.first.plan(TEXT)
    whole = elsewhere.place.index
    half = {one.key for one in plan.counted() if one.step.stage == "build"}
    elsewhere.place.index = replace(whole, entries={key: whole.entries[key] for key in half})
    rest = {key: entry for key, entry in whole.entries.items() if key not in half}
    elsewhere.places["other"] = MemoryCache(replace(whole, entries=rest), dict(elsewhere.place.blobs), "other")
    reasons = {one.step.stage: one.reason for one in elsewhere.plan().counted()}
    assert reasons["build"] == "in the cache memory"
    assert set(reasons.values()) == {"in the cache memory", "in the cache other"}
    assert elsewhere.build().digest == cold.digest


@pytest.mark.parametrize(
    "failure",
    [
        TransferError("nobody answers", code="registry-unreachable"),
        UntrustedDataError("that is no cache", code="cache-invalid"),
    ],
)
def test_a_cache_that_fails_is_left_out(elsewhere: Elsewhere, failure: TransferError) -> None:
    cold = elsewhere.fill()
    elsewhere.places["other"] = MemoryCache(elsewhere.place.index, elsewhere.place.blobs, "other")
    elsewhere.place.failure = failure
    report = elsewhere.build()
    assert (report.digest, report.run) == (cold.digest, 0)
    assert elsewhere.warnings() == ["cache-unavailable"]


def test_a_cache_that_does_not_answer_is_left_out_in_time(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.carry import sources

    answered = threading.Event()

    class Silent(MemoryCache):
        def read(self) -> Any:
            answered.wait(60)
            return super().read()

    monkeypatch.setattr(sources.RemoteCaches.__init__, "__kwdefaults__", {"open_trust": None, "deadline": 0.2})
    elsewhere.places["memory"] = Silent()
    try:
        report = elsewhere.build()
        assert report.run == report.total
        assert elsewhere.warnings() == ["cache-unavailable"]
    finally:
        answered.set()


def test_who_waits_for_a_cache_can_be_interrupted(elsewhere: Elsewhere) -> None:
    answered = threading.Event()

    class Silent(MemoryCache):
        def read(self) -> Any:
            elsewhere.cancelled.set()
            answered.wait(60)
            return super().read()

    elsewhere.places["memory"] = Silent()
    try:
        with pytest.raises(InterruptedBuildError):
            elsewhere.build()
    finally:
        answered.set()


def test_an_empty_cache_is_no_reason_to_warn(elsewhere: Elsewhere) -> None:
    elsewhere.build()
    assert elsewhere.warnings() == []
    assert any(isinstance(event, Note) and "nothing in the cache" in event.message for event in elsewhere.events)


def test_what_nobody_vouches_for_is_not_used(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    elsewhere.trust = Vouched(frozenset())
    plan = elsewhere.plan(keys=(Path("key.pem"),))
    reasons = {one.reason for one in plan.counted()}
    assert reasons == {"in the cache memory, but not signed by a trusted key"}
    report = elsewhere.build(keys=(Path("key.pem"),))
    assert report.run == report.total
    assert elsewhere.place.fetched == []


def test_what_a_trusted_key_signed_is_used(elsewhere: Elsewhere) -> None:
    cold = elsewhere.fill()
    elsewhere.trust = Vouched(frozenset(elsewhere.place.index.entries))
    report = elsewhere.build(keys=(Path("key.pem"),))
    assert (report.digest, report.run) == (cold.digest, 0)


def test_a_key_that_cannot_be_read_is_an_error(elsewhere: Elsewhere) -> None:
    elsewhere.fill()
    with pytest.raises(UsageError):
        elsewhere.build(keys=(Path("key.pem"),))


def test_caches_need_somebody_who_opens_them(elsewhere: Elsewhere) -> None:
    driver = elsewhere.first.driver
    with pytest.raises(UsageError) as caught:
        driver.build(elsewhere.request(TEXT))
    assert caught.value.code == "cache-unsupported"


@pytest.mark.parametrize("sbom", [False, True])
def test_a_push_with_attestations_fetches_what_they_are_made_of(elsewhere: Elsewhere, sbom: bool) -> None:
    cold = elsewhere.fill()
    manifest, _ = elsewhere.first.image(cold.digest)
    layers = {layer.digest for layer in manifest.layers}
    elsewhere.registry_has = {manifest.config.digest, *layers}
    elsewhere.first.source.fetched.clear()
    elsewhere.trust = Vouched(frozenset(elsewhere.place.index.entries))  # or the layers were looked into first
    said = AttestSpec(ProvenanceMode.MAX, sbom=sbom)
    request = elsewhere.request(TEXT, keys=(Path("key.pem"),), outputs=PUSHED)
    report = elsewhere.driver.build(replace(request, attest=said))
    assert (report.digest, report.run) == (cold.digest, 0)
    fetched = {*elsewhere.place.fetched, *elsewhere.first.source.fetched}
    assert fetched == (layers if sbom else set())
    (sent,) = elsewhere.pushed
    assert {report.digest} < set(sent), "the image's manifest, and those of what is said about it"
    assert sum(b"in-toto.io/Statement" in data for data in sent.values()) == 1 + sbom
