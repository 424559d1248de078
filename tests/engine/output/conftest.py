"""Images made of given layers, written out as a build does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.events import Note
from engine.output.spec import parse_output
from engine.report import BuildReport

if TYPE_CHECKING:
    from conftest import Workshop


@dataclass
class Press:
    """Builds an image that is a base of given layers and a file of this build, and writes it out."""

    workshop: Workshop
    count: int = 0

    @property
    def folder(self) -> Path:
        """Where outputs go."""
        return self.workshop.folder

    def write(self, layers: list[bytes], *specs: str, text: str = "", names: tuple[str, ...] = ()) -> BuildReport:
        """Write an image of these layers; `text` is what the Machinefile says after FROM."""
        self.count += 1
        self.workshop.source.add(f"base{self.count}", layers)
        outputs = tuple(parse_output(spec) for spec in specs)
        return self.workshop.build(f"FROM base{self.count}\n{text}", outputs=outputs, names=names)

    @property
    def notes(self) -> list[str]:
        """What the user was told."""
        return [event.message for event in self.workshop.events if isinstance(event, Note)]


@pytest.fixture
def press(workshop: Workshop) -> Press:
    """See Press."""
    return Press(workshop)
