"""Shows what happens during a build: observers of engine/events.py, one a mode.

with create(ProgressMode.AUTO, sys.stderr) as display:
    build(..., observer=display)
"""

from __future__ import annotations

import os
from typing import TextIO

from mbuild.progress.display import Display
from mbuild.progress.mode import ProgressMode, resolve
from mbuild.progress.stream import Screen

__all__ = ["Display", "ProgressMode", "create"]


def create(mode: ProgressMode, stream: TextIO) -> Display:
    """The display for a mode, writing to `stream`; to be entered as a context manager.

    NO_COLOR and TERM are read from the environment. Only `tty` imports rich.
    """
    chosen = resolve(mode, stream, os.environ)
    screen = Screen(stream)
    if chosen is ProgressMode.TTY:
        from mbuild.progress.terminal import Terminal

        return Terminal(screen, colour=not os.environ.get("NO_COLOR"))
    if chosen is ProgressMode.PLAIN:
        from mbuild.progress.plain import Plain

        return Plain(screen, colour=screen.isatty() and not os.environ.get("NO_COLOR"))
    if chosen is ProgressMode.RAWJSON:
        from mbuild.progress.rawjson import RawJson

        return RawJson(screen)
    from mbuild.progress.quiet import Quiet

    return Quiet(screen)
