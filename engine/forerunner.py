"""The machine of a build's first command, restored while the build is still being planned.

Names are looked up and keys computed before it is known whether a command runs at all. But who changes a RUN builds the
same Machinefile again, and what that command stands on is mostly what one stood on the last time. So a note is kept of
each Machinefile (engine/precedent.py): the RUNs that are known, and what the machine of the first command that ran was
restored with. When there is a RUN in it that is not known, and the same before it, such a machine is restored at once.
If it is not what the first command needs, or none runs, it is ended unused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from cache.spans import span
from cache.store import Store
from engine.precedent import Precedent, Text, precedent_path, texts_of
from machinefile.errors import MbuildError
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.request import BuildRequest
    from engine.vm.execution import Outlook, Sandbox


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
        texts = texts_of(self.request)
        path = precedent_path(self.store.root, self.request)
        known = Precedent.read(path) if any(text.is_run for text in texts) else Precedent()
        first = self._first(known, texts)
        try:
            if first is not None and known.holds(first, texts):
                self._begin(known)
            yield self._sandbox
            self._keep(path, known, texts)
        finally:
            if self._early is not None:
                self._early.forget()

    def _first(self, known: Precedent, texts: Sequence[Text]) -> int | None:
        """The place of the first RUN that has to run, as far as that is known."""
        return (known if self.request.cache.use else Precedent()).first_new(texts)

    def _begin(self, known: Precedent) -> None:
        if not known.outlook or self.request.fail_on_miss:
            return
        disks = known.disks(self._disks)
        # One that was tampered with is made anew later, under the same name: its machine must not read what is there.
        if all(self.store.uses.find(disk) is not None and self.store.seals.holds(disk) for disk in disks):
            self._expect(known, disks)

    def _expect(self, known: Precedent, disks: tuple[Path, ...]) -> None:
        # What is imported for this, the command needs too: the sooner QEMU is started, the better.
        # What is wrong here is told by the command that needs a machine.
        with suppress(MbuildError, ValueError, TypeError), span("expect", "step"):
            self._early = self.make()
            outlook = known.outlook_on(disks, self.request.egress)
            if self.request.egress.host_network or outlook.network is not outlook.network.HOST:
                self._early.expect(outlook, self.cancelled)

    def _sandbox(self) -> Sandbox:
        """The one in which a machine waits, or a new one: also for a build that begins anew."""
        from engine.noting import NotingSandbox  # which a build that runs nothing has no use for

        waiting = None if self._given else self._early
        self._given = True
        return NotingSandbox(waiting or self.make(), self._seen)

    def _keep(self, path: Path, known: Precedent, texts: Sequence[Text]) -> None:
        """Remember what this build came to."""
        first = self._first(known, texts)
        note = known.with_runs(texts)
        if first is not None and self._seen:
            note = note.with_first(self._seen[0], self._disks, texts[:first])
        if note != known:
            note.write(path)

    @property
    def _disks(self) -> Path:
        return self.store.root / "disks"
