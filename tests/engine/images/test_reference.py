"""Names of images, as Docker reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.images.reference import (
    ArchiveReference,
    LayoutReference,
    Reference,
    Scratch,
    parse_reference,
)
from machinefile.errors import UsageError

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", Reference("docker.io", "library/debian", "latest")),
        ("debian:bookworm-slim", Reference("docker.io", "library/debian", "bookworm-slim")),
        ("ada/tool", Reference("docker.io", "ada/tool", "latest")),
        ("docker.io/debian", Reference("docker.io", "library/debian", "latest")),
        ("index.docker.io/ada/tool:1", Reference("docker.io", "ada/tool", "1")),
        ("localhost/tool", Reference("localhost", "tool", "latest")),
        ("localhost:5000/tool:2", Reference("localhost:5000", "tool", "2")),
        ("myhost:5000/a/b/c", Reference("myhost:5000", "a/b/c", "latest")),
        ("[::1]:5000/tool", Reference("[::1]:5000", "tool", "latest")),
        ("example.org/a__b/c-d.e", Reference("example.org", "a__b/c-d.e", "latest")),
        (f"debian@{DIGEST}", Reference("docker.io", "library/debian", "", DIGEST)),
        (f"debian:12@{DIGEST}", Reference("docker.io", "library/debian", "12", DIGEST)),
        ("docker-image://debian:12", Reference("docker.io", "library/debian", "12")),
        (f"{'0' * 64}@{DIGEST}", Reference("docker.io", f"library/{'0' * 64}", "", DIGEST)),
        ("registry-1.docker.io/tool", Reference("registry-1.docker.io", "tool", "latest")),
        ("Host/tool", Reference("Host", "tool", "latest")),
        ("scratch", Scratch()),
        ("oci-layout:dir", LayoutReference("dir")),
        ("oci-layout:../dir:v1", LayoutReference("../dir", "v1")),
        ("oci-layout:///abs/dir:v1", LayoutReference("/abs/dir", "v1")),
        (f"oci-layout://rel@{DIGEST}", LayoutReference("rel", "", DIGEST)),
        (f"oci-layout:/d:v1@{DIGEST}", LayoutReference("/d", "v1", DIGEST)),
        ("oci-layout:/a:b/c", LayoutReference("/a:b/c")),
        ("docker-archive:x.tar", ArchiveReference("x.tar")),
        ("docker-archive:/x.tar:debian:12", ArchiveReference("/x.tar", "debian:12")),
    ],
)
def test_a_name_is_read_as_docker_reads_it(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":tag",
        "Debian",
        "debian:",
        "debian:-x",
        "debian:" + "x" * 129,
        "debian@sha256:123",
        "debian@" + DIGEST.upper(),
        "debian@sha512:" + "0" * 128,
        "a//b",
        "/debian",
        "debian/",
        "a/../b",
        "a/./b",
        "-a",
        "a-",
        "a.._b",
        "a b",
        "debian\n",
        "debian:12\n",
        "débian",
        "host:123456/a",
        "http://host/a",
        "0123456789abcdef" * 4,
        "x" * 300,
        "oci-layout:",
        "oci-layout::tag",
        "oci-layout:/p@sha256:12",
        "docker-archive:",
        "docker-archive:x.tar:NOT VALID",
        "docker-image://",
    ],
)
def test_what_is_no_name_is_refused_and_named(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert caught.value.code == "reference-invalid"
    assert caught.value.exit_code == 2


def test_a_digest_that_is_not_a_sha256_is_said_to_be_unsupported() -> None:
    with pytest.raises(UsageError, match="not a sha256") as caught:
        Reference.parse("debian@sha512:" + "0" * 128)
    assert "no other is supported" in caught.value.hint


def test_an_upper_case_name_is_shown_in_lower_case() -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse("ada/Tool")
    assert "ada/tool" in caught.value.hint


def test_the_default_registry_answers_at_its_own_endpoint() -> None:
    assert Reference.parse("debian").endpoint == "registry-1.docker.io"
    assert Reference.parse("localhost:5000/x").endpoint == "localhost:5000"


def test_a_digest_decides_over_a_tag() -> None:
    assert Reference.parse(f"debian:12@{DIGEST}").target == DIGEST
    assert Reference.parse("debian").target == "latest"
    assert Reference.parse("debian:12").pinned(DIGEST).target == DIGEST


def test_the_short_form_leaves_out_what_is_understood() -> None:
    assert Reference.parse("docker.io/library/debian:12").short == "debian:12"
    assert Reference.parse("docker.io/ada/tool:1").short == "ada/tool:1"
    assert Reference.parse("localhost:1/library/x:1").short == "localhost:1/library/x:1"


names = st.from_regex(
    r"(?:[a-z0-9]{1,8}(?:\.[a-z]{2,3}|:[0-9]{1,5})/)?[a-z0-9]{1,8}(?:[._-][a-z0-9]{1,5})?", fullmatch=True
)


@given(names, st.sampled_from(["", ":1", ":v1.2-3", f"@{DIGEST}", f":x@{DIGEST}"]))
def test_a_name_printed_in_full_or_short_reads_as_the_same(name: str, suffix: str) -> None:
    parsed = Reference.parse(name + suffix)
    assert Reference.parse(str(parsed)) == parsed
    assert Reference.parse(parsed.short) == parsed


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_is_refused(text: str) -> None:
    try:
        parsed = parse_reference(text)
    except UsageError:
        return
    assert parse_reference(str(parsed)) == parsed
