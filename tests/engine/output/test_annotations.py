"""--annotation, and its like in -o, as people write them."""

from __future__ import annotations

import pytest

from engine.output.annotations import Annotation, Annotations, Place, parse_annotations, parse_output_key
from machinefile.errors import UsageError
from machinefile.platform import Platform

ARM = Platform("linux", "arm64")
AMD = Platform("linux", "amd64")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", [Annotation("a", "b")]),
        ("org.a=b=c:d", [Annotation("org.a", "b=c:d")]),
        ("a=", [Annotation("a", "")]),
        ("index:a=b", [Annotation("a", "b", Place.INDEX)]),
        ("index:a:b=c", [Annotation("a:b", "c", Place.INDEX)]),
        ("manifest[linux/arm64/v8]:a=b", [Annotation("a", "b", Place.MANIFEST, ARM)]),
        ("index,manifest:a=b", [Annotation("a", "b", Place.INDEX), Annotation("a", "b")]),
        ("manifest-descriptor[amd64]:a=b", [Annotation("a", "b", Place.MANIFEST_DESCRIPTOR, AMD)]),
    ],
)
def test_annotations_are_read_as_buildx_reads_them(text: str, expected: list[Annotation]) -> None:
    assert list(parse_annotations([text]).entries) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a", "usage"),
        ("=b", "usage"),
        ("index:=b", "usage"),
        (":a=b", "usage"),
        ("In dex:a=b", "usage"),
        ("manifest[linux/arm64:a=b", "usage"),
        ("manifest[a/b/c/d]:a=b", "usage"),
        ("manifest[]:a=b", "usage"),
        ("mainfest:a=b", "annotation-unsupported"),
        ("index-descriptor:a=b", "annotation-unsupported"),
        ("index[linux/arm64]:a=b", "annotation-unsupported"),
    ],
)
def test_what_is_no_annotation_is_refused(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_annotations([text])
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("annotation.Org.A", Annotation("Org.A", "v")),
        ("Annotation-Manifest.a", Annotation("a", "v")),
        ("annotation-index.a.b", Annotation("a.b", "v", Place.INDEX)),
        ("annotation[linux/arm64].a", Annotation("a", "v", Place.MANIFEST, ARM)),
        ("annotation-manifest[linux/arm64].a", Annotation("a", "v", Place.MANIFEST, ARM)),
        ("annotation-manifest-descriptor.a", Annotation("a", "v", Place.MANIFEST_DESCRIPTOR)),
    ],
)
def test_the_fields_of_an_output_are_read_as_buildkit_reads_them(name: str, expected: Annotation) -> None:
    assert parse_output_key("-o x", name, "v") == expected


@pytest.mark.parametrize("name", ["annotation", "annotation.", "annotations.a", "annotation-index-descriptor.a"])
def test_a_field_that_names_no_annotation_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        parse_output_key("-o x", name, "v")


def test_a_later_one_wins_and_one_for_a_platform_over_all() -> None:
    found = parse_annotations(["manifest[linux/arm64]:a=arm", "a=1", "a=2", "z=0", "index:b=top"])
    assert found.of_manifest(AMD) == (("a", "2"), ("z", "0"))
    assert found.of_manifest(ARM) == (("a", "arm"), ("z", "0"))
    assert found.of_index() == (("b", "top"),)
    assert found.of_descriptor(ARM) == ()
    assert Annotations().of_manifest(None) == ()
