"""Parser directives: the comments at the very top of a file that say how to read the rest of it."""

from __future__ import annotations

import re

from machinefile.source import Span
from machinefile.values import dataclass

DIRECTIVES = ("syntax", "escape", "check")
ESCAPES = ("\\", "`")

_DIRECTIVE = re.compile(r"#[\t\v\f\r ]*([a-zA-Z][a-zA-Z0-9]*)[\t\v\f\r ]*=[\t\v\f\r ]*(\S.*)")


@dataclass(frozen=True, slots=True)
class Directive:
    """One `# name=value`."""

    name: str
    """Lower case."""
    value: str
    """As written, without the blanks around it."""
    span: Span


def match_directive(line: str) -> tuple[str, str, int] | None:
    """Name, value and the value's offset when a line has a directive's form and a known name.

    Anything else, an unknown name too, ends the directives: it is an ordinary comment. Source: Docker's
    reference, "Parser directives".
    """
    matched = _DIRECTIVE.match(line)
    if matched is None or matched[1].lower() not in DIRECTIVES:
        return None
    return matched[1].lower(), matched[2].rstrip(), matched.start(2)
