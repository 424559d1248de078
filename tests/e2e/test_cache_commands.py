"""mbuild cache du and prune, as users run them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

TEXT = "FROM scratch\nCOPY a /x/\nWORKDIR /srv\nCOPY b /{0}\n"


@pytest.fixture
def filled(mbuild) -> Path:
    """The context of an image with a name, after a build of another without one."""
    (mbuild.store / "vm").unlink()
    mbuild.build(mbuild.context(TEXT.format("other"), a="a" * 50_000, b="b" * 20_000))
    folder: Path = mbuild.context(TEXT.format("named"))
    mbuild.build("-t", "app", folder)
    return folder


def told(mbuild, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mbuild.ok("cache", *arguments, "--format=json").stdout)
    return found


def test_what_the_store_holds_is_told_by_kind_step_and_image(mbuild, filled) -> None:
    whole = told(mbuild, "du", "--verbose")
    assert sum(row["size"] for row in whole["rows"]) == whole["total"]
    assert sum(thing["size"] for thing in whole["things"]) == whole["total"]
    assert 0 < whole["reclaimable"] < whole["total"]
    on_disk = sum(path.stat().st_blocks * 512 for path in (mbuild.store / "blobs/sha256").iterdir())
    assert on_disk <= whole["total"] <= on_disk + 400_000
    steps = told(mbuild, "du", "--by=step")["rows"]
    assert sorted(row["instruction"] for row in steps) == [
        "COPY a /x/",
        "COPY b /named",
        "COPY b /other",
        "WORKDIR /srv",
    ]
    assert steps[0]["instruction"] == "COPY a /x/"
    assert steps[0]["size"] >= 50_000
    assert all(time.time() - row["used"] < 1000 for row in steps)
    (image,) = told(mbuild, "du", "--by=image")["rows"]
    assert image["id"] == "docker.io/library/app:latest"
    assert image["own"] == image["size"] > 0
    text = mbuild.ok("cache", "du").stdout
    assert "RECLAIMABLE" in text
    assert "\ntotal " in text
    assert "COPY a /x/" in mbuild.ok("cache", "du", "--by=step", "-v").stdout
    assert told(mbuild, "du", "--filter=type=layer")["total"] < whole["total"]


def test_prune_takes_what_nothing_needs_then_all_but_images(mbuild, filled) -> None:
    planned = told(mbuild, "prune", "--all", "--dry-run")
    assert planned["dry_run"]
    dangling = told(mbuild, "prune", "-f")
    # What a context hashed to is kept only of files that were old enough by then.
    assert {thing["type"] for thing in dangling["removed"]} - {"context"} == {"variant", "blob"}
    everything = told(mbuild, "prune", "--all")
    assert planned["freed"] == dangling["freed"] + everything["freed"]
    assert {"step", "layer"} <= {thing["type"] for thing in everything["removed"]}
    assert mbuild.ok("cache", "prune", "--all").stdout.startswith("freed 0 B; ")
    assert told(mbuild, "du")["reclaimable"] == 0
    mbuild.ok("inspect", "app")
    mbuild.ok("-o", f"type=oci,dest={mbuild.folder / 'out'}", "-t", "app", filled)


def test_prune_keeps_what_it_is_told_to_keep(mbuild, filled) -> None:
    assert told(mbuild, "prune", "--all", "--keep-duration=1h")["removed"] == []
    assert told(mbuild, "prune", "--all", "--filter=until=1h")["removed"] == []
    assert told(mbuild, "prune", "--keep-storage=1G")["removed"] == []
    before = told(mbuild, "du")["total"]
    freed = told(mbuild, "prune", f"--keep-storage={before - 30_000}")["freed"]
    assert 30_000 <= freed < before
    steps = {row["id"]: row["instruction"] for row in told(mbuild, "du", "--by=step")["rows"]}
    for key in [key for key, words in steps.items() if words == "COPY b /named"]:
        removed = told(mbuild, "prune", "--all", f"--filter=id={key[:20]}")["removed"]
        assert [one["title"] for one in removed if one["type"] == "step"] == ["COPY b /named"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("shrink",),
        ("prune", "--filter=colour=red"),
        ("prune", "--filter=type=stop"),
        ("prune", "--filter=image=none"),
        ("prune", "--keep-storage=much"),
        ("prune", "--keep-duration=long"),
        ("du", "--by=colour"),
    ],
)
def test_what_makes_no_sense_is_refused(mbuild, arguments: tuple[str, ...]) -> None:
    done = mbuild("cache", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("mbuild: ")


def test_a_store_that_has_outgrown_its_share_is_cleaned_after_a_build(mbuild, filled) -> None:
    mbuild.environment["MBUILD_KEEP_STORAGE"] = "1K"
    past = time.time() - 90 * 86_400
    for path in (mbuild.store / "used").iterdir():
        os.utime(path, (past, past))
    for path in (mbuild.store / "blobs" / "sha256").iterdir():
        os.utime(path, (past, past))
    before = told(mbuild, "du")["total"]
    assert "removed" not in mbuild.ok(filled).stderr, "it was looked at when the store was new"
    os.utime(mbuild.store / "collected", (past, past))
    done = mbuild.ok(filled)
    assert "mbuild: removed" in done.stderr
    assert told(mbuild, "du")["total"] < before
    mbuild.ok("inspect", "app")
    os.utime(mbuild.store / "collected", (past, past))
    mbuild.environment["MBUILD_KEEP_STORAGE"] = "0"
    assert "removed" not in mbuild.ok(filled).stderr


def test_an_older_store_is_set_aside_with_a_word(mbuild, filled) -> None:
    (mbuild.store / "version").write_text("0")
    told_to_user = mbuild.ok("--progress=plain", filled).stderr
    assert "aside.0" in told_to_user
    assert "mbuild cache prune" in told_to_user
    mbuild.ok("cache", "prune")
    assert not (mbuild.store / "aside.0").exists()
