"""Looking at processes, waiting for them, and stopping those that a test started."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def processes() -> Iterator[tuple[int, list[str]]]:
    """Every process that can be seen: its id and its arguments."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                argv = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if argv[0]:
                yield int(folder.name), argv


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return true()


def interrupt(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> int:
    """Send a signal to a process that we started, and wait for its end."""
    process.send_signal(number)
    return process.wait(60)
