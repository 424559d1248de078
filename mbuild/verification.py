"""What came of verifying, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum

from engine.verify.difference import Aspect, Change, FileDifference, StepDifference, Verification
from engine.verify.shown import printable

_SHOWN = 20
"""Files that are shown at length."""
_LATER = 8


def verification_value(found: Verification) -> dict[str, object]:
    """The form that other programs read."""
    value = _value(found)
    if not isinstance(value, dict):
        raise AssertionError("a dataclass is a mapping")
    step = found.step
    cause = step.guess if step is not None else None
    return {"reproducible": found.reproducible, "cause": _value(cause), **value}


def _value(said: object) -> object:
    match said:
        case Enum():
            return said.value
        case tuple():
            return [_value(one) for one in said]
        case str():
            return said.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if is_dataclass(said) and not isinstance(said, type):
        return {one.name: _value(getattr(said, one.name)) for one in fields(said)}
    return said


def verification_lines(found: Verification) -> Iterator[str]:
    """The report, line by line."""
    if found.reproducible:
        yield f"reproducible: {found.first or 'it changes nothing'}"
        return
    yield f"not reproducible: {printable(found.subject)}"
    width = max(map(len, found.sides))
    for side, digest in zip(found.sides, (found.first, found.second), strict=True):
        yield f"  {printable(side).ljust(width)}  {digest or 'no layer'}"
    yield from _step(found.step) if found.step is not None else ()
    if found.later:
        more = f" and {len(found.later) - _LATER} more" if len(found.later) > _LATER else ""
        yield f"differing after it: {', '.join(found.later[:_LATER])}{more}"
    if found.fields:
        yield summary(found) if found.same_files else "what differs beside the files:"
        for field in found.fields:
            yield f"  {field.field}: {printable(field.first) or 'nothing'} -> {printable(field.second) or 'nothing'}"


def summary(found: Verification) -> str:
    """One line about what differs."""
    if found.step is not None:
        line = f", line {found.step.line}" if found.step.line else ""
        return f"the first step that differs is {found.step.id}{line}"
    if {field.field for field in found.fields} == {"compression"}:
        return "the files are the same; the layers were compressed otherwise"
    return "the files are the same; what differs is what the image says of itself"


def _step(step: StepDifference) -> Iterator[str]:
    line = f", line {step.line}" if step.line else ""
    yield f"first step that differs: {step.id}{line}: {printable(step.instruction)}"
    if step.note:
        yield f"  {printable(step.note)}"
    for file in step.files[:_SHOWN]:
        yield from _file(file)
    more = step.more + max(0, len(step.files) - _SHOWN)
    if more:
        yield f"  and {more} more files"


def _file(file: FileDifference) -> Iterator[str]:
    inner = f" ({printable(file.inner)})" if file.inner else ""
    yield f"  {path_of(file)}{inner}: {', '.join(map(change_words, file.changes))}"
    yield from (f"      {printable(line)}" for line in file.diff)
    if file.guess is not None:
        yield f"    cause: {file.guess.cause.value}: {printable(file.guess.why)}"
        yield f"    mend:  {printable(file.guess.mend)}"


def path_of(file: FileDifference) -> str:
    """The path as it is in the image."""
    return "/" + printable(file.path, 1000)


def change_words(change: Change) -> str:
    """One aspect that differs, in words."""
    match change.aspect:
        case Aspect.CONTENT:
            return "content"
        case Aspect.HEADER:
            return "only how the layer's tar is written"
        case Aspect.PRESENCE:
            return f"only in the {'first' if change.first else 'second'}"
        case Aspect.ORDER:
            return f"order: {printable(change.second)} is in its place"
    return f"{change.aspect.value} {printable(change.first) or 'none'} -> {printable(change.second) or 'none'}"
