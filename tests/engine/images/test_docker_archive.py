"""Archives of docker save, old and new, whole and hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from engine.images import archive as archive_module
from engine.images import mediatype
from engine.images.digest import digest_of
from engine.images.layout_writer import LayoutWriter
from engine.images.manifest import Index
from engine.images.source import ImageSources
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.platform import Platform
from machinefile.steps import BaseReference

AMD64 = Platform("linux", "amd64")


def resolve(folder: Path, reference: str) -> Any:
    with ImageSources(folder) as sources:
        return sources.resolve(BaseReference(reference, AMD64))


def fetched(folder: Path, reference: str) -> tuple[Any, list[bytes]]:
    layers = []
    with ImageSources(folder) as sources:
        image = sources.resolve(BaseReference(reference, AMD64))
        for layer in image.layers:
            parts: list[bytes] = []
            sources.fetch_blob(image, layer.descriptor, parts.append)
            layers.append(b"".join(parts))
    return image, layers


def saved(image: Any, layers: list[str], tags: list[str] | None = None, config: str = "c.json") -> dict[str, Any]:
    return {"Config": config, "RepoTags": tags, "Layers": layers}


@pytest.fixture
def write(tmp_path: Path, tar_of: Any) -> Any:
    def write(files: dict[str, bytes], *entries: dict[str, Any], name: str = "x.tar") -> None:
        manifest = {"manifest.json": json.dumps(entries).encode()} if entries else {}
        (tmp_path / name).write_bytes(tar_of({**files, **manifest}))

    return write


def test_an_archive_gives_the_image_and_its_layers(tmp_path, image, write) -> None:
    write({"c.json": image.config, "l/layer.tar": image.layer}, saved(image, ["l/layer.tar"], ["tool:1"]))
    found, layers = fetched(tmp_path, "docker-archive:x.tar")
    assert layers == [image.layer]
    assert found.configuration_bytes == image.config
    assert found.digest == image.digest
    assert found.manifest.layers[0].media_type == mediatype.OCI_LAYER


@pytest.mark.parametrize(
    ("pack", "kind"),
    [(gzip.compress, mediatype.OCI_LAYER_GZIP), (zstandard.compress, mediatype.OCI_LAYER_ZSTD)],
)
def test_a_compressed_layer_is_named_by_its_own_digest(tmp_path, image, write, pack, kind) -> None:
    packed = pack(image.layer)
    write({"c.json": image.config, "l": packed}, saved(image, ["l"]))
    found, layers = fetched(tmp_path, "docker-archive:x.tar")
    assert layers == [packed]
    assert found.layers[0].descriptor.media_type == kind
    assert found.layers[0].descriptor.digest == digest_of(packed)
    assert found.layers[0].diff_id == digest_of(image.layer)


def test_the_same_archive_is_the_same_image(tmp_path, image, write) -> None:
    packed = gzip.compress(image.layer, mtime=0)
    digests = set()
    for name in ("a.tar", "b.tar"):
        write({"c.json": image.config, "l": packed}, saved(image, ["l"]), name=name)
        digests.add(resolve(tmp_path, f"docker-archive:{name}").digest)
    assert len(digests) == 1


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_an_archive_may_be_compressed_as_a_whole(tmp_path, image, write, pack) -> None:
    write({"c.json": image.config, "l": image.layer}, saved(image, ["l"]))
    (tmp_path / "y").write_bytes(pack((tmp_path / "x.tar").read_bytes()))
    assert fetched(tmp_path, "docker-archive:y")[1] == [image.layer]


@pytest.mark.parametrize("name", ["tool:1", "tool", "docker.io/library/other:2", "docker.io/library/tool:latest"])
def test_of_several_images_one_is_named(tmp_path, new_image, write, name) -> None:
    images = {"tool:1": new_image(b"1"), "tool:latest": new_image(b"2"), "other:2": new_image(b"3")}
    files: dict[str, bytes] = {}
    entries = []
    for number, (tag, one) in enumerate(images.items()):
        files |= {f"c{number}": one.config, f"l{number}": one.layer}
        entries.append(saved(one, [f"l{number}"], [tag], f"c{number}"))
    write(files, *entries)
    short = name.removeprefix("docker.io/library/")
    wanted = images[short if ":" in short else f"{short}:latest"]
    assert resolve(tmp_path, f"docker-archive:x.tar:{name}").digest == wanted.digest
    for reference, code in (("x.tar", "image-ambiguous"), ("x.tar:absent", "image-not-found")):
        with pytest.raises(TransferError, match="other:2, tool:1, tool:latest") as caught:
            resolve(tmp_path, f"docker-archive:{reference}")
        assert caught.value.code == code


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_layer_that_is_a_link_to_anothers_is_followed(tmp_path, image, kind) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:

        def add(name: str, data: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))

        add("one/layer.tar", image.layer)
        link = tarfile.TarInfo("two/layer.tar")
        link.type = kind
        link.linkname = "../one/layer.tar" if kind == tarfile.SYMTYPE else "one/layer.tar"
        tar.addfile(link)
        add("c.json", image.config)
        add("manifest.json", json.dumps([saved(image, ["two/layer.tar"])]).encode())
    assert fetched(tmp_path, "docker-archive:x.tar")[1] == [image.layer]


def test_what_skopeo_writes_is_read(tmp_path, image) -> None:
    writer = LayoutWriter(tmp_path / "layout")
    writer.add_bytes(image.layer, mediatype.OCI_LAYER)
    writer.add_bytes(image.config, mediatype.OCI_CONFIG)
    writer.add_manifest(image.manifest, tag="1")
    writer.commit()
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{tmp_path}/layout:1"]
    subprocess.run([*argv, f"docker-archive:{tmp_path}/x.tar:tool:1"], check=True, timeout=30)
    found, layers = fetched(tmp_path, "docker-archive:x.tar:tool:1")
    assert layers == [image.layer]
    assert found.configuration.config.cmd == ("/bin/sh",)


def layout_archive(tmp_path: Path, images: dict[str, Any], lost: set[str]) -> None:
    """What newer versions of docker save write: a layout with a manifest.json beside it, some blobs left out."""
    writer = LayoutWriter(tmp_path / "layout")
    entries = []
    for name, one in images.items():
        writer.add_bytes(one.layer, mediatype.OCI_LAYER)
        writer.add_bytes(one.config, mediatype.OCI_CONFIG)
        data = writer.add_bytes(one.data, one.manifest.media_type)
        entries.append(type(data)(data.media_type, data.digest, data.size, Platform("linux", name)))
    writer.add_manifest(Index(tuple(entries)), tag="1")
    writer.commit()
    first = next(iter(images.values()))
    blobs = "blobs/sha256/"
    entry = saved(first, [blobs + digest_of(first.layer)[7:]], ["tool:1"], blobs + digest_of(first.config)[7:])
    (tmp_path / "layout/manifest.json").write_text(json.dumps([entry]))
    for digest in lost:
        (tmp_path / "layout" / blobs / digest[7:]).unlink()
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "layout", "")


@pytest.fixture
def images(new_image: Any) -> dict[str, Any]:
    return {name: new_image(name.encode(), Platform("linux", name)) for name in ("amd64", "arm64")}


def test_an_archive_that_is_a_layout_too_keeps_the_digest(tmp_path, images) -> None:
    layout_archive(tmp_path, images, set())
    with ImageSources(tmp_path) as sources:
        for name, one in images.items():
            found = sources.resolve(BaseReference("docker-archive:x.tar", Platform("linux", name)))
            assert found.digest == one.digest


def test_other_platforms_blobs_may_be_missing(tmp_path, images) -> None:
    layout_archive(tmp_path, images, set(images["arm64"].blobs))
    found, layers = fetched(tmp_path, "docker-archive:x.tar")
    assert found.digest == images["amd64"].digest
    assert layers == [images["amd64"].layer]


def test_an_index_whose_manifests_are_missing_falls_back_to_manifest_json(tmp_path, images) -> None:
    layout_archive(tmp_path, images, {images["amd64"].digest, images["arm64"].digest})
    found, layers = fetched(tmp_path, "docker-archive:x.tar:tool:1")
    assert layers == [images["amd64"].layer]
    assert found.configuration_bytes == images["amd64"].config


def test_a_tar_of_a_layout_alone_says_how_to_name_it(tmp_path, image, write) -> None:
    write({"oci-layout": b"{}", "index.json": b"{}"})
    with pytest.raises(TransferError) as caught:
        resolve(tmp_path, "docker-archive:x.tar")
    assert "oci-layout:x.tar" in caught.value.hint


def test_an_archive_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(TransferError, match=r"absent\.tar") as caught:
        resolve(tmp_path, "docker-archive:absent.tar")
    assert caught.value.code == "image-not-found"


def test_a_layer_that_is_not_its_diff_id_is_refused(tmp_path, image, write) -> None:
    write({"c.json": image.config, "l": image.layer + bytes(512)}, saved(image, ["l"]))
    with pytest.raises(UntrustedDataError) as caught:
        fetched(tmp_path, "docker-archive:x.tar")
    assert caught.value.code == "digest-mismatch"


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        b"[1]",
        b"[" * 100_000,
        b'[{"Config": 1}]',
        b'[{"Config": "absent", "Layers": []}]',
        b'[{"Config": "c.json", "Layers": "l"}]',
        b'[{"Config": "c.json", "Layers": []}]',
        b'[{"Config": "c.json", "Layers": ["l", "l"]}]',
        b'[{"Config": "c.json", "Layers": ["../../../../etc/passwd"]}]',
        b'[{"Config": "/etc/passwd", "Layers": ["l"]}]',
    ],
    ids=lambda data: data[:40].decode(),
)
def test_a_broken_manifest_json_is_refused(tmp_path, image, write, manifest) -> None:
    write({"c.json": image.config, "l": image.layer, "manifest.json": manifest})
    with pytest.raises(UntrustedDataError) as caught:
        resolve(tmp_path, "docker-archive:x.tar")
    assert caught.value.code == "archive-invalid"


def test_names_that_climb_out_stay_in_the_archive(tmp_path, image, write) -> None:
    write({"../../c.json": image.config, "/l": image.layer}, saved(image, ["./l"]))
    assert fetched(tmp_path, "docker-archive:x.tar")[1] == [image.layer]


def header(name: str, **fields: bytes) -> bytes:
    """A ustar header with fields overwritten by their offset's name and its checksum right."""
    entry = tarfile.TarInfo(name)
    entry.size = 0
    block = bytearray(entry.tobuf(tarfile.USTAR_FORMAT)[:512])
    for field, value in fields.items():
        start = {"size": 124, "type": 156, "link": 157}[field]
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block)


NEGATIVE = b"\xff" * 11 + b"\x00"
HUGE = b"\x80" + b"\x00" * 4 + b"\x7f" + b"\xff" * 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a tar",
        b"x" * 2000,
        gzip.compress(b"x" * 2000, mtime=0),
        gzip.compress(bytes(5000), mtime=0)[:-9],
        b"\x1f\x8b\x08garbage",
        b"\x28\xb5\x2f\xfdgarbage",
        b"BZhgarbage",
        b"\xfd7zXZ\x00",
        b"\xfd7zXZ\x00garbage, more than a header of it",
        lzma.compress(bytes(5000))[:-9],
        header("a") + header("b", size=NEGATIVE) + bytes(1024),
        header("b", size=NEGATIVE) + bytes(1024),
        header("a", size=HUGE) + bytes(1024),
        header("a", size=b"00000010000\0") + b"short",
        header("x", type=b"x", size=b"77777777777\0") + bytes(1024),
        header("x", type=b"x", size=HUGE) + bytes(1024),
        header("x", type=b"x", size=NEGATIVE) + bytes(1024),
        header("x", type=b"L", size=NEGATIVE) + bytes(1024),
        header("x", type=b"L", size=b"77777777777\0") + bytes(1024),
        header("x", type=b"x", size=b"00000000020\0") + b"99 size=-99999\n\n\0" + bytes(2000),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path, data) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(TransferError) as caught:
        resolve(tmp_path, "docker-archive:x.tar")
    assert caught.value.code in ("archive-invalid", "image-not-found")


def test_links_that_go_round_lead_nowhere(tmp_path) -> None:
    blocks = [
        header(name, type=b"2", link=target) for name, target in (("manifest.json", b"b"), ("b", b"manifest.json"))
    ]
    (tmp_path / "x.tar").write_bytes(b"".join(blocks) + bytes(1024))
    with pytest.raises(TransferError) as caught:
        resolve(tmp_path, "docker-archive:x.tar")
    assert caught.value.code == "image-not-found"


def test_an_archive_of_too_many_entries_is_refused(tmp_path, tar_of, monkeypatch) -> None:
    monkeypatch.setattr(archive_module, "MAX_ENTRIES", 50)
    (tmp_path / "x.tar").write_bytes(tar_of({str(number): b"" for number in range(60)}))
    with pytest.raises(UntrustedDataError, match="50 entries"):
        resolve(tmp_path, "docker-archive:x.tar")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress])
def test_a_bomb_is_refused(tmp_path, monkeypatch, pack) -> None:
    monkeypatch.setattr(archive_module, "MAX_ARCHIVE_BYTES", 1 << 20)
    (tmp_path / "x.tar").write_bytes(pack(bytes(8 << 20)))
    with pytest.raises(UntrustedDataError, match="decompresses") as caught:
        resolve(tmp_path, "docker-archive:x.tar")
    assert caught.value.code == "archive-invalid"
