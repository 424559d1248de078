"""A build in other surroundings, on purpose: nothing of what is other here may show in the image.

A step's hostname, machine id and kernel are mbuild's own and the same everywhere, and are not varied.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from engine.context import Context
from engine.outersandbox import OuterSandbox
from engine.request import BuildRequest
from engine.vm.execution import Execution, Output, Result
from machinefile.steps import MachineShape

CLOCK_SHIFT = 30 * 3600
"""Seconds that guests are ahead: another day and another hour, and not so far that certificates and indexes of packages
have expired."""
_ENVIRONMENT = {"TZ": "XXX-13:30", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}
_UMASKS = (0o077, 0o022)


class ShiftedSandbox(OuterSandbox):
    """Runs commands with a clock that is ahead."""

    def execute(
        self, execution: Execution, output: Output, cancelled: threading.Event
    ) -> AbstractContextManager[Result]:
        """As of Sandbox."""
        return super().execute(replace(execution, clock_shift=CLOCK_SHIFT), output, cancelled)


class BackwardContext(Context):
    """A context whose directories the file system lists the other way round."""

    def listed(self, found: Iterator[os.DirEntry[str]]) -> Iterable[os.DirEntry[str]]:
        """Backward."""
        return reversed(list(found))


def varied(request: BuildRequest, *, shape: bool = True) -> BuildRequest:
    """The same build with another number of jobs, and of processors of its steps if `shape`."""
    jobs = 4 if request.jobs == 1 else 1
    if not shape:
        return replace(request, jobs=jobs)
    given = request.options.shape or MachineShape()
    other = replace(given, cpus=1 if given.cpus > 1 else 2)
    return replace(request, jobs=jobs, options=replace(request.options, shape=other))


@contextmanager
def elsewhere() -> Iterator[None]:
    """Another time zone, language and umask of this process, for a while."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    umask = os.umask(0o022)
    os.environ.update(_ENVIRONMENT)
    os.umask(_UMASKS[umask == _UMASKS[0]])
    time.tzset()
    try:
        yield
    finally:
        os.umask(umask)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        time.tzset()
