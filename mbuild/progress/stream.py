"""A text stream that a build can write to whatever its encoding is and whether or not anybody still reads it."""

from __future__ import annotations

import codecs
from typing import TextIO


class Screen:
    """The part of a text stream that the displays use.

    What the stream's encoding lacks is written as `?`. Once writing fails (a closed pipe, a terminal that is
    gone) everything more is dropped: a build is not lost because nobody watches it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = False
        name = getattr(stream, "encoding", None) or "utf-8"
        try:
            self.encoding = codecs.lookup(name).name
        except LookupError:
            self.encoding = "ascii"

    @property
    def speaks_utf8(self) -> bool:
        """Whether every character can be shown."""
        return self.encoding.startswith("utf-8")

    def isatty(self) -> bool:
        """Whether this is a terminal."""
        try:
            return self._stream.isatty()
        except ValueError:  # it is closed
            return False

    def fileno(self) -> int:
        """The file descriptor. Raises OSError where there is none."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write text; what cannot be encoded becomes `?`."""
        if not self._lost:
            try:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError):  # ValueError: written to after it was closed
                self._lost = True
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        if not self._lost:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._lost = True
