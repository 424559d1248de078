"""What a collection may take."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import field

from cache.collection.item import Item, Sort
from machinefile.durations import parse_duration
from machinefile.errors import UsageError
from machinefile.values import dataclass

_DAY = 86_400 * 10**9
_ALIASES = {
    "regular": Sort.STEP,
    "exec.cachemount": Sort.MOUNT,
    "source.local": Sort.CONTEXT,
    "internal": Sort.TEMPLATE,
    "frontend": Sort.TEMPLATE,
}
"""The names that `docker buildx prune --filter type=` has. Source: docker buildx du's documentation."""
_KEYS = ("until", "unused-for", "type", "id", "image")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which things are meant: those that all kinds of filters let pass, and of one kind one at least."""

    unused: float = 0.0
    """Seconds for which they were not used, at least."""
    sorts: frozenset[Sort] = frozenset()
    ids: tuple[str, ...] = ()
    """What their ids begin with, `sha256:` left out or not."""
    images: tuple[str, ...] = ()
    """Names of images that have something of them; canonical."""

    def match(self, item: Item, now: float, held: frozenset[str]) -> bool:
        """Whether a thing is meant; `held` are the names that the `images` keep."""
        return (
            max(now - item.used, 0.0) >= self.unused
            and (not self.sorts or item.sort in self.sorts)
            and (not self.ids or any(_begins(item.id, text) for text in self.ids))
            and (not self.images or item.tied in held or not held.isdisjoint(item.keeps))
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """What is to go. Without anything said: what nothing needs."""

    everything: bool = False
    """All that no image with a name needs."""
    keep_storage: int | None = None
    """Bytes that may stay: no more is taken than it needs to come down to that, but of everything, if need be."""
    keep_duration: float = 0.0
    """Seconds: what was used since then stays."""
    filters: Filters = field(default_factory=Filters)


def parse_filters(texts: Sequence[str]) -> Filters:
    """Read `until=24h`, `type=step`, `id=sha256:12ab`, `image=NAME`. Raises UsageError (`usage`)."""
    unused, sorts, ids, images = 0.0, set[Sort](), [], []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not value or key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise UsageError(
                f"--filter {text}: this is no filter",
                code="usage",
                hint=f"did you mean {near[0]}=?"
                if near and near[0] != key
                else "write until=24h, type=, id= or image=",
            )
        match key:
            case "type":
                sorts.add(_sort(value))
            case "id":
                ids.append(value)
            case "image":
                images.append(value)
            case _:
                unused = max(unused, parse_age(value, f"--filter {key}="))
    return Filters(unused, frozenset(sorts), tuple(ids), tuple(images))


def parse_age(text: str, what: str) -> float:
    """Seconds of `24h`, `90m` or `7d`. Raises UsageError (`usage`)."""
    try:
        if text.endswith("d") and text[:-1].isascii() and text[:-1].isdigit() and len(text) < 7:
            return int(text[:-1]) * _DAY / 1e9
        duration = parse_duration(text)
    except ValueError:
        duration = -1
    if duration < 0:
        raise UsageError(
            f"{what} {text}: this is no length of time", code="usage", hint="write it as 90m, 24h or 7d, for example"
        )
    return duration / 1e9


def _sort(text: str) -> Sort:
    if text in _ALIASES:
        return _ALIASES[text]
    try:
        return Sort(text)
    except ValueError as error:
        known = [sort.value for sort in Sort]
        near = difflib.get_close_matches(text, known, n=1)
        raise UsageError(
            f"--filter type={text}: nothing in the store is of this type",
            code="usage",
            hint=f"did you mean {near[0]}?" if near else "there are " + ", ".join(known),
        ) from error


def _begins(identity: str, text: str) -> bool:
    return identity.startswith(text) or identity.removeprefix("sha256:").startswith(text)
