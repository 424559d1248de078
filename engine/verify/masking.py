"""Secrets masked in all that is said of a difference."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import TypeVar, cast

from engine.secrets import Secrets

_T = TypeVar("_T")


def masked(said: _T, secrets: Secrets) -> _T:
    """The same with every text in it masked, however deep."""
    return cast(_T, _masked(said, secrets)) if secrets.needles else said


def _masked(said: object, secrets: Secrets) -> object:
    match said:
        case str():
            return secrets.masked(said)
        case tuple():
            return tuple(_masked(one, secrets) for one in said)
        case Enum():
            return said
    if is_dataclass(said) and not isinstance(said, type):
        return replace(said, **{one.name: _masked(getattr(said, one.name), secrets) for one in fields(said)})
    return said
