"""OCI layouts, read and written; skopeo and umoci read what is written."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.images import mediatype
from engine.images.digest import digest_of
from engine.images.files import FolderFiles
from engine.images.layout import OciLayout
from engine.images.layout_writer import LayoutWriter
from engine.images.manifest import Index
from engine.images.source import ImageSources
from machinefile.errors import HostError, TransferError, UntrustedDataError, UsageError
from machinefile.platform import Platform
from machinefile.steps import BaseReference

AMD64 = Platform("linux", "amd64")


def write(dest: Path, image: Any, tag: str = "1") -> None:
    writer = LayoutWriter(dest)
    writer.add_bytes(image.layer, mediatype.OCI_LAYER)
    writer.add_bytes(image.config, mediatype.OCI_CONFIG)
    writer.add_manifest(image.manifest, tag=tag)
    writer.commit()


def resolve(folder: Path, reference: str, platform: Platform = AMD64) -> Any:
    with ImageSources(folder) as sources:
        return sources.resolve(BaseReference(reference, platform))


def fetched(folder: Path, reference: str) -> bytes:
    parts: list[bytes] = []
    with ImageSources(folder) as sources:
        image = sources.resolve(BaseReference(reference, AMD64))
        sources.fetch_blob(image, image.layers[0].descriptor, parts.append)
    return b"".join(parts)


def test_a_layout_written_is_read_as_the_same_image(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    found = resolve(tmp_path, "oci-layout:out:1")
    assert found.digest == image.digest
    assert found.configuration_bytes == image.config
    assert found.layers[0].diff_id == digest_of(image.layer)
    assert fetched(tmp_path, "oci-layout:out") == image.layer


def test_skopeo_reads_what_is_written(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    argv = ["skopeo", "inspect", "--format", "{{.Digest}}", f"oci:{tmp_path}/out:1"]
    output = subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout
    assert output.decode().strip() == image.digest


def test_skopeo_copies_what_is_written_without_complaint(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"]
    copied = tmp_path / "copy"
    subprocess.run([*argv, f"oci:{tmp_path}/out:1", f"oci:{copied}:x"], check=True, timeout=30)
    assert resolve(tmp_path, "oci-layout:copy:x").digest == image.digest


def test_umoci_reads_what_is_written(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    listed = subprocess.run(["umoci", "ls", "--layout", tmp_path / "out"], check=True, capture_output=True, timeout=30)
    assert listed.stdout.decode().split() == ["1"]
    subprocess.run(
        ["umoci", "raw", "unpack", "--rootless", "--image", f"{tmp_path}/out:1", tmp_path / "tree"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert (tmp_path / "tree" / "etc" / "motd").read_bytes() == b"hello\n"


def test_the_same_image_makes_the_same_bytes(tmp_path, image) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, image)
    assert (tmp_path / "a/index.json").read_bytes() == (tmp_path / "b/index.json").read_bytes()


def test_files_have_the_rights_that_the_umask_gives(tmp_path, image) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "out", image)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {0o640}


def test_a_second_image_joins_the_first(tmp_path, new_image) -> None:
    one, two, three = (new_image(name) for name in (b"1", b"2", b"3"))
    out = tmp_path / "out"
    write(out, one, "one")
    write(out, two, "two")
    write(out, three, "one")
    assert resolve(tmp_path, "oci-layout:out:one").digest == three.digest
    assert resolve(tmp_path, "oci-layout:out:two").digest == two.digest
    assert len(json.loads((out / "index.json").read_bytes())["manifests"]) == 2


def test_nothing_is_listed_before_it_is_committed(tmp_path, image, new_image) -> None:
    out = tmp_path / "out"
    write(out, image)
    before = (out / "index.json").read_bytes()
    LayoutWriter(out).add_manifest(new_image(b"other").manifest, tag="1")
    assert (out / "index.json").read_bytes() == before


def test_a_blob_that_is_not_its_digest_leaves_nothing(tmp_path) -> None:
    writer = LayoutWriter(tmp_path / "out")
    with pytest.raises(UntrustedDataError) as caught:
        writer.add_blob([b"x"], mediatype.OCI_LAYER, "sha256:" + "0" * 64)
    assert caught.value.code == "digest-mismatch"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_source_that_fails_leaves_nothing(tmp_path) -> None:
    def failing() -> Any:
        yield b"x"
        raise KeyError("gone")

    with pytest.raises(KeyError):
        LayoutWriter(tmp_path / "out").add_blob(failing(), mediatype.OCI_LAYER)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_blob_that_is_there_is_known(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    writer = LayoutWriter(tmp_path / "out")
    assert writer.has_blob(image.manifest.layers[0])
    (tmp_path / "out/blobs/sha256" / image.manifest.layers[0].digest[7:]).write_bytes(b"short")
    assert not writer.has_blob(image.manifest.layers[0])


def test_a_blob_from_before_the_machines_start_is_read_before_it_is_believed(tmp_path, image, monkeypatch) -> None:
    write(tmp_path / "out", image)
    writer = LayoutWriter(tmp_path / "out")
    layer = image.manifest.layers[0]
    blob = tmp_path / "out/blobs/sha256" / layer.digest[7:]
    whole = blob.read_bytes()
    with monkeypatch.context() as just_started:
        just_started.setattr("time.clock_gettime", lambda clock: -60.0)
        assert writer.has_blob(layer)
        blob.write_bytes(bytes(len(whole)))  # what a power failure may leave of a file that was not flushed
        assert not writer.has_blob(layer)
    writer.add_checked([whole[:5], whole[5:]], layer)
    assert blob.read_bytes() == whole
    assert writer.has_blob(layer)


def test_a_folder_with_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UsageError) as caught:
        LayoutWriter(tmp_path)
    assert caught.value.code == "output-not-a-layout"
    with pytest.raises(UsageError):
        LayoutWriter(tmp_path / "precious")
    assert os.listdir(tmp_path) == ["precious"]


def test_a_place_that_cannot_be_written_is_named() -> None:
    with pytest.raises(HostError, match="/proc/mbuild") as caught:
        LayoutWriter(Path("/proc/mbuild"))
    assert caught.value.code == "output-failed"


def test_an_index_for_two_platforms_is_chosen_from(tmp_path, new_image) -> None:
    images = {name: new_image(name.encode(), Platform("linux", name)) for name in ("amd64", "arm64")}
    writer = LayoutWriter(tmp_path / "out")
    entries = []
    for name, one in images.items():
        writer.add_bytes(one.config, mediatype.OCI_CONFIG)
        data = writer.add_bytes(one.data, one.manifest.media_type)
        entries.append(type(data)(data.media_type, data.digest, data.size, Platform("linux", name)))
    writer.add_manifest(Index(tuple(entries)), tag="both")
    writer.commit()
    for name, one in images.items():
        assert resolve(tmp_path, "oci-layout:out:both", Platform("linux", name)).digest == one.digest
    with pytest.raises(TransferError) as caught:
        resolve(tmp_path, "oci-layout:out:both", Platform("linux", "s390x"))
    assert caught.value.code == "platform-missing"


def test_manifests_of_one_tag_and_two_platforms_are_chosen_from(tmp_path, new_image) -> None:
    images = {name: new_image(name.encode(), Platform("linux", name)) for name in ("amd64", "arm64")}
    out = tmp_path / "out"
    for name, one in images.items():
        writer = LayoutWriter(out)
        writer.add_bytes(one.config, mediatype.OCI_CONFIG)
        writer.add_manifest(one.manifest, platform=Platform("linux", name))
        writer.commit()
    for name, one in images.items():
        assert resolve(tmp_path, "oci-layout:out", Platform("linux", name)).digest == one.digest


def test_a_tar_of_a_layout_is_read(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    with tarfile.open(tmp_path / "out.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "out", ".")
    assert fetched(tmp_path, "oci-layout:out.tar.gz:1") == image.layer


def test_an_image_is_found_by_its_digest(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    assert resolve(tmp_path, f"oci-layout:out@{image.digest}").digest == image.digest
    (tmp_path / "out/index.json").write_text('{"schemaVersion": 2, "manifests": []}')
    assert resolve(tmp_path, f"oci-layout:out@{image.digest}").digest == image.digest


def test_without_a_tag_latest_is_meant(tmp_path, new_image) -> None:
    one, two = new_image(b"1"), new_image(b"2")
    write(tmp_path / "out", one, "old")
    write(tmp_path / "out", two, "latest")
    assert resolve(tmp_path, "oci-layout:out").digest == two.digest


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("oci-layout:out:absent", "image-not-found"),
        ("oci-layout:out", "image-ambiguous"),
        ("oci-layout:nowhere", "image-not-found"),
        ("oci-layout:empty", "image-not-found"),
        ("oci-layout:out@sha256:" + "0" * 64, "image-not-found"),
        ("oci-layout:/dev/null", "image-not-found"),
    ],
)
def test_an_image_that_is_not_there_is_named(tmp_path, new_image, reference, code) -> None:
    write(tmp_path / "out", new_image(b"1"), "one")
    write(tmp_path / "out", new_image(b"2"), "two")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TransferError) as caught:
        resolve(tmp_path, reference)
    assert caught.value.code == code
    assert caught.value.hint


def blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest[7:]


def spoil_manifest(out: Path, image: Any) -> None:
    blob(out, image.digest).write_bytes(image.data.replace(b"2", b"3", 1))


def lose_manifest(out: Path, image: Any) -> None:
    blob(out, image.digest).unlink()


def spoil_config(out: Path, image: Any) -> None:
    blob(out, image.manifest.config.digest).write_bytes(b"{}")


def swap_config_for_pipe(out: Path, image: Any) -> None:
    blob(out, image.manifest.config.digest).unlink()
    os.mkfifo(blob(out, image.manifest.config.digest))


def bloat_manifest(out: Path, image: Any) -> None:
    blob(out, image.digest).write_bytes(b" " * (5 << 20))


def spoil_version(out: Path, image: Any) -> None:
    (out / "oci-layout").write_text('{"imageLayoutVersion": "9"}')


def spoil_marker(out: Path, image: Any) -> None:
    (out / "oci-layout").write_text("[]")


def point_index_outside(out: Path, image: Any) -> None:
    (out / "index.json").write_text('{"manifests": [{"digest": "sha256:../../../secret", "size": 1}]}')


def make_index_a_manifest(out: Path, image: Any) -> None:
    (out / "index.json").write_bytes(image.data)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (spoil_manifest, "digest-mismatch"),
        (lose_manifest, "blob-not-found"),
        (spoil_config, "digest-mismatch"),
        (swap_config_for_pipe, "blob-not-found"),
        (bloat_manifest, "file-too-large"),
        (spoil_version, "layout-invalid"),
        (spoil_marker, "layout-invalid"),
        (point_index_outside, "manifest-invalid"),
        (make_index_a_manifest, "manifest-invalid"),
    ],
)
def test_a_damaged_layout_is_refused(tmp_path, image, spoil: Callable[[Path, Any], None], code: str) -> None:
    write(tmp_path / "out", image)
    spoil(tmp_path / "out", image)
    with pytest.raises(TransferError) as caught:
        resolve(tmp_path, "oci-layout:out:1")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: data[:-1], "blob-truncated"),
        (lambda data: data + b"!", "blob-too-long"),
        (lambda data: b"!" + data[1:], "digest-mismatch"),
    ],
)
def test_a_damaged_layer_is_refused_when_it_is_fetched(tmp_path, image, change, code) -> None:
    write(tmp_path / "out", image)
    blob(tmp_path / "out", image.manifest.layers[0].digest).write_bytes(change(image.layer))
    with pytest.raises(UntrustedDataError) as caught:
        fetched(tmp_path, "oci-layout:out:1")
    assert caught.value.code == code


def test_a_layer_that_is_missing_is_named(tmp_path, image) -> None:
    write(tmp_path / "out", image)
    blob(tmp_path / "out", image.manifest.layers[0].digest).unlink()
    with pytest.raises(TransferError) as caught:
        fetched(tmp_path, "oci-layout:out:1")
    assert caught.value.code == "blob-not-found"


def test_what_is_complete_is_found(tmp_path, new_image) -> None:
    whole, half = new_image(b"1"), new_image(b"2", Platform("linux", "arm64"))
    writer = LayoutWriter(tmp_path / "out")
    entries = []
    for one in (whole, half):
        writer.add_bytes(one.layer, mediatype.OCI_LAYER)
        writer.add_bytes(one.config, mediatype.OCI_CONFIG)
        entries.append(writer.add_bytes(one.data, one.manifest.media_type))
    root = writer.add_manifest(Index(tuple(entries)), tag="1")
    writer.commit()
    layout = OciLayout(FolderFiles(tmp_path / "out"), "out")
    assert layout.complete(root) == root
    blob(tmp_path / "out", half.manifest.config.digest).unlink()
    kept = layout.complete(root)
    assert kept is not None
    assert kept != root
    blob(tmp_path / "out", whole.manifest.layers[0].digest).unlink()
    assert layout.complete(root) is None
