"""Lets other users reach what a test made."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def open_to_all(folder: Path) -> None:
    """Let everybody into a folder and all those above it that are ours, whatever modes pytest gave them."""
    top = Path(tempfile.gettempdir())
    while folder not in (top, folder.parent):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
        folder = folder.parent
