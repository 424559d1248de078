"""What was recorded of a command as a trace that chrome://tracing and Perfetto show.

The form is the JSON object of Chrome's Trace Event Format: a complete event (`ph` X) for each span, in microseconds
since the process began, and metadata events (`ph` M) that name the process and the threads.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.spans import MOST, Recording, recorded
from machinefile.errors import HostError

_NAMES = {"MainThread": "mbuild", "Thread": "others"}
_BOOT_TICKS = 19
"""Where /proc/PID/stat has, behind the program's name, when the process began: clock ticks since the host's start."""


@contextmanager
def traced(path: str) -> Iterator[None]:
    """Record what is done within, from the process's start on, and write it to the file, however it ends.

    Raises HostError `output-failed`, before anything is done if the file cannot be written.
    """
    # A link stays one; where the link of a pipe in /dev/fd leads there is no file.
    file = Path(path) if _is_special(Path(path)) else Path(os.path.realpath(path))
    try:
        _prepare(file)
    except OSError as error:
        raise _unwritable(path, error) from error
    begun = process_began()
    with recorded(begun) as recording:
        recording.add("start-up", "phase", begun, time.monotonic())
        try:
            yield
        except BaseException:
            recording.finish()
            try:
                _write(file, recording)
            except OSError as error:  # what failed before matters more
                print(f"mbuild: {_unwritable(path, error).message}", file=sys.stderr)
            raise
    try:
        _write(file, recording)
    except OSError as error:
        raise _unwritable(path, error) from error
    if recording.dropped:
        print(f"mbuild: {path} has the first {MOST} spans, and not {recording.dropped} more", file=sys.stderr)


def process_began() -> float:
    """When this process began, on the clock of `time.monotonic`, as exactly as the kernel counts that (10 ms); now,
    where it does not say."""
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(fields[_BOOT_TICKS]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, IndexError):
        return now
    return now - max(0.0, age)


def trace(recording: Recording) -> dict[str, object]:
    """The trace of a recording."""
    pid = os.getpid()
    shown = Counter[str]()
    events: list[dict[str, object]] = [_named("process_name", pid, 0, "mbuild")]
    for row, name in enumerate(recording.rows):
        name = _NAMES.get(name, name)
        shown[name] += 1
        events.append(_named("thread_name", pid, row, name if shown[name] == 1 else f"{name} {shown[name]}"))
    # Of two that seem to take the same time the outer one, which ended later, comes first.
    spans = recording.spans[::-1]
    spans.sort(key=lambda one: (one.begun, -one.seconds))
    events += (
        {
            "name": one.name,
            "cat": one.category,
            "ph": "X",
            "ts": round(one.begun * 1e6, 1),
            "dur": round(one.seconds * 1e6, 1),
            "pid": pid,
            "tid": one.row,
            "args": dict(one.facts),
        }
        for one in spans
    )
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"dropped": recording.dropped}}


def _named(what: str, pid: int, row: int, name: str) -> dict[str, object]:
    return {"name": what, "ph": "M", "pid": pid, "tid": row, "args": {"name": name}}


def _prepare(file: Path) -> None:
    """Leave nothing of an earlier command, which this one's might be taken for; find out whether it can be written."""
    if _is_special(file):
        return
    file.open("ab").close()
    file.unlink()


def _write(file: Path, recording: Recording) -> None:
    text = json.dumps(trace(recording), separators=(",", ":")) + "\n"
    if _is_special(file):
        file.write_text(text)
        return
    # Beside it, and then renamed: it is there whole or not at all.
    beside = file.with_name(f".mbuild-profile-{os.getpid()}-{time.time_ns()}")
    with beside.open("x") as out:
        try:
            out.write(text)
            out.flush()
            beside.replace(file)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise


def _is_special(file: Path) -> bool:
    """Whether it is there, and neither a file nor a folder: a terminal, a pipe."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _unwritable(path: str, error: OSError) -> HostError:
    return HostError(f"{path} cannot be written: {error.strerror}", code="output-failed")
