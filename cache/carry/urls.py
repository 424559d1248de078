"""URLs of places that a cache travels to."""

from __future__ import annotations


def without_login(url: str) -> str:
    """The URL as it may be shown: without a password, and without a query, which may be a token."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
