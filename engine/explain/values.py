"""Explanations as JSON, for other programs."""

from __future__ import annotations

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
from engine.explain.explanation import Below, Explanation
from engine.explain.files import FilesDifference

_MOST = 1000
"""Items of a list, and of the lists in it, that are given."""
_LONGEST = 16 << 10
"""Characters of a text that are given."""


def explanation_value(explanation: Explanation) -> dict[str, object]:
    """All of it, but for the step itself."""
    nearest = explanation.nearest
    return {
        "cause": explanation.cause.value,
        "differences": [difference_value(one) for one in explanation.differences],
        "below": [_below_value(one) for one in explanation.below],
        "roots": list(explanation.roots),
        "lost": list(explanation.lost),
        "nearest": nearest
        and {
            "key": nearest.key,
            "instruction": nearest.instruction,
            "seconds": nearest.seconds,
            "created": nearest.created,
            "source": nearest.source,
            "same_place": nearest.same_place,
        },
    }


def difference_value(difference: Difference) -> dict[str, object]:
    """One difference; `kind` says which."""
    match difference:
        case ArgumentDifference(number, old, new, script):
            return {"kind": "argument", "number": number, "script": script, **_change(old, new)}
        case PairDifference(field, name, old, new):
            return {"kind": "pair", "field": field, "name": name, **_change(old, new)}
        case MountDifference(target, part, old, new):
            return {"kind": "mount", "target": target, "part": part, **_change(old, new)}
        case FilesDifference(files, where, more):
            listed = [
                {"path": file.path, "change": file.change.value, "old": file.old or None, "new": file.new or None}
                for file in files
            ]
            return {"kind": "files", "where": where, "files": listed, "more": more}
        case StepDifference(number, old, new):
            return {"kind": "step", "number": number, **_change(old, new)}
        case SettingDifference(name, old, new):
            return {"kind": "setting", "name": name, **_change(old, new)}
        case VersionDifference(old, new):
            return {"kind": "version", **_change(old, new)}


def _below_value(below: Below) -> dict[str, object]:
    return {
        "link": below.link.value,
        "step": below.step or None,
        "role": "parent" if below.is_parent else "input",
        "steps": list(below.steps),
        "was": below.was,
        "now": below.now,
        "old": below.old or None,
        "new": below.new or None,
        "differences": [difference_value(one) for one in below.differences],
    }


def _change(old: Value, new: Value) -> dict[str, object]:
    return {"old": _plain(old), "new": _plain(new)}


def _plain(value: Value) -> object:
    match value:
        case str():
            # What is no Unicode is no JSON that other programs read.
            return value[:_LONGEST].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        case tuple():
            return [_plain(one) for one in value[:_MOST]]
        case _:
            return value
