"""The examples of what makes builds differ, in pairs, and what docs/reproducible.md says of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "differing"
PAGE = (ROOT / "docs" / "reproducible.md").read_text("utf-8")
_SHOWN = re.compile(
    r"### .*\n\nExample: `examples/differing/(?P<name>[\w-]+)`\n\n"
    r"    line (?P<line>\d+)  (?P<broken>.*)\n"
    r"    mended  (?P<mended>.*)\n"
    r"    verify  (?P<said>.*)\n"
)


@dataclass(frozen=True)
class Shown:
    """An example as the page shows it."""

    name: str
    line: int
    broken: str
    mended: str
    said: str
    """`PATH (WHERE): CAUSE: WHY` of the first file that differs."""

    @property
    def folder(self) -> Path:
        """The build context."""
        return FOLDER / self.name


def shown() -> tuple[Shown, ...]:
    """What the page shows, in its order."""
    section = PAGE.partition("\n## What makes builds differ\n")[2].partition("\n## ")[0]
    pieces = re.split(r"^(?=### )", section, flags=re.MULTILINE)
    found = [match.groupdict() for match in map(_SHOWN.match, pieces) if match]
    return tuple(Shown(**{**one, "line": int(one["line"])}) for one in found)  # type: ignore[arg-type]
