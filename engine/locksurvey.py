"""What a Machinefile names, in every stage."""

from __future__ import annotations

from dataclasses import field

from machinefile.bases import Base
from machinefile.building import Building
from machinefile.errors import MachinefileError
from machinefile.instructions import Instruction, Machinefile
from machinefile.options import BuildOptions
from machinefile.report import in_order
from machinefile.resolve import Lookup, resolve_every_stage
from machinefile.source import Span
from machinefile.stages import Stage
from machinefile.steps import BaseImage, BaseReference, From, RemoteSource, Step
from machinefile.values import dataclass


@dataclass(slots=True)
class Survey:
    """Watches a file being resolved."""

    lookup: Lookup
    images: dict[BaseReference, None] = field(default_factory=dict)
    """Those that were asked for, in that order."""
    buildings: dict[int, Building] = field(default_factory=dict)
    """The stages, by their indexes."""

    def take(self, machinefile: Machinefile, options: BuildOptions) -> None:
        """Look at every stage, needed or not. Raises MachinefileError, and what the lookup raises."""
        report = resolve_every_stage(machinefile, options, self._image, self._see)
        if report.problems:
            raise MachinefileError(in_order(report.problems))

    @property
    def steps(self) -> tuple[Step, ...]:
        """Of all stages."""
        return tuple(step for building in self.buildings.values() for step in building.steps)

    @property
    def sources(self) -> tuple[RemoteSource, ...]:
        """What ADD takes from afar."""
        return tuple(step.operation for step in self.steps if isinstance(step.operation, RemoteSource))

    def place_of(self, reference: BaseReference) -> Span | None:
        """Where an image is named: in a FROM, or by a step that takes files from it."""
        for stage in self.buildings.values():
            for step in stage.steps:
                named = isinstance(step.operation, From) and step.operation.base == reference
                if named or f"{reference.reference}.0" in step.inputs:
                    return step.span
        return None

    def _image(self, reference: BaseReference) -> BaseImage:
        self.images.setdefault(reference)
        return self.lookup(reference)

    def _see(self, stage: Stage, base: Base, building: Building, instruction: Instruction) -> None:
        self.buildings[stage.index] = building
