"""--cache-from with a real registry, as CI uses it: an empty store each time."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = [pytest.mark.registry]


@dataclass
class Ci:
    """Builds each of which begins with an empty store."""

    mbuild: Mbuild
    runs: int = 0

    def fresh(self) -> Mbuild:
        self.runs += 1
        store = self.mbuild.folder / f"store-{self.runs}"
        store.mkdir()
        (store / "vm").symlink_to((self.mbuild.store / "vm").resolve())
        return replace(self.mbuild, store=store)


@pytest.fixture
def ci(mbuild: Mbuild) -> Ci:
    return Ci(mbuild)


def layers_of(name: str) -> list[str]:
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    parsed = json.loads(raw.stdout)
    if "manifests" in parsed:
        place = name.rpartition(":")[0]
        return [layer for one in parsed["manifests"] for layer in layers_of(f"{place}@{one['digest']}")]
    return [layer["digest"] for layer in parsed["layers"]]


def has(store: Path, digests: list[str]) -> list[str]:
    return [digest for digest in digests if (store / "blobs" / "sha256" / digest.removeprefix("sha256:")).exists()]


@pytest.mark.vm
def test_a_second_run_on_an_empty_store_starts_no_vm_and_fetches_no_layer(
    ci: Ci, busybox: str, registry: object
) -> None:
    base = registry.copy(f"oci:{busybox.removeprefix('oci-layout:')}", "lazy/base:1")  # type: ignore[attr-defined]
    text = f"FROM {base} AS made\nRUN echo made > /made\nFROM {base}\nCOPY --from=made /made /srv/made\nCOPY f /f\n"
    context = ci.mbuild.context(text, f="f")
    address = registry.address  # type: ignore[attr-defined]
    cache, name = f"{address}/lazy/cache:main", f"{address}/lazy/app:1"
    caches = (f"--cache-from=type=registry,ref={cache}", f"--cache-to=type=registry,ref={cache},mode=max")
    first = ci.fresh().build(*caches, "-t", name, "--push", context)
    assert first["vm.restores"] == 1
    second = ci.fresh()
    again = second.build(*caches, "-t", name, "--push", context)
    assert (again["image.digest"], again["vm.restores"]) == (first["image.digest"], 0)
    assert again["steps"] == {"hit": 3, "run": 0, "total": 3}
    assert has(second.store, layers_of(name)) == []
    elsewhere = ci.fresh()
    other = f"{address}/lazy/other:2"
    elsewhere.build(caches[0], "-t", other, "--push", context)
    layers = layers_of(other)
    own = layers[len(layers_of(base)) :]
    assert has(elsewhere.store, layers) == own, (
        "nobody signed them: they are looked at before they are in another image"
    )
    kept = ci.fresh()
    assert kept.build(caches[0], "-t", name, context)["image.digest"] == first["image.digest"]
    assert len(has(kept.store, layers_of(name))) == len(layers_of(name))
    planned = json.loads(ci.fresh().ok("plan", "--format=json", caches[0], context).stdout)
    assert {step["reason"] for step in planned["steps"] if step["instruction"].startswith(("RUN", "COPY"))} == {
        f"in the cache registry {cache}"
    }


def test_a_signed_cache_is_pushed_to_a_new_name_without_fetching(ci: Ci, registry: object) -> None:
    address = registry.address  # type: ignore[attr-defined]
    context = ci.mbuild.context("FROM scratch\nCOPY f /f\n", f="f")
    private, public = ci.mbuild.folder / "cache.key", ci.mbuild.folder / "cache.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, timeout=60)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=60)
    cache = f"type=registry,ref={address}/signed/cache:main"
    first = ci.fresh().build(
        f"--cache-to={cache},sign-key={private}", "-t", f"{address}/signed/app:1", "--push", context
    )
    other = ci.fresh()
    name = f"{address}/signed/other:1"
    again = other.build(f"--cache-from={cache},verify-key={public}", "-t", name, "--push", context)
    assert (again["image.digest"], again["steps"]["run"]) == (first["image.digest"], 0)  # type: ignore[index]
    assert has(other.store, layers_of(name)) == []


def test_images_for_two_platforms_are_pushed_out_of_a_cache_in_a_folder(ci: Ci, registry: object) -> None:
    context = ci.mbuild.context("FROM scratch\nCOPY f /f\nWORKDIR /a\n", f="f")
    folder = ci.mbuild.folder / "cache"
    name = f"{registry.address}/lazy/two:1"  # type: ignore[attr-defined]
    both = ("--platform=linux/amd64,linux/arm64", "-t", name, "--push", context)
    first = ci.fresh().build(f"--cache-to=type=local,dest={folder},mode=max", *both)
    second = ci.fresh()
    again = second.build(f"--cache-from=type=local,src={folder}", *both)
    assert again["image.digest"] == first["image.digest"]
    assert again["steps"]["run"] == 0  # type: ignore[index]
    assert has(second.store, layers_of(name)) == []


def test_a_cache_that_cannot_be_reached_is_a_warning(ci: Ci) -> None:
    context = ci.mbuild.context("FROM scratch\nCOPY f /f\n", f="f")
    done = ci.fresh().ok("--progress=plain", "--cache-from=type=registry,ref=127.0.0.1:9/no/cache:1", context)
    assert "cache-unavailable" in done.stderr
    ftp = "ftp://127.0.0.1:1/cache"
    done = ci.fresh().ok("--progress=plain", f"--cache-from={ftp}", f"--cache-to={ftp},ignore-error=true", context)
    assert "cache-unavailable" in done.stderr
    assert f"no cache goes to {ftp}" in done.stderr
    done = ci.mbuild(f"--cache-to={ftp}", context)
    assert done.returncode == 4, done.stderr
    done = ci.mbuild("--cache-from=type=local,src=nowhere,verify-key=none.pem", context)
    assert done.returncode == 2, done.stderr
