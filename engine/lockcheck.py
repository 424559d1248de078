"""What a build's lock file lacks: refused with --locked, else warned of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from engine.events import Observer, WarningRaised
from engine.locksurvey import Survey
from engine.pins import Lacking, Pins, image_name
from engine.request import BuildRequest
from machinefile.errors import MachinefileError, TransferError, UsageError
from machinefile.imageconfig import ImageConfig
from machinefile.resolve import Lookup, base_references
from machinefile.steps import BaseImage, BaseReference, BuildGraph


def pins_of(request: BuildRequest) -> Pins | None:
    """The pins that count for a build, if it has a lock file."""
    return Pins.of(request.lock, request.contexts) if request.lock is not None else None


def refuse_unpinned_bases(request: BuildRequest, pins: Pins, look_up: Lookup) -> None:
    """Refuse a base without a pin before its registry is asked for it. What only ONBUILD names is found later.

    Raises UsageError `lock-incomplete`, and what looking up a pinned base raises.
    """
    found: dict[str, Lacking] = {}
    for options in request.for_each_platform().values():
        wanted = [one for one in base_references(request.machinefile, options) if not pins.has_image(one)]
        if not wanted:
            continue

        def lookup(reference: BaseReference) -> BaseImage:
            return look_up(reference) if pins.has_image(reference) else BaseImage("", ImageConfig())

        survey = Survey(lookup)
        # It may be wrong only for want of what the base sets: the places seen so far do.
        with suppress(MachinefileError, TransferError):
            survey.take(request.machinefile, options)
        for reference in wanted:
            name = image_name(pins.named.get(reference.reference, reference.reference))
            lacking = Lacking(f"{name} for {reference.platform}", survey.place_of(reference))
            found.setdefault(lacking.what, lacking)
    if found:
        raise _incomplete(pins, tuple(found.values()))


def check_lock(request: BuildRequest, pins: Pins, graphs: Sequence[BuildGraph], observer: Observer) -> None:
    """Raises UsageError `lock-incomplete` with --locked; warns of the same without."""
    lacking = pins.lacking(graphs, request.contexts)
    if lacking and request.locked:
        raise _incomplete(pins, lacking)
    for one in lacking:
        message = f"{pins.lock.path} has no pin for {one.what}: mbuild lock adds it"
        observer(WarningRaised(message, "lock-incomplete", str(one.span or "")))


def _incomplete(pins: Pins, lacking: Sequence[Lacking]) -> UsageError:
    listed = "".join(f"\n  {f'{one.span}: ' if one.span else ''}{one.what}" for one in lacking)
    return UsageError(
        f"{pins.lock.path} has no pin for{listed}",
        code="lock-incomplete",
        hint="mbuild lock adds what is missing",
    )
