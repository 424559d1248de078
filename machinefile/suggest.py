"""The nearest known name to one that isn't known."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely stands for, or None when none is close. Case is ignored."""
    from difflib import get_close_matches  # only needed when something is already wrong

    names = {candidate.lower(): candidate for candidate in known}
    found = get_close_matches(name[:80].lower(), names, n=1, cutoff=0.6)
    return names[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint for an unknown name."""
    found = nearest(name, known)
    return f"did you mean {found}?" if found else otherwise
