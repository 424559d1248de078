"""Lock files: what is written is read, and what somebody else wrote is read or refused, never believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from machinefile.errors import UsageError
from machinefile.lockfile import FilePin, ImagePin, Lockfile, RepositoryPin, changes
from machinefile.lockread import MAX_BYTES, MAX_ENTRIES, parse_lockfile
from machinefile.platform import Platform

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
COMMIT = "c" * 40

FULL = Lockfile(
    (AMD64, ARM64),
    (ImagePin("debian:12", ARM64, TWO, ONE), ImagePin("alpine:3", AMD64, ONE), ImagePin("debian:12", AMD64, ONE, TWO)),
    (FilePin("https://b/f", TWO), FilePin("https://a/f", ONE)),
    (
        RepositoryPin("https://a/p.git", "v1", COMMIT, "refs/tags/v1", "d" * 40),
        RepositoryPin("https://a/p.git", "", COMMIT),
    ),
)


def test_an_entry_is_a_line_and_the_lines_are_sorted() -> None:
    assert FULL.render() == (
        "{\n"
        '  "version": 1,\n'
        '  "platforms": ["linux/amd64", "linux/arm64"],\n'
        '  "images": [\n'
        f'    {{"name": "alpine:3", "platform": "linux/amd64", "digest": "{ONE}"}},\n'
        f'    {{"name": "debian:12", "platform": "linux/amd64", "digest": "{ONE}", "index": "{TWO}"}},\n'
        f'    {{"name": "debian:12", "platform": "linux/arm64", "digest": "{TWO}", "index": "{ONE}"}}\n'
        "  ],\n"
        '  "files": [\n'
        f'    {{"url": "https://a/f", "checksum": "{ONE}"}},\n'
        f'    {{"url": "https://b/f", "checksum": "{TWO}"}}\n'
        "  ],\n"
        '  "repositories": [\n'
        f'    {{"url": "https://a/p.git", "ref": "", "commit": "{COMMIT}"}},\n'
        f'    {{"url": "https://a/p.git", "ref": "v1", "commit": "{COMMIT}", "name": "refs/tags/v1", '
        f'"tag": "{"d" * 40}"}}\n'
        "  ]\n"
        "}\n"
    )


def test_what_is_written_is_read() -> None:
    assert parse_lockfile(FULL.render().encode(), "it").render() == FULL.render()


names = some.text(min_size=1, max_size=20).filter(
    lambda text: not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
)
digests = some.sampled_from((ONE, TWO))
images = some.builds(ImagePin, names, some.sampled_from((AMD64, ARM64)), digests, some.just("") | digests)
files = some.builds(FilePin, names, digests)


@given(
    some.lists(images, unique_by=lambda pin: (pin.name, pin.platform)),
    some.lists(files, unique_by=lambda pin: pin.url),
)
def test_any_names_survive(some_images: list[ImagePin], some_files: list[FilePin]) -> None:
    lock = Lockfile((AMD64,), tuple(some_images), tuple(some_files))
    read = parse_lockfile(lock.render().encode(), "it")
    assert set(read.pins) == set(lock.pins)
    assert changes(lock, read) == ()


def fields() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(FULL.render())
    return value


json_values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(some.data())
def test_a_changed_lock_file_is_read_or_refused(data: some.DataObject) -> None:
    value = fields()
    section = data.draw(some.sampled_from(sorted(value)))
    other = data.draw(json_values)
    if isinstance(value[section], list) and data.draw(some.booleans()):
        place = data.draw(some.integers(0, len(value[section]) - 1))
        entry = value[section][place]
        if isinstance(entry, dict) and data.draw(some.booleans()):
            entry[data.draw(some.sampled_from((*entry, "other")))] = other
        else:
            value[section][place] = other
    else:
        value[section] = other
    try:
        lock = parse_lockfile(json.dumps(value).encode(), "it")
    except UsageError:
        return
    again = parse_lockfile(lock.render().encode(), "it")
    assert again.render() == lock.render()
    assert changes(lock, again) == ()


@given(some.binary(max_size=200) | some.text(max_size=200).map(str.encode))
def test_no_bytes_are_a_surprise(data: bytes) -> None:
    with pytest.raises(UsageError) as caught:
        parse_lockfile(data, "it")
    assert caught.value.code == "lock-invalid"


def edited(section: str, **changed: object) -> bytes:
    value = fields()
    value[section][-1].update(changed)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[" * 100_000, "nested"),
        (b"1" * 5000, "not a lock file"),
        (b" " * (MAX_BYTES + 1), "larger"),
        (b"\xff", "UTF-8"),
        (b"{\n<<<<<<< HEAD", "line 2"),
        (b"NaN", "NaN"),
        (b'{"version": 1, "version": 1}', "twice"),
        (b'{"version": true}', "version"),
        (b'{"version": 1}', '"platforms" is missing'),
        (json.dumps(fields() | {"image": []}).encode(), "did you mean images"),
        (json.dumps(fields() | {"platforms": []}).encode(), "platforms"),
        (json.dumps(fields() | {"platforms": ["x86_64"]}).encode(), "not a platform"),
        (json.dumps(fields() | {"files": [{}] * (MAX_ENTRIES + 1)}).encode(), "more than"),
        (json.dumps(fields() | {"files": fields()["files"] * 2}).encode(), "two entries for https://a/f"),
        (edited("images", digest="sha512:" + "1" * 128), "entry 3 of images: digest"),
        (edited("images", digest=ONE + "\n"), "digest"),
        (edited("images", name="\x1b[2J"), "control"),
        (edited("images", name="\x9b2J"), "control"),
        (edited("files", checksum=ONE.upper()), "checksum"),
        (edited("files", checksum=None), "not a text"),
        (edited("repositories", commit="--upload-pack=x"), "commit"),
        (edited("repositories", name="refs/heads/../../../etc/passwd"), "name"),
        (edited("repositories", name="/etc/passwd"), "name"),
        (edited("repositories", name="refs/heads/a..b"), "name"),
        (edited("repositories", tag=""), "tag"),
    ],
)
def test_what_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_lockfile(data, "it.lock")
    assert caught.value.code == "lock-invalid"
    assert caught.value.message.startswith("it.lock")
    assert says in caught.value.message


def test_a_newer_lock_file_is_for_a_newer_mbuild() -> None:
    with pytest.raises(UsageError) as caught:
        parse_lockfile(b'{"version": 2, "what": "ever"}', "it")
    assert caught.value.code == "lock-version"


def test_changes_name_what_is_new_gone_and_other() -> None:
    old = Lockfile((AMD64,), (ImagePin("a:1", AMD64, ONE), ImagePin("b:1", AMD64, ONE)))
    new = Lockfile((AMD64,), (ImagePin("a:1", AMD64, TWO), ImagePin("c:1", AMD64, ONE)))
    assert [(change.old, change.new) for change in changes(old, new)] == [
        (ImagePin("a:1", AMD64, ONE), ImagePin("a:1", AMD64, TWO)),
        (ImagePin("b:1", AMD64, ONE), None),
        (None, ImagePin("c:1", AMD64, ONE)),
    ]
