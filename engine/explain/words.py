"""Explanations as a person reads them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cache.keys import Value
from engine.explain.differences import (
    ArgumentDifference,
    Difference,
    MountDifference,
    PairDifference,
    SettingDifference,
    StepDifference,
    VersionDifference,
)
from engine.explain.explanation import Below, Cause, Explanation, Link
from engine.explain.files import Change, FileDifference, FilesDifference

MOST_FILES = 20
_MOST_STEPS = 5
_CUT = 100
"""Characters of a value that are shown."""
_LEAD = 20
"""Of what two long values have in common, how much is shown before they part."""

_NAMES = {
    "argv": "the command",
    "clock": "--clock",
    "working_dir": "the working directory",
    "into_directory": "whether the destination is a folder",
    "digest": "the image's digest",
    "content": "what is fetched",
    "git_dir": "the repository kept with it",
    "files": "the files",
}
"""How the fields of a record are called where their own names say little."""
_USUAL_TIMES = "normal"
_PAIRS = {"environment": "variable", "hosts": "host", "files": "heredoc", "inline": "heredoc"}


def shown(text: str) -> str:
    """Text that may come from anywhere, without what would drive a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def short(explanation: Explanation) -> str:
    """The first thing that is different, for one line; empty where nothing more is known than the plan says."""
    said = [*(_first(one) for one in explanation.differences), *map(_below_short, explanation.below)]
    count = sum(_count(one) for one in explanation.differences) + len(explanation.below)
    match explanation.cause:
        case Cause.CHANGED if said:
            return said[0] + (f", and {count - 1} more" if count > 1 else "")
        case Cause.EVICTED:
            return "built before, but its result is gone from the store"
    return ""


def lines(explanation: Explanation, most_files: int = MOST_FILES) -> Iterator[str]:
    """Everything that is known."""
    planned = explanation.planned
    match explanation.cause:
        case Cause.HIT | Cause.REFUSED | Cause.NOT_PULLED | Cause.OTHER:
            yield shown(planned.reason)
        case Cause.NEVER_BUILT:
            yield "never built, and nothing like it"
        case Cause.EVICTED:
            yield from _evicted(explanation)
        case Cause.FOLLOWS:
            yield "unchanged itself"
    for difference in explanation.differences:
        yield from describe(difference, most_files)
    for below in explanation.below:
        yield from _below(below, most_files)
    if any(one.link is Link.TO_BUILD for one in explanation.below):
        lower = [root for root in explanation.roots if root not in {one.step for one in explanation.below}]
        if lower:
            yield f"it begins with {_some(lower)}"
    yield from _compared(explanation)


def describe(difference: Difference, most_files: int = MOST_FILES) -> Iterator[str]:
    """One difference; more than one line for files."""
    match difference:
        case FilesDifference():
            for file in difference.files[:most_files]:
                yield _file(file, difference.where, digests=True)
            rest = max(0, len(difference.files) - most_files) + difference.more
            if rest:
                yield f"and {rest} more files"
        case _:
            yield _first(difference)


def _first(difference: Difference) -> str:
    match difference:
        case FilesDifference():
            return _file(difference.files[0], difference.where, digests=False)
        case ArgumentDifference(number, old, new, script):
            return _changed("the command" if script else f"word {number + 1} of the command", old, new)
        case PairDifference(field, name, old, new):
            return _changed(f"{_PAIRS.get(field, field)} {shown(name)}", old, new)
        case MountDifference(target, "", old, new):
            return _changed(f"mount {shown(target)}", old, new)
        case MountDifference(target, part, old, new):
            return _changed(f"mount {shown(target)}: {part}", old, new)
        case SettingDifference("timestamps", old, new):  # keys name what is not the usual alone
            return f"--timestamps: {_value(old or _USUAL_TIMES)} -> {_value(new or _USUAL_TIMES)}"
        case SettingDifference(name, old, new):
            return _changed(_NAMES.get(name, shown(name).replace("_", " ")), old, new)
        case VersionDifference(old, new):
            return f"another mbuild made it: keys of version {old}, now {new}"
        case StepDifference(number, _, _):
            return "what it stands on" if number < 0 else f"what it reads from (input {number + 1})"


def _count(difference: Difference) -> int:
    return len(difference.files) + difference.more if isinstance(difference, FilesDifference) else 1


def _changed(what: str, old: Value, new: Value) -> str:
    if old is None:
        return f"{what} is new: {_value(new)}"
    if new is None:
        return f"{what} is gone: {_value(old)}"
    before, after = _apart(_value(old, cut=False), _value(new, cut=False))
    return f"{what}: {before} -> {after}"


def _value(value: Value, *, cut: bool = True) -> str:
    match value:
        case bool():
            text = "yes" if value else "no"
        case None:
            text = "nothing"
        case tuple():
            text = "[" + ", ".join(_value(one) for one in value[:10]) + (", ..." if len(value) > 10 else "") + "]"
        case _:
            text = shown(str(value)[: 1 << 20]) or '""'
    return text if not cut or len(text) <= _CUT else text[: _CUT - 1] + "…"


def _apart(old: str, new: str) -> tuple[str, str]:
    """Two texts cut to where they differ."""
    if max(len(old), len(new)) <= _CUT:
        return old, new
    common = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        common += 1
    start = max(0, common - _LEAD)

    def part(text: str) -> str:
        piece = text[start : start + _CUT]
        return ("…" if start else "") + piece + ("…" if len(text) > start + _CUT else "")

    return part(old), part(new)


def _file(file: FileDifference, where: str, *, digests: bool) -> str:
    path = shown(file.path) + (f" ({shown(where)})" if where else "")
    match file.change:
        case Change.ADDED | Change.REMOVED:
            return f"{path} {file.change.value}"
        case Change.CONTENT:
            return f"{path} changed" + (f" ({shown(file.old[:12])} -> {shown(file.new[:12])})" if digests else "")
        case Change.MODE:
            return f"{path}: mode {file.old} -> {file.new}"
        case Change.TYPE:
            return f"{path}: {shown(file.old)} -> {shown(file.new)}"
        case Change.LINK:
            return f"{path}: link to {_value(file.old)} -> {_value(file.new)}"


def _below_short(below: Below) -> str:
    return next(_below(below, 1))


def _below(below: Below, most_files: int) -> Iterator[str]:
    verb = "stands on" if below.is_parent else "reads from"
    match below.link:
        case Link.TO_BUILD:
            yield f"{verb} {below.step}, which is to be built"
        case Link.ADDED:
            yield f"new below it: {_some(below.steps)}"
        case Link.REMOVED:
            yield f"gone from below it: {_some(below.steps)}"
        case Link.BASE:
            was, now = _image(below.was), _image(below.now)
            if was and was != now:
                yield f"the base was {was} ({_digest(below.old)}), is {now} ({_digest(below.new)})"
            else:
                yield f"the base {now}: {_digest(below.old)} -> {_digest(below.new)}"
        case Link.CHANGED if below.differences:
            told = [line for one in below.differences for line in describe(one, most_files)]
            yield f"{below.step} below it: {told[0]}"
            yield from (f"{below.step} below it: {line}" for line in told[1:most_files])
        case Link.CHANGED if not below.step:
            yield f"no longer {verb} {_value(below.was) if below.was else 'another step'}"
        case Link.CHANGED:
            yield f"{verb} {below.step}" + (f", not {_value(below.was)}" if below.was else ", which it did not")
        case Link.UNKNOWN:
            yield f"{verb} {below.step}, which is another step than before; what that was is not known any more"


def _image(instruction: str) -> str:
    """What a FROM names."""
    return _value(instruction.removeprefix("FROM ").partition(" AS ")[0]) if instruction else ""


def _digest(digest: str) -> str:
    return shown(digest[:19]) or "nothing"


def _some(names: tuple[str, ...] | list[str]) -> str:
    rest = len(names) - _MOST_STEPS
    return ", ".join(map(_value, names[:_MOST_STEPS])) + (f" and {rest} more" if rest > 0 else "")


def _evicted(explanation: Explanation) -> Iterator[str]:
    lost = explanation.lost
    if lost:
        yield f"built before; the store has lost {len(lost)} of its layers: {_some(lost)}"
    else:
        yield "built before; its result is gone from the store"


def _compared(explanation: Explanation) -> Iterator[str]:
    nearest = explanation.nearest
    if nearest is None:
        return
    when = f" of {moment(nearest.created)}" if nearest.created else ""
    took = f", which took {nearest.seconds:.1f} s" if nearest.seconds is not None else ""
    where = f" in {shown(nearest.source)}" if nearest.source else ""
    if explanation.cause in (Cause.HIT, Cause.EVICTED, Cause.REFUSED):
        if when or took:
            yield f"its build{when}{took}"
    elif not nearest.same_place:
        what = _value(nearest.instruction) if nearest.instruction else "another step"
        yield f"compared with the most similar step known{where}: {what}{when}{took}"
    elif when and explanation.cause is not Cause.NOT_PULLED:
        yield f"compared with its build{when}{where}{took}"


def moment(seconds: float) -> str:
    """A time as `2025-03-01 12:00 UTC`; what is no time in our age is called so."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return "an unknown time"
