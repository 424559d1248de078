"""What is fuzzed: bytes in, an assertion or an exception out when a promise is broken.

Every target takes any bytes. A promise is: nothing but MachinefileError (or ExpansionError, UntrustedDataError,
UsageError) is raised; what is printed parses to the same; a place that is reported lies in the file.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress

from cache.carry.artifact import manifest_of, pack_index, parse_artifact, unpack_index
from cache.carry.index import parse_index
from machinefile.errors import MachinefileError, UntrustedDataError, UsageError
from machinefile.expansion import ExpansionError, expand, expand_document
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import ImageConfig
from machinefile.lint.linter import lint
from machinefile.lockfile import changes, label_of
from machinefile.lockread import parse_lockfile
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.platform import Platform
from machinefile.printer import to_text
from machinefile.resolve import base_references, resolve
from machinefile.source import Source, Span
from machinefile.steps import BaseImage, BaseReference
from machinefile.syntax_json import to_json

AMD64 = Platform("linux", "amd64")


def texts(data: bytes, count: int) -> list[str]:
    """The input cut at NUL bytes into so many texts, read as the command line reads files."""
    parts = data.split(b"\0", count - 1)
    parts += [b""] * (count - len(parts))
    return [part.decode("utf-8", "surrogateescape") for part in parts]


def check_places(spans: Iterable[Span | None]) -> None:
    """Every place lies in its source."""
    for span in spans:
        if span is not None:
            lines = span.source.text.split("\n")
            assert 1 <= span.line <= span.end_line <= len(lines), span
            assert 1 <= span.column <= len(lines[span.line - 1]) + 1, span
            assert 1 <= span.end_column <= len(lines[span.end_line - 1]) + 2, span


def fuzz_parse(data: bytes) -> None:
    """A file parses or is refused, and parses again from its printed form."""
    (text,) = texts(data, 1)
    try:
        machinefile = parse(Source("M", text))
    except MachinefileError as error:
        check_places(problem.span for problem in error.problems)
        return
    check_places(instruction.span for instruction in machinefile.instructions)
    printed = to_text(machinefile)
    assert without_lines(to_json(parse(Source("P", printed)))) == without_lines(to_json(machinefile)), printed


def without_lines(value: object) -> object:
    """A parse without its line numbers: the printed form has others."""
    if isinstance(value, dict):
        return {key: without_lines(item) for key, item in value.items() if key not in ("line", "end_line")}
    if isinstance(value, list | tuple):
        return [without_lines(item) for item in value]
    return value


def check_position(error: ExpansionError, word: str) -> None:
    """What is wrong with a word is wrong somewhere in it."""
    assert 0 <= error.position <= len(word), error.position


def check_settings_alone(error: MachinefileError) -> None:
    """The linter raises for its own settings only: all else it tells."""
    assert error.code == "bad-check", error.code


def fuzz_expand(data: bytes) -> None:
    """A word and a heredoc expand, or are refused."""
    word, value, other = texts(data, 3)
    environment = {"a": value, "b": other, "EMPTY": ""}
    for escape in ("\\", "`"):
        try:
            expanded = expand(word, environment, escape)
        except ExpansionError as error:
            check_position(error, word)
        else:
            assert not set(expanded.unset) & environment.keys()
            assert all(expanded.words)
    try:
        expand_document(word, environment)
    except ExpansionError as error:
        check_position(error, word)


def fuzz_ignore(data: bytes) -> None:
    """Rules answer for every path, and a folder that is pruned has nothing in it."""
    patterns, path, below = texts(data, 3)
    try:
        rules = IgnoreRules.parse(patterns)
    except MachinefileError as error:
        check_places(problem.span for problem in error.problems)
        return
    path, below = path.strip("/") or "a", below.strip("/") or "b"
    rules.ignored(path)
    if rules.prunes(path):
        assert rules.ignored(f"{path}/{below}"), (patterns, path, below)


def fuzz_resolve(data: bytes) -> None:
    """A file resolves or is refused, and the linter can look at it either way."""
    text, trigger, value = texts(data, 3)
    try:
        machinefile = parse(Source("M", text))
    except MachinefileError:
        return
    config = ImageConfig(env=(("BASE", value),), on_build=(trigger,) if trigger else ())

    def lookup(reference: BaseReference) -> BaseImage:
        return BaseImage("sha256:0", config, AMD64)

    options = BuildOptions(build_args=(("given", value),), platform=AMD64, build_platform=AMD64)
    resolved = True
    try:
        graph = resolve(machinefile, options, lookup)
        base_references(machinefile, options)
    except MachinefileError as error:
        resolved = False
        check_places(problem.span for problem in error.problems)
    else:
        ids = [step.id for step in graph.steps]
        assert len(set(ids)) == len(ids)
        for number, step in enumerate(graph.steps):
            assert {step.parent, *step.inputs} - {None} <= set(ids[:number]), step.id
        assert graph.result in ids
    try:
        found = lint(machinefile, options, lookup=lookup, ignored=lambda path: len(path) % 2 == 0)
    except MachinefileError as error:
        check_settings_alone(error)
        return
    check_places(finding.span for finding in found.findings)
    check_places(problem.span for problem in found.problems)
    # The linter looks at every stage, a build at those it needs: what stops the build is among what the linter tells.
    assert resolved or found.problems


def fuzz_index(data: bytes) -> None:
    """What others say is in a cache is refused, or is an index that can be signed, written, and read as it was."""
    for read in (unpack_index, parse_artifact):
        with suppress(UntrustedDataError):
            read(data, "it")
    try:
        index = parse_index(data, "it")
    except UntrustedDataError:
        return
    assert parse_index(index.to_json(), "it") == index
    assert index.trimmed().trimmed() == index.trimmed()
    assert parse_artifact(manifest_of(index, pack_index(index)), "it").size
    for one in (*index.entries.values(), *index.mounts.values()):
        assert one.payload()
    assert all(size >= 0 for size in index.blobs().values())


def fuzz_lock(data: bytes) -> None:
    """A lock file is refused, or is read, written, and read as it was."""
    try:
        lock = parse_lockfile(data, "it")
    except UsageError:
        return
    again = parse_lockfile(lock.render().encode(), "it")
    assert again.render() == lock.render()
    assert changes(lock, again) == ()
    assert not any(unicodedata.category(char) == "Cc" for pin in lock.pins for char in label_of(pin))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "parse": fuzz_parse,
    "expand": fuzz_expand,
    "ignore": fuzz_ignore,
    "resolve": fuzz_resolve,
    "index": fuzz_index,
    "lock": fuzz_lock,
}
