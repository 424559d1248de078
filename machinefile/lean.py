"""The standard library's dataclasses, without inspect: that takes three times as long to import, with the parser and
the disassembler of Python, and is asked for a class without documentation only."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


class _Awaited(ModuleType):
    """Stands for a module until something of it is needed."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module(self.__name__), name)


def _import_without(awaited: str, name: str) -> None:
    if awaited in sys.modules or name in sys.modules:
        return
    sys.modules[awaited] = _Awaited(awaited)
    try:
        importlib.import_module(name)
    finally:
        del sys.modules[awaited]  # what others import is the module itself


_import_without("inspect", "dataclasses")

import dataclasses as dataclasses  # noqa: E402 - only now
