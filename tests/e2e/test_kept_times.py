"""--timestamps=keep: an image whose files have the times that they really have, as other tools read it."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from datetime import datetime
from pathlib import Path

import pytest

from .conftest import Mbuild

OLD, NEW = 1_234_567_890, 1_700_000_000


def own_layers(archive: Path) -> tuple[list[dict[str, float]], list[str]]:
    """The times in the layers of an OCI archive, and those of its history."""
    with tarfile.open(archive) as outer:

        def blob(digest: str) -> bytes:
            member = outer.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert member is not None
            return member.read()

        index = outer.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        layers = []
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as tar:
                layers.append({entry.name: entry.mtime for entry in tar})
        config = json.loads(blob(manifest["config"]["digest"]))
    return layers, [config["created"], *(line["created"] for line in config["history"] if "created" in line)]


def test_the_contexts_files_keep_their_times(mbuild: Mbuild) -> None:
    context = mbuild.context("FROM scratch\nCOPY old new /d/\nWORKDIR /work\n", old="1", new="2")
    os.utime(context / "old", ns=(0, OLD * 10**9 + 987_654_321))
    os.utime(context / "new", (NEW, NEW))
    archive = mbuild.folder / "image.tar"
    output = ("--timestamps=keep", "-o", f"type=oci,dest={archive}")
    begun = int(time.time())
    mbuild.ok("-q", *output, context)
    layers, shown = own_layers(archive)
    made = layers[0].pop("d"), layers[1].pop("work")
    assert layers == [{"d/old": OLD, "d/new": NEW}, {}]
    for when in (*made, *(datetime.fromisoformat(text).timestamp() for text in shown)):
        assert begun <= when <= time.time() + 1

    first = archive.read_bytes()
    mbuild.environment = {"SOURCE_DATE_EPOCH": str(NEW - 5)}
    assert mbuild.build(*output, context)["steps"] == {"hit": 2, "run": 0, "total": 2}
    layers, shown = own_layers(archive)
    assert layers == [{"d": NEW - 5, "d/old": OLD, "d/new": NEW - 5}, {"work": NEW - 5}]
    assert {datetime.fromisoformat(text).timestamp() for text in shown} == {NEW - 5}
    mbuild.environment = {}
    mbuild.ok("-q", *output, context)
    assert archive.read_bytes() == first, "a hit has the times of when it was made"


@pytest.mark.vm
def test_a_run_keeps_the_times_that_it_sets_and_sees(mbuild: Mbuild, busybox: str) -> None:
    run = "touch -d @1234567890 /set && touch /now && env > /environment && stat -c %Y /copied > /seen"
    context = mbuild.context(f"FROM {busybox}\nCOPY copied /\nRUN --clock=epoch true\nRUN {run}\n", copied="")
    os.utime(context / "copied", (OLD, OLD))
    folder = mbuild.folder / "out"
    begun = int(time.time())
    mbuild.ok("-q", "--timestamps=keep", "-o", f"type=local,dest={folder}", context)
    # What the first machine makes and leaves is no older than the first moment of its clock.
    assert (folder / "proc").stat().st_mtime == 315_619_200
    assert (folder / "set").stat().st_mtime == 1_234_567_890
    # The guest's clock is the host's; software machines lose a little of it.
    assert begun - 60 <= (folder / "now").stat().st_mtime <= time.time() + 60
    assert (folder / "seen").read_text().strip() == str(OLD)
    assert "SOURCE_DATE_EPOCH" not in (folder / "environment").read_text()
