"""Starting programs while other threads import."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import subprocess, sys
from engine import process

def popen(*given, **options):
    print(*(name in sys.modules for name in ("logging", "concurrent.futures.thread")))
    raise SystemExit

assert "logging" not in sys.modules, "imported where nothing is started"
subprocess.Popen = popen
process.spawn(["true"])
"""


def test_what_has_handlers_of_forks_is_there_whole_before_one() -> None:
    """logging and the threads' futures take a lock before a fork and release it after: one that comes in the middle of
    their import releases what was never taken, and Python tells so with a traceback."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True True\n", "")
