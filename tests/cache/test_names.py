"""The names of the images in a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cache.names import NamedImage
from cache.store import Store

IMAGE = NamedImage("app", "sha256:" + "1" * 64, 7, "application/vnd.oci.image.manifest.v1+json", "2020-01-01T00:00:00Z")


def _inode(tmp_path: Path) -> int:
    return (tmp_path / "index.json").stat().st_ino


def test_an_image_that_has_the_name_keeps_the_time_that_it_got_it(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.names.put(IMAGE)
        before = _inode(tmp_path)
        store.names.put(replace(IMAGE, kept="2021-01-01T00:00:00Z"))
        assert store.names.all() == (IMAGE,)
        assert _inode(tmp_path) == before


@pytest.mark.parametrize("change", [{"digest": "sha256:" + "2" * 64}, {"size": 8}, {"media_type": "other"}])
def test_another_takes_the_name_and_its_own_time(tmp_path: Path, change: dict[str, str]) -> None:
    other = replace(IMAGE, kept="2021-01-01T00:00:00Z", **change)  # type: ignore[arg-type]
    with Store(tmp_path) as store:
        store.names.put(IMAGE)
        store.names.put(other)
        assert store.names.all() == (other,)


def test_what_had_no_time_gets_one(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.names.put(replace(IMAGE, kept=""))
        store.names.put(IMAGE)
        assert store.names.all() == (IMAGE,)


def test_names_that_are_damaged_are_mended_by_putting_the_same(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.names.put(IMAGE)
        path = tmp_path / "index.json"
        path.write_text(path.read_text().replace('"manifests": [', '"manifests": [{},'))
        assert not store.names.is_sound()
        store.names.put(IMAGE)
        assert store.names.is_sound()
