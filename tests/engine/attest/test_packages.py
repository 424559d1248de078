"""Packages read from layers, those of hostile images too."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING

import pytest

from engine.attest import packages, readers
from engine.attest.packages import inventory
from engine.attest.spdx import document
from engine.bases import Bases
from engine.layers.entry import Entry, EntryType
from engine.layers.tarwrite import Item
from engine.layerstore import LayerStore
from machinefile.errors import InterruptedBuildError

if TYPE_CHECKING:
    from conftest import Workshop

STATUS = b"""Package: bash
Status: install ok installed
Architecture: amd64
Version: 1:5.2.15-2+b7
Description: a shell
 Package: not-one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1.2.13
"""
APK = b"C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nF:lib\nR:x\n\nP:busybox\nV:1.36.1-r5\nA:x86_64\n"
METADATA = b"Metadata-Version: 2.1\nName: Flask_Login\nVersion: 0.6.3\n\nName: not-this\nVersion: 9\n"


def item(path: str, content: bytes) -> Item:
    return Item(Entry(path, EntryType.FILE, 0o644, size=len(content)), lambda: io.BytesIO(content))


def found_in(workshop: Workshop, *layers: list[Item]) -> packages.Inventory:
    store = LayerStore(workshop.store, Bases(workshop.store, workshop.source, workshop.events.append))
    made = tuple(layer for layer in (store.write(sorted(one, key=lambda i: i.entry.path)) for one in layers) if layer)
    return inventory(store.view(made), store.files(made))


def purls(found: packages.Inventory) -> list[str]:
    return [package.purl for package in found.packages]


def test_each_manager_s_packages_are_found(workshop: Workshop) -> None:
    found = found_in(
        workshop,
        [
            item("usr/lib/os-release", b'ID=debian\nVERSION_ID="12"\nNAME=x\n'),
            item("var/lib/dpkg/status", STATUS),
            item("var/lib/dpkg/status.d/tzdata", b"Package: tzdata\nVersion: 2024a-0+deb12u1\nArchitecture: all\n"),
            item("var/lib/dpkg/status.d/tzdata.md5sums", b"abc  usr/share/x\n"),
            item("lib/apk/db/installed", APK),
            item("app/site-packages/flask_login-0.6.3.dist-info/METADATA", METADATA),
            item("app/site-packages/old.egg-info/PKG-INFO", b"Name: old\nVersion: 1\n"),
            item("app/node_modules/@a/b/package.json", b'{"name": "@a/b", "version": "2.0.0"}'),
            item("app/node_modules/c/package.json", b'{"name": "c", "version": "1.0.0"}'),
            item("app/node_modules/c/dist/package.json", b'{"type": "module"}'),
            item("app/node_modules/c/node_modules/d/package.json", b'{"name": "d", "version": "0.1.0"}'),
            item("app/package.json", b'{"name": "app", "version": "3"}'),
        ],
    )
    assert found.unread == 0
    assert purls(found) == [
        "pkg:apk/debian/busybox@1.36.1-r5?arch=x86_64&distro=debian-12",
        "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
        "pkg:deb/debian/bash@1:5.2.15-2%2Bb7?arch=amd64&distro=debian-12",
        "pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=debian-12",
        "pkg:deb/debian/zlib1g@1.2.13?arch=amd64&distro=debian-12",
        "pkg:npm/%40a/b@2.0.0",
        "pkg:npm/c@1.0.0",
        "pkg:npm/d@0.1.0",
        "pkg:pypi/flask-login@0.6.3",
        "pkg:pypi/old@1",
    ]


def test_what_a_layer_above_replaces_or_removes_does_not_count(workshop: Workshop) -> None:
    below = [item("var/lib/dpkg/status", STATUS), item("a/x.dist-info/METADATA", b"Name: x\nVersion: 1\n")]
    above = [
        item("var/lib/dpkg/status", b"Package: only\nVersion: 1\nArchitecture: all\n"),
        Item(Entry("a/x.dist-info", EntryType.WHITEOUT)),
    ]
    assert purls(found_in(workshop, below, above)) == ["pkg:deb/debian/only@1?arch=all"]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("var/lib/dpkg/status", b"Package: ../../etc\nVersion: 1\n"),
        ("var/lib/dpkg/status", b"Package: a\nVersion: \x1b[31m\n"),
        ("var/lib/dpkg/status", b"Package: " + b"a" * 5000 + b"\nVersion: 1\n"),
        ("lib/apk/db/installed", b"\xff\xfe\n\nP:\nV:\n"),
        ("a/b.dist-info/METADATA", b""),
        ("node_modules/a/package.json", b"[" * 100_000),
        ("node_modules/a/package.json", b'{"name": "\\ud800", "version": "1"}'),
        ("node_modules/a/package.json", b'{"name": ["a"], "version": "1"}'),
        ("node_modules/a/package.json", b"\xff"),
    ],
)
def test_what_makes_no_sense_is_counted_and_left_out(workshop: Workshop, path: str, content: bytes) -> None:
    found = found_in(
        workshop, [item(path, content), item("node_modules/z/package.json", b'{"name":"z","version":"1"}')]
    )
    assert purls(found) == ["pkg:npm/z@1"]
    assert found.unread == 1


def test_too_many_files_and_too_large_ones_are_left_out(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MAX_FILES", 2)
    monkeypatch.setattr(packages, "MAX_FILE_BYTES", 100)
    many = [item(f"node_modules/{name}/package.json", b'{"name":"z","version":"1"}') for name in "abc"]
    large = [item("node_modules/a/package.json", b'{"name":"z","version":"1"}' + b" " * 100)]
    assert found_in(workshop, many).unread == 1
    found = found_in(workshop, large)
    assert (found.packages, found.unread) == ((), 1)
    said = document(found, name="app", digest="sha256:" + "a" * 64, created="1980-01-02T00:00:00Z", tool="mbuild-1")
    assert "1 files" in str(said["comment"])


def test_several_names_of_one_file_are_each_read(workshop: Workshop) -> None:
    names = [f"{place}/x.dist-info/METADATA" for place in "ab"]
    link = Item(Entry(names[1], EntryType.HARDLINK, 0o644, link=names[0]))
    found = found_in(workshop, [item(names[0], b"Name: x\nVersion: 1\n"), link])
    assert [package.path for package in found.packages] == names
    assert found.unread == 0


def test_a_line_without_end_costs_no_more_than_it_is_long() -> None:
    assert list(readers.dpkg(b"Package: a\nVersion: 1\nX: " + b"y" * (8 << 20))) == [readers.Fact("deb", "a", "1")]
    assert len(list(readers.dpkg(b"Package: a\nVersion: 1\n\n" * 10_000))) == 10_000


def test_a_document_has_what_the_specification_asks_for(workshop: Workshop) -> None:
    found = found_in(workshop, [item("var/lib/dpkg/status", STATUS)])
    arguments = {"name": "app:1", "digest": "sha256:" + "a" * 64, "created": "1980-01-02T00:00:00Z", "tool": "mbuild-1"}
    said = json.loads(json.dumps(document(found, **arguments)))
    assert said == document(found, **arguments), "nothing in it is random"
    for name in ("spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace", "creationInfo"):
        assert said[name]
    assert "#" not in said["documentNamespace"]
    identities = [package["SPDXID"] for package in said["packages"]]
    assert len(set(identities)) == len(identities) == 3
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyzSPDXRefI-.0123456789") for one in identities)
    assert all({"name", "SPDXID", "downloadLocation"} <= set(package) for package in said["packages"])
    related = {one["relatedSpdxElement"] for one in said["relationships"]}
    assert related == set(identities)


@pytest.mark.parametrize(
    ("created", "told"),
    [
        ("2024-05-06T07:08:09.123456789Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09+02:00", "2024-05-06T05:08:09Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("0001-01-01T00:00:00+14:00", "1970-01-01T00:00:00Z"),
        ("2024-05-06", "1970-01-01T00:00:00Z"),
        ("", "1970-01-01T00:00:00Z"),
        ("yesterday", "1970-01-01T00:00:00Z"),
    ],
)
def test_a_document_s_time_is_one_that_spdx_has(created: str, told: str) -> None:
    said = document(packages.Inventory(()), name="a", digest="sha256:" + "a" * 64, created=created, tool="mbuild-1")
    assert said["creationInfo"] == {"created": told, "creators": ["Tool: mbuild-1"]}


def test_packages_beyond_the_most_that_are_listed_are_told_of(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MAX_PACKAGES", 2)
    many = [item(f"node_modules/{name}/package.json", b'{"name":"z","version":"1"}') for name in "abc"]
    found = found_in(workshop, many)
    assert (len(found.packages), found.unread) == (2, 1)


def test_a_file_of_nonsense_is_given_up(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_MOST_SENSELESS", 2)
    first, last = b"Package: a\nVersion: 1\n\n", b"Package: b\nVersion: 1\n"
    for senseless, told in ((2, ["a", "b"]), (3, ["a"])):
        found = found_in(workshop, [item("var/lib/dpkg/status", first + b"Package: !\n\n" * senseless + last)])
        assert [package.name for package in found.packages] == told
        assert found.unread == 1


def test_reading_packages_can_be_interrupted(workshop: Workshop) -> None:
    store = LayerStore(workshop.store, Bases(workshop.store, workshop.source, workshop.events.append))
    layer = store.write([item("var/lib/dpkg/status", STATUS)])
    assert layer is not None
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(InterruptedBuildError):
        inventory(store.view((layer,)), store.files((layer,)), cancelled)
