"""One build for several platforms: what is shared is built once, and an index stands over the images."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from output_support import file, hard_link, layer, symlink

from engine.events import Planned, WarningRaised
from engine.images.config import parse_configuration
from engine.images.manifest import parse_index, parse_manifest
from engine.output.annotations import parse_annotations
from engine.output.spec import parse_output
from engine.report import BuildReport
from engine.request import BuildRequest
from engine.runner import find_image
from machinefile.errors import MachinefileError, UsageError
from machinefile.platform import Platform, native

if TYPE_CHECKING:
    from conftest import Workshop

HERE = native()
FOREIGN = Platform("linux", "arm64" if HERE.architecture != "arm64" else "amd64")
OTHER = Platform("linux", "s390x")
BOTH = (HERE, FOREIGN)
NAME = "docker.io/library/app:1"

CROSS = """\
FROM --platform=$BUILDPLATFORM base AS tools
RUN write out/tool made
FROM --platform=$BUILDPLATFORM base AS compiled
ARG TARGETARCH
RUN environment out/arch
FROM base
ARG TARGETPLATFORM
COPY --from=tools /out /out
COPY --from=compiled /out /out
COPY for-$TARGETPLATFORM /own
LABEL for=$TARGETPLATFORM
"""


@pytest.fixture
def everywhere(workshop: Workshop) -> Workshop:
    """A workshop whose image `base` exists for further platforms, and with a file for each."""
    for platform in (FOREIGN, OTHER):
        workshop.source.add("base", [layer(file("etc/machine", str(platform).encode()))], platform=platform)
    for platform in (HERE, FOREIGN, OTHER):
        workshop.write(f"for-{platform}", str(platform))
    return workshop


def asked(
    workshop: Workshop,
    text: str,
    *,
    annotations: tuple[str, ...] = (),
    outputs: tuple[str, ...] = (),
    **options: object,
) -> BuildRequest:
    platforms = options.pop("platforms", BOTH)
    request = workshop.request(text, outputs=tuple(map(parse_output, outputs)), **options)  # type: ignore[arg-type]
    return replace(request, platforms=platforms, annotations=parse_annotations(annotations))  # type: ignore[arg-type]


def build(workshop: Workshop, text: str = CROSS, **options: object) -> BuildReport:
    return workshop.driver.build(asked(workshop, text, **options))  # type: ignore[arg-type]


def test_an_index_lists_an_image_for_each_platform_in_the_order_of_the_list(everywhere: Workshop) -> None:
    for platforms in (BOTH, BOTH[::-1]):
        report = build(everywhere, platforms=platforms)
        index = parse_index(everywhere.store.blobs.read(report.digest))
        assert [entry.platform for entry in index.manifests] == list(platforms)
        assert [entry.digest for entry in index.manifests] == [image.digest for image in report.images]
        assert report.config_digest == ""
        for platform, entry in zip(platforms, index.manifests, strict=True):
            files, (_, configuration) = everywhere.files(entry.digest), everywhere.image(entry.digest)
            assert f"TARGETARCH={platform.architecture}" in files["out/arch"].decode()
            assert files["own"] == str(platform).encode()
            assert ("etc/machine" in files) == (platform == FOREIGN), "each stands on its own base"
            assert configuration.platform == platform
            assert dict(configuration.config.labels) == {"for": str(platform)}
            commands = [line.created_by for line in configuration.history]
            assert f"COPY for-{platform} /own # buildkit" in commands


def test_a_stage_of_the_builds_own_platform_runs_once(everywhere: Workshop) -> None:
    for use_cache in (True, False):
        everywhere.sandbox.executions.clear()
        report = build(everywhere, use_cache=use_cache)
        scripts = [execution.argv[-1] for execution in everywhere.sandbox.executions]
        assert sorted(scripts) == ["environment out/arch"] * 2 + ["write out/tool made"]
        assert (report.run, report.hit, report.total) == (9, 0, 9)


def test_the_second_build_hits_everything_and_each_platform_alone_does_too(everywhere: Workshop) -> None:
    first = build(everywhere)
    second = build(everywhere)
    assert (second.digest, second.run, second.hit) == (first.digest, 0, 9)
    alone = everywhere.build(CROSS, platform=FOREIGN)
    assert (alone.digest, alone.run, alone.hit) == (first.images[1].digest, 0, 5)


def test_one_platform_in_the_list_gives_a_plain_manifest(everywhere: Workshop) -> None:
    report = build(everywhere, platforms=(FOREIGN,))
    assert everywhere.image(report.digest)[1].platform == FOREIGN
    assert report.config_digest == report.images[0].config_digest != ""


def test_the_plan_has_shared_steps_once_and_no_id_twice(everywhere: Workshop) -> None:
    plan = everywhere.driver.plan(asked(everywhere, CROSS))
    ids = [planned.step.id for planned in plan.steps]
    assert len(ids) == len(set(ids))
    assert plan.targets_of("tools.1") == BOTH
    assert plan.step(f"2.2@{FOREIGN}").platform == FOREIGN
    copy = plan.step(f"2.3@{FOREIGN}")
    assert copy.step.inputs == (f"compiled.2@{FOREIGN}",)
    assert copy.reason == f"2.2@{FOREIGN} below it is to be built"
    for planned in plan.steps:
        before = ids[: ids.index(planned.step.id)]
        assert set(filter(None, (planned.step.parent, *planned.step.inputs))) <= set(before)


def test_the_steps_say_which_platform_they_are_for(everywhere: Workshop) -> None:
    build(everywhere)
    (planned,) = [event for event in everywhere.events if isinstance(event, Planned)]
    labels = [text for _, text in planned.steps]
    assert f"[{HERE} tools 2/2] RUN write out/tool made" in labels
    assert f"[{HERE}->{FOREIGN} compiled 2/2] RUN environment out/arch" in labels
    assert f"[{FOREIGN} 2 4/4] COPY for-{FOREIGN} /own" in labels


def test_a_stage_chosen_by_platform_is_built_for_that_platform_alone(everywhere: Workshop) -> None:
    text = (
        f"FROM base AS on-{HERE.architecture}\nCOPY for-{HERE} /own\n"
        f"FROM scratch AS on-{FOREIGN.architecture}\nCOPY for-{FOREIGN} /else\n"
        "ARG TARGETARCH\nFROM on-$TARGETARCH\nLABEL a=b\n"
    ).replace("FROM base AS", "ARG TARGETARCH\nFROM base AS", 1)
    report = build(everywhere, text)
    here, foreign = (everywhere.files(image.digest) for image in report.images)
    assert ("own" in here, "else" in here, foreign) == (True, False, {"else": str(FOREIGN).encode()})
    assert report.total == 2


def test_a_run_for_another_architecture_is_refused_before_anything_runs(everywhere: Workshop) -> None:
    text = "FROM base\nRUN write a b\nRUN --network=host write c d\n"
    with pytest.raises(MachinefileError) as caught:
        build(everywhere, text, platforms=(HERE, FOREIGN, OTHER))
    told = [(problem.code, problem.span.line if problem.span else 0) for problem in caught.value.problems]
    assert sorted(told) == [("network-host-refused", 3)] + [("run-foreign", line) for line in (2, 2, 3, 3)]
    messages = [problem.message for problem in caught.value.problems if problem.code == "run-foreign"]
    assert [str(FOREIGN) in message for message in messages] == [True, True, False, False]
    assert all("0.1 (RUN write a b)" in message or "0.2 (" in message for message in messages)
    assert "--platform=$BUILDPLATFORM" in caught.value.problems[-1].hint
    assert everywhere.sandbox.executions == []


def test_what_is_wrong_for_any_platform_is_told_at_once(everywhere: Workshop) -> None:
    with pytest.raises(MachinefileError) as caught:
        build(everywhere, "FROM base\nARG TARGETARCH\nCOPY no-$TARGETARCH /\n")
    messages = " ".join(problem.message for problem in caught.value.problems)
    assert f"no-{HERE.architecture}" in messages
    assert f"no-{FOREIGN.architecture}" in messages


def test_what_platforms_have_in_common_is_warned_of_once(everywhere: Workshop) -> None:
    build(everywhere, "FROM base\nLABEL a=$NOWHERE\n")
    warnings = [event for event in everywhere.events if isinstance(event, WarningRaised)]
    assert len([warning for warning in warnings if "NOWHERE" in warning.message]) == 1


def test_the_name_is_the_indexs_and_a_run_takes_the_image_for_this_machine(everywhere: Workshop) -> None:
    report = build(everywhere, names=(NAME,))
    named = everywhere.store.names.get(NAME)
    assert named is not None
    assert (named.digest, named.media_type) == (report.digest, "application/vnd.oci.image.index.v1+json")
    assert find_image(everywhere.store, "app:1").configuration.platform == HERE


@pytest.mark.parametrize("platforms", [(FOREIGN, OTHER), (OTHER,)])
def test_a_run_of_an_image_for_other_machines_is_refused(everywhere: Workshop, platforms: tuple[Platform, ...]) -> None:
    build(everywhere, "FROM base\n", names=(NAME,), platforms=platforms)
    with pytest.raises(UsageError) as caught:
        find_image(everywhere.store, "app:1")
    assert caught.value.code == "image-foreign"
    assert str(OTHER) in caught.value.message


@pytest.mark.parametrize("kind", ["docker", "disk", "disk,format=ext4"])
def test_what_holds_one_platform_only_is_refused_before_anything_is_looked_up(everywhere: Workshop, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(everywhere, outputs=(f"type={kind},dest={everywhere.folder}/x",))
    assert caught.value.code == "output-one-platform"
    assert everywhere.source.asked == []


def test_files_go_into_a_folder_for_each_platform(everywhere: Workshop) -> None:
    folder, archive = everywhere.folder / "files", everywhere.folder / "files.tar"
    build(everywhere, outputs=(f"type=local,dest={folder}", f"type=tar,dest={archive}"))
    for platform in BOTH:
        name = f"linux_{platform.architecture}"
        assert (folder / name / "own").read_text() == str(platform)
        with tarfile.open(archive) as tar:
            opened = tar.extractfile(f"{name}/own")
            assert opened is not None
            assert opened.read() == str(platform).encode()
    assert {path.name for path in folder.iterdir()} == {f"linux_{one.architecture}" for one in BOTH}


def test_a_tar_keeps_hard_links_within_their_folder(everywhere: Workshop) -> None:
    data = layer(file("a"), hard_link("b", "a"), symlink("c", "/a"))
    for platform in BOTH:
        everywhere.source.add("linked", [data], platform=platform)
    archive = everywhere.folder / "files.tar"
    build(everywhere, "FROM linked\n", outputs=(f"type=tar,dest={archive}",))
    with tarfile.open(archive) as tar:
        links = {entry.name: entry.linkname for entry in tar if entry.linkname}
    folders = [f"linux_{one.architecture}" for one in BOTH]
    assert links == {f"{name}/b": f"{name}/a" for name in folders} | {f"{name}/c": "/a" for name in folders}


def test_an_image_without_layers_is_an_empty_folder(everywhere: Workshop) -> None:
    archive = everywhere.folder / "files.tar"
    build(everywhere, "FROM scratch\n", outputs=(f"type=tar,dest={archive}",))
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == sorted(f"linux_{one.architecture}" for one in BOTH)


def test_annotations_stand_where_they_were_asked_for(everywhere: Workshop) -> None:
    layout = everywhere.folder / "layout"
    report = build(
        everywhere,
        annotations=("all=1", "index:top=2", f"manifest[{FOREIGN}]:all=3", f"manifest-descriptor[{HERE}]:line=4"),
        outputs=(f"type=oci,dest={layout},annotation-index.out=5,annotation[{HERE}].out=6",),
    )

    def read(root: Path | None, digest: str) -> bytes:
        return (root / "blobs/sha256" / digest[7:]).read_bytes() if root else everywhere.store.blobs.read(digest)

    out = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    for root, digest, top, here in (
        (None, report.digest, {"top": "2"}, {"all": "1"}),
        (layout, out, {"top": "2", "out": "5"}, {"all": "1", "out": "6"}),
    ):
        index = parse_index(read(root, digest))
        assert dict(index.annotations) == top
        assert [dict(entry.annotations) for entry in index.manifests] == [{"line": "4"}, {}]
        found = [dict(parse_manifest(read(root, entry.digest)).annotations) for entry in index.manifests]
        assert found == [here, {"all": "3"}]


@pytest.mark.parametrize(
    ("platforms", "annotation"),
    [((HERE,), "index:a=b"), ((HERE,), "manifest-descriptor:a=b"), (BOTH, f"manifest[{OTHER}]:a=b")],
)
def test_an_annotation_without_a_place_is_refused(
    everywhere: Workshop, platforms: tuple[Platform, ...], annotation: str
) -> None:
    place, _, rest = annotation.partition(":")
    field = f"annotation{place.removeprefix('manifest') if '[' in place else '-' + place}.{rest}"
    for options in ({"annotations": (annotation,)}, {"outputs": (f"type=oci,dest={everywhere.folder}/x,{field}",)}):
        with pytest.raises(UsageError) as caught:
            build(everywhere, platforms=platforms, **options)
        assert caught.value.code == "annotation-unsupported"
    assert everywhere.source.asked == []


def test_the_compression_is_that_of_every_image(everywhere: Workshop) -> None:
    layout = everywhere.folder / "layout"
    build(everywhere, outputs=(f"type=oci,dest={layout},compression=zstd,force-compression=true",))
    blobs = layout / "blobs/sha256"
    top = json.loads((layout / "index.json").read_text())["manifests"][0]
    for entry in json.loads((blobs / top["digest"][7:]).read_text())["manifests"]:
        manifest = json.loads((blobs / entry["digest"][7:]).read_text())
        assert {layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]} == {"zstd"}


def test_with_dockers_media_types_the_index_is_a_manifest_list(everywhere: Workshop) -> None:
    build(everywhere, outputs=("type=image,name=app:1,oci-mediatypes=false",))
    named = everywhere.store.names.get(NAME)
    assert named is not None
    assert named.media_type == "application/vnd.docker.distribution.manifest.list.v2+json"
    top = json.loads(everywhere.store.blobs.read(named.digest))
    assert top["mediaType"] == named.media_type
    assert {entry["mediaType"] for entry in top["manifests"]} == {
        "application/vnd.docker.distribution.manifest.v2+json"
    }


def test_what_a_windows_base_says_of_itself_is_in_the_index(everywhere: Workshop) -> None:
    windows = Platform("windows", "amd64")
    source = everywhere.source
    source.add("nano", platform=windows)
    image = source._images["nano", windows]
    exact = replace(image.configuration, os_version="10.0.20348.1", os_features=("win32k",))
    source._images["nano", windows] = replace(image, configuration=exact)
    source.add("nano", platform=HERE)
    report = build(everywhere, "FROM nano\n", platforms=(HERE, windows))
    data = everywhere.store.blobs.read(report.digest)
    assert json.loads(data)["manifests"][1]["platform"] == {
        "architecture": "amd64",
        "os": "windows",
        "os.version": "10.0.20348.1",
        "os.features": ["win32k"],
    }
    assert parse_index(data).to_json() == data


def test_the_same_index_comes_out_of_another_store(everywhere: Workshop, tmp_path: Path) -> None:
    from cache.store import Store

    first = build(everywhere)
    with Store(tmp_path / "elsewhere") as store:
        other = replace(everywhere, store=store)
        assert build(other).digest == first.digest
    config = parse_configuration(everywhere.store.blobs.read(first.images[0].config_digest))
    assert config.platform == HERE
