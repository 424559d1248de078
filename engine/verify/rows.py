"""The histories of two images, laid side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from cache.results import Layer
from engine.images.config import History
from engine.plan import Plan
from engine.verify.images import Image
from machinefile.steps import Step

Row = tuple[History, Layer | None]
"""A line of an image's history, and the layer it made."""


def diff_id_of(row: Row | None) -> str:
    """That of its layer; empty where it made none."""
    return row[1].diff_id if row is not None and row[1] is not None else ""


def aligned(theirs: Sequence[Row], ours: Sequence[Row]) -> list[tuple[Row | None, Row | None]]:
    """What stands for one another: line by line of histories of one length, else layer by layer."""
    if len(theirs) != len(ours):
        theirs, ours = ([row for row in rows if row[1] is not None] for rows in (theirs, ours))
    return list(zip_longest(theirs, ours))


def step_names(plan: Plan, image: Image, rows: Sequence[tuple[Row | None, Row | None]]) -> dict[int, Step]:
    """The steps of the build by the rows that their lines are in: those of the last lines of the image's history."""
    lines = image.image.configuration.history
    if len(image.steps()) != len(lines):
        return {}
    ids = plan.graph.history
    steps = [None] * (len(lines) - len(ids)) + [plan.graph.step(step_id) for step_id in ids]
    if len([row for row in rows if row[1] is not None]) != len(lines):
        steps = [step for step, line in zip(steps, lines, strict=True) if not line.empty_layer]
    return {number: step for number, step in enumerate(steps) if step is not None}


def name_of(names: Mapping[int, Step], number: int) -> str:
    """How a row is called: as its step, if it is known."""
    return names[number].id if number in names else f"layer {number + 1}"
