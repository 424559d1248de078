"""Waiting until a machine's program is ready to be frozen: SNAPSHOT --ready."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import field

from engine.vm.execution import Ending, Output
from engine.vm.starting import Starting
from machinefile.errors import StepError
from machinefile.imageconfig import ImageConfig
from machinefile.steps import Snapshot
from machinefile.values import dataclass

_PAUSE = 0.02
"""Seconds between two tries to connect."""
_LONGEST_INTERVAL = 1.0
"""Seconds: a health check's own interval is for a program that runs for days."""
_CHECK_TIMEOUT = 30.0
"""Seconds: what Docker gives a health check that does not say."""
_SHELL = ("/bin/sh", "-c")


@dataclass(slots=True)
class LastLines:
    """Passes output on, and remembers its end."""

    output: Output
    kept: deque[bytes] = field(default_factory=lambda: deque(maxlen=64))

    def __call__(self, stream: int, data: bytes) -> None:
        self.kept.append(data[-4096:])
        self.output(stream, data)

    def text(self, lines: int = 10) -> str:
        """The last lines."""
        return "\n".join(b"".join(self.kept).decode(errors="replace").rstrip().splitlines()[-lines:])


def waiter(snapshot: Snapshot, config: ImageConfig, said: LastLines) -> Callable[[Starting], None]:
    """What returns when the program is ready.

    Raises StepError there: `machine-entrypoint-ended`, `machine-not-ready`; here `machine-no-healthcheck`.
    """
    probe, pause = _probe(snapshot, config)

    def wait(starting: Starting) -> None:
        deadline = time.monotonic() + snapshot.timeout
        while True:
            problem = probe(starting, max(0.1, deadline - time.monotonic()))
            ended = starting.ended
            if ended is not None:
                how = f"exit code {ended.code}"
                if ended.ending is Ending.SIGNALLED:
                    how = f"signal {ended.code - 128}"
                raise StepError(
                    f"the machine's program ended before it was ready, with {how}{_quoted(said.text())}",
                    code="machine-entrypoint-ended",
                    hint="ENTRYPOINT and CMD must start something that stays: try them with mbuild run --cold",
                )
            if not problem:
                return
            if time.monotonic() + pause > deadline:
                raise StepError(
                    f"the machine was not ready within {snapshot.timeout:g} s: {problem}{_quoted(said.text())}",
                    code="machine-not-ready",
                    hint="give it longer with SNAPSHOT --timeout=60s, or wait for something else with --ready",
                )
            starting.pause(pause)

    return wait


Probe = Callable[[Starting, float], str]
"""Says what is missing, empty when nothing is; takes at most so many seconds."""


def _probe(snapshot: Snapshot, config: ImageConfig) -> tuple[Probe, float]:
    kind, _, rest = snapshot.ready.partition(":")
    if kind == "tcp":
        port = int(rest)
        return lambda starting, left: "" if starting.accepts(port) else f"nobody accepts on port {port}", _PAUSE
    if kind == "exec":
        return _command((*(config.shell or _SHELL), rest), _CHECK_TIMEOUT), _PAUSE * 5
    if kind == "healthcheck":
        return _health(config)
    return lambda starting, left: "", _PAUSE


def _command(argv: tuple[str, ...], longest: float) -> Probe:
    def probe(starting: Starting, left: float) -> str:
        result, said = starting.check(argv, min(longest, left))
        if result is not None and result.ending is Ending.EXITED and result.code == 0:
            return ""
        how = "took too long" if result is None else f"ended with exit code {result.code}"
        words = said.decode(errors="replace").strip()[-400:]
        return f"`{' '.join(argv)[:120]}` {how}" + (f": {words}" if words else "")

    return probe


def _health(config: ImageConfig) -> tuple[Probe, float]:
    health = config.healthcheck
    test = health.test if health is not None else ()
    if health is None or test[:1] not in (("CMD",), ("CMD-SHELL",)) or len(test) < 2:
        raise StepError(
            "SNAPSHOT --ready=healthcheck waits for the image's health check, and it has none",
            code="machine-no-healthcheck",
            hint="add HEALTHCHECK, or write --ready=tcp:PORT or --ready=exec:COMMAND",
        )
    argv = test[1:] if test[0] == "CMD" else (*(config.shell or _SHELL), *test[1:])
    interval = (health.start_interval or health.interval) / 1e9 or _LONGEST_INTERVAL
    timeout = health.timeout / 1e9 or _CHECK_TIMEOUT
    return _command(tuple(argv), timeout), min(interval, _LONGEST_INTERVAL)


def _quoted(text: str) -> str:
    return f"; it wrote last:\n{text}" if text else "; it wrote nothing"
