"""What changes the key of a step, and what does not."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.keys import Record
from engine.context import Context
from engine.layers.entry import Entry, EntryType
from engine.platforms import step_platforms
from engine.records import HashedTree, record_of
from engine.secrets import Secrets
from engine.vm.network.rules import EgressPolicy
from machinefile.clocks import Clock
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import ImageConfig
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.platform import Platform
from machinefile.resolve import resolve
from machinefile.source import Source
from machinefile.steps import (
    BaseImage,
    BaseReference,
    Copy,
    From,
    FromContext,
    FromNothing,
    FromStep,
    InlineFile,
    MachineShape,
    Metadata,
    Mount,
    MountType,
    NetworkMode,
    Operation,
    RemoteSource,
    Run,
    Sharing,
    Step,
    Workdir,
)
from mbuild.secrets import read_secrets

if TYPE_CHECKING:
    from conftest import Workshop

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


class Files:
    """A context in memory: what stands at each path."""

    def __init__(self, files: Mapping[str, tuple[Entry, str]]) -> None:
        self.files = {"": (Entry("", EntryType.DIRECTORY, 0o755), ""), **files}

    def entry(self, path: str) -> Entry | None:
        return self.files[path][0] if path in self.files else None

    def children(self, path: str) -> Sequence[str]:
        return sorted(name.rpartition("/")[2] for name in self.files if name and name.rpartition("/")[0] == path)

    def digest(self, path: str) -> str:
        return hashlib.sha256(self.files[path][1].encode()).hexdigest()

    def hash_all(self, paths: Sequence[str]) -> None:
        pass

    def inode(self, path: str) -> tuple[int, int] | None:
        return None


def file(path: str, content: str = "", mode: int = 0o644) -> dict[str, tuple[Entry, str]]:
    return {path: (Entry(path, EntryType.FILE, mode, size=len(content)), content)}


CONTEXT = Files({**file("a", "one"), **file("b", "two")})


def record(
    operation: Operation,
    *,
    inputs: tuple[str, ...] = ("other.0",),
    parent: str | None = "0.0",
    identity: Callable[[str], str] = str,
    platform: Platform = AMD64,
    context: HashedTree = CONTEXT,
) -> Record:
    step = Step("0.1", "0", "shown", operation, parent, inputs)
    return record_of(step, platform, identity, {"": context, "named": CONTEXT})


# One field at a time


BIND = Mount(MountType.BIND, "/m", FromStep("other.0"))
RUN = Run(("sh", "-c", "true"), (("A", "1"),), "", "/", mounts=(BIND,))
COPY = Copy(FromStep("other.0"), ("a",), "/x", into_directory=False)
REMOTE = RemoteSource("https://example.com/a", pinned="sha256:1")
GIT = RemoteSource("https://example.com/a.git", pinned="1" * 40)
LEFT_OUT = {Run: {"shape", "proxy", "ttl"}, Copy: set(), RemoteSource: {"url", "checksum"}, Workdir: set()}
"""Fields that are in no record on purpose: cache/keys.py says why."""
OTHERS: Mapping[str, object] = {
    "argv": ("sh", "-c", "false"),
    "environment": (("A", "2"),),
    "user": "ada",
    "working_dir": "/w",
    "network": NetworkMode.NONE,
    "mounts": (),
    "shape": MachineShape(cpus=7),
    "files": (InlineFile("/f", "text"),),
    "hosts": (("db", "10.0.0.1"),),
    "privileged": True,
    "proxy": (("http_proxy", "http://p"),),
    "ttl": 1,
    "clock": Clock.FROZEN,
    "origin": FromNothing(),
    "sources": ("b",),
    "destination": "/y",
    "into_directory": True,
    "owner": "ada",
    "mode": "0600",
    "link": True,
    "parents": True,
    "exclude": ("*.c",),
    "unpack": True,
    "url": "https://elsewhere.example/b.git",
    "checksum": "2" * 40,
    "pinned": "2" * 40,
    "keep_git_dir": True,
    "path": "/p",
    "type": MountType.CACHE,
    "target": "/n",
    "source": "/s",
    "read_only": False,
    "id": "id",
    "sharing": Sharing.LOCKED,
    "required": True,
    "uid": 1,
    "gid": 1,
    "size": 1,
    "version": "mark",
}
MOUNT_OTHERS = {"environment": "NAME", "mode": 0o700}


@pytest.mark.parametrize(
    ("operation", "name"),
    [(one, field.name) for one in (RUN, COPY, GIT, Workdir("/")) for field in dataclasses.fields(one)],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_one_changed_field_changes_the_key(operation: Operation, name: str) -> None:
    changed = dataclasses.replace(operation, **{name: OTHERS[name]})  # type: ignore[arg-type]
    assert changed != operation
    same = record(changed).key() == record(operation).key()
    assert same == (name in LEFT_OUT[type(operation)])


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Mount)])
def test_one_changed_field_of_a_mount_changes_the_key(name: str) -> None:
    changed = dataclasses.replace(BIND, **{name: MOUNT_OTHERS.get(name, OTHERS.get(name))})
    assert changed != BIND
    assert record(dataclasses.replace(RUN, mounts=(changed,))).key() != record(RUN).key()


def test_of_a_remote_file_its_content_and_its_name_count() -> None:
    def key(**changes: str) -> str:
        return record(dataclasses.replace(REMOTE, **changes)).key()

    assert key(url="http://elsewhere.example/x/a") == key(checksum="sha256:1") == key()
    assert len({key(), key(url="https://example.com/b"), key(pinned="sha256:2")}) == 3


def test_what_is_around_a_step_changes_its_key() -> None:
    for operation in (RUN, COPY, REMOTE, Workdir("/"), Metadata("CMD", ("x",))):
        found = [
            record(operation),
            record(operation, parent="0.9"),
            record(operation, parent=None),
            record(operation, platform=ARM64),
            record(operation, inputs=("other.0", "another.0")),
            record(operation, identity="changed {}".format),
        ]
        assert len({one.key() for one in found}) == len(found)


def test_bases_differ_by_digest_and_platform_and_not_by_name() -> None:
    def key(name: str, digest: str, platform: Platform) -> str:
        return record(From(BaseReference(name, platform), digest), parent=None, inputs=(), platform=platform).key()

    assert key("one", "sha256:1", AMD64) == key("two", "sha256:1", AMD64)
    assert len({key("one", "sha256:1", AMD64), key("one", "sha256:2", AMD64), key("one", "sha256:1", ARM64)}) == 3


# Nothing collides


words = st.text(alphabet="ab \0,=:/\n", max_size=3)
lists = st.lists(words, max_size=3).map(tuple)
pairs = st.lists(st.tuples(words, words), max_size=2).map(tuple)
numbers = st.none() | st.integers(0, 2)
mounts = st.builds(
    Mount,
    st.sampled_from(MountType),
    words,
    st.sampled_from([FromNothing(), FromStep("other.0")]),
    id=words,
    read_only=st.booleans(),
    required=st.booleans(),
    environment=words,
    mode=numbers,
    uid=numbers,
    gid=numbers,
    size=numbers,
)
inline = st.lists(st.builds(InlineFile, words, words), max_size=2).map(tuple)
operations = st.one_of(
    st.builds(
        Run,
        lists,
        pairs,
        words,
        words,
        mounts=st.lists(mounts, max_size=2).map(tuple),
        files=inline,
        hosts=pairs,
        privileged=st.booleans(),
    ),
    st.builds(
        Copy,
        st.sampled_from([FromNothing(), FromStep("other.0")]),
        lists,
        words,
        st.booleans(),
        owner=words,
        mode=words,
        link=st.booleans(),
        exclude=lists,
        files=inline,
    ),
    st.builds(Workdir, words, words),
    st.builds(Metadata, words, lists),
)


@settings(max_examples=300, deadline=None)
@given(operations, operations)
def test_two_operations_have_one_key_only_if_they_are_equal(one: Operation, other: Operation) -> None:
    assert (record(one).key() == record(other).key()) is (one == other)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab \0,=:/\n", max_size=6), lists)
def test_a_word_that_is_cut_in_two_makes_another_key(head: str, rest: tuple[str, ...]) -> None:
    """What joining with a separator would confuse."""
    cuts = [(head, *rest), *((head[:at], head[at:], *rest) for at in range(len(head) + 1))]
    for field in ("argv", "sources"):
        base: Operation = RUN if field == "argv" else COPY
        keys = {record(dataclasses.replace(base, **{field: cut})).key() for cut in cuts}  # type: ignore[arg-type]
        assert len(keys) == len(cuts)


names = st.text(alphabet="ab", min_size=1, max_size=2)
contents = st.text(alphabet="ab", max_size=2)
modes = st.sampled_from([0o644, 0o600, 0o755])
trees = st.dictionaries(names, st.tuples(contents, modes), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(trees, trees)
def test_two_contexts_have_one_key_only_if_their_files_are_equal(
    one: Mapping[str, tuple[str, int]], other: Mapping[str, tuple[str, int]]
) -> None:
    def key(tree: Mapping[str, tuple[str, int]]) -> str:
        files: dict[str, tuple[Entry, str]] = {}
        for name, (text, mode) in tree.items():
            files |= file(name, text, mode)
        return record(Copy(FromContext(), (".",), "/", into_directory=True), context=Files(files)).key()

    assert (key(one) == key(other)) is (one == other)


# What the file and the command line say


def keys_of(text: str, context: Path | None = None, ignore: str = "", **options: object) -> list[str]:
    """The keys of all steps that make layers."""

    def lookup(base: BaseReference) -> BaseImage:
        return BaseImage(f"sha256:{base.reference}", ImageConfig())

    chosen: dict[str, object] = {"platform": AMD64, "build_platform": AMD64, **options}
    graph = resolve(parse(Source("M", text)), BuildOptions(**chosen), lookup)  # type: ignore[arg-type]
    contexts: dict[str, HashedTree] = {"": Context(context, IgnoreRules.parse(ignore)) if context else CONTEXT}
    platforms = step_platforms(graph)
    keys: dict[str, str] = {}
    for step in graph.steps:
        keys[step.id] = record_of(step, platforms[step.id], keys.__getitem__, contexts).key()
    return [keys[step.id] for step in graph.steps if step.makes_layer]


FILE = """\
FROM base AS one
ARG first
ARG second=2
ENV name=value other="two words" third=3
RUN echo $first and $second
FROM base
COPY --from=one --chown=ada /etc/passwd /copy/
WORKDIR /srv
RUN --network=none ["program", "argument"]
LABEL a=b
COPY a /a
"""
GIVEN = (("first", "1"), ("second", "3"), ("http_proxy", "http://proxy"))
INSTRUCTIONS = FILE.splitlines()
places = st.sampled_from(
    [
        (number, at.start())
        for number, line in enumerate(INSTRUCTIONS)
        for at in re.finditer(r"(?<=\w)(?=\w)", line)
        if at.start() > line.index(" ") and "$" not in line[: at.start()].rpartition(" ")[2]
    ]
)
before = st.lists(st.sampled_from(["", "   ", "# a comment", "  # another", "\t"]), max_size=2)
joints = st.sampled_from(["\\\n", "\\  \n", "\\\n# a comment\n", "\\\n  # another\n\n"])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(before, st.sampled_from([str.lower, str.title, str.upper])), min_size=11, max_size=11),
    st.lists(st.tuples(places, joints), max_size=4, unique_by=lambda cut: cut[0][0]),
)
def test_comments_blank_lines_case_and_continuations_change_no_key(
    shapes: list[tuple[list[str], Callable[[str], str]]], cuts: list[tuple[tuple[int, int], str]]
) -> None:
    written = list(INSTRUCTIONS)
    for (number, at), joint in cuts:
        written[number] = written[number][:at] + joint + written[number][at:]
    lines: list[str] = []
    for (above, spell), line in zip(shapes, written, strict=True):
        name, blank, rest = line.partition(" ")
        lines += [*above, f" {spell(name)}{blank}{rest}"]
    assert keys_of("\n".join(["# first", *lines, ""])) == keys_of(FILE)


def test_what_is_said_in_another_order_changes_no_key() -> None:
    expected = keys_of(FILE, build_args=GIVEN)
    for given_args in itertools.permutations(GIVEN):
        assert keys_of(FILE, build_args=given_args) == expected
    pairs = ("name=value", 'other="two words"', "third=3")
    for order in itertools.permutations(pairs):
        assert keys_of(FILE.replace(" ".join(pairs), " ".join(order)), build_args=GIVEN) == expected


def test_what_does_not_reach_a_step_changes_no_key() -> None:
    expected = keys_of(FILE, build_args=GIVEN)
    assert keys_of(FILE, build_args=(*GIVEN[:2], ("HTTPS_PROXY", "http://another"))) == expected
    assert keys_of(FILE, build_args=GIVEN, labels=(("x", "y"),)) == expected
    assert keys_of(FILE, build_args=GIVEN, shape=MachineShape(cpus=9)) == expected
    assert keys_of(FILE, build_args=GIVEN, entitlements=frozenset({"security.insecure"})) == expected
    assert keys_of(FILE.replace("FROM base\n", "FROM base\nMACHINE cpus=3\n"), build_args=GIVEN) == expected
    assert keys_of(FILE.replace(" one\n", " two\n").replace("=one", "=two"), build_args=GIVEN) == expected
    assert keys_of(FILE.replace("LABEL a=b", "LABEL a=c\nEXPOSE 80"), build_args=GIVEN) == expected


def test_an_argument_counts_for_the_steps_that_see_it() -> None:
    one, other = (keys_of(FILE, build_args=(("first", value),)) for value in "12")
    assert [a == b for a, b in zip(one, other, strict=True)] == [False, False, False, False, False]
    unseen = FILE.replace("COPY --from=one --chown=ada /etc/passwd /copy/\n", "")
    assert keys_of(unseen, build_args=(("first", "1"),)) == keys_of(unseen)


def test_the_order_in_which_a_folder_is_read_changes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("a", "b", "c/d", "c/e", "f/g"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    real = os.scandir
    text = "FROM base\nCOPY . /x\nCOPY a* b* /y/\nRUN --mount=target=/m true\n"

    class Scan:
        def __init__(self, path: object, turn: int) -> None:
            with real(path) as found:  # type: ignore[call-overload]
                entries = sorted(found, key=lambda entry: str(entry.name))
            self.entries = entries[turn:] + entries[:turn] if turn >= 0 else entries[::-1]

        def __enter__(self) -> Iterator[object]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    found = set()
    for turn in (0, 1, 2, -1):
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", lambda path, turn=turn: Scan(path, turn))
            found.add(tuple(keys_of(text, tmp_path)))
    assert len(found) == 1


def test_ignored_files_and_how_they_are_ignored_change_no_key(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    text = "FROM base\nCOPY . /x\n"
    expected = keys_of(text, tmp_path)
    (tmp_path / "x.log").write_text("1")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/y").write_text("1")
    assert keys_of(text, tmp_path, "*.log\nlogs\n") == expected
    (tmp_path / "x.log").write_text("2")
    (tmp_path / "logs/z").write_text("2")
    assert keys_of(text, tmp_path, "# a comment\n\nlogs/\nx.*\n*.none\n") == expected
    assert keys_of(text, tmp_path, "logs\n") != expected


def test_neither_a_secret_nor_where_it_is_nor_its_version_gets_into_the_store(
    workshop: Workshop, tmp_path: Path
) -> None:
    place = tmp_path / "hidden-place"
    place.write_text("VerySecretValue-1\n")
    written = [f"id=token,src={place},version=spring-release", "id=key,env=HIDDEN_VARIABLE"]
    secrets = read_secrets(written, {"HIDDEN_VARIABLE": "AnotherSecret-2"})
    text = "FROM base\nRUN --mount=type=secret,id=token --mount=type=secret,id=key,env=KEY write a b\nCOPY . /c\n"
    workshop.write("f")
    request = dataclasses.replace(workshop.request(text), secrets=secrets)
    assert workshop.driver.build(request).run == 2
    found = [path.read_bytes() for path in workshop.store.root.rglob("*") if path.is_file()]
    data = b"".join(found)
    assert b"secret_versions" in data
    values = [b"VerySecretValue-1", b"AnotherSecret-2", b"VerySecretValue-1\n"]
    hashes = [hashlib.sha256(value).digest() for value in values]
    for word in (*values, b"hidden-place", b"HIDDEN_VARIABLE", b"spring-release", *hashes):
        assert word not in data
        assert word.hex().encode() not in data


def test_how_a_build_is_carried_out_is_in_no_key(workshop: Workshop) -> None:
    workshop.write("f")
    text = "FROM base\nRUN --mount=type=secret,id=token write a b\nCOPY . /c\n"
    plain = workshop.request(text)
    others = (
        {"jobs": 3},
        {"step_timeout": 5.0},
        {"egress": EgressPolicy(host_network=True)},
        {"secrets": Secrets((("token", b"value-value"),))},
    )
    expected = [one.key for one in workshop.driver.plan(plain).steps]
    for other in others:
        request = dataclasses.replace(plain, **other)  # type: ignore[arg-type]
        assert [one.key for one in workshop.driver.plan(request).steps] == expected
