"""What a build is asked for, beside the file."""

from __future__ import annotations

from dataclasses import field

from machinefile.clocks import Clock
from machinefile.imageconfig import Pairs
from machinefile.platform import Platform, native
from machinefile.steps import MachineShape, NetworkMode
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The part of the command line that decides what the steps are."""

    target: str | None = None
    """A stage's name or number; None for the last stage."""
    build_args: Pairs = ()
    platform: Platform = field(default_factory=native)
    """What the image is for."""
    build_platform: Platform = field(default_factory=native)
    """What builds it."""
    labels: Pairs = ()
    """Added to the image's labels, over those of the file."""
    contexts: frozenset[str] = frozenset()
    """The names given with --build-context."""
    image_contexts: frozenset[str] = frozenset()
    """Those among them that stand for images; the others are folders of files."""
    entitlements: frozenset[str] = frozenset()
    """--allow: `security.insecure`, `network.host`."""
    network: NetworkMode = NetworkMode.DEFAULT
    """For each RUN that doesn't say."""
    clock: Clock = Clock.REAL
    """The same."""
    hosts: Pairs = ()
    """--add-host: names with an address or `host-gateway`, in the order given."""
    shape: MachineShape | None = None
    """What a stage's steps get for what its MACHINE does not say."""
