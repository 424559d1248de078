"""`dataclass`, as of the standard library, which writes the methods of a class when its first object is made.

Of some two hundred classes that a command imports it makes objects of a few dozen, and the standard library takes half
a millisecond to write and compile the methods of one: that was a third of a build in which nothing ran. So a class with
slots is given those at once, and the rest, by the standard library itself, when something asks for it.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:
        """As dataclasses.dataclass: the same options, the same class once there is an object of it."""
        return (lambda given: _begun(given, options)) if cls is None else _begun(cls, options)


_FIELDS, _PARAMS = "__dataclass_fields__", "__dataclass_params__"
_WRITTEN = (
    *("__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__setattr__", "__delattr__"),
    *("__match_args__", "__replace__", "__getstate__", "__setstate__", "__doc__", _PARAMS, _FIELDS),
    "__init__",  # last: a thread that finds it finds all others
)
_KNOWN = frozenset(("frozen", "slots", "order", "repr"))
_SPECIAL = ("ClassVar", "InitVar", "KW_ONLY")
_TEXTUAL = sys.version_info < (3, 14)
"""Whether a class's annotations are strings in its dictionary, where the module asks for that."""
_lock = threading.RLock()  # finishing a class finishes those that it stands on


class _Awaited:
    """Stands for what tells of a class's fields, until that is asked for."""

    __slots__ = ("_finish", "_name")

    def __init__(self, name: str, finish: Callable[[], None]) -> None:
        self._name = name
        self._finish = finish

    def __get__(self, _: object, owner: type) -> object:
        self._finish()
        return getattr(owner, self._name)


def _begun(cls: type, options: dict[str, bool]) -> type:
    """The class with its slots, and with what finishes it."""
    annotations = vars(cls).get("__annotations__", {})
    if not _TEXTUAL or not options.get("slots") or not options.keys() <= _KNOWN or not _is_plain(cls, annotations):
        whole: type = dataclasses.dataclass(**options)(cls)
        return whole
    begun = _slotted(cls, tuple(annotations))
    finished = False

    def finish() -> None:
        nonlocal finished
        with _lock:
            if finished:
                return
            written = dataclasses.dataclass(**options)(cls).__dict__
            for name in _WRITTEN:
                if name in written:
                    setattr(begun, name, written[name])
            finished = True

    def __init__(self: object, *args: object, **kwargs: object) -> None:  # noqa: N807
        finish()
        begun.__init__(self, *args, **kwargs)  # type: ignore[misc]

    setattr(begun, "__init__", __init__)  # noqa: B010
    for name in (_PARAMS, _FIELDS):
        setattr(begun, name, _Awaited(name, finish))
    return begun


def _is_plain(cls: type, annotations: dict[str, object]) -> bool:
    """Whether each annotation is a field of the class's objects."""
    texts = [one for one in annotations.values() if isinstance(one, str)]
    if len(texts) < len(annotations) or "__init__" in cls.__dict__:
        return False
    return not any(word in text for text in texts for word in _SPECIAL)


def _slotted(cls: type, names: tuple[str, ...]) -> type:
    """The class again, with slots: they cannot be given to one that is there."""
    inherited = {slot for base in cls.__mro__[1:-1] for slot in _slots_of(base)}
    content = {name: value for name, value in cls.__dict__.items() if name not in names}
    content.pop("__dict__", None)
    content.pop("__weakref__", None)
    content["__slots__"] = tuple(name for name in names if name not in inherited)
    made = type(cls)(cls.__name__, cls.__bases__, content)
    made.__qualname__ = cls.__qualname__
    return made


def _slots_of(base: type) -> tuple[str, ...]:
    slots = base.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
