"""Images as they go out: layouts and archives that other programs read."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard
from layer_support import pressed
from output_support import RICH, file, layer, run, skopeo, tell

from cache.results import Layer
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.manifest import Manifest, parse_manifest
from engine.layers.compression import GzipWriter, ZstdWriter
from engine.output.compress import Compression, Compressor, packed
from engine.output.image import BuiltImage, variant
from engine.output.spec import parse_output
from machinefile.errors import HostError, InterruptedBuildError, StoreError, UntrustedDataError, UsageError

if TYPE_CHECKING:
    from conftest import Workshop

    from .conftest import Press

NAMES = ("docker.io/library/app:1.0", "registry.test:5000/team/app:latest")
TEXT = "RUN write own mine\nLABEL a=b\n"


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: opened.read() for entry in tar if (opened := tar.extractfile(entry))}


def test_docker_gets_an_archive_that_both_its_readers_take(press: Press) -> None:
    path = press.folder / "image.tar"
    report = press.write([RICH], f"type=docker,dest={path}", text=TEXT, names=NAMES)
    inside = members(path)
    listed = json.loads(inside["manifest.json"])
    assert listed[0]["RepoTags"] == ["app:1.0", "registry.test:5000/team/app:latest"]
    assert [name in inside for name in (listed[0]["Config"], *listed[0]["Layers"])] == [True] * 3
    index = json.loads(inside["index.json"])
    assert {entry["digest"] for entry in index["manifests"]} == {report.digest}
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == list(NAMES)
    assert json.loads(inside["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}

    seen = json.loads(skopeo("inspect", f"docker-archive:{path}:app:1.0"))
    assert seen["Labels"] == {"a": "b"}
    assert json.loads(skopeo("inspect", f"oci-archive:{path}:1.0"))["Digest"] == report.digest
    skopeo("copy", f"docker-archive:{path}:app:1.0", f"oci:{press.folder}/copy:x")
    unpacked = press.folder / "unpacked"
    run("umoci", "unpack", "--rootless", "--image", f"{press.folder}/copy:x", unpacked)
    assert (unpacked / "rootfs/own").read_bytes() == b"mine"


def test_an_image_without_a_name_has_none_in_an_archive_for_docker(press: Press) -> None:
    path = press.folder / "image.tar"
    press.write([RICH], f"type=docker,dest={path}")
    assert json.loads(members(path)["manifest.json"])[0]["RepoTags"] is None
    assert json.loads(skopeo("inspect", f"docker-archive:{path}"))["Layers"]


@pytest.mark.parametrize(
    "kind", ["docker", "oci,tar=true", "oci,compression=zstd,tar=true", "oci,compression=none,tar=true"]
)
def test_the_same_image_gives_the_same_archive(press: Press, kind: str) -> None:
    one, other = press.folder / "1", press.folder / "2"
    for path in (one, other):
        press.write([RICH], f"type={kind},dest={path}", text=TEXT, names=NAMES)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as tar:
        assert {(entry.mtime, entry.uid, entry.uname) for entry in tar} == {(315_619_200, 0, "")}


def test_a_layout_is_the_same_in_a_folder_and_in_a_tar(press: Press) -> None:
    folder, tar = press.folder / "layout", press.folder / "layout.tar"
    press.write([RICH], f"type=oci,dest={folder}", f"type=oci,dest={tar}", text=TEXT, names=NAMES)
    inside = members(tar)
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == inside
    copied = skopeo("inspect", f"oci:{folder}:1.0")
    assert json.loads(copied) == json.loads(skopeo("inspect", f"oci-archive:{tar}:1.0"))


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none", "gzip,level=0", "zstd,level=19"])
def test_every_compression_is_read_by_others(press: Press, compression: str) -> None:
    folder = press.folder / "layout"
    press.write([RICH], f"type=oci,dest={folder},compression={compression}", text=TEXT)
    skopeo("copy", f"oci:{folder}:latest", f"dir:{press.folder}/copy")
    manifest = json.loads((press.folder / "copy" / "manifest.json").read_text())
    suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression.partition(",")[0]]
    assert manifest["layers"][0]["mediaType"] == mediatype.OCI_LAYER, "the base's layer stays as it came"
    assert manifest["layers"][1]["mediaType"] == mediatype.OCI_LAYER + suffix


def test_forced_compression_takes_the_base_along(press: Press) -> None:
    folder = press.folder / "layout"
    press.write([RICH], f"type=oci,dest={folder},compression=zstd,force-compression=true", text=TEXT)
    skopeo("copy", f"oci:{folder}:latest", f"dir:{press.folder}/copy")
    manifest = json.loads((press.folder / "copy" / "manifest.json").read_text())
    assert {entry["mediaType"] for entry in manifest["layers"]} == {mediatype.OCI_LAYER_ZSTD}


def test_names_and_annotations_of_an_output_are_its_own(press: Press) -> None:
    one, other = press.folder / "1", press.folder / "2"
    press.write(
        [RICH], f"type=oci,dest={one},name=extra:2,annotation.org.Who=me", f"type=oci,dest={other}", names=NAMES
    )
    assert json.loads(skopeo("inspect", "--raw", f"oci:{one}:2"))["annotations"] == {"org.Who": "me"}
    assert "annotations" not in json.loads(skopeo("inspect", "--raw", f"oci:{other}:1.0"))


def test_a_registry_that_knows_only_dockers_types_gets_them(press: Press) -> None:
    path = press.folder / "image.tar"
    press.write([RICH], f"type=docker,dest={path},oci-mediatypes=false", text=TEXT, names=NAMES[:1])
    inside = members(path)
    manifest = json.loads(inside["blobs/sha256/" + json.loads(inside["index.json"])["manifests"][0]["digest"][7:]])
    assert manifest["mediaType"] == mediatype.DOCKER_MANIFEST
    assert manifest["config"]["mediaType"] == mediatype.DOCKER_CONFIG
    assert manifest["layers"][1]["mediaType"] == "application/vnd.docker.image.rootfs.diff.tar.gzip"
    assert json.loads(skopeo("inspect", f"docker-archive:{path}:app:1.0"))["Layers"]


def test_an_image_output_keeps_the_image_as_it_was_asked_for(press: Press, workshop: Workshop) -> None:
    report = press.write([RICH], "type=image,name=kept:2,compression=zstd", text=TEXT)
    kept = workshop.store.names.get("docker.io/library/kept:2")
    assert kept is not None
    assert kept.digest != report.digest
    manifest = parse_manifest(workshop.store.blobs.read(kept.digest))
    assert isinstance(manifest, Manifest)
    assert manifest.layers[-1].media_type == mediatype.OCI_LAYER_ZSTD
    with pytest.raises(UsageError) as caught:
        press.write([RICH], "type=image")
    assert caught.value.code == "output-nameless"
    with pytest.raises(UsageError) as caught:
        press.write([RICH], "type=image,name=x,push=true")
    assert caught.value.code == "output-unsupported"


def test_standard_output_gets_the_archive_and_nothing_else(
    press: Press, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = press.folder / "image.tar"
    press.write([RICH], f"type=docker,dest={path}", "type=docker,dest=-", text=TEXT)
    assert capfdbinary.readouterr().out == path.read_bytes()


def test_a_pipe_is_written_to_and_not_replaced(press: Press) -> None:
    pipe = press.folder / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    press.write([RICH], f"type=tar,dest={pipe}")
    reader.join(30)
    assert tell(read[0]) == tell(RICH)
    assert pipe.is_fifo()


def test_a_damaged_blob_goes_nowhere_and_leaves_the_old_file(
    press: Press, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = press.folder / "image.tar"
    path.write_bytes(b"old")
    report = press.write([RICH], text=TEXT)
    blob = workshop.store.blobs.path(workshop.image(report.digest)[0].layers[-1].digest)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    workshop.store.seals.put(blob)  # decay: nothing tells of it but the bytes
    with monkeypatch.context() as once:
        once.setattr("engine.driver._MOST_LOSSES", 0)
        with pytest.raises(StoreError) as caught:
            press.write([RICH], f"type=docker,dest={path}", text=TEXT)
    assert caught.value.code == "blob-corrupt"
    assert path.read_bytes() == b"old"
    assert sorted(path.name for path in press.folder.iterdir()) == ["context", "image.tar", "store"]
    press.write([RICH], f"type=docker,dest={path}", text=TEXT)
    assert skopeo("inspect", f"docker-archive:{path}"), "the next build makes it anew"
    blob.write_bytes(data)
    workshop.store.seals.put(blob)
    path.unlink()
    press.write([RICH], f"type=docker,dest={path}", text=TEXT)
    assert skopeo("inspect", f"docker-archive:{path}"), "and so does this one"


def test_what_went_into_a_pipe_is_not_written_a_second_time(press: Press, workshop: Workshop) -> None:
    report = press.write([RICH], text=TEXT)
    blob = workshop.store.blobs.path(workshop.image(report.digest)[0].layers[-1].digest)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    workshop.store.seals.put(blob)
    pipe = press.folder / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with pytest.raises(StoreError) as caught:
        press.write([RICH], f"type=docker,dest={pipe}", text=TEXT)
    reader.join(30)
    assert caught.value.code == "blob-corrupt"
    assert len(read) == 1


@pytest.mark.parametrize(
    ("kind", "is_folder"), [("docker", True), ("tar", True), ("disk", True), ("local", False), ("oci", False)]
)
def test_what_stands_in_the_way_is_named_and_left_alone(press: Press, kind: str, is_folder: bool) -> None:
    path = press.folder / "there"
    path.mkdir() if is_folder else path.write_bytes(b"old")
    with pytest.raises(UsageError) as caught:
        press.write([RICH], f"type={kind},dest={path}")
    assert caught.value.code == "output-in-the-way"
    assert path.is_dir() == is_folder


@pytest.mark.parametrize("kind", ["docker", "oci,tar=true", "oci", "tar", "disk", "disk,format=ext4", "local"])
def test_a_place_that_cannot_be_written_is_named(press: Press, kind: str) -> None:
    (press.folder / "file").write_bytes(b"")
    with pytest.raises(HostError) as caught:
        press.write([RICH], f"type={kind},dest={press.folder}/file/x")
    assert caught.value.code == "output-failed"
    assert f"{press.folder}/file/x" in caught.value.message


def test_a_link_at_the_destination_stays(press: Press) -> None:
    (press.folder / "link").symlink_to("real.tar")
    press.write([RICH], f"type=tar,dest={press.folder}/link")
    assert (press.folder / "link").is_symlink()
    assert tarfile.is_tarfile(press.folder / "real.tar")


def test_each_compression_is_remembered_by_itself(workshop: Workshop) -> None:
    layers = [kept(workshop, layer(file(f"f{number}", bytes([number]) * 100_000))) for number in range(6)]
    gzipped = packed(layers, workshop.store)
    zstandard = packed(layers, workshop.store, Compression(Compressor.ZSTD, 3))
    plain = packed(layers, workshop.store, Compression(Compressor.NONE, 0))
    assert [one.digest for one in plain] == [one.diff_id for one in layers]
    for blob in workshop.store.blobs.path(layers[0].digest).parent.iterdir():
        if f"sha256:{blob.name}" in {one.digest for one in layers}:
            blob.unlink()  # what is remembered is not made again
    assert packed(layers, workshop.store) == gzipped
    assert packed(layers, workshop.store, Compression(Compressor.ZSTD, 3)) == zstandard
    with pytest.raises(StoreError) as caught:
        packed(layers, workshop.store, Compression(Compressor.GZIP, 9))
    assert caught.value.code == "blob-missing"


def kept(workshop: Workshop, data: bytes) -> Layer:
    digest = workshop.store.blobs.put(data)
    return Layer(digest, digest, len(data), mediatype.OCI_LAYER)


def compressed(workshop: Workshop, plain: bytes, level: int = 9) -> Layer:
    """A layer of somebody else's making."""
    data = gzip.compress(plain, level, mtime=12345)
    digest = workshop.store.blobs.put(data)
    return Layer("sha256:" + hashlib.sha256(plain).hexdigest(), digest, len(data), mediatype.OCI_LAYER_GZIP)


def image_of(workshop: Workshop, *layers: Layer) -> BuiltImage:
    config = Descriptor(mediatype.OCI_CONFIG, workshop.store.blobs.put(b"{}"), 2)
    descriptors = tuple(Descriptor(one.media_type, one.digest, one.size) for one in layers)
    manifest = Manifest(config, descriptors)
    return BuiltImage("sha256:" + hashlib.sha256(manifest.to_json()).hexdigest(), manifest, 1, layers, len(layers))


def test_who_compressed_the_base_does_not_show_after_forced_compression(workshop: Workshop) -> None:
    spec = parse_output("type=oci,dest=x,force-compression=true")
    one = variant(image_of(workshop, compressed(workshop, RICH, 9)), spec, workshop.store)
    other = variant(image_of(workshop, compressed(workshop, RICH, 1)), spec, workshop.store)
    assert one.digest == other.digest
    unforced = variant(image_of(workshop, compressed(workshop, RICH)), parse_output("type=oci,dest=x"), workshop.store)
    assert unforced.manifest.layers[0].digest == compressed(workshop, RICH).digest
    plain = parse_output("type=oci,dest=x,force-compression=true,compression=none")
    bare = variant(image_of(workshop, compressed(workshop, RICH)), plain, workshop.store)
    assert workshop.store.blobs.read(bare.manifest.layers[0].digest) == RICH


def test_a_base_that_is_not_what_it_says_is_not_compressed_anew(workshop: Workshop) -> None:
    honest = compressed(workshop, RICH)
    lying = Layer("sha256:" + "0" * 64, honest.digest, honest.size, honest.media_type)
    spec = parse_output("type=oci,dest=x,force-compression=true")
    with pytest.raises(UntrustedDataError) as caught:
        variant(image_of(workshop, lying), spec, workshop.store)
    assert caught.value.code == "diff-id-mismatch"


def test_a_stopped_build_stops_compressing(workshop: Workshop) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(InterruptedBuildError):
        packed([kept(workshop, RICH)], workshop.store, cancelled=stopped)


def test_the_bytes_of_each_compression_are_known_before() -> None:
    """Fails when a new release of a compressor makes other bytes: then say so in the changelog, and change these."""
    text = b"".join(b"line %d of a text that repeats itself\n" % (number * number) for number in range(90_000))
    sums = [hashlib.sha256(pressed(writer, text)).hexdigest()[:16] for writer in (GzipWriter, ZstdWriter)]
    assert sums == GOLDEN


GOLDEN = ["46faf780f0664178", "5f29afb986047a21"]


def test_the_number_of_threads_does_not_show() -> None:
    text = b"".join(b"%d" % (number * number) for number in range(2_000_000))
    found = set()
    for threads in (0, 1, 2, 4):
        found.add(pressed(ZstdWriter, text, 1, threads))
    assert len(found) == 1


def test_the_highest_level_keeps_to_a_window_that_every_reader_has() -> None:
    frame = pressed(ZstdWriter, bytes(9 << 20), 22)
    assert zstandard.get_frame_parameters(frame).window_size == 8 << 20
