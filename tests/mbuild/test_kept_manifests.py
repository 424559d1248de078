"""What an image elsewhere may do to the store by naming what is in it: nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from cache.blobs import SMALL, digest_of
from cache.store import Store
from engine.events import ignore
from engine.images.registry_flags import RegistryFlags
from machinefile.errors import MbuildError
from machinefile.platform import Platform
from machinefile.steps import BaseReference
from mbuild.session import open_images


def layout(folder: Path, manifest: str, size: int) -> str:
    folder.mkdir()
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    descriptor = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": size}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return f"oci-layout:{folder}"


@pytest.mark.parametrize("length", [1000, SMALL + 2])
@pytest.mark.parametrize("size", [0, 10, 1000, SMALL + 2])
def test_a_layer_that_is_named_as_a_manifest_stays(tmp_path: Path, length: int, size: int) -> None:
    layer = b"\0" * length
    with Store(tmp_path / "store") as store:
        digest = store.blobs.put(layer)
    named = layout(tmp_path / "layout", digest, size)
    with open_images(str(tmp_path / "store"), ignore, threading.Event(), RegistryFlags()) as (store, source):
        with pytest.raises(MbuildError):
            source.resolve(BaseReference(named, Platform("linux", "amd64")))
        assert store.blobs.verify(digest)


def test_a_kept_manifest_is_given_for_its_own_size_alone(tmp_path: Path) -> None:
    """Who says another size than the store has means something else, or lies: it is for them to give it."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    media = "application/vnd.oci.image.config.v1+json"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": media, "digest": digest_of(config), "size": len(config)},
            "layers": [],
        }
    ).encode()
    with Store(tmp_path / "store") as store:
        store.blobs.put(config)
        digest = store.blobs.put(manifest)
    with open_images(str(tmp_path / "store"), ignore, threading.Event(), RegistryFlags()) as (_, source):
        platform = Platform("linux", "amd64")
        right = layout(tmp_path / "right", digest, len(manifest))
        assert source.resolve(BaseReference(right, platform)).digest == digest
        for size in (len(manifest) - 1, len(manifest) + 1):
            with pytest.raises(MbuildError):
                source.resolve(BaseReference(layout(tmp_path / str(size), digest, size), platform))
