"""COPY, ADD and WORKDIR: the steps that put files into an image without running anything."""

from __future__ import annotations

import re

from machinefile.building import Building
from machinefile.flags import flag_value, is_on
from machinefile.instructions import Instruction
from machinefile.paths import is_directory, join, relative
from machinefile.steps import (
    Copy,
    FromContext,
    FromNothing,
    FromStep,
    InlineFile,
    Metadata,
    Origin,
    RemoteSource,
    Workdir,
)

_SYMBOLIC_MODE = re.compile(r"(?:[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*")
_GIT = re.compile(r"git://|git@[^/]+:|ssh://|https?://[^#?]*\.git(?:[#?]|$)|[\w.-]+@[\w.-]+:")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


def is_git(source: str) -> bool:
    """Whether ADD takes a source for a git repository."""
    return _GIT.match(source) is not None


def is_remote(source: str) -> bool:
    """Whether a source is a URL or a git repository."""
    return source.startswith(("http://", "https://")) or is_git(source)


def resolve_workdir(building: Building, instruction: Instruction) -> None:
    """WORKDIR. The root is always there, so it makes no layer."""
    path = join(building.directory, building.word(instruction, instruction.words[0]))
    building.configure(working_dir=path)
    text = f"WORKDIR {path}"
    if path == "/":
        building.add(instruction, Metadata("WORKDIR", (path,)), text, text)
    else:
        building.add(instruction, Workdir(path, building.config.user), text, text)


def resolve_copy(building: Building, instruction: Instruction) -> None:
    """COPY and ADD."""
    markers = {heredoc.marker for heredoc in instruction.heredocs}
    *source_words, last = instruction.words
    sources = [building.word(instruction, word) for word in source_words if word.text not in markers]
    target = building.word(instruction, last)
    owner, mode = building.flag(instruction, "chown"), _mode(building, instruction)
    exclude = tuple(
        building.expand(instruction, flag_value(flag), flag).text for flag in instruction.flags_named("exclude")
    )
    checksum = _checksum(building, instruction, sources)
    files = _files(building, instruction)
    created_by = _created_by(instruction, owner, mode, sources, files, target)
    into = is_directory(target) or len(sources) + len(files) > 1
    destination = join(building.directory, target)
    add, parents = instruction.name == "ADD", is_on(instruction, "parents")
    origin = _origin(building, instruction)
    for number, group in enumerate(_groups(building, instruction, sources, bool(files))):
        display = _display(instruction, sources, files, target)
        if len(group) == 1 and is_remote(group[0]):
            remote = RemoteSource(
                url=group[0],
                checksum=checksum,
                keep_git_dir=is_on(instruction, "keep-git-dir"),
                destination=destination,
                into_directory=into,
                owner=owner,
                mode=mode,
                link=is_on(instruction, "link"),
                unpack=is_on(instruction, "unpack"),
                exclude=exclude,
            )
            building.add(instruction, remote, display, created_by)
            continue
        copy = Copy(
            origin=origin if group else FromNothing(),
            sources=tuple(_source(source, parents) for source in group),
            destination=destination,
            into_directory=into,
            owner=owner,
            mode=mode,
            link=is_on(instruction, "link"),
            parents=parents,
            exclude=exclude,
            unpack=is_on(instruction, "unpack", add),
            files=files if number == 0 else (),
        )
        inputs = (origin.step,) if group and isinstance(origin, FromStep) else ()
        building.add(instruction, copy, display, created_by, inputs)


def _groups(building: Building, instruction: Instruction, sources: list[str], files: bool) -> list[list[str]]:
    """Sources that one step can take: what is local together, each remote one alone."""
    groups: list[list[str]] = [[]]
    for source in sources:
        if not is_remote(source):
            groups[0].append(source)
        elif instruction.name == "COPY":
            hint = "ADD takes URLs and git repositories"
            raise building.fail(instruction, f"COPY can't fetch {source}", "copy-url", hint)
        else:
            groups.append([source])
    return groups if groups[0] or files else groups[1:]


def _source(source: str, parents: bool) -> str:
    """With --parents what stands before `/./` is not copied along: the mark stays in the path."""
    before, mark, after = source.partition("/./")
    if not parents or not mark:
        return relative(source)
    return f"{relative(before)}/./{relative(after)}"


def _origin(building: Building, instruction: Instruction) -> Origin:
    flag = instruction.flag("from")
    if flag is None or not flag.value:
        return FromContext()
    return building.link(instruction, flag, flag_value(flag))


def _mode(building: Building, instruction: Instruction) -> str:
    mode = building.flag(instruction, "chmod")
    octal = re.fullmatch(r"[0-7]{1,12}", mode)
    if not mode or (octal and int(mode, 8) <= 0o7777) or (not octal and _SYMBOLIC_MODE.fullmatch(mode)):
        return mode
    hint = "for example 755, 0644 or u=rwX,go=rX"
    raise building.fail(instruction, f"--chmod can't be {mode}", "bad-mode", hint, instruction.flag("chmod"))


def _checksum(building: Building, instruction: Instruction, sources: list[str]) -> str:
    checksum = building.flag(instruction, "checksum")
    if not checksum:
        return ""
    flag = instruction.flag("checksum")
    if len(sources) != 1 or not is_remote(sources[0]):
        message = "--checksum needs exactly one source, and that a URL or a git repository"
        raise building.fail(instruction, message, "checksum-local", "leave the flag out for local files", flag)
    if not _CHECKSUM.fullmatch(checksum) and not (is_git(sources[0]) and re.fullmatch(r"[0-9a-f]{7,64}", checksum)):
        message = f"--checksum can't be {checksum[:80]}"
        raise building.fail(instruction, message, "bad-checksum", "it is sha256: and 64 hexadecimal digits", flag)
    return checksum


def _files(building: Building, instruction: Instruction) -> tuple[InlineFile, ...]:
    found = []
    for heredoc in instruction.heredocs:
        content = heredoc.text
        if heredoc.expand:
            content = building.expand_document(instruction, content).text
        if heredoc.name in (".", "..") or "/" in heredoc.name:
            message = f"the heredoc's name {heredoc.name} can't name a file"
            raise building.fail(instruction, message, "bad-heredoc-name", "use a plain name, such as EOF")
        found.append(InlineFile(heredoc.name, content))
    return tuple(found)


def _created_by(
    instruction: Instruction, owner: str, mode: str, sources: list[str], files: tuple[InlineFile, ...], target: str
) -> str:
    parts = [instruction.name]
    if is_on(instruction, "parents"):
        parts.append("--parents")
    parts += [f"--chown={owner}"] if owner else []
    parts += [f"--chmod={mode}"] if mode else []
    return " ".join([*parts, *sources, *(f"<<{file.name}" for file in files), target, "# buildkit"])


def _display(instruction: Instruction, sources: list[str], files: tuple[InlineFile, ...], target: str) -> str:
    flags = [f"--{flag.name}" if flag.value is None else f"--{flag.name}={flag.value}" for flag in instruction.flags]
    return " ".join([instruction.name, *flags, *sources, *(f"<<{file.name}" for file in files), target])
