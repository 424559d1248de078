"""What the grammars made of a Machinefile's texts before, so that a file that was read once needs no parser."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from contextlib import suppress
from pathlib import Path

from cache.files import store_errors, write_atomically
from machinefile.errors import StoreError
from machinefile.syntax import MEMORY, Memory, grammar_paths

MOST_BYTES = 8 << 20
"""Of one Machinefile's memory; a larger one is parsed anew."""

_MAGIC = b"mbuild parses 1\n"


class KnownParses:
    """The memory of one Machinefile, in one file of the store's `contexts` folder.

        16 bytes     the form of the file
        32 bytes     the sha256 of what follows
        ...          JSON: [what parsed, trees]

    One that is damaged, or of another parser or grammar, is one that knows nothing; it holds data only, and each token
    in it can but be a part of the text that it is the token of.
    """

    def __init__(self, folder: Path, machinefile: Path, memory: Memory = MEMORY) -> None:
        """`folder` may be missing, and so may any file in it, at any time."""
        real = os.fsencode(os.path.realpath(machinefile))
        self._path = folder / (hashlib.sha256(b"parses\0" + real).hexdigest() + ".parses")
        self._memory = memory

    def load(self) -> None:
        """Take what is known."""
        head = len(_MAGIC) + hashlib.sha256().digest_size
        try:
            with self._path.open("rb") as file:
                data = file.read(head + MOST_BYTES + 1)
        except OSError:
            return
        body = data[head:]
        if not data.startswith(_MAGIC) or len(body) > MOST_BYTES:
            return
        if hashlib.sha256(body).digest() != data[len(_MAGIC) : head]:
            return
        with suppress(ValueError, RecursionError):
            match json.loads(body):
                case [str(made_by), entries] if made_by == _parser():
                    self._memory.learn(entries)

    def save(self, temporary: Path) -> None:
        """Write what this process asked for, if some of it is new. What cannot be written is parsed again the next
        time."""
        if not self._memory.has_news:
            return
        body = json.dumps([_parser(), list(self._memory.entries())], separators=(",", ":")).encode()
        if len(body) > MOST_BYTES:
            return
        with suppress(StoreError), store_errors("remembering how a Machinefile parses"):
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, _MAGIC + hashlib.sha256(body).digest() + body, temporary)


def _parser() -> str:
    """What the trees hang on: the grammars, and the parser's own files."""
    whole = hashlib.sha256()
    for path in grammar_paths():
        whole.update(path.read_bytes())
    found = importlib.util.find_spec("lark")
    with suppress(OSError):
        if found is not None and found.origin is not None:
            status = os.stat(found.origin)
            whole.update(f"{found.origin} {status.st_size} {status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()
