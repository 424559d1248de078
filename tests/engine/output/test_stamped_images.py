"""Images with the time of SOURCE_DATE_EPOCH: their own layers, configuration and history; and what stays as it was."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cache.check import CacheCheck
from cache.index import Kind
from engine.epoch import Epoch
from engine.events import Note
from engine.layers.entry import NORMAL_TIME
from engine.output.annotations import parse_annotations
from engine.output.spec import parse_output
from machinefile.errors import UsageError
from machinefile.platform import Platform

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = "FROM base\nWORKDIR /work\nRUN write one 1\nRUN nothing\nCOPY file /file\nLABEL a=b\n"
TIME = 1_700_000_000
SHOWN = "2023-11-14T22:13:20Z"


@pytest.fixture
def build(workshop: Workshop) -> Any:
    workshop.write("file", "content")

    def run(seconds: int | None = TIME, text: str = TEXT, outputs: Sequence[str] = (), **more: Any) -> Any:
        epoch = None if seconds is None else Epoch(seconds)
        specs = tuple(map(parse_output, outputs))
        return workshop.driver.build(replace(workshop.request(text), epoch=epoch, outputs=specs, **more))

    return run


def times(workshop: Workshop, digest: str) -> list[set[float]]:
    return [{entry.mtime for entry, _ in layer.values()} for layer in workshop.layers(digest)]


def test_own_layers_and_history_have_that_time_and_the_base_keeps_its_own(workshop: Workshop, build: Any) -> None:
    plain, timed = build(None), build()
    assert times(workshop, timed.digest) == [{NORMAL_TIME}, {TIME}, {TIME}, {TIME}]
    before, after = workshop.image(plain.digest), workshop.image(timed.digest)
    assert after[0].layers[0] == before[0].layers[0]
    assert after[1].created == SHOWN
    own = [line for line in after[1].history if line.created_by]
    assert {line.created for line in own[-5:]} == {SHOWN}
    assert [line.empty_layer for line in after[1].history] == [line.empty_layer for line in before[1].history]
    assert replace(after[1], created="", history=(), diff_ids=()) == replace(
        before[1], created="", history=(), diff_ids=()
    )
    assert workshop.files(timed.digest) == workshop.files(plain.digest)


def test_it_is_in_no_key_and_no_step_stands_on_it(workshop: Workshop, build: Any) -> None:
    assert build(None).run == 3 + 1
    first = build()
    assert (first.run, build(TIME + 1).run) == (0, 0)
    assert build().digest == first.digest
    build(text=TEXT + "RUN write two 2\n")
    assert build(None, TEXT + "RUN write two 2\n").run == 0
    for planned in workshop.plan(TEXT).counted():
        assert planned.result is not None
        for layer in planned.result.layers:
            with workshop.store.blobs.open(layer.digest) as blob, tarfile.open(fileobj=blob) as tar:
                assert {entry.mtime for entry in tar} == {NORMAL_TIME}


def test_a_second_build_stamps_nothing(workshop: Workshop, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build()
    assert len(list(workshop.store.index.keys(Kind.STAMPED))) == 3
    monkeypatch.setattr("engine.output.stamped._make", None)
    assert build().digest == first.digest


def test_a_stamped_layer_that_was_damaged_is_made_again(workshop: Workshop, build: Any) -> None:
    first = build()
    for key in workshop.store.index.keys(Kind.STAMPED):
        digest, _ = workshop.store.index.get(Kind.STAMPED, key)  # type: ignore[misc]
        workshop.store.blobs.path(digest).chmod(0o644)
        workshop.store.blobs.path(digest).write_bytes(b"damaged")
    assert build().digest == first.digest
    assert times(workshop, first.digest)[1:] == [{TIME}] * 3


def test_the_usual_time_is_no_other_image(build: Any) -> None:
    assert build(NORMAL_TIME).digest == build(None).digest


def test_a_run_sees_the_constant_unless_its_stage_declares_the_argument(workshop: Workshop, build: Any) -> None:
    def seen(text: str, seconds: int) -> tuple[str, int]:
        request = workshop.request(text, build_args=(("SOURCE_DATE_EPOCH", str(seconds)),))
        report = workshop.driver.build(replace(request, epoch=Epoch(seconds)))
        lines = workshop.files(report.digest)["seen"].decode().splitlines()
        return next(line for line in lines if line.startswith("SOURCE_DATE_EPOCH=")), report.run

    silent = "FROM base\nRUN environment seen\n"
    assert seen(silent, TIME) == (f"SOURCE_DATE_EPOCH={NORMAL_TIME}", 1)
    assert seen(silent, TIME + 1) == (f"SOURCE_DATE_EPOCH={NORMAL_TIME}", 0)
    declared = "FROM base\nARG SOURCE_DATE_EPOCH\nRUN environment seen\n"
    assert seen(declared, TIME) == (f"SOURCE_DATE_EPOCH={TIME}", 1)
    assert seen(declared, TIME + 1) == (f"SOURCE_DATE_EPOCH={TIME + 1}", 1)
    assert seen(declared, TIME) == (f"SOURCE_DATE_EPOCH={TIME}", 0)


def test_an_archive_and_the_files_have_that_time_too(workshop: Workshop, build: Any, tmp_path: Path) -> None:
    archive, files, folder = tmp_path / "image.tar", tmp_path / "files.tar", tmp_path / "folder"
    report = build(outputs=(f"type=oci,dest={archive}", f"type=tar,dest={files}", f"type=local,dest={folder}"))
    with tarfile.open(archive) as tar:
        assert {entry.mtime for entry in tar} == {TIME}
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert index["manifests"][0]["digest"] == report.digest
    with tarfile.open(files) as tar:
        assert {entry.name: entry.mtime for entry in tar if entry.name in ("one", "file", "bin/sh")} == {
            "one": TIME,
            "file": TIME,
            "bin/sh": NORMAL_TIME,
        }
    assert (folder / "one").stat().st_mtime == TIME
    assert (folder / "bin/sh").stat().st_mtime == NORMAL_TIME


def test_when_it_was_created_is_an_annotation_only_if_asked_for(workshop: Workshop, build: Any, tmp_path: Path) -> None:
    key = "org.opencontainers.image.created"
    assert key not in dict(workshop.image(build().digest)[0].annotations)
    for given, expected in ((f"{key}=", SHOWN), (f"{key}=then", "then")):
        report = build(annotations=parse_annotations([given, "other="]))
        assert dict(workshop.image(report.digest)[0].annotations) == {key: expected, "other": ""}
    assert dict(workshop.image(build(None, annotations=parse_annotations([f"{key}="])).digest)[0].annotations) == {
        key: "1980-01-02T00:00:00Z"
    }
    build(outputs=(f"type=oci,dest={tmp_path / 'layout'},annotation.{key}=",))
    line = json.loads((tmp_path / "layout/index.json").read_text())["manifests"][0]
    manifest = json.loads((tmp_path / "layout/blobs/sha256" / line["digest"].removeprefix("sha256:")).read_text())
    assert manifest["annotations"] == {key: SHOWN}


def test_the_images_of_several_platforms_and_their_index_follow(workshop: Workshop, build: Any) -> None:
    key = "org.opencontainers.image.created"
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    asked = parse_annotations([f"index:{key}=", f"manifest-descriptor:{key}="])
    report = build(text="FROM scratch\nCOPY file /\n", platforms=platforms, annotations=asked)
    index = json.loads(workshop.store.blobs.read(report.digest))
    assert index["annotations"] == {key: SHOWN}
    assert [line["annotations"] for line in index["manifests"]] == [{key: SHOWN}] * 2
    for line in index["manifests"]:
        assert times(workshop, line["digest"]) == [{TIME}]


def test_an_image_with_another_time_is_no_inline_cache(build: Any) -> None:
    with pytest.raises(UsageError) as refused:
        build(inline_cache=True)
    assert refused.value.code == "cache-unsupported"
    assert build(NORMAL_TIME, inline_cache=True).digest


def test_the_check_of_the_store_finds_nothing_wrong_with_stamped_layers(workshop: Workshop, build: Any) -> None:
    def wrong() -> list[str]:
        check = CacheCheck(workshop.store, workshop.cancelled, lambda done, total: None)
        return [finding.subject for finding in check.entries(lambda layer: layer.diff_id)]

    build()
    assert wrong() == []
    key = next(workshop.store.index.keys(Kind.STAMPED))
    workshop.store.index.put(Kind.STAMPED, key, ["no digest", 1])
    assert wrong() == [f"stamped {key}"]


def test_what_the_user_should_know_of_the_time_is_told(workshop: Workshop, build: Any) -> None:
    workshop.driver.build(replace(workshop.request(TEXT), epoch=Epoch(1, "beware")))
    assert Note("beware") in workshop.events
