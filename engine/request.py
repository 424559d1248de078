"""What a build is asked for."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.attest.spec import NO_ATTESTATIONS, AttestSpec
from engine.layers.entry import NORMAL_TIME
from engine.lookup import CachePolicy
from engine.output.annotations import NO_ANNOTATIONS, Annotations
from engine.output.spec import OutputSpec
from engine.remote.contexts import NamedContext
from engine.secrets import Secrets
from engine.sshagent import AgentSource
from engine.vm.network.rules import EgressPolicy
from machinefile.ignore import IgnoreRules
from machinefile.instructions import Machinefile
from machinefile.options import BuildOptions
from machinefile.platform import Platform
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.carry.spec import CacheSource, CacheTarget
    from engine.epoch import Epoch
    from engine.pins import Lock


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user asked for."""

    machinefile: Machinefile
    context: Path
    ignore: IgnoreRules
    options: BuildOptions
    names: tuple[str, ...] = ()
    """-t, canonical."""
    outputs: tuple[OutputSpec, ...] = ()
    cache: CachePolicy = field(default_factory=CachePolicy)
    annotations: Annotations = NO_ANNOTATIONS
    """--annotation."""
    contexts: tuple[NamedContext, ...] = ()
    """--build-context; `options` has their names."""
    jobs: int = 0
    """How many steps may run at once; 0 for what suits this machine."""
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    """What the steps may reach."""
    ssh: tuple[AgentSource, ...] = ()
    """--ssh."""
    secrets: Secrets = field(default_factory=Secrets)
    """--secret."""
    step_timeout: float | None = None
    """--step-timeout: seconds that a RUN may take."""
    fail_on_miss: bool = False
    """Fail before anything runs if something would have to."""
    platforms: tuple[Platform, ...] = ()
    """--platform with several, each once: an image for each, and an index of them. Empty for that of `options`."""
    cache_from: tuple[CacheSource, ...] = ()
    """--cache-from, in that order."""
    cache_to: tuple[CacheTarget, ...] = ()
    """--cache-to, but for `type=inline`."""
    inline_cache: bool = False
    """--cache-to type=inline: the image says which keys its layers have."""
    epoch: Epoch | None = None
    """SOURCE_DATE_EPOCH: the time of the image and of all in its own layers; None for the one of all layers."""
    keep_times: bool = False
    """--timestamps=keep: what is in layers has the times that it really has."""
    git_modes: bool = False
    """--normalize-modes: the files of the contexts have the modes that git knows."""
    lock: Lock | None = None
    """The lock file whose pins count."""
    locked: bool = False
    """--locked: refuse what the lock file has no pin for."""
    attest: AttestSpec = NO_ATTESTATIONS
    """--attest: what is to be said about the image, beside it."""

    @property
    def time(self) -> int:
        """The time that the image shows, or with `keep_times` the latest that it may show: seconds since 1970."""
        return NORMAL_TIME if self.epoch is None else self.epoch.seconds

    @property
    def restamps(self) -> bool:
        """Whether the image's own layers are others than those that its steps made."""
        return self.epoch is not None and (self.keep_times or self.epoch.seconds != NORMAL_TIME)

    def for_each_platform(self) -> dict[Platform, BuildOptions]:
        """The options of the build for each platform, in the order that was asked for."""
        wanted = self.platforms or (self.options.platform,)
        return {platform: replace(self.options, platform=platform) for platform in wanted}
