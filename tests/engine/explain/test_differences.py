"""What two records differ in: whatever was changed is named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import records
from cache.keys import VERSION, Record, Value
from cache.records import LARGE, MAX_BYTES, KeptRecord, pack, unpack
from engine.explain.differences import (
    ArgumentDifference,
    MountDifference,
    PairDifference,
    SettingDifference,
    StepDifference,
    VersionDifference,
    compare,
)
from engine.explain.files import MOST, Change, FileDifference, FilesDifference
from engine.explain.values import difference_value
from engine.explain.words import describe, shown

RUN: dict[str, Value] = {
    "platform": "linux/amd64",
    "parent": "sha256:1",
    "inputs": ("sha256:2",),
    "argv": ("/bin/sh", "-c", "make"),
    "environment": (("A", "1"), ("PATH", "/bin")),
    "user": "",
    "working_dir": "/",
    "network": "default",
    "mounts": (
        ("bind", "/src", ("context",), (0o755, ("", "directory", 0, ""), ("a", "file", 0o644, "aa")), "/", True, ""),
        ("cache", "/c", ("nothing",), None, "/", False, "id"),
    ),
    "files": (("/dev/x", "#!/bin/sh"),),
}
COPY: dict[str, Value] = {
    "platform": "linux/amd64",
    "parent": "sha256:1",
    "inputs": (),
    "origin": ("context",),
    "files": (
        (
            "src",
            (
                ("", "directory", 0, ""),
                ("app.py", "file", 0o644, "aa"),
                ("link", "symlink", 0o777, "app.py"),
                ("again.py", "file", 0o644, ("same file as", "app.py")),
            ),
        ),
    ),
    "destination": "/app",
    "link": False,
    "exclude": (),
}


def kept(fields: dict[str, Value], operation: str = "run", version: int = VERSION) -> KeptRecord:
    record = unpack(json.loads(json.dumps(pack(Record(operation, tuple(fields.items()))))))
    assert record is not None
    return replace(record, version=version)


def changed(fields: dict[str, Value], operation: str = "run", **changes: Value) -> list[object]:
    return list(compare(kept(fields, operation), Record(operation, tuple((fields | changes).items()))))


def files(*listing: Value) -> list[FileDifference]:
    (found,) = changed(COPY, "copy", files=(("src", listing),))
    assert isinstance(found, FilesDifference)
    return list(found.files)


LISTING: tuple[Value, ...] = COPY["files"][0][1]  # type: ignore[index,assignment]


def test_equal_records_do_not_differ() -> None:
    assert changed(RUN) == []
    assert changed(COPY, "copy") == []


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("argv", ("/bin/sh", "-c", "make all"), [ArgumentDifference(2, "make", "make all", script=True)]),
        ("argv", ("/bin/sh", "-c"), [ArgumentDifference(2, "make", None)]),
        ("environment", (("A", "2"), ("PATH", "/bin")), [PairDifference("environment", "A", "1", "2")]),
        ("environment", (("PATH", "/bin"),), [PairDifference("environment", "A", "1", None)]),
        ("environment", (("A", "1"), ("B", ""), ("PATH", "/bin")), [PairDifference("environment", "B", None, "")]),
        ("files", (("/dev/x", "#!/bin/env"),), [PairDifference("files", "/dev/x", "#!/bin/sh", "#!/bin/env")]),
        ("hosts", (("db", "10.0.0.1"),), [PairDifference("hosts", "db", None, "10.0.0.1")]),
        ("parent", "sha256:3", [StepDifference(-1, "sha256:1", "sha256:3")]),
        ("inputs", ("sha256:2", "sha256:4"), [StepDifference(1, None, "sha256:4")]),
        ("user", "ada", [SettingDifference("user", "", "ada")]),
        ("working_dir", "/src", [SettingDifference("working_dir", "/", "/src")]),
        ("network", "none", [SettingDifference("network", "default", "none")]),
        ("platform", "linux/arm64", [SettingDifference("platform", "linux/amd64", "linux/arm64")]),
        ("unheard-of", 1, [SettingDifference("unheard-of", None, 1)]),
    ],
)  # fmt: skip
def test_each_kind_of_change_has_its_name(name: str, value: Value, found: list[object]) -> None:
    assert changed(RUN, **{name: value}) == found


def test_a_mount_is_told_by_its_target_and_its_part() -> None:
    bind, cache = RUN["mounts"]  # type: ignore[misc]
    assert changed(RUN, mounts=(bind,)) == [MountDifference("/c", "", "cache", None)]
    assert changed(RUN, mounts=(bind, (*cache[:6], "other"))) == [MountDifference("/c", "id", "id", "other")]
    files = (0o755, ("", "directory", 0, ""), ("a", "file", 0o644, "bb"))
    assert changed(RUN, mounts=((*bind[:3], files, *bind[4:]), cache)) == [
        FilesDifference((FileDifference("a", Change.CONTENT, "aa", "bb"),), "mount /src")
    ]
    files = (0o700, *files[1:2], ("a", "file", 0o644, "aa"))
    assert changed(RUN, mounts=((*bind[:3], files, *bind[4:]), cache)) == [
        MountDifference("/src", "the mode of its folder", 0o755, 0o700)
    ]


def test_a_file_that_changed_is_told_with_what_of_it() -> None:
    top, app, link, again = LISTING
    assert files(top, ("app.py", "file", 0o644, "bb"), link, again) == [
        FileDifference("src/app.py", Change.CONTENT, "aa", "bb")
    ]
    assert files(top, ("app.py", "file", 0o755, "aa"), link, again) == [
        FileDifference("src/app.py", Change.MODE, "644", "755")
    ]
    assert files(top, ("app.py", "symlink", 0o777, "x"), link, again) == [
        FileDifference("src/app.py", Change.TYPE, "file", "symlink")
    ]
    assert files(top, app, ("link", "symlink", 0o777, "x"), again) == [
        FileDifference("src/link", Change.LINK, "app.py", "x")
    ]
    assert files(top, app, link) == [FileDifference("src/again.py", Change.REMOVED, "same file as app.py")]
    assert files(*LISTING, ("b", "file", 0o644, "bb")) == [FileDifference("src/b", Change.ADDED, "", "bb")]


def test_a_file_copied_alone_is_called_by_its_whole_path() -> None:
    old = kept(COPY | {"files": (("app.py", (("", "file", 0o644, "aa"),)),)}, "copy")
    new = Record("copy", tuple((COPY | {"files": (("app.py", (("", "file", 0o644, "bb"),)),)}).items()))
    (found,) = compare(old, new, {"app.py": "src"})
    assert isinstance(found, FilesDifference)
    assert found.files[0].path == "src/app.py"


def test_the_folders_that_parents_makes_count_too() -> None:
    listing: Value = (("", "file", 0o644, "aa"),)
    old = kept(COPY | {"files": (("a/b/c", listing, (0o755, 0o755)),)}, "copy")
    new = Record("copy", tuple((COPY | {"files": (("a/b/c", listing, (0o755, 0o700)),)}).items()))
    (found,) = compare(old, new)
    assert found == FilesDifference((FileDifference("a/b", Change.MODE, "755", "700"),))


def test_two_files_of_one_name_that_change_places_are_not_overlooked() -> None:
    one, other = (("x", (("", "file", 0o644, digest),)) for digest in "ab")
    old = kept(COPY | {"files": (one, other)}, "copy")
    assert compare(old, Record("copy", tuple((COPY | {"files": (other, one)}).items())))


def test_another_version_of_the_keys_is_told() -> None:
    assert compare(kept(RUN, version=VERSION + 1), Record("run", tuple(RUN.items()))) == (
        VersionDifference(VERSION + 1, VERSION),
    )


def test_of_very_many_files_the_first_are_named_and_the_others_counted() -> None:
    many: Value = tuple((f"f{number:05}", "file", 0o644, "x") for number in range(MOST + 312))
    (found,) = changed(COPY, "copy", files=(("src", (*LISTING, *many)),))  # type: ignore[misc]
    assert isinstance(found, FilesDifference)
    assert (len(found.files), found.more) == (MOST, 312)
    told = list(describe(found))
    assert len(told) == 21
    assert told[-1] == f"and {MOST + 312 - 20} more files"


def plain() -> st.SearchStrategy[Value]:
    leaves = st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=4))
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@given(
    base=st.sampled_from([("run", RUN), ("copy", COPY)]),
    changes=st.dictionaries(st.sampled_from([*RUN, *COPY, "ttl"]), plain(), min_size=1, max_size=3),
)
def test_whatever_changes_is_named_and_can_be_told(
    base: tuple[str, dict[str, Value]], changes: dict[str, Value]
) -> None:
    operation, fields = base
    found = compare(kept(fields, operation), Record(operation, tuple((fields | changes).items())))
    fields_found = set()
    for one in found:
        match one:
            case ArgumentDifference():
                fields_found.add("argv")
            case PairDifference(field):
                fields_found.add(field)
            case MountDifference():
                fields_found.add("mounts")
            case FilesDifference(where=where):
                fields_found.add("mounts" if where else "files")
            case StepDifference(number):
                fields_found.add("parent" if number < 0 else "inputs")
            case SettingDifference(name):
                fields_found.add(name)
        told = list(describe(one))
        assert told
        assert all(line and line == shown(line) for line in told)
        assert difference_value(one)["kind"]
    expected = {
        name
        for name, value in changes.items()
        if (name not in fields) or fields[name] != value or type(fields[name]) is not type(value)
    }
    assert fields_found == expected


def test_a_large_record_is_kept_small_and_read_back_whole() -> None:
    listing: Value = tuple(
        (f"f{number}", "file", 0o644, hashlib.sha256(str(number).encode()).hexdigest()) for number in range(1000)
    )
    record = Record("copy", tuple((COPY | {"files": (("src", listing),)}).items()))
    packed = pack(record, "COPY src /app")
    assert packed is not None
    assert "fields" not in packed
    assert len(str(packed["packed"])) < LARGE * 4
    read = unpack(packed)
    assert read is not None
    assert read.large
    assert read.instruction == "COPY src /app"
    assert compare(read, record) == ()


def test_a_record_without_bounds_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record("run", (("argv", ("x" * 2 * LARGE,)),))
    assert pack(record) is not None
    monkeypatch.setattr(records, "MAX_BYTES", 2 * LARGE)
    assert pack(record) is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"version": 1, "operation": "run", "fields": []},
        {"version": "1", "operation": "run", "fields": {}},
        {"version": 1, "operation": "run", "fields": {"argv": {}}},
        {"version": 1, "operation": "run", "fields": {"argv": 1.5}},
        {"version": 1, "operation": "run", "packed": "no base64"},
        {"version": 1, "operation": "run", "packed": "AAAA"},
        {"version": 1, "operation": "run", "packed": 1},
    ],
)
def test_what_is_no_record_is_none(value: object) -> None:
    assert unpack(value) is None


def test_a_small_packet_that_unpacks_to_too_much_is_no_record() -> None:
    import base64

    import zstandard

    bomb = zstandard.ZstdCompressor().compress(b" " * (MAX_BYTES + 10))
    packed = base64.b64encode(bomb).decode()
    assert len(packed) < 1 << 20
    assert unpack({"version": 1, "operation": "run", "packed": packed}) is None


def test_nothing_that_is_told_drives_a_terminal() -> None:
    (found,) = changed(RUN, user="\x1b[2Jroot\n")
    assert "\x1b" not in "".join(describe(found))  # type: ignore[arg-type]
