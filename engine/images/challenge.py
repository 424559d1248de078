"""What a registry answers with a 401: how it wants to be asked. Source: RFC 9110, section 11; the distribution
project's token authentication specification."""

from __future__ import annotations

import re
from collections.abc import Iterable

from machinefile.values import dataclass

_LONGEST = 8192
_PARAMETER = re.compile(r"([\w!#$%&'*+.^`|~-]+)[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))", re.ASCII)
_SCHEME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that the server accepts."""

    scheme: str
    """Lower case: `basic`, `bearer`."""
    parameters: tuple[tuple[str, str], ...] = ()
    """Names in lower case."""

    def get(self, name: str) -> str:
        """A parameter's value, or the empty string."""
        return dict(self.parameters).get(name, "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Every challenge in the WWW-Authenticate headers, in order. What cannot be read is skipped."""
    return tuple(challenge for header in headers for challenge in _parse(header[:_LONGEST]))


def _parse(header: str) -> Iterable[Challenge]:
    scheme, parameters, position = "", [], 0
    found: list[Challenge] = []
    while position < len(header):
        if match := _PARAMETER.match(header, position):
            quoted, plain = match[2], match[3]
            value = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
            parameters.append((match[1].lower(), value))
        elif match := _SCHEME.match(header, position):
            if scheme:
                found.append(Challenge(scheme, tuple(parameters)))
            scheme, parameters = match[0].lower(), []
        position = match.end() if match else position + 1
    if scheme:
        found.append(Challenge(scheme, tuple(parameters)))
    return found
