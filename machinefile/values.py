"""`dataclass`, as of the standard library, which writes the methods of a class when they are needed.

Of some two hundred classes that a command imports it makes objects of a few dozen, and the standard library takes most
of a millisecond to write and compile the methods of one: that was half of a build in which nothing ran. So a class is
given its slots and fields at once; `__init__` is written here, when there are more objects than a few; what compares,
hashes and guards objects needs no compiling; and the rest is written by the standard library itself when something asks
for it. Until then, inspect.signature does not know what a class takes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from operator import attrgetter
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

from machinefile.lean import dataclasses

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:
        """As dataclasses.dataclass: the same options, and a class that does the same."""
        return (lambda given: _begun(given, options)) if cls is None else _begun(cls, options)


_FIELDS, _PARAMS = "__dataclass_fields__", "__dataclass_params__"
_ORDER = ("__lt__", "__le__", "__gt__", "__ge__")
_FROZEN = ("__setattr__", "__delattr__")
_STATE = ("__getstate__", "__setstate__")
_REPLACE = ("__replace__",) if sys.version_info >= (3, 13) else ()
_OURS = frozenset(
    ("__init__", "__eq__", "__hash__", "__match_args__", "__slots__", *_ORDER, *_FROZEN, *_STATE, "__replace__")
)
"""What a class that writes it itself is left to the standard library for."""
_OPTIONS = frozenset(("frozen", "slots", "order", "repr"))
_SPECIAL = ("ClassVar", "InitVar", "KW_ONLY")
_TEXTUAL = sys.version_info < (3, 14)
"""Whether a class's annotations are strings in its dictionary, where the module asks for that."""
_FIELD: Any = vars(dataclasses)["_FIELD"]
_MADE: Any = object()
"""Stands, in a signature, for what a factory gives."""
_FEW = 8
"""Objects of a class that are filled field by field: compiling its `__init__` takes as long as fifty of them."""
_lock = threading.RLock()  # finishing a class finishes those that it stands on
_Fields = dict[str, "dataclasses.Field[Any]"]
_begun_with: dict[type, tuple[_Fields, bool]] = {}
"""The fields of each class that was begun here, also those it inherits, and whether it is frozen."""


class _Awaited:
    """Stands for what the class was made with, until that is asked for."""

    __slots__ = ("_finish",)

    def __init__(self, finish: Callable[[], None]) -> None:
        self._finish = finish

    def __get__(self, _: object, owner: type) -> object:
        self._finish()
        return getattr(owner, _PARAMS)


def _begun(cls: type, options: dict[str, bool]) -> type:
    """The class with its fields, and with what writes the rest; as the standard library makes it where it is not one of
    the plain ones that are known here."""
    fields = _fields(cls, options)
    if fields is None:
        whole: type = dataclasses.dataclass(**options)(cls)
        return whole
    content = dict(cls.__dict__)
    is_frozen, has_slots = options.get("frozen", False), options.get("slots", False)
    begun = _slotted(cls, tuple(fields)) if has_slots else _defaulted(cls)
    _begun_with[begun] = fields, is_frozen
    late = (*(_ORDER if options.get("order") else ()), *(_STATE if is_frozen and has_slots else ()), *_REPLACE)
    if options.get("repr", True) and "__repr__" not in content:
        late = (*late, "__repr__")
    finished = False

    def finish() -> None:
        nonlocal finished
        with _lock:
            if finished:
                return
            # Of a copy each time: who is interrupted in here may come again.
            written = dataclasses.dataclass(**options)(_copied(cls, dict(content))).__dict__
            for name in (*late, "__doc__", _PARAMS):
                setattr(begun, name, written[name])
            finished = True

    left = _FEW

    def __init__(self: object, *args: object, **kwargs: object) -> None:  # noqa: N807
        nonlocal left
        left -= 1
        if left >= 0 and _filled(self, fields, args, kwargs, is_frozen):
            return
        setattr(begun, "__init__", _written_init(begun, fields, is_frozen))  # noqa: B010
        begun.__init__(self, *args, **kwargs)  # type: ignore[misc]

    setattr(begun, "__init__", __init__)  # noqa: B010
    setattr(begun, "__match_args__", tuple(fields))  # noqa: B010
    _compare(begun, tuple(name for name, field in fields.items() if field.compare), is_frozen)
    if is_frozen:
        _freeze(begun, frozenset(fields))
    for name in late:
        setattr(begun, name, _late(begun, name, finish))
    setattr(begun, _FIELDS, fields)
    setattr(begun, _PARAMS, _Awaited(finish))
    return begun


def _fields(cls: type, options: dict[str, bool]) -> _Fields | None:
    """The fields of a class in the order of their arguments; None for one that is not plain."""
    annotations = vars(cls).get("__annotations__", {})
    if not (_TEXTUAL and options.keys() <= _OPTIONS and _OURS.isdisjoint(cls.__dict__)):
        return None
    fields: _Fields = {}
    for base in cls.__mro__[:0:-1]:
        if base in _begun_with:
            inherited, is_frozen = _begun_with[base]
            if is_frozen != options.get("frozen", False):
                return None
            fields |= inherited
        elif _FIELDS in base.__dict__:
            return None
    for name, text in annotations.items():
        field = _field(cls, name, text)
        if field is None:
            return None
        fields[name] = field
    has_default = [not _is_required(field) for field in fields.values()]
    return fields if has_default == sorted(has_default) and "self" not in fields else None


def _field(cls: type, name: str, text: object) -> dataclasses.Field[Any] | None:
    """What an annotation says of a field; None for what is none, or one out of the ordinary."""
    if not isinstance(text, str) or any(word in text for word in _SPECIAL):
        return None
    given = getattr(cls, name, dataclasses.MISSING)
    if isinstance(given, MemberDescriptorType):  # of a class that this one stands on
        given = dataclasses.MISSING
    field: Any = given if isinstance(given, dataclasses.Field) else dataclasses.field(default=given)
    is_plain = field.init and field.hash is None and field.kw_only is dataclasses.MISSING
    if not is_plain or type(field.default).__hash__ is None:
        return None
    # As the standard library leaves it, which has no other way to make one that `fields` and `replace` take.
    field.name, field.type, field.kw_only = name, text, False
    field._field_type = _FIELD
    plain: dataclasses.Field[Any] = field
    return plain


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _filled(
    made: object, fields: _Fields, args: tuple[object, ...], kwargs: dict[str, object], is_frozen: bool
) -> bool:
    """Give an object its fields; False, and none of them, where the arguments are not those that it takes."""
    if len(args) > len(fields):
        return False
    values = dict(zip(fields, args, strict=False))
    if not (kwargs.keys() <= fields.keys() and kwargs.keys().isdisjoint(values)):
        return False
    values |= kwargs
    if any(name not in values and _is_required(field) for name, field in fields.items()):
        return False
    put = object.__setattr__ if is_frozen else setattr
    for name, field in fields.items():
        put(made, name, values[name] if name in values else _default(field))
    if hasattr(made, "__post_init__"):
        made.__post_init__()
    return True


def _default(field: dataclasses.Field[Any]) -> object:
    make: Callable[[], object] | Any = field.default_factory
    return field.default if make is dataclasses.MISSING else make()


def _written_init(cls: type, fields: _Fields, is_frozen: bool) -> Any:
    """The `__init__` of a class, compiled."""
    space: dict[str, Any] = {"__name__": cls.__module__, "__made": _MADE, "__put": object.__setattr__}
    slots = {name: slot for name in fields if isinstance(slot := getattr(cls, name, None), MemberDescriptorType)}
    arguments, lines = ["self"], []
    for name, field in fields.items():
        argument = value = name
        if field.default is not dataclasses.MISSING:
            argument, space[f"__default_{name}"] = f"{name}=__default_{name}", field.default
        elif field.default_factory is not dataclasses.MISSING:
            argument, space[f"__factory_{name}"] = f"{name}=__made", field.default_factory
            value = f"__factory_{name}() if {name} is __made else {name}"
        arguments.append(argument)
        if is_frozen and name in slots:  # in a third of the time that it takes to look for the slot
            space[f"__put_{name}"] = slots[name].__set__
            lines.append(f" __put_{name}(self,{value})")
        else:
            lines.append(f" __put(self,{name!r},{value})" if is_frozen else f" self.{name}={value}")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    text = f"def __init__({','.join(arguments)}):\n" + "\n".join(lines or [" pass"])
    exec(compile(text, "<values>", "exec"), space)  # noqa: S102  # as the standard library does; it has names alone
    written = space["__init__"]
    written.__qualname__ = f"{cls.__qualname__}.__init__"
    return written


def _compare(cls: type, names: tuple[str, ...], is_frozen: bool) -> None:
    """Make objects equal whose fields of these names are, and give those of a frozen class their hash."""
    if len(names) > 1:
        values: Callable[[Any], tuple[Any, ...]] = attrgetter(*names)
    elif names:
        value = attrgetter(*names)

        def values(one: Any) -> tuple[Any, ...]:
            return (value(one),)
    else:

        def values(one: Any) -> tuple[Any, ...]:
            return ()

    def __eq__(self: Any, other: Any) -> bool:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    setattr(cls, "__eq__", __eq__)  # noqa: B010
    setattr(cls, "__hash__", __hash__ if is_frozen else None)  # noqa: B010


def _freeze(cls: Any, names: frozenset[str]) -> None:
    """Let nothing change the fields of these names, nor anything else of an object of just this class."""

    def __setattr__(self: Any, name: str, value: object) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    setattr(cls, "__setattr__", __setattr__)  # noqa: B010
    setattr(cls, "__delattr__", __delattr__)  # noqa: B010


def _late(cls: type, name: str, finish: Callable[[], None]) -> Any:
    """A method that is written when it is first called."""

    def late(self: object, *args: object, **kwargs: object) -> object:
        finish()
        return getattr(cls, name)(self, *args, **kwargs)

    return late


def _slotted(cls: type, names: tuple[str, ...]) -> type:
    """The class again, with slots: they cannot be given to one that is there."""
    inherited = {slot for base in cls.__mro__[1:-1] for slot in _slots_of(base)}
    content = {name: value for name, value in cls.__dict__.items() if name not in names}
    content["__slots__"] = tuple(name for name in names if name not in inherited)
    return _copied(cls, content)


def _defaulted(cls: type) -> type:
    """The class itself, with its fields' defaults as attributes in the place of what tells of the fields."""
    for name, value in list(cls.__dict__.items()):
        if isinstance(value, dataclasses.Field) and name in vars(cls)["__annotations__"]:
            if value.default is dataclasses.MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, value.default)
    return cls


def _copied(cls: type, content: dict[str, Any]) -> type:
    """A class of the same name with that in it."""
    content.pop("__dict__", None)
    content.pop("__weakref__", None)
    made = type(cls)(cls.__name__, cls.__bases__, content)
    made.__qualname__ = cls.__qualname__
    return made


def _slots_of(base: type) -> tuple[str, ...]:
    slots = base.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
