"""What the last builds of a Machinefile came to, as far as it tells which machine the next one begins with.

It is read before anything of the file is resolved, and so it goes by the texts of the instructions alone. What the
steps were, key by key, is remembered by engine/explain/past.py: that takes a plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.explain.past import project_of
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.request import BuildRequest
    from engine.vm.execution import Outlook
    from engine.vm.network.rules import EgressPolicy
    from machinefile.instructions import Instruction

_VERSION = 1
_MOST_BYTES = 1 << 20
_MOST_RUNS = 1000
"""Of one Machinefile: those that were known before are forgotten first."""


@dataclass(frozen=True, slots=True)
class Text:
    """An instruction, for all that counts here."""

    is_run: bool
    digest: str
    """Of its text, heredocs included."""


@dataclass(frozen=True, slots=True)
class Precedent:
    """What is remembered of a Machinefile; nothing, at first."""

    runs: tuple[str, ...] = ()
    """Digests of the texts of its RUNs, newest last: none of them has to run for being new."""
    outlook: tuple[object, ...] = ()
    """Of the first command that ran, as `_written` has it; empty where none did."""
    place: int = 0
    """How many instructions stand before that command."""
    before: str = ""
    """The digest of their texts."""

    @classmethod
    def read(cls, path: Path) -> Precedent:
        """What is remembered there; nothing where there is nothing, or what this mbuild cannot read."""
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(_MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return cls()
        match value:
            case [1, list(runs), list(outlook), int(place), str(before)] if all(isinstance(run, str) for run in runs):
                return cls(tuple(runs), tuple(outlook), max(place, 0), before)
        return cls()

    def write(self, path: Path) -> None:
        """Keep it; what cannot be written is not known the next time."""
        body = json.dumps([_VERSION, self.runs, self.outlook, self.place, self.before], separators=(",", ":"))
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            path.write_text(body)  # no disk is waited for: a note that is cut short says nothing

    def first_new(self, texts: Sequence[Text]) -> int | None:
        """The place of the first RUN that has to run for being new."""
        return next((place for place, text in enumerate(texts) if text.is_run and text.digest not in self.runs), None)

    def holds(self, first: int, texts: Sequence[Text]) -> bool:
        """Whether the same stands before the first command now as before the one that ran then."""
        return first == self.place and _digest(texts[:first]) == self.before

    def with_runs(self, texts: Sequence[Text]) -> Precedent:
        """The same with the RUNs of what was built."""
        runs = tuple(text.digest for text in texts if text.is_run)
        if not set(runs) - set(self.runs):
            return self
        return replace(self, runs=(*(run for run in self.runs if run not in runs), *runs)[-_MOST_RUNS:])

    def with_first(self, outlook: Outlook, folder: Path, before: Sequence[Text]) -> Precedent:
        """The same with the machine of the first command that ran, behind these instructions, unless it had disks that
        are not in the store's folder."""
        written = _written(outlook, folder)
        return replace(self, outlook=written, place=len(before), before=_digest(before)) if written else self

    def disks(self, folder: Path) -> tuple[Path, ...]:
        """Where the disks of that command's machine are; they may be gone."""
        return tuple(folder / str(name) for name in _list(self.outlook[0])) if self.outlook else ()

    def outlook_on(self, disks: tuple[Path, ...], egress: EgressPolicy) -> Outlook:
        """What that machine was restored with. Raises ValueError or TypeError for what nobody wrote."""
        from engine.vm.execution import Outlook
        from machinefile.steps import MachineShape, NetworkMode

        _, shape, network, hosts, ports = self.outlook
        cpus, memory, disk = (int(str(number)) for number in _list(shape))
        return Outlook(
            disks,
            MachineShape(cpus, memory, disk),
            NetworkMode(network),
            tuple((str(name), str(address)) for name, address in map(_list, _list(hosts))),
            egress,
            frozenset(int(str(port)) for port in _list(ports)),
        )


def precedent_path(root: Path, request: BuildRequest) -> Path:
    """Where the precedent of what is asked for is in a store."""
    name = f"ahead {project_of(request)} {request.options.target or ''}"
    return root / "contexts" / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}.ahead"


def texts_of(request: BuildRequest) -> list[Text]:
    """The instructions of what is asked for, in their order."""
    return [Text(one.name == "RUN", _text_digest(one)) for one in request.machinefile.instructions]


def _text_digest(instruction: Instruction) -> str:
    text = "\0".join([instruction.line.text, *(heredoc.content for heredoc in instruction.heredocs)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _digest(texts: Sequence[Text]) -> str:
    return hashlib.sha256("".join(text.digest for text in texts).encode()).hexdigest()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _written(outlook: Outlook, folder: Path) -> tuple[object, ...]:
    """For json.dumps. Empty for disks that are not in that folder."""
    if any(disk.parent != folder for disk in outlook.disks):
        return ()
    shape = outlook.shape
    return (
        [disk.name for disk in outlook.disks],
        [shape.cpus, shape.memory, shape.disk],
        outlook.network.value,
        [list(host) for host in outlook.hosts],
        sorted(outlook.loopback_ports),
    )
