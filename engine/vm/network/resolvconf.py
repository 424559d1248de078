"""What of the host's resolv.conf means the same in a guest.

Nameservers do not: the guest asks 10.0.2.3, and the host's own resolver answers, wherever it gets its answers from.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

_PATH = Path("/etc/resolv.conf")
_MOST_BYTES = 1 << 16
_MOST_DOMAINS = 32
_DOMAIN = re.compile(r"[A-Za-z0-9_.-]{1,253}")
_OPTION = re.compile(r"(ndots|timeout|attempts):\d{1,2}|rotate|no-tld-query")
"""Those that change how names are completed and asked for; the others are about the host's own servers."""


def options_of(text: str) -> bytes:
    """The lines for a guest's resolv.conf: search domains and options. The last search line counts (resolv.conf(5))."""
    domains: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] in (["search"], ["domain"]):
            domains = [word for word in words[1:] if _DOMAIN.fullmatch(word) and word != "."]
        elif words[:1] == ["options"]:
            options += [word for word in words[1:] if _OPTION.fullmatch(word)]
    lines = [f"search {' '.join(domains[:_MOST_DOMAINS])}\n"] if domains else []
    lines += [f"options {' '.join(dict.fromkeys(options))}\n"] if options else []
    return "".join(lines).encode()


@functools.cache
def taken_over() -> bytes:
    """The same of this host; nothing where it cannot be read."""
    try:
        with _PATH.open("rb") as file:
            return options_of(file.read(_MOST_BYTES).decode(errors="replace"))
    except OSError:
        return b""
