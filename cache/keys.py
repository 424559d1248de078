"""The key of a step: the sha256 of a record that names everything its result depends on.

A record is a sequence of named fields. Its canonical form gives each value its type and its length, so that no
two different records have the same bytes: `("a", "b")` is not `("a b",)`, and an empty list is not an empty text.

What is left out of every record, and why:

- the values of secrets: who shares the cache must not be able to guess them from keys. A version that is given with
  one is there as an HMAC;
- line numbers, comments, the spelling of instructions: they do not reach the step;
- what a machine has (MACHINE, --memory, --cpus): it is not what the step is asked to do;
- proxies (--build-arg http_proxy=...) unless an ARG declares them: the way out, not what is fetched;
- what a step may reach (--allow-net, --allow): it decides whether a step comes through, not what comes of it then;
- the host's search domains and resolver: as with its proxies;
- owners of context files: they do not reach the layer;
- times of context files: they do not reach the layer, unless --timestamps=keep, which is there: a layer that was made
  of the same files with other times counts then, as in docker build;
- where a remote file or repository comes from (ADD https://...): its content counts, and the name it gets;
- the contents of cache mounts: a step must give the same result with an empty one;
- RUN --ttl: it decides how long a result counts, not what it is;
- --progress, --jobs, --cache-dir and the like: how, not what.
"""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache

from machinefile.values import dataclass

VERSION = 1
"""Raise it when the same record would now give another result: a change in how layers are written, in what a
guest shows to a step, in what COPY does. Every key changes then, and old results are built again."""

_MANY = 1000
"""Values in a tuple: more are many and short, not few of which one is long, and are put together so many at a time."""

_SHORT = 1 << 12
"""Characters of a pair whose bytes are remembered."""

Value = str | int | bool | None | tuple["Value", ...]


class Long(tuple["Value", ...]):
    """A tuple so long that its bytes are worked out once, whatever the records that it is in."""

    @cached_property
    def canonical(self) -> bytes:
        """See `canonical`."""
        return b"".join(_pieces(tuple(self)))


@dataclass(frozen=True)
class Record:
    """What a key is made of."""

    operation: str
    fields: tuple[tuple[str, Value], ...]

    def key(self) -> str:
        """`sha256:` and 64 hex digits. Worked out once: a COPY of very many files has a very long record."""
        return self._key

    @cached_property
    def _key(self) -> str:
        whole: Value = ("mbuild", VERSION, self.operation, self.fields)
        hasher = hashlib.sha256()
        for piece in _pieces(whole):
            hasher.update(piece)
        return "sha256:" + hasher.hexdigest()

    def to_json(self) -> dict[str, object]:
        """The record for keeping and comparing; tuples become lists."""
        return {"version": VERSION, "operation": self.operation, "fields": dict(self.fields)}


def canonical(value: Value) -> bytes:
    """The bytes of a value, with its type and length: no two different values have the same."""
    # Of a COPY of 2,000 files this is asked 10,000 times: the most frequent come first, without calls or `match`.
    if isinstance(value, str):
        content = value.encode("utf-8", "surrogateescape")
        return b"s%d:%s" % (len(content), content)
    if isinstance(value, tuple):
        if isinstance(value, Long):
            return value.canonical
        content = b"".join(map(_part, value))
        return b"t%d:%s" % (len(content), content)
    if value is None:
        return b"n0:"
    if isinstance(value, bool):
        return b"b1:1" if value else b"b1:0"
    content = b"%d" % value
    return b"i%d:%s" % (len(content), content)


def _part(value: Value) -> bytes:
    """The same of what is in a tuple."""
    if type(value) is str:
        content = value.encode("utf-8", "surrogateescape")
        return b"s%d:%s" % (len(content), content)
    # A RUN has the whole environment, of which those before it had all but a little. What is merely equal to a text
    # has other bytes.
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str and type(value[1]) is str:
        return _pair(value) if len(value[0]) + len(value[1]) <= _SHORT else canonical(value)
    return canonical(value)


@lru_cache(maxsize=1 << 12)
def _pair(pair: tuple[str, str]) -> bytes:
    content = canonical(pair[0]) + canonical(pair[1])
    return b"t%d:%s" % (len(content), content)


def _pieces(value: Value) -> list[bytes]:
    """What `canonical` gives, in pieces: what is very long is not copied for every tuple that it is in."""
    if type(value) is not tuple or all(type(one) is str for one in value):
        return [_part(value)]
    if len(value) > _MANY:
        parts = (value[at : at + _MANY] for at in range(0, len(value), _MANY))
        found = [b"".join(map(_part, part)) for part in parts]
    else:
        found = [piece for one in value for piece in _pieces(one)]
    return [b"t%d:" % sum(map(len, found)), *found]
