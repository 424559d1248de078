"""How much memory a command takes, with all processes that it starts."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_INTERVAL = 0.02
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Memory:
    """Bytes of resident memory. What processes share counts for each of them: the truth is below."""

    total: int = 0
    """The most that all processes had at one time, as sampled."""
    each: dict[str, int] = field(default_factory=dict)
    """The most that any process of that name had at any time, as the kernel says."""


def watched(
    argv: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout: float
) -> tuple[subprocess.CompletedProcess[str], Memory]:
    """Run a command to its end, and watch it."""
    memory = Memory()
    deadline = time.monotonic() + timeout
    with open(cwd / "output.txt", "w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            list(argv), cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            while process.poll() is None:
                _sample(process.pid, memory)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{argv} takes longer than {timeout:g} s")
                time.sleep(_INTERVAL)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        return subprocess.CompletedProcess(argv, process.returncode, output.read()), memory


def _sample(root: int, memory: Memory) -> None:
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            text = _read(f"/proc/{name}/stat")
            if text:
                parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    total = 0
    for pid in family:
        resident = _read(f"/proc/{pid}/statm").split()
        total += int(resident[1]) * _PAGE if resident else 0
        name = _read(f"/proc/{pid}/comm").strip()
        found = _PEAK.search(_read(f"/proc/{pid}/status"))
        if found:
            memory.each[name] = max(memory.each.get(name, 0), int(found[1]) << 10)
    memory.total = max(memory.total, total)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # it ended
        return ""
