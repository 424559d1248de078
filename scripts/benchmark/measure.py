"""What one command takes: seconds, processor time, memory, and when it says a word."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_MARK = re.compile(rb"\bmark-([a-z]+)")
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A measurement that cannot be trusted, or not be made."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    seconds: float
    """From its start to its end, or the part of that which the scenario is about."""
    cpu: float
    """Seconds of processor time, user and system, its daemon's counted."""
    memory: int
    """Bytes of resident memory that the largest process of all had at most."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended well."""

    seconds: float
    cpu: float
    memory: int
    marks: Mapping[str, float]
    """When it first wrote `mark-NAME`: seconds after its start."""
    output: bytes


def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    *,
    errors: int | IO[bytes] = subprocess.STDOUT,
    timeout: float = 1800,
) -> Ran:
    """Run a command to its end. Raises BenchError if it fails, or takes longer than `timeout` seconds."""
    begun = time.monotonic()
    process = subprocess.Popen(
        list(argv),
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    marks: dict[str, float] = {}
    output = bytearray()

    def read() -> None:
        assert process.stdout is not None  # noqa: S101
        with process.stdout:
            for line in process.stdout:
                output.extend(line)
                for name in _MARK.findall(line):
                    marks.setdefault(name.decode(), time.monotonic() - begun)

    reader = threading.Thread(target=read)
    reader.start()
    killer = threading.Timer(timeout, process.kill)
    killer.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.kill()
        raise
    finally:
        killer.cancel()
        reader.join()
    if process.returncode:
        raise BenchError(
            f"{' '.join(argv)} ended with {process.returncode}:\n{output.decode(errors='replace')[-3000:]}"
        )
    return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10, marks, bytes(output))


@dataclass(frozen=True, slots=True)
class Spread:
    """What the rounds of one scenario gave for one builder."""

    samples: tuple[Sample, ...]

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def lowest(self) -> float:
        """Of the seconds."""
        return min(sample.seconds for sample in self.samples)

    @property
    def highest(self) -> float:
        """Of the seconds."""
        return max(sample.seconds for sample in self.samples)

    @property
    def cpu(self) -> float:
        """The median."""
        return statistics.median(sample.cpu for sample in self.samples)

    @property
    def memory(self) -> int:
        """The most of all rounds, in bytes."""
        return max(sample.memory for sample in self.samples)


class DaemonWatch:
    """What long-lived processes take while a client of theirs runs."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # its peak begins anew (proc(5))
        self._begun = self._ticks()

    @property
    def cpu(self) -> float:
        """Seconds of processor time since the start, with that of children that ended."""
        return (self._ticks() - self._begun) / _TICKS

    @property
    def memory(self) -> int:
        """Bytes that the largest of them had at most."""
        return max((_peak(pid) for pid in self._pids), default=0)

    def _ticks(self) -> int:
        total = 0
        for pid in self._pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
        return total


def _peak(pid: int) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0
