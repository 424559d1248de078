"""--cache-to: what goes out, and that only what is new does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from export_place import FakeSigner, MemoryPlace

from cache.carry.artifact import RECORDS_TYPE
from cache.carry.entry import CacheEntry, CarriedBlob
from cache.carry.index import CacheIndex, parse_index
from cache.index import Kind
from cache.results import Layer
from cache.store import Store
from engine.carry.export import OpenTarget
from engine.carry.records import pack_records, read_records
from engine.carry.settle import Signs
from engine.carry.spec import CacheMode, CacheSource, CacheTarget, CacheType
from engine.events import Note, TransferProgress, WarningRaised
from engine.images import mediatype
from engine.output.compress import DEFAULT
from engine.report import BuildReport
from engine.secrets import Secrets
from machinefile.errors import HostError, StepError, StoreError, TransferError, UsageError
from machinefile.platform import Platform

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = """
FROM base AS tools
RUN write tool made
RUN write other made
FROM base
COPY a /a
COPY b /b
COPY --from=tools /tool /tool
RUN write last yes
"""


class Shipping:
    """Builds that send their cache to a place in memory."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.place = MemoryPlace()
        self.source: MemoryPlace | None = None
        """What builds find with --cache-from."""
        self.signer: Signs | None = None
        self.keys: tuple[Path, ...] = ()
        """Of what is found there."""

    def open(self, target: CacheTarget) -> OpenTarget:
        return OpenTarget(target, self.place, self.signer)

    def build(self, text: str = TEXT, mode: CacheMode = CacheMode.MAX, **options: object) -> BuildReport:
        wanted = {name: options.pop(name) for name in ("ignore_error", "mounts") if name in options}
        target = CacheTarget(CacheType.FSSPEC, "memory://here", mode=mode, **wanted)  # type: ignore[arg-type]
        further = {name: options.pop(name) for name in ("platforms", "secrets") if name in options}
        source = CacheSource(CacheType.FSSPEC, "memory://there", verify_keys=self.keys)
        request = replace(
            self.workshop.request(text, **options),  # type: ignore[arg-type]
            cache_to=(target,),
            cache_from=(source,) if self.source is not None else (),
            **further,  # type: ignore[arg-type]
        )
        driver = self.workshop.driver
        driver.open_source = lambda source: self.source or self.place
        driver.open_target = self.open
        driver.open_trust = lambda keys: FakeSigner(keys[0].name)
        return driver.build(request)

    @property
    def index(self) -> CacheIndex:
        return self.place.index

    def forget(self) -> None:
        """Begin to count anew."""
        self.place.sent.clear()
        self.workshop.events.clear()
        self.place.published = 0

    @property
    def warnings(self) -> list[str]:
        return [event.code for event in self.workshop.events if isinstance(event, WarningRaised)]

    @property
    def notes(self) -> list[str]:
        return [event.message for event in self.workshop.events if isinstance(event, Note)]


@pytest.fixture
def shipping(workshop: Workshop) -> Shipping:
    workshop.write("a", "one")
    workshop.write("b", "two")
    return Shipping(workshop)


def kinds(shipping: Shipping) -> list[str]:
    return sorted(shipping.place.types[digest] for digest in shipping.place.sent)


def test_all_stages_go_out_with_mode_max_and_the_image_alone_with_min(shipping: Shipping) -> None:
    shipping.build(mode=CacheMode.MIN)
    assert len(shipping.index.entries) == 4
    shipping.build(mode=CacheMode.MAX)
    assert len(shipping.index.entries) == 6


def test_what_goes_out_is_what_the_store_knows_and_the_image_has(shipping: Shipping) -> None:
    report = shipping.build()
    plan = shipping.workshop.plan(TEXT)
    assert shipping.index.entries.keys() == {planned.key for planned in plan.counted()}
    layers = {descriptor.digest for descriptor in shipping.workshop.image(report.digest)[0].layers}
    base = {descriptor.digest for descriptor in shipping.workshop.image(report.digest)[0].layers[:1]}
    assert layers - base <= shipping.index.layers().keys()
    for planned in plan.counted():
        entry = shipping.index.entries[planned.key]
        result = planned.result
        assert result is not None
        assert [one.diff_id for one in entry.result.layers] == [one.diff_id for one in result.layers]
        # The content key is the one that the store would look for.
        kept = shipping.workshop.store.index.get(Kind.CONTENT, entry.content)
        assert kept == result.to_json()
    assert set(shipping.index.packings.values()) == {DEFAULT.identity}
    assert all(layer.media_type == mediatype.OCI_LAYER_GZIP for layer in shipping.index.layers().values())
    assert parse_index(shipping.index.to_json(), "it").to_json() == shipping.index.to_json()


def test_a_second_export_sends_and_writes_nothing(shipping: Shipping) -> None:
    first = shipping.build()
    shipping.forget()
    second = shipping.build()
    assert shipping.place.sent == []
    assert shipping.place.published == 0
    assert second.exports is not None
    assert first.exports is not None
    assert (second.exports.exported[0].entries, second.exports.exported[0].sent) == (0, 0)
    assert (first.exports.exported[0].entries, first.exports.exported[0].sent > 0) == (6, True)
    assert "nothing new for the cache in memory" in shipping.notes


def test_after_a_change_of_one_file_its_layer_and_the_records_are_sent(shipping: Shipping) -> None:
    shipping.build()
    before = dict(shipping.index.entries)
    shipping.forget()
    shipping.workshop.write("b", "changed")
    shipping.build()
    assert kinds(shipping) == [RECORDS_TYPE, mediatype.OCI_LAYER_GZIP]
    assert shipping.place.published == 1
    assert before.items() <= shipping.index.entries.items()
    assert len(shipping.index.entries) == len(before) + 3


def test_an_empty_store_exports_what_another_built_the_same(shipping: Shipping, tmp_path: Path) -> None:
    shipping.build()
    shipping.forget()
    with Store(tmp_path / "other") as other:
        shipping.workshop.store = other
        shipping.build()
    assert shipping.place.sent == []


def test_exports_add_to_what_others_put_there_meanwhile(shipping: Shipping) -> None:
    theirs = Shipping(shipping.workshop)
    theirs.build("FROM base\nRUN write theirs yes\n")

    def meanwhile(place: MemoryPlace) -> None:
        place.blobs.update(theirs.place.blobs)
        place.index = place.index.merged(theirs.index)

    shipping.place.before_publish = meanwhile
    shipping.build()
    assert theirs.index.entries.items() <= shipping.index.entries.items()
    assert len(shipping.index.entries) == 7


def test_a_blob_that_the_place_lost_is_sent_again(shipping: Shipping) -> None:
    shipping.build()
    shipping.forget()
    lost = max(shipping.index.layers())
    del shipping.place.blobs[lost]
    shipping.build()
    assert shipping.place.sent == [lost]


def test_records_that_the_place_lost_are_sent_again(shipping: Shipping) -> None:
    shipping.build()
    shipping.forget()
    (lost,) = shipping.index.packs
    del shipping.place.blobs[lost]
    shipping.build()
    assert shipping.place.sent == [lost]


def test_records_tell_what_keys_are_made_of(shipping: Shipping) -> None:
    shipping.build()
    plan = shipping.workshop.plan(TEXT)
    keys = [planned.key for planned in plan.counted()]
    records = read_records(shipping.place, shipping.index, keys)
    told = {planned.key: json.loads(json.dumps(planned.record.to_json())) for planned in plan.counted()}
    assert records == told
    assert len(shipping.index.packs) == 1


def test_a_damaged_or_lying_pack_of_records_tells_nothing(shipping: Shipping) -> None:
    shipping.build()
    keys = list(shipping.index.entries)
    pack = next(iter(shipping.index.packs))
    whole = shipping.place.blobs[pack]
    warned: list[str] = []
    for damaged in (whole[:-1], whole[:-1] + b"?", b""):
        shipping.place.blobs[pack] = damaged
        assert read_records(shipping.place, shipping.index, keys, lambda error: warned.append(error.code)) == {}
    assert warned == ["digest-mismatch"] * 3


def test_signed_entries_keep_other_signatures_and_get_the_one_that_is_missing(shipping: Shipping) -> None:
    shipping.signer = FakeSigner("one")
    shipping.build()
    shipping.signer = FakeSigner("two")
    shipping.forget()
    shipping.build()
    assert shipping.place.sent == []
    for entry in shipping.index.entries.values():
        assert FakeSigner("one").trusts(entry)
        assert FakeSigner("two").trusts(entry)
    shipping.forget()
    shipping.build()
    assert shipping.place.published == 0


def test_nobody_signs_a_layer_that_is_only_said_to_be_the_same(shipping: Shipping) -> None:
    shipping.build()
    key, entry = next(iter(shipping.index.entries.items()))
    lie = "sha256:" + "0" * 64
    shipping.place.blobs[lie] = b""
    (layer,) = entry.result.layers[:1]
    wrong = replace(entry, result=replace(entry.result, steps=(Layer(layer.diff_id, lie, 0, layer.media_type),)))
    shipping.place.index = CacheIndex({key: wrong}, {}, shipping.index.packs, {lie: DEFAULT.identity})
    shipping.signer = FakeSigner()
    shipping.build()
    assert lie not in {layer.digest for layer in shipping.index.layers().values()}
    assert all(FakeSigner().trusts(entry) for entry in shipping.index.entries.values())


COPYING = "FROM base AS tools\nRUN write tool made\nFROM base\nCOPY --from=tools /tool /tool\n"


def copying(shipping: Shipping) -> CacheEntry:
    """The entry of the step that copies, once what it copies from has gone from the store and nobody looks at it."""
    store, plan = shipping.workshop.store, shipping.workshop.plan(COPYING)
    for planned in plan.counted():
        if planned.step.stage == "tools":
            store.index.drop(Kind.RESULT, planned.key)
    shipping.build(COPYING)
    (key,) = (planned.key for planned in plan.counted() if planned.step.stage != "tools")
    return shipping.index.entries[key]


def forge(shipping: Shipping, **changes: object) -> None:
    """As if somebody else had written that into every entry."""
    when = {"created": changes.pop("created")} if "created" in changes else {}
    entries = {
        key: replace(entry, result=replace(entry.result, **when), **changes)  # type: ignore[arg-type]
        for key, entry in shipping.index.entries.items()
    }
    shipping.place.index = replace(shipping.index, entries=entries)


@pytest.mark.parametrize("signed", [True, False])
def test_nobody_signs_a_content_key_that_others_wrote(shipping: Shipping, signed: bool) -> None:
    shipping.signer = FakeSigner() if signed else None
    shipping.build(COPYING)
    shipping.signer = FakeSigner()
    forge(shipping, content="sha256:" + "5" * 64)
    entry = copying(shipping)
    assert entry.content == entry.key
    assert FakeSigner().trusts(entry)


def test_a_content_key_that_we_signed_stays_where_it_is_not_known_now(shipping: Shipping) -> None:
    shipping.signer = FakeSigner()
    shipping.build(COPYING)
    before = dict(shipping.index.entries)
    entry = copying(shipping)
    assert entry.content not in (entry.key, "")
    assert shipping.index.entries == before
    # Nor does a newer result of the same files lose it.
    aged = replace(entry, result=replace(entry.result, created=1000.0), signatures=())
    shipping.place.index = replace(shipping.index, entries={entry.key: FakeSigner().sign(aged)})
    newer = copying(shipping)
    assert (newer.content, newer.result.created > 1000, FakeSigner().trusts(newer)) == (entry.content, True, True)


def test_nobody_signs_a_time_that_others_wrote(shipping: Shipping, monkeypatch: pytest.MonkeyPatch) -> None:
    shipping.signer = FakeSigner()
    shipping.build()
    true = {key: round(entry.result.created) for key, entry in shipping.index.entries.items()}
    forge(shipping, created=max(true.values()) + 1000.0)
    monkeypatch.setattr("engine.carry.settle.time", SimpleNamespace(time=lambda: max(true.values()) + 2000.0))
    shipping.build()
    assert {key: round(entry.result.created) for key, entry in shipping.index.entries.items()} == true
    assert all(FakeSigner().trusts(entry) for entry in shipping.index.entries.values())


def test_nobody_signs_records_that_others_wrote(shipping: Shipping) -> None:
    shipping.build()
    pack = pack_records({})
    shipping.place.blobs[pack.digest] = pack.data
    forge(shipping, records=pack.digest)
    packs = {pack.digest: CarriedBlob(pack.digest, len(pack.data))}
    shipping.place.index = replace(shipping.index, packs={**shipping.index.packs, **packs})
    shipping.signer = FakeSigner()
    shipping.build()
    assert pack.digest not in {entry.records for entry in shipping.index.entries.values()}
    assert read_records(shipping.place, shipping.index, shipping.index.entries).keys() == shipping.index.entries.keys()


def test_who_signs_names_the_records_that_are_there_if_they_are_true(shipping: Shipping) -> None:
    shipping.signer = FakeSigner("one")
    shipping.build()
    shipping.forget()
    shipping.signer = FakeSigner("two")
    shipping.build("FROM base\nCOPY a /a\n")
    assert shipping.place.sent == []
    (both,) = (entry for entry in shipping.index.entries.values() if FakeSigner("two").trusts(entry))
    assert FakeSigner("one").trusts(both)


@pytest.mark.parametrize("known", [3, 2, 1])
@pytest.mark.parametrize("vouched", [True, False])
def test_nobody_signs_what_an_unsigned_cache_said(
    shipping: Shipping, tmp_path: Path, vouched: bool, known: int
) -> None:
    """Nor what was made of it, now or in a later build."""
    text = "FROM base AS tools\nRUN write a 1\nFROM base\nCOPY --from=tools /a /a\nRUN write b 2\n"
    theirs = Shipping(shipping.workshop)
    theirs.signer = FakeSigner("theirs")
    theirs.build(text)
    keys = [planned.key for planned in shipping.workshop.plan(text).counted()]
    theirs.place.index = theirs.index.only(lambda one: isinstance(one, CacheEntry) and one.key in keys[:known])
    shipping.signer = FakeSigner()
    shipping.keys = (Path("theirs"),) if vouched else ()
    with Store(tmp_path / "other") as other:
        shipping.workshop.store = other
        for source in (theirs.place, None):
            shipping.source = source
            shipping.place = MemoryPlace()
            assert shipping.build(text).run == (3 - known if source else 0)
            assert {FakeSigner().trusts(entry) for entry in shipping.index.entries.values()} == {vouched}
            assert ("cache-unsigned" in shipping.warnings) is not vouched
            shipping.forget()


def test_nobody_signs_what_is_found_by_what_an_unsigned_cache_said(shipping: Shipping, tmp_path: Path) -> None:
    text = "FROM base AS tools\n{first}\nFROM base\nCOPY --from=tools /a /a\nRUN write b 2\n"
    one, two = text.format(first="RUN write a 1"), text.format(first='RUN ["write a 1"]')
    theirs = Shipping(shipping.workshop)
    theirs.build(one)
    tools, copied, ran = (planned.key for planned in shipping.workshop.plan(one).counted())
    shipping.signer = FakeSigner()

    def unsigned(store: Store, text: str, *known: str) -> int:
        shipping.workshop.store = store
        shipping.source = MemoryPlace(blobs=theirs.place.blobs)
        shipping.source.index = theirs.index.only(lambda one: isinstance(one, CacheEntry) and one.key in known)
        shipping.place = MemoryPlace()
        shipping.build(text)
        assert len(shipping.index.entries) == 3
        return sum(not FakeSigner().trusts(entry) for entry in shipping.index.entries.values())

    with Store(tmp_path / "above") as other:
        # What stands on files made here is hearsay still, if it comes from there.
        assert unsigned(other, two, copied, ran) == 2
    with Store(tmp_path / "below") as other:
        assert unsigned(other, two) == 0
        # And so is what was made here of files that are said to be what another step came to.
        assert unsigned(other, one, tools) == 3


def test_what_we_signed_stays_signed_after_a_build_from_an_unsigned_cache(shipping: Shipping, tmp_path: Path) -> None:
    shipping.signer = FakeSigner()
    shipping.build()
    before = dict(shipping.index.entries)
    shipping.source = shipping.place
    shipping.forget()
    with Store(tmp_path / "other") as other:
        shipping.workshop.store = other
        shipping.build()
    assert shipping.index.entries == before
    assert shipping.warnings == []


def test_a_newer_result_of_a_step_takes_the_place_of_the_older(shipping: Shipping) -> None:
    shipping.build()
    old = shipping.index

    def aged(entry: CacheEntry) -> CacheEntry:
        return replace(entry, result=replace(entry.result, created=1000.0))

    shipping.place.index = replace(old, entries={key: aged(entry) for key, entry in old.entries.items()})
    shipping.forget()
    shipping.build()
    assert shipping.place.sent == []
    assert all(entry.result.created > 1000 for entry in shipping.index.entries.values())


def test_the_day_of_use_is_refreshed_now_and_then(shipping: Shipping) -> None:
    shipping.build()
    today = next(iter(shipping.index.entries.values())).used
    for days, refreshed in ((3, False), (8, True)):
        entries = {key: replace(entry, used=today - days) for key, entry in shipping.index.entries.items()}
        shipping.place.index = replace(shipping.index, entries=entries)
        shipping.build()
        assert {entry.used for entry in shipping.index.entries.values()} == {today if refreshed else today - days}


def test_a_failed_export_fails_after_all_else_is_there(shipping: Shipping) -> None:
    shipping.place.failure = TransferError("the network is down", code="network")
    report = shipping.build(names=("docker.io/library/app:1",))
    assert shipping.workshop.store.names.get("docker.io/library/app:1") is not None
    assert report.exports is not None
    assert report.exports.failure is not None
    assert report.exports.failure.exit_code == 4
    assert "memory" in report.exports.failure.message
    assert shipping.place.closed


def test_a_folder_that_fails_is_a_place_that_fails(shipping: Shipping) -> None:
    shipping.place.failure = HostError("the folder is full", code="cache-folder", hint="make room")
    report = shipping.build()
    assert report.exports is not None
    failure = report.exports.failure
    assert failure is not None
    assert (failure.exit_code, failure.code, failure.hint) == (4, "cache-folder", "make room")
    shipping.place.failure = StoreError("the store cannot be read", code="store-failed")
    report = shipping.build()
    assert report.exports is not None
    assert report.exports.failure is not None
    assert report.exports.failure.exit_code == 3


def test_a_failed_export_that_may_fail_is_a_warning(shipping: Shipping) -> None:
    shipping.place.failure = TransferError("the network is down", code="network")
    report = shipping.build(ignore_error=True)
    assert report.exports is not None
    assert report.exports.failure is None
    warned = [event for event in shipping.workshop.events if isinstance(event, WarningRaised)]
    assert [warning.code for warning in warned] == ["network"]


def test_a_place_that_cannot_be_opened_is_told_before_anything_runs(shipping: Shipping) -> None:
    def refuse(target: CacheTarget) -> OpenTarget:
        raise HostError("s3fs is missing", code="package-missing")

    shipping.open = refuse  # type: ignore[method-assign]
    with pytest.raises(HostError, match="s3fs"):
        shipping.build()
    assert shipping.workshop.sandbox.executions == []
    shipping.build(ignore_error=True)


def test_a_build_that_fails_exports_nothing(shipping: Shipping) -> None:
    with pytest.raises(StepError):
        shipping.build("FROM base\nRUN write a b\nRUN fail 3\n")
    assert shipping.place.sent == []
    assert shipping.place.closed


def test_without_an_opener_a_cache_goes_nowhere(shipping: Shipping) -> None:
    request = replace(shipping.workshop.request(TEXT), cache_to=(CacheTarget(CacheType.FSSPEC, "memory://here"),))
    with pytest.raises(UsageError):
        shipping.workshop.driver.build(request)


def test_several_platforms_go_out_in_one_cache(shipping: Shipping) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\nCOPY b /b\n"
    shipping.build(text, CacheMode.MIN, platforms=(Platform("linux", "amd64"), Platform("linux", "arm64")))
    assert len(shipping.index.entries) == 4


def test_what_nobody_needed_and_nobody_has_is_left_out(shipping: Shipping) -> None:
    shipping.build()
    store = shipping.workshop.store
    plan = shipping.workshop.plan(TEXT)
    # The tools are gone, and what was made of them is there.
    for planned in plan.counted():
        if planned.step.stage == "tools":
            store.index.drop(Kind.RESULT, planned.key)
    elsewhere = Shipping(shipping.workshop)
    report = elsewhere.build()
    assert report.run == 0
    assert len(elsewhere.index.entries) == 4
    # The step that copies from them is there, under its definition alone.
    assert sum(entry.content == key for key, entry in elsewhere.index.entries.items()) == 1


def test_progress_tells_of_each_blob(shipping: Shipping) -> None:
    shipping.build()
    moved = [event for event in shipping.workshop.events if isinstance(event, TransferProgress)]
    ended = {event.id for event in moved if event.finished and event.done == event.total}
    assert ended == set(shipping.place.sent)


def test_what_another_cache_has_goes_on_where_the_image_needs_it(shipping: Shipping, tmp_path: Path) -> None:
    shipping.build()
    theirs = shipping.place
    unused = shipping.workshop.plan(TEXT).step("tools.2").result
    assert unused is not None
    with Store(tmp_path / "other") as other:
        shipping.workshop.store = other
        onward = Shipping(shipping.workshop)
        onward.source = theirs
        report = onward.build()
    assert (report.run, report.imported) == (0, 6)
    plan = shipping.workshop.plan(TEXT)
    assert {planned.key for planned in plan.counted() if planned.step.stage != "tools"} <= onward.index.entries.keys()
    needless = unused.layers[-1]
    assert needless.diff_id not in {layer.diff_id for layer in onward.index.layers().values()}
    assert needless.diff_id not in {
        one.diff_id for one in theirs.index.layers().values() if one.digest in theirs.fetched
    }


def test_values_of_secrets_are_in_no_record(shipping: Shipping) -> None:
    value = b"hunter2hunter2"
    text = "FROM base\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S write a b\n"
    shipping.build(text, secrets=Secrets((("s", value),)))
    keys = list(shipping.index.entries)
    (record,) = read_records(shipping.place, shipping.index, keys).values()
    assert "secret" in json.dumps(record)
    assert value.decode() not in json.dumps(record)
