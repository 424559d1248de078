"""--cache-to and --cache-from through the whole of mbuild."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild


def _elsewhere(mbuild: Mbuild, name: str, templates: Path) -> Mbuild:
    """Another machine: an empty store."""
    folder = mbuild.folder / name
    (folder / "store").mkdir(parents=True)
    (folder / "store/vm").symlink_to(templates)
    return replace(mbuild, folder=folder, store=folder / "store")


def _keys(folder: Path) -> tuple[Path, Path]:
    private, public = folder / "cache.key", folder / "cache.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, timeout=20)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=20)
    return private, public


def _copies(mbuild: Mbuild) -> Path:
    """A context whose build runs nothing in a microVM."""
    return mbuild.context(
        "FROM scratch AS one\nCOPY a /a\nFROM scratch\nCOPY --from=one /a /b\nCOPY c /c\n", a="1", c="2"
    )


def test_a_folder_carries_a_cache_from_store_to_store(mbuild: Mbuild, templates: Path) -> None:
    context = _copies(mbuild)
    place = mbuild.folder / "carried"
    first: dict[str, Any] = mbuild.build("--cache-to", f"type=local,dest={place},mode=max", context)
    assert first["steps"]["run"] == 3
    (exported,) = first["cache"]["exported"]
    assert (exported["to"], exported["entries"], exported["mounts"]) == (f"folder {place}", 3, 0)
    assert exported["sent"] > 0
    other = _elsewhere(mbuild, "other", templates)
    second: dict[str, Any] = other.build(
        "--cache-from", f"type=local,src={place}", "--cache-to", f"type=local,dest={place},mode=max", context
    )
    assert second["steps"]["run"] == 0
    assert second["image.digest"] == first["image.digest"]
    assert second["cache"]["imported"] > 0
    assert second["cache"]["exported"] == [{"to": f"folder {place}", "entries": 0, "mounts": 0, "sent": 0}]


def test_what_changed_is_told_where_nothing_was_ever_built(mbuild: Mbuild, templates: Path) -> None:
    context = _copies(mbuild)
    mbuild.build("--cache-to", f"type=local,dest={mbuild.folder}/carried,mode=max", context)
    (context / "a").write_text("other")
    other = _elsewhere(mbuild, "other", templates)
    source = ("--cache-from", f"type=local,src={mbuild.folder}/carried")
    assert "(a changed)" in other.ok("plan", *source, context).stdout
    told = other.ok("explain", *source, context).stdout
    assert "a changed (" in told
    assert f"folder {mbuild.folder}/carried" in told
    assert "a changed" in other(*source, "--fail-on-miss", context).stderr
    assert "never built" in other.ok("explain", context).stdout


def test_signatures_are_made_and_asked_for(mbuild: Mbuild, templates: Path) -> None:
    private, public = _keys(mbuild.folder)
    _, stranger = _keys(_elsewhere(mbuild, "stranger", templates).folder)
    context = _copies(mbuild)
    url = f"file://{mbuild.folder}/carried"
    mbuild.build("--cache-to", f"{url},sign-key={private}", context)
    for key, run in ((public, 0), (stranger, 3)):
        other = _elsewhere(mbuild, f"reads with {key.parent.name}", templates)
        found: dict[str, Any] = other.build("--cache-from", f"{url},verify-key={key}", context)
        assert found["steps"]["run"] == run


def test_an_export_that_fails_leaves_all_else_and_exits_with_4(mbuild: Mbuild) -> None:
    context = _copies(mbuild)
    metadata = mbuild.folder / "metadata.json"
    arguments = ["-t", "app:1", "--metadata-file", metadata, context]
    refused = "type=registry,ref=localhost:1/cache"
    done = mbuild("--cache-to", refused, *arguments)
    assert done.returncode == 4, done.stderr
    assert "the cache could not be exported to registry localhost:1/cache" in done.stderr
    assert json.loads(metadata.read_text())["image.digest"] == done.stdout.strip()
    assert "app:1" in mbuild.ok("images").stdout
    allowed = mbuild.ok("--progress=plain", "--cache-to", f"{refused},ignore-error=true", *arguments)
    assert "the cache could not be exported to registry localhost:1/cache" in allowed.stderr


def test_what_cannot_be_opened_is_told_before_the_build(mbuild: Mbuild) -> None:
    context = _copies(mbuild)
    thesis = mbuild.folder / "papers" / "thesis"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for target, code in (
        (f"type=local,dest={thesis.parent}", 3),
        (f"type=local,dest={thesis}/cache", 3),
        (f"type=local,dest=d,sign-key={mbuild.folder}/none", 2),
        ("type=gha", 2),
        ("nonsense://x/y", 2),
    ):
        done = mbuild("-t", "app:1", "--cache-to", target, context)
        assert done.returncode == code, done.stderr
    assert "app:1" not in mbuild.ok("images").stdout
    assert list(thesis.parent.iterdir()) == [thesis]


def test_load_is_what_is_done_anyway(mbuild: Mbuild) -> None:
    context = _copies(mbuild)
    mbuild.ok("--load", context)
    mbuild.ok("--load", "-t", "app:1", context)
    assert "app:1" in mbuild.ok("images").stdout


@pytest.mark.vm
def test_a_cache_mount_fills_an_empty_one_elsewhere(mbuild: Mbuild, busybox: str, templates: Path) -> None:
    mount = "RUN --mount=type=cache,id=things,target=/c"
    context = mbuild.context(f"FROM {busybox}\n{mount} echo first >> /c/log; mkdir /c/d; echo deep > /c/d/f\n")
    place = mbuild.folder / "carried"
    to = f"type=local,dest={place},mode=max,mounts=things"
    first: dict[str, Any] = mbuild.build("--cache-to", to, context)
    assert first["cache"]["exported"][0]["mounts"] == 1
    other = _elsewhere(mbuild, "other", templates)
    source = ("--cache-from", f"type=local,src={place}")
    # A step that hits fetches no mount.
    hit: dict[str, Any] = other.build(*source, context)
    assert hit["vm.restores"] == 0
    assert not (other.store / "mounts").exists()
    changed = mbuild.context(f"FROM {busybox}\n{mount} cat /c/log /c/d/f; echo second >> /c/log\n", "changed")
    log = other.ok("--progress=plain", *source, changed).stderr
    assert "first" in log
    assert "deep" in log
    # From here on the cache is this store's own.
    again = mbuild.context(f"FROM {busybox}\n{mount} cat /c/log\n", "again")
    log = other.ok("--progress=plain", *source, again).stderr
    assert "fetching the cache mount" not in log
    assert "second" in log
    assert other.left_over() == []
