"""Whole verifications with a sandbox that does as its commands say, or something else each time."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from layer_support import changes_of, file_item, obey, tar_of

from cache.store import Store
from engine.driver import Driver
from engine.epoch import Epoch
from engine.layers.tarwrite import Item
from engine.secrets import Secrets
from engine.verify.difference import Cause
from engine.verify.varied import CLOCK_SHIFT
from engine.verify.verifier import Verifier
from engine.vm.execution import Execution
from engine.vm.fake import FakeSandbox
from machinefile.errors import UntrustedDataError, UsageError

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = "FROM base\nCOPY a b /\nRUN write first 1\nRUN date\nRUN write last 1\nLABEL x=y\n"


@pytest.fixture
def numbers() -> Iterator[int]:
    return itertools.count(10)


@pytest.fixture
def verifier(workshop: Workshop, numbers: Iterator[int], tmp_path: Path) -> Iterator[Verifier]:
    """`date` writes another time whenever it runs."""
    workshop.write("a")
    workshop.write("b")

    def behave(execution: Execution) -> tuple[int, bytes, bytes]:
        if execution.argv[-1] == "date":
            return 0, b"", changes_of(file_item("d", b"Sat Nov 21 10:00:%d UTC 2026\n" % next(numbers)))
        return obey(execution)

    workshop.sandbox = FakeSandbox(behave)

    @contextmanager
    def opened(folder: Path) -> Iterator[Driver]:
        with Store(folder) as store:
            yield Driver(store, workshop.source, lambda: workshop.sandbox, workshop.events.append, workshop.cancelled)

    (tmp_path / "verify").mkdir()
    with Verifier(opened, tmp_path / "verify", workshop.store.vm_folder, workshop.cancelled) as verifier:
        yield verifier


def test_an_ordinary_build_verifies_in_other_surroundings(verifier: Verifier, workshop: Workshop) -> None:
    before = os.environ.get("TZ"), os.umask(0o022)
    os.umask(before[1])
    seen: list[tuple[str | None, int, int]] = []
    behave = workshop.sandbox._behave

    def watch(execution: Execution) -> tuple[int, bytes, bytes]:
        seen.append((os.environ.get("TZ"), execution.clock_shift, execution.shape.cpus))
        return behave(execution)

    workshop.sandbox = FakeSandbox(watch)
    found = verifier.twice(workshop.request(TEXT.replace("RUN date\n", "")))
    assert found.verification.reproducible
    assert found.verification.first == workshop.build(TEXT.replace("RUN date\n", "")).digest
    once, again = seen[0], seen[2]
    assert once[0] == before[0] != again[0]
    assert (once[1], again[1]) == (0, CLOCK_SHIFT)
    assert once[2] != again[2]
    assert (os.environ.get("TZ"), os.umask(before[1])) == before


def test_the_first_step_that_differs_is_named_with_file_and_cause(verifier: Verifier, workshop: Workshop) -> None:
    found = verifier.twice(workshop.request(TEXT)).verification
    assert not found.reproducible
    assert found.step is not None
    assert (found.step.id, found.step.line) == (_id(workshop, 4), 4)
    assert [file.path for file in found.step.files] == ["d"]
    assert found.step.guess is not None
    assert found.step.guess.cause is Cause.TIMESTAMP
    assert found.later == ()
    assert found.fields == ()


def test_a_step_of_another_stage_is_named_before_what_copies_from_it(verifier: Verifier, workshop: Workshop) -> None:
    text = "FROM base AS made\nRUN date\nFROM base\nCOPY --from=made /d /d\n"
    found = verifier.twice(workshop.request(text)).verification
    assert found.step is not None
    assert found.step.line == 2
    assert len(found.later) == 1


def test_an_image_of_the_store_is_rebuilt_and_compared(verifier: Verifier, workshop: Workshop) -> None:
    text = TEXT.replace("RUN date\n", "")
    report = workshop.build(text, names=("docker.io/library/app:latest",))
    assert verifier.against(workshop.request(text), "app", workshop.store).verification.reproducible
    shutil.rmtree(verifier.folder / "first")
    assert verifier.against(workshop.request(text), report.digest, workshop.store).verification.reproducible


def test_the_step_of_an_image_that_differs_is_named(verifier: Verifier, workshop: Workshop) -> None:
    report = workshop.build(TEXT)
    found = verifier.against(workshop.request(TEXT), report.digest, workshop.store).verification
    assert found.step is not None
    assert (found.step.line, [file.path for file in found.step.files]) == (4, ["d"])
    assert found.step.guess is not None
    assert found.step.guess.cause is Cause.TIMESTAMP


def test_what_an_image_says_of_itself_is_told_from_its_files(verifier: Verifier, workshop: Workshop) -> None:
    text = TEXT.replace("RUN date\n", "")
    report = workshop.build(text.replace("x=y", "x=z"))
    found = verifier.against(workshop.request(text), report.digest, workshop.store).verification
    assert not found.reproducible
    assert found.same_files
    assert ("config.labels", "x=z", "x=y") in [(one.field, one.first, one.second) for one in found.fields]


def test_an_image_that_lies_about_its_layers_is_found_out(verifier: Verifier, workshop: Workshop) -> None:
    """Its configuration says what the rebuild's says; the blob is another."""
    text = TEXT.replace("RUN date\n", "")
    manifest, _ = workshop.image(workshop.build(text).digest)
    evil = gzip.compress(tar_of(file_item("evil", b"x")))
    layer = replace(manifest.layers[-1], digest=workshop.store.blobs.put(evil), size=len(evil))
    lying = workshop.store.blobs.put(replace(manifest, layers=(*manifest.layers[:-1], layer)).to_json())
    with pytest.raises(UntrustedDataError) as caught:
        verifier.against(workshop.request(text), lying, workshop.store)
    assert caught.value.code == "diff-id-mismatch"


@pytest.mark.parametrize("history", ["one line less", "none"])
def test_layers_are_compared_where_histories_do_not_match(verifier: Verifier, workshop: Workshop, history: str) -> None:
    built = workshop.build("FROM base\nLABEL x=y\nCOPY a b /\nRUN date\nRUN write last 1\n")
    manifest, _ = workshop.image(built.digest)
    said = json.loads(workshop.store.blobs.read(manifest.config.digest))
    said["history"] = [line for line in said["history"] if not line.get("empty_layer")] if history != "none" else []
    config = json.dumps(said).encode()
    descriptor = replace(manifest.config, digest=workshop.store.blobs.put(config), size=len(config))
    other = workshop.store.blobs.put(replace(manifest, config=descriptor).to_json())
    text = "FROM base\nLABEL x=y\nCOPY a b /\nRUN date\nRUN write last 1\n"
    found = verifier.against(workshop.request(text), other, workshop.store).verification
    assert found.step is not None
    assert (found.step.line, [file.path for file in found.step.files]) == (4, ["d"])
    assert found.later == ()


@pytest.mark.parametrize("seconds", [1_700_000_000, 4_000_000_000])
def test_a_build_with_a_time_of_its_own_verifies(verifier: Verifier, workshop: Workshop, seconds: int) -> None:
    text = TEXT.replace("RUN date\n", "ARG SOURCE_DATE_EPOCH\n")
    request = replace(workshop.request(text), epoch=Epoch(seconds))
    digest = workshop.driver.build(request).digest
    assert verifier.twice(request).verification.first == digest
    shutil.rmtree(verifier.folder / "first")
    assert verifier.against(request, digest, workshop.store).verification.reproducible
    shutil.rmtree(verifier.folder / "first")
    found = verifier.against(workshop.request(text), digest, workshop.store).verification
    assert found.step is not None
    assert found.step.guess is not None
    assert "SOURCE_DATE_EPOCH" in found.step.guess.mend


def test_an_image_nobody_has_is_refused(verifier: Verifier, workshop: Workshop) -> None:
    with pytest.raises(UsageError) as caught:
        verifier.against(workshop.request(TEXT), "sha256:" + "0" * 64, workshop.store)
    assert caught.value.code == "image-unknown"


def test_one_step_alone_runs_twice_on_parents_built_once(verifier: Verifier, workshop: Workshop) -> None:
    found = verifier.step(workshop.request(TEXT), "4").verification
    assert found.step is not None
    assert found.step.line == 4
    commands = [execution.argv[-1] for execution in workshop.sandbox.executions]
    assert commands == ["write first 1", "date", "date"]


def test_one_step_alone_may_well_be_reproducible(verifier: Verifier, workshop: Workshop) -> None:
    found = verifier.step(workshop.request(TEXT), "3").verification
    assert found.reproducible
    assert found.first.startswith("sha256:")


def test_only_a_run_is_run_twice(verifier: Verifier, workshop: Workshop) -> None:
    with pytest.raises(UsageError) as caught:
        verifier.step(workshop.request(TEXT), "2")
    assert caught.value.code == "verify-step"


def test_a_secret_is_shown_nowhere(verifier: Verifier, workshop: Workshop) -> None:
    report = workshop.build("FROM base\nRUN write f hunter22\n")
    request = replace(workshop.request("FROM base\nRUN write f other-22\n"), secrets=Secrets((("a", b"hunter22"),)))
    found = verifier.against(request, report.digest, workshop.store).verification
    assert found.step is not None
    assert "hunter22" not in repr(found)
    assert "***" in repr(found)


def _id(workshop: Workshop, line: int) -> str:
    return next(one.step.id for one in workshop.plan(TEXT).steps if one.step.span and one.step.span.line == line)


def _with_clock(workshop: Workshop, numbers: Iterator[int]) -> None:
    """What the guests make has the time of their clocks."""

    def behave(execution: Execution) -> tuple[int, bytes, bytes]:
        text = b"%d" % next(numbers) if execution.argv[-1] == "count" else b"the same"
        item = file_item(execution.argv[-1].split()[-1], text)
        entry = replace(item.entry, mtime=1_700_000_000 + execution.clock_shift)
        return 0, b"", changes_of(Item(entry, item.open))

    workshop.sandbox = FakeSandbox(behave)


def test_real_times_differ_and_that_is_said(verifier: Verifier, workshop: Workshop, numbers: Iterator[int]) -> None:
    _with_clock(workshop, numbers)
    request = replace(workshop.request("FROM base\nRUN write x\n"), keep_times=True)
    found = verifier.twice(request).verification
    assert not found.reproducible
    assert found.step is not None
    assert found.step.guess is not None
    assert found.step.guess.cause is Cause.TIMESTAMP
    assert "--timestamps=keep" in found.step.guess.mend
    shutil.rmtree(verifier.folder / "first")
    shutil.rmtree(verifier.folder / "second")
    copied = replace(workshop.request("FROM base\nCOPY a /\n"), keep_times=True)
    found = verifier.twice(copied).verification
    assert not found.reproducible, "the image says when it was made"
    assert found.step is None
    assert found.fields


def test_real_times_before_the_epoch_are_verified_by_what_is_left_of_them(
    verifier: Verifier, workshop: Workshop, numbers: Iterator[int]
) -> None:
    _with_clock(workshop, numbers)
    text = "FROM base\nCOPY a /\nRUN write x\n"
    request = replace(workshop.request(text), keep_times=True, epoch=Epoch(1_600_000_000))
    assert verifier.twice(request).verification.reproducible
    shutil.rmtree(verifier.folder / "first")
    shutil.rmtree(verifier.folder / "second")
    found = verifier.twice(replace(request, machinefile=workshop.request(text + "RUN count\n").machinefile))
    assert found.verification.step is not None
    assert found.verification.step.line == 4, "not what differs in its times alone"


def test_a_step_with_real_times_before_the_epoch_is_verified_too(
    verifier: Verifier, workshop: Workshop, numbers: Iterator[int]
) -> None:
    _with_clock(workshop, numbers)
    request = replace(workshop.request("FROM base\nRUN write x\n"), keep_times=True)
    assert not verifier.step(request, "2").verification.reproducible
    shutil.rmtree(verifier.folder / "first")
    assert verifier.step(replace(request, epoch=Epoch(1_600_000_000)), "2").verification.reproducible
