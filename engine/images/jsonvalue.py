"""JSON from elsewhere, read field by field into the types that are expected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from engine.images.digest import is_digest
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

_SURROGATES = re.compile("[\ud800-\udfff]")
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A JSON object. A field that is null counts as missing. Every method raises UntrustedDataError with
    `code` when the field is there and has another type."""

    fields: Mapping[str, object]
    where: str
    """What the object is, for messages: `the manifest of debian:12: layers[0]`."""
    code: str

    @classmethod
    def parse(cls, data: bytes, where: str, code: str, limit: int) -> JsonObject:
        """Read an object that has at most `limit` bytes."""
        if len(data) > limit:
            raise UntrustedDataError(f"{where} is longer than {limit} bytes", code=code)
        try:
            value = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8, and numbers without end
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise UntrustedDataError(f"{where} is not JSON: {reason}", code=code) from error
        if not isinstance(value, dict):
            raise UntrustedDataError(f"{where} is not a JSON object", code=code)
        return cls(value, where, code)

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(name) is not None

    def text(self, name: str) -> str:
        """A string; empty when missing."""
        value = self.fields.get(name)
        return "" if value is None else self._text(name, value)

    def integer(self, name: str) -> int:
        """A whole number of 64 bits; 0 when missing."""
        value = self.fields.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
            raise self.wrong(name, "is not a whole number of 64 bits")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false when missing."""
        value = self.fields.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "is neither true nor false")
        return bool(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when missing."""
        return tuple(self._text(f"{name}[{i}]", item) for i, item in enumerate(self._list(name)))

    def children(self, name: str) -> tuple[JsonObject, ...]:
        """A list of objects; empty when missing."""
        return tuple(self._object(f"{name}[{i}]", item) for i, item in enumerate(self._list(name)))

    def child(self, name: str) -> JsonObject:
        """An object; an empty one when missing."""
        value = self.fields.get(name)
        return self._object(name, {} if value is None else value)

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """An object whose values are strings, sorted by name; empty when missing."""
        inner = self.child(name)
        return tuple(sorted((_clean(key), inner.text(key)) for key in inner.fields))

    def names(self, name: str) -> tuple[str, ...]:
        """The names in an object whose values mean nothing (or in a list of strings), sorted."""
        if isinstance(self.fields.get(name), list):
            return tuple(sorted(self.texts(name)))
        return tuple(sorted(_clean(key) for key in self.child(name).fields))

    def digest(self, name: str) -> str:
        """A digest that must be there."""
        value = self.text(name)
        if not is_digest(value):
            raise self.wrong(name, f"is not a sha256 digest: {value[:80]!r}")
        return value

    def wrong(self, name: str, reason: str) -> UntrustedDataError:
        """The error that says what is the matter with a field."""
        return UntrustedDataError(f"{self.where}: {name} {reason}", code=self.code)

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.wrong(name, "is not a string")
        return _clean(value)

    def _list(self, name: str) -> list[object]:
        value = self.fields.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "is not a list")
        return value

    def _object(self, name: str, value: object) -> JsonObject:
        if not isinstance(value, dict):
            raise self.wrong(name, "is not an object")
        return JsonObject(value, f"{self.where}: {name}", self.code)


def _clean(text: str) -> str:
    """Half a surrogate pair (`"\\ud800"`) has no UTF-8 form: it becomes U+FFFD, as in Go."""
    return _SURROGATES.sub("\ufffd", text)


def dump(value: Mapping[str, object]) -> bytes:
    """Compact JSON in the order given: equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
