"""One build for several platforms, by the command itself, read by other programs. No step needs a microVM."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from e2e_bases import write_layout_for_platforms
from output_support import run, skopeo

if TYPE_CHECKING:
    from conftest import Mbuild

LIST = "linux/amd64,linux/arm64"
TEXT = """\
FROM --platform=$BUILDPLATFORM scratch AS tools
COPY Machinefile /shared
FROM {base}
ARG TARGETARCH
COPY --from=tools /shared /shared
COPY for-$TARGETARCH /own
LABEL arch=$TARGETARCH
"""


@pytest.fixture
def context(mbuild: Mbuild) -> Path:
    """A context on a base for two platforms."""
    layout = mbuild.folder / "base"
    write_layout_for_platforms(layout, ("amd64", "arm64"))
    files = {"for-amd64": "an amd64 file", "for-arm64": "an arm64 file"}
    return mbuild.context(TEXT.format(base=f"oci-layout:{layout}:latest"), **files)


def platforms_of(raw: bytes) -> list[str]:
    index: dict[str, Any] = json.loads(raw)
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    return [f"{one['platform']['os']}/{one['platform']['architecture']}" for one in index["manifests"]]


def test_other_programs_read_the_index_and_the_image_for_each_platform(mbuild: Mbuild, context: Path) -> None:
    layout, archive = mbuild.folder / "layout", mbuild.folder / "layout.tar"
    outputs = ("-o", f"type=oci,dest={layout}", "-o", f"type=oci,dest={archive}")
    said = mbuild.build("--platform", LIST, "-t", "app:1", *outputs, context)
    for place in (f"oci:{layout}:1", f"oci-archive:{archive}:1"):
        assert platforms_of(skopeo("inspect", "--raw", place)) == LIST.split(",")
        for architecture in ("amd64", "arm64"):
            seen = json.loads(skopeo("--override-arch", architecture, "inspect", "--config", place))
            assert seen["architecture"] == architecture
            assert seen["config"]["Labels"] == {"arch": architecture}
            copy = mbuild.folder / f"{architecture}-{place.partition(':')[0]}"
            skopeo("--override-arch", architecture, "copy", place, f"oci:{copy}:x")
            run("umoci", "unpack", "--rootless", "--image", f"{copy}:x", copy / "bundle")
            root = copy / "bundle" / "rootfs"
            assert (root / "own").read_text() == f"an {architecture} file"
            assert (root / "arch").read_text() == architecture
            assert (root / "shared").exists()
    platforms = said["image.platforms"]
    assert isinstance(platforms, dict)
    assert list(platforms) == LIST.split(",")
    assert said["image.config.digest"] is None
    assert said["steps"] == {"hit": 0, "run": 5, "total": 5}


def test_buildah_takes_the_image_for_a_platform(mbuild: Mbuild, context: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("buildah without root needs user namespaces")
    out = mbuild.folder
    mbuild.ok("--platform", LIST, "-t", "app:1", "-o", f"type=oci,dest={out}/layout", context)
    (out / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    state = ["buildah", "--root", out / "root", "--runroot", out / "run", "--storage-driver", "vfs"]
    pull = ["pull", "--quiet", "--signature-policy", out / "policy.json", "--arch", "arm64", f"oci:{out}/layout:1"]
    image = run(*state, *pull).decode().strip()
    assert run(*state, "inspect", "--type=image", "--format={{.OCIv1.Architecture}}", image).strip() == b"arm64"


def test_a_second_store_gives_the_same_bytes_and_a_second_build_runs_nothing(mbuild: Mbuild, context: Path) -> None:
    archives = []
    for store in ("one", "two"):
        archives.append(mbuild.folder / f"{store}.tar")
        output = f"type=oci,dest={archives[-1]}"
        said = mbuild.build(f"--cache-dir={mbuild.folder}/{store}", "--platform", LIST, "-o", output, context)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    again = mbuild.build(f"--cache-dir={mbuild.folder}/two", "--platform", LIST, context)
    assert again["image.digest"] == said["image.digest"]
    assert again["steps"] == {"hit": 5, "run": 0, "total": 5}


@pytest.mark.registry
def test_an_index_goes_into_a_registry_by_a_build_and_by_push(mbuild: Mbuild, context: Path, registry: Any) -> None:
    name, other = f"{registry.address}/platforms/app:1", f"{registry.address}/elsewhere/app:2"
    said = mbuild.build("--platform", LIST, "-t", name, "--push", "--annotation", "index:org.note=top", context)
    mbuild.ok("tag", name, "local:1")
    assert mbuild.ok("push", "local:1", other).stdout.strip() == said["image.digest"]
    for pushed in (name, other):
        raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{pushed}")
        assert platforms_of(raw) == LIST.split(",")
        assert json.loads(raw)["annotations"] == {"org.note": "top"}
        inspect = ("inspect", "--tls-verify=false", f"docker://{pushed}")
        seen = json.loads(skopeo("--override-arch", "arm64", *inspect))
        assert (seen["Architecture"], seen["Labels"]) == ("arm64", {"arch": "arm64"})
    platforms = said["image.platforms"]
    assert isinstance(platforms, dict)
    for platform in LIST.split(","):
        found = mbuild.ok("pull", f"--cache-dir={mbuild.folder}/else", f"--platform={platform}", name).stdout.strip()
        assert found == platforms[platform]["image.digest"]
    on_it = mbuild.context(f"FROM {name}\nCOPY more /more\n", name="more", more="m")
    assert mbuild.build("--platform", LIST, on_it)["steps"] == {"hit": 0, "run": 2, "total": 2}


def test_the_commands_about_images_know_an_index(mbuild: Mbuild, context: Path) -> None:
    iidfile = mbuild.folder / "iid"
    said = mbuild.build("--platform", LIST, "-t", "app:1", "--iidfile", iidfile, context)
    assert iidfile.read_text() == said["image.digest"]
    (listed,) = json.loads(mbuild.ok("images", "--format=json").stdout)
    assert listed["digest"] == said["image.digest"]
    assert listed["size"] > 0
    for platform in LIST.split(","):
        seen = json.loads(mbuild.ok("inspect", "--format=json", f"--platform={platform}", "app:1").stdout)
        assert seen["platform"] == platform
        assert seen["index"]["digest"] == said["image.digest"]
        assert [entry["platform"]["architecture"] for entry in seen["index"]["manifests"]] == ["amd64", "arm64"]
    shown = mbuild.ok("inspect", "app:1").stdout
    assert "linux/amd64" in shown
    assert "linux/arm64" in shown
    mbuild.ok("rmi", "app:1")
    assert json.loads(mbuild.ok("images", "--format=json").stdout) == []


def test_the_plan_has_a_shared_step_once(mbuild: Mbuild, context: Path) -> None:
    plan = json.loads(mbuild.ok("plan", "--format=json", "--platform", LIST, context).stdout)
    assert plan["platforms"] == LIST.split(",")
    ids = [step["id"] for step in plan["steps"]]
    assert len(ids) == len(set(ids))
    assert all(set(step["parents"]) <= set(ids) for step in plan["steps"])
    (shared,) = [step for step in plan["steps"] if step["stage"] == "tools" and "COPY" in step["instruction"]]
    assert shared["targets"] == LIST.split(",")
    alone = json.loads(mbuild.ok("plan", "--format=json", "--platform=linux/arm64", context).stdout)
    assert set(alone) == {"target", "steps"}
    assert {step["key"] for step in alone["steps"]} <= {step["key"] for step in plan["steps"]}


def test_a_run_for_another_machine_is_refused_with_what_to_do(mbuild: Mbuild) -> None:
    foreign = "arm64" if os.uname().machine == "x86_64" else "amd64"
    layout = mbuild.folder / "base"
    write_layout_for_platforms(layout, (foreign,))
    place = mbuild.context(f"FROM oci-layout:{layout}:latest\nRUN make\n")
    done = mbuild("--platform", f"linux/{foreign}", place)
    assert done.returncode == 2
    for word in ("Machinefile:2", "RUN make", f"linux/{foreign}", "emulator", "--platform=$BUILDPLATFORM"):
        assert word in done.stderr


def test_check_tells_once_what_all_platforms_have_in_common(mbuild: Mbuild) -> None:
    place = mbuild.context("FROM scratch\nLABEL a=$NOWHERE\n")
    done = mbuild("--check", "--platform", LIST, place)
    assert done.returncode == 1
    assert "1 warning\n" in done.stdout
