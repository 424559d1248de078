"""--timestamps=keep: layers, configuration and history have the times that things really have."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from layer_support import changes_of, file_item, obey

from cache.index import Kind
from engine.attest.provenance import kept_provenance
from engine.epoch import Epoch
from engine.explain.words import lines
from engine.images.config import History
from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.layers.index import LayerIndex
from engine.layers.tarwrite import Item
from engine.layers.times import MAX_TIME, Times, bounded
from engine.output.annotations import parse_annotations
from engine.output.stamped import stamped
from engine.plan import Plan
from engine.report import BuildReport
from engine.vm.execution import Execution
from engine.vm.fake import FakeSandbox
from machinefile.errors import UsageError

if TYPE_CHECKING:
    from conftest import Workshop

NOW = 1_750_000_000
EPOCH = 1_700_000_000
Build = Callable[..., BuildReport]


def behave(execution: Execution) -> tuple[int, bytes, bytes]:
    """`touch PATH TIME` beside what `obey` knows."""
    words = execution.argv[-1].split(" ")
    if words[0] != "touch":
        return obey(execution)
    item = file_item(words[1], b"touched")
    return 0, b"", changes_of(Item(replace(item.entry, mtime=float(words[2])), item.open))


@pytest.fixture
def build(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setattr("engine.driver.KEPT", Times(keep=True, clock=lambda: NOW + 0.75))
    workshop.sandbox = FakeSandbox(behave)

    def run(text: str, epoch: int | None = None, *, keep: bool = True, **more: Any) -> BuildReport:
        request = replace(workshop.request(text), keep_times=keep, epoch=epoch if epoch is None else Epoch(epoch))
        return workshop.driver.build(replace(request, **more))

    return run


def put(workshop: Workshop, path: str, time: float) -> None:
    workshop.write(path)
    os.utime(workshop.context / path, ns=(0, int(time * 1e9)))


def plan(workshop: Workshop, text: str) -> Plan:
    return workshop.driver.plan(replace(workshop.request(text), keep_times=True))


def times(workshop: Workshop, report: BuildReport) -> list[dict[str, float]]:
    """Those of the image's own layers."""
    layers = workshop.layers(report.digest)[1:]
    return [{path: entry.mtime for path, (entry, _) in layer.items()} for layer in layers]


def own_lines(workshop: Workshop, report: BuildReport) -> tuple[History, ...]:
    return tuple(line for line in workshop.image(report.digest)[1].history if "mbuild" in line.comment)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_copied_files_keep_their_times_and_what_is_made_has_that_of_the_build(workshop: Workshop, build: Build) -> None:
    put(workshop, "d/file", 1_234_567_890.987)
    (workshop.context / "d/link").symlink_to("file")
    os.utime(workshop.context / "d/link", (5, 6), follow_symlinks=False)
    os.link(workshop.context / "d/file", workshop.context / "d/name")
    os.utime(workshop.context / "d", (7, 8))
    report = build("FROM base\nWORKDIR /work\nCOPY . /new/all\nCOPY <<END /etc/text\nhello\nEND\n")
    assert times(workshop, report) == [
        {"work": NOW},
        {
            "new": NOW,
            "new/all": NOW,
            "new/all/d": 8,
            "new/all/d/file": 1_234_567_890,
            "new/all/d/link": 6,
            "new/all/d/name": 1_234_567_890,
        },
        {"etc": NORMAL_TIME, "etc/text": NOW},  # a directory of the base has the base's time still
    ]


def test_a_run_keeps_the_guests_times_and_a_copy_of_them_too(workshop: Workshop, build: Build) -> None:
    text = "FROM base AS one\nRUN touch f 1234.9\nFROM base\nCOPY --from=one /f /g\n"
    assert times(workshop, build(text)) == [{"g": 1234}]
    assert times(workshop, build(text, options=replace(workshop.request(text).options, target="one"))) == [{"f": 1234}]


def test_an_unpacked_archive_keeps_its_times(workshop: Workshop, build: Build) -> None:
    workshop.context.mkdir(exist_ok=True)
    with tarfile.open(workshop.context / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, time in (("old", -5.5), ("new", 77.75), ("below/file", 2.0**40)):
            entry = tarfile.TarInfo(name)
            entry.mtime = time  # type: ignore[assignment]
            tar.addfile(entry)
    (found,) = times(workshop, build("FROM base\nADD a.tar /\n"))
    assert found == {"old": 0, "new": 77, "below": NOW, "below/file": MAX_TIME}


@pytest.mark.parametrize(("given", "kept"), [(-3, 0), (1e12, MAX_TIME), (MAX_TIME + 1, MAX_TIME), (0.5, 0)])
def test_times_that_no_header_holds_are_bounded(workshop: Workshop, build: Build, given: float, kept: int) -> None:
    assert bounded(given) == kept
    assert times(workshop, build(f"FROM base\nRUN touch f {given}\n")) == [{"f": kept}]


def test_a_run_sees_no_source_date_epoch_but_what_it_declares(workshop: Workshop, build: Build) -> None:
    seen = workshop.files(build("FROM base\nRUN environment seen\n").digest)["seen"]
    assert b"SOURCE_DATE_EPOCH" not in seen
    text = "FROM base\nARG SOURCE_DATE_EPOCH=12\nRUN environment seen\n"
    assert b"SOURCE_DATE_EPOCH=12" in workshop.files(build(text).digest)["seen"]


def test_history_says_when_steps_were_made_whichever_build_made_them(workshop: Workshop, build: Build) -> None:
    text = "FROM base\nENV A=1\nRUN write one 1\nLABEL a=b\nRUN write two 2\n"
    first = build(text)
    made = [round(planned.result.created) for planned in plan(workshop, text).counted() if planned.result is not None]
    shown = [seconds(line.created) for line in own_lines(workshop, first)]
    assert shown == [made[0], made[0], made[0], made[1]]
    assert seconds(workshop.image(first.digest)[1].created) == made[1]
    again = build(text)
    assert (again.digest, again.run) == (first.digest, 0)

    # Another build, which finds the first step made long ago.
    key = plan(workshop, text).counted()[0].key
    value = workshop.store.index.get(Kind.RESULT, key)
    assert isinstance(value, dict)
    workshop.store.index.put(Kind.RESULT, key, {**value, "created": 1000.4})
    assert [seconds(line.created) for line in own_lines(workshop, build(text))] == [1000, 1000, 1000, made[1]]


@pytest.mark.parametrize("created", [0, 1 << 40])
def test_a_result_of_no_known_time_or_of_none_to_come_does_no_harm(
    workshop: Workshop, build: Build, created: int
) -> None:
    text = "FROM base\nRUN write one 1\n"
    build(text)
    key = plan(workshop, text).counted()[0].key
    value = workshop.store.index.get(Kind.RESULT, key)
    assert isinstance(value, dict)
    workshop.store.index.put(Kind.RESULT, key, {**value, "created": created})
    (line,) = own_lines(workshop, build(text))
    assert seconds(line.created) == (MAX_TIME if created else NORMAL_TIME)


def test_an_image_that_adds_nothing_has_its_bases_time(workshop: Workshop, build: Build) -> None:
    base = build("FROM base\nRUN write one 1\n", names=("docker.io/library/mine:latest",))
    report = build("FROM scratch\nLABEL a=b\n")
    assert workshop.image(report.digest)[1].created == "1980-01-02T00:00:00Z"
    assert workshop.image(base.digest)[1].created > "2020"


def test_an_annotation_that_asks_for_the_time_gets_the_images(workshop: Workshop, build: Build) -> None:
    wanted = parse_annotations(["org.opencontainers.image.created="])
    report = build("FROM base\nRUN write one 1\n", annotations=wanted)
    manifest, configuration = workshop.image(report.digest)
    assert dict(manifest.annotations)["org.opencontainers.image.created"] == configuration.created != "1980"


def test_results_of_the_two_ways_are_never_mixed(workshop: Workshop, build: Build) -> None:
    put(workshop, "file", 99)
    text = "FROM base\nWORKDIR /w\nCOPY file /w/\nRUN nothing\nCOPY file /w/2\n"
    normal, kept = build(text, keep=False), build(text)
    assert (normal.run, kept.run) == (4, 4)
    assert {time for layer in times(workshop, normal) for time in layer.values()} == {NORMAL_TIME}
    assert (build(text, keep=False).digest, build(text).digest) == (normal.digest, kept.digest)
    keys = [{planned.key for planned in found.counted()} for found in (workshop.plan(text), plan(workshop, text))]
    assert keys[0].isdisjoint(keys[1])
    content = set(workshop.store.index.keys(Kind.CONTENT))
    assert len(content) == 8, "nor are they found by what they stand on"


def test_the_time_of_a_file_is_in_no_key_and_a_hit_has_the_older_one(workshop: Workshop, build: Build) -> None:
    put(workshop, "file", 99)
    text = "FROM base\nCOPY file /\n"
    first = build(text)
    os.utime(workshop.context / "file", (100, 100))
    again = build(text)
    assert (again.digest, again.run) == (first.digest, 0)
    assert times(workshop, again) == [{"file": 99}]
    assert times(workshop, build(text, cache=replace(workshop.request(text).cache, use=False))) == [{"file": 100}]


def test_what_is_later_than_the_epoch_is_set_to_it_and_the_rest_is_kept(workshop: Workshop, build: Build) -> None:
    put(workshop, "old", EPOCH - 10)
    put(workshop, "new", EPOCH + 10)
    text = "FROM base\nCOPY old new /d/\nRUN touch f 5\n"
    report = build(text, EPOCH)
    assert times(workshop, report) == [{"d": EPOCH, "d/old": EPOCH - 10, "d/new": EPOCH}, {"f": 5}]
    shown = {line.created for line in own_lines(workshop, report)} | {workshop.image(report.digest)[1].created}
    assert shown == {datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    assert build(text).run == 0
    assert build(text, EPOCH).digest == report.digest
    late = build(text, MAX_TIME)
    assert times(workshop, late)[0]["d/new"] == EPOCH + 10
    assert workshop.image(late.digest)[1].created == workshop.image(build(text).digest)[1].created


def test_the_usual_time_of_layers_is_an_epoch_like_any_other(workshop: Workshop, build: Build) -> None:
    put(workshop, "file", 99)
    report = build("FROM base\nCOPY file /d/\n", NORMAL_TIME)
    assert times(workshop, report) == [{"d": NORMAL_TIME, "d/file": 99}]


def test_a_layer_that_was_stamped_and_one_that_was_clamped_are_two(workshop: Workshop, build: Build) -> None:
    put(workshop, "file", 99)
    build("FROM base\nCOPY file /d/\n")
    (planned,) = plan(workshop, "FROM base\nCOPY file /d/\n").counted()
    assert planned.result is not None

    def found(clamp: bool) -> set[float]:
        assert planned.result is not None
        layer = stamped(planned.result, EPOCH, workshop.store, clamp=clamp).layers[0]
        with workshop.store.blobs.open(layer.digest) as blob, tarfile.open(fileobj=blob) as tar:
            return {entry.mtime for entry in tar}

    for _ in range(2):
        assert found(clamp=False) == {EPOCH}
        assert found(clamp=True) == {EPOCH, 99}


def test_a_clamped_image_is_the_same_whenever_it_was_built(workshop: Workshop, build: Build) -> None:
    put(workshop, "file", 99)
    text = "FROM base\nCOPY file /d/\nRUN touch f 5\n"
    first = build(text, EPOCH)
    again = build(text, EPOCH, cache=replace(workshop.request(text).cache, use=False))
    assert (again.run, again.digest) == (2, first.digest)


def test_an_image_that_keeps_times_can_be_a_cache_and_tells_them(workshop: Workshop, build: Build) -> None:
    text = "FROM base\nRUN write one 1\nRUN write two 2\n"
    report = build(text, inline_cache=True)
    told = workshop.image(report.digest)[1].inline_cache
    made = [round(planned.result.created) for planned in plan(workshop, text).counted() if planned.result is not None]
    assert f'"made":[{made[0]},{made[1]}]' in told
    assert '"made"' not in workshop.image(build(text, keep=False, inline_cache=True).digest)[1].inline_cache
    with pytest.raises(UsageError) as refused:
        build(text, NORMAL_TIME, inline_cache=True)
    assert refused.value.code == "cache-unsupported"


def test_a_mounted_context_has_its_times(workshop: Workshop, build: Build) -> None:
    put(workshop, "d/file", 1234)

    def mounted(keep: bool) -> float:
        build("FROM base\nRUN --mount=type=bind,source=d,target=/m nothing\n", keep=keep)
        indexes = (LayerIndex.from_bytes(path.read_bytes()) for path in (workshop.store.root / "layers").iterdir())
        (found,) = (entry.mtime for index in indexes for entry in index if entry.path == "mounted/file")
        return found

    for keep, expected in ((False, NORMAL_TIME), (True, 1234)):
        assert mounted(keep) == expected
        for path in (workshop.store.root / "layers").iterdir():
            path.unlink()


def test_an_explanation_names_the_option(workshop: Workshop, build: Build) -> None:
    text = "FROM base\nRUN write one 1\n"
    build(text, keep=False)
    _, (found,) = workshop.driver.explain(replace(workshop.request(text), keep_times=True))
    assert "--timestamps: normal -> keep" in "\n".join(lines(found))


def test_provenance_says_it(workshop: Workshop, build: Build) -> None:
    for keep, word in ((True, "keep"), (False, "normal")):
        report = build("FROM base\nRUN write one 1\n", keep=keep, names=("docker.io/library/app:latest",))
        said = kept_provenance(workshop.store, report.digest)
        assert f"'timestamps': '{word}'" in str(said)


def test_an_entry_of_a_new_layer_has_the_one_time_unless_it_is_kept() -> None:
    entry = Entry("f", EntryType.FILE, mtime=5.5)
    assert Times().of(entry).mtime == Times().now() == NORMAL_TIME
    assert Times(keep=True).of(entry).mtime == 5
