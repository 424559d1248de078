"""Which repositories blobs are known to be in: pulled from, or pushed to. A push then asks their registry to take a
blob from there (a mount) in place of sending it. What is known may be out of date: a mount that fails costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cache.index import Kind
from cache.store import Store
from engine.images.reference import Reference

if TYPE_CHECKING:
    from engine.images.push import Origins

_MOST = 8
"""Repositories remembered a blob."""


def remember(store: Store, digests: Iterable[str], reference: Reference) -> None:
    """The blobs are in the reference's repository."""
    place = f"{reference.registry}/{reference.repository}"
    for digest in digests:
        known = _known(store, digest)
        if place not in known[:1]:
            store.index.put(Kind.ORIGIN, digest, [place, *(other for other in known if other != place)][:_MOST])


def origins(store: Store, registry: str) -> Origins:
    """Tells of a blob the repositories of that registry, the one seen last first. Not for several threads."""

    def of(digest: str) -> list[str]:
        prefix = f"{registry}/"
        return [place.removeprefix(prefix) for place in _known(store, digest) if place.startswith(prefix)]

    return of


def _known(store: Store, digest: str) -> list[str]:
    found = store.index.get(Kind.ORIGIN, digest)
    return [place for place in found if isinstance(place, str)] if isinstance(found, list) else []
