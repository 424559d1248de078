"""The machine of a build's first command, restored while the build is still being planned.

Names are looked up and keys computed before it is known whether a command runs at all. But who changes a RUN builds the
same Machinefile again, and what that command stands on is mostly what one stood on the last time. So a note is kept of
each Machinefile: the RUNs that are known, and what the machine of the first command that ran was restored with. When
there is a RUN in it that is not known, and the same before it, such a machine is restored at once. If it is not what
the first command needs, or none runs, it is ended unused.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cache.spans import span
from cache.store import Store
from engine.explain.past import project_of
from machinefile.errors import MbuildError
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.request import BuildRequest
    from engine.vm.execution import Outlook, Sandbox
    from machinefile.instructions import Instruction

_VERSION = 1
_MOST_BYTES = 1 << 20
_MOST_RUNS = 1000
"""Of one Machinefile: those that were known before are forgotten first."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is remembered of a Machinefile."""

    runs: tuple[str, ...] = ()
    """Digests of the texts of its RUNs, newest last: none of them has to run for being new."""
    outlook: tuple[object, ...] = ()
    """Of the first command that ran, as `_written` has it; empty where none did."""
    place: int = 0
    """How many instructions stand before that command."""
    before: str = ""
    """The digest of their texts."""


@dataclass(frozen=True, slots=True)
class Text:
    """An instruction, for all that counts here."""

    is_run: bool
    digest: str
    """Of its text, heredocs included."""


@dataclass
class Forerunner:
    """Makes the sandbox of one build, in which a machine may wait already."""

    make: Callable[[], Sandbox]
    store: Store
    request: BuildRequest
    cancelled: threading.Event
    _early: Sandbox | None = None
    _given: bool = False
    _seen: list[Outlook] = field(default_factory=list)

    @contextmanager
    def ahead(self) -> Iterator[Callable[[], Sandbox]]:
        """Begin, if there is reason to; gives what makes the build's sandbox. What waits is ended in the end."""
        texts = _texts(self.request)
        path = self.store.root / "contexts" / f"{_name(self.request)}.ahead"
        known = _read(path) if any(text.is_run for text in texts) else Remembered()
        first = self._first(known, texts)
        try:
            if first == known.place and _digest(texts[:first]) == known.before:
                self._begin(known)
            yield self._sandbox
            self._keep(path, known, texts)
        finally:
            if self._early is not None:
                self._early.forget()

    def _first(self, known: Remembered, texts: Sequence[Text]) -> int | None:
        """The place of the first RUN that has to run, as far as that is known."""
        new = (place for place, text in enumerate(texts) if text.is_run and not self._is_known(known, text))
        return next(new, None)

    def _is_known(self, known: Remembered, text: Text) -> bool:
        return self.request.cache.use and text.digest in known.runs

    def _begin(self, known: Remembered) -> None:
        if not known.outlook or self.request.fail_on_miss:
            return
        disks = tuple(self.store.root / "disks" / str(name) for name in _list(known.outlook[0]))
        # One that was tampered with is made anew later, under the same name: its machine must not read what is there.
        if all(self.store.uses.find(disk) is not None and self.store.seals.holds(disk) for disk in disks):
            self._expect(known.outlook, disks)

    def _expect(self, written: tuple[object, ...], disks: tuple[Path, ...]) -> None:
        # What is imported for this, the command needs too: the sooner QEMU is started, the better.
        # What is wrong here is told by the command that needs a machine.
        with suppress(MbuildError, ValueError, TypeError), span("expect", "step"):
            self._early = self.make()
            outlook = _outlook(written, disks, self.request)
            if self.request.egress.host_network or outlook.network is not outlook.network.HOST:
                self._early.expect(outlook, self.cancelled)

    def _sandbox(self) -> Sandbox:
        """The one in which a machine waits, or a new one: also for a build that begins anew."""
        waiting = None if self._given else self._early
        self._given = True
        from engine.noting import NotingSandbox  # which a build that runs nothing has no use for

        return NotingSandbox(waiting or self.make(), self._seen)

    def _keep(self, path: Path, known: Remembered, texts: Sequence[Text]) -> None:
        """Remember what this build came to; what cannot be written is not known the next time."""
        runs = tuple(text.digest for text in texts if text.is_run)
        first = self._first(known, texts)
        note = known
        if set(runs) - set(known.runs):
            note = replace(known, runs=(*(run for run in known.runs if run not in runs), *runs)[-_MOST_RUNS:])
        if first is not None and self._seen and (outlook := _written(self._seen[0], self.store.root / "disks")):
            note = replace(note, outlook=outlook, place=first, before=_digest(texts[:first]))
        if note == known:
            return
        body = json.dumps([_VERSION, note.runs, note.outlook, note.place, note.before], separators=(",", ":"))
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            path.write_text(body)  # no disk is waited for: a note that is cut short says nothing


def _name(request: BuildRequest) -> str:
    target = request.options.target or ""
    return hashlib.sha256(f"ahead {project_of(request)} {target}".encode("utf-8", "surrogateescape")).hexdigest()


def _texts(request: BuildRequest) -> list[Text]:
    return [Text(one.name == "RUN", _text_digest(one)) for one in request.machinefile.instructions]


def _text_digest(instruction: Instruction) -> str:
    text = "\0".join([instruction.line.text, *(heredoc.content for heredoc in instruction.heredocs)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _digest(texts: Sequence[Text]) -> str:
    return hashlib.sha256("".join(text.digest for text in texts).encode()).hexdigest()


def _read(path: Path) -> Remembered:
    """What is remembered; nothing where there is nothing, or what this mbuild cannot read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return Remembered()
    match value:
        case [1, list(runs), list(outlook), int(place), str(before)] if all(isinstance(run, str) for run in runs):
            return Remembered(tuple(runs), tuple(outlook), max(place, 0), before)
    return Remembered()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _written(outlook: Outlook, folder: Path) -> tuple[object, ...]:
    """For json.dumps. Empty for disks that are not the store's."""
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


def _outlook(written: tuple[object, ...], disks: tuple[Path, ...], request: BuildRequest) -> Outlook:
    """Back from that. Raises ValueError or TypeError for what nobody wrote."""
    from engine.vm.execution import Outlook
    from machinefile.steps import MachineShape, NetworkMode

    _, shape, network, hosts, ports = written
    cpus, memory, disk = (int(str(number)) for number in _list(shape))
    return Outlook(
        disks,
        MachineShape(cpus, memory, disk),
        NetworkMode(network),
        tuple((str(name), str(address)) for name, address in map(_list, _list(hosts))),
        request.egress,
        frozenset(int(str(port)) for port in _list(ports)),
    )
