"""How to build an image again, from its provenance alone.

A statement may be signed and still say anything: each field is read once, into the type that it has to have, and what
this mbuild does not know is refused, for it may have changed the result.
"""

from __future__ import annotations

import hashlib
import re

from engine.attest.bounded import number_of, pairs_of, text_of, texts_of
from engine.attest.claimed import Claimed, claimed, incomplete, platform_of
from engine.attest.provenance import BUILD_TYPE
from engine.attest.statement import Predicate
from engine.images.jsonvalue import JsonObject
from engine.layers.times import MAX_TIME
from engine.output.annotations import Annotation, Annotations
from engine.output.compress import Compression, Compressor
from engine.output.kinds import OutputSpec, OutputType
from machinefile.clocks import Clock
from machinefile.errors import UsageError
from machinefile.hosts import parse_hosts
from machinefile.imageconfig import Pairs
from machinefile.machines import LEAST_DISK, LEAST_MEMORY, MOST_CPUS
from machinefile.platform import Platform
from machinefile.steps import MachineShape, NetworkMode
from machinefile.values import dataclass

MAX_MACHINEFILE = 16 << 20
"""Characters; as large as a Machinefile may be."""
_INVALID = "attestation-invalid"
_EXTERNAL = (
    *("machinefile", "machinefileDigest", "ignore", "target", "platform", "buildArguments", "hiddenBuildArguments"),
    *("labels", "hiddenLabels", "options"),
)
_INTERNAL = ("keyVersion", "buildPlatform")
_OPTIONS = (
    *("network", "clock", "sourceDateEpoch", "timestamps", "normalizeModes", "hosts", "allow", "buildContexts"),
    *("secrets", "ssh", "annotations", "inlineCache", "shape", "output"),
)
_OPTIONAL = ("output",)
_FORM = ("compression", "level", "forceCompression", "ociMediaTypes", "annotations")
_SHAPE = ("cpus", "memory", "disk")
_ALLOWED = frozenset({"security.insecure", "network.host"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_REBUILT = "docker.io/library/rebuilt:latest"
_MOST_MEMORY = 1 << 50


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a provenance of mode max says of a build."""

    builder: str
    """The id of who built it, which nothing vouches for but the signature."""
    mbuild: str
    """The version of the mbuild that did."""
    machinefile: str
    """Its text; with `***` in it where something was not to be told."""
    machinefile_digest: str
    """The sha256 of the file as it was, in hex."""
    ignore: tuple[str, ...]
    """The patterns of the main context's .dockerignore."""
    target: str
    platform: Platform
    build_platform: Platform
    build_args: Pairs
    hidden_args: tuple[str, ...]
    """The names of build arguments whose values are not told."""
    labels: Pairs
    hidden_labels: tuple[str, ...]
    network: NetworkMode
    clock: Clock
    epoch: int | None
    keep_times: bool
    git_modes: bool
    hosts: Pairs
    allow: frozenset[str]
    secrets: tuple[str, ...]
    ssh: tuple[str, ...]
    annotations: Pairs
    inline_cache: bool
    shape: MachineShape | None
    output: OutputSpec | None
    """The form that an output gave the image, written as an output that keeps it; None for the usual one."""
    took: Claimed
    """What it took from elsewhere."""

    @property
    def is_whole(self) -> bool:
        """Whether the text is the whole Machinefile, with nothing masked in it."""
        return hashlib.sha256(self.machinefile.encode("utf-8")).hexdigest() == self.machinefile_digest


def parse_recipe(predicate: Predicate, where: str = "the provenance") -> Recipe:
    """Read what a provenance says.

    Raises UsageError: `attestation-foreign` (something else built the image), `attestation-incomplete` (too little is
    told, as with mode=min), `attestation-unknown` (it says what this mbuild does not know); UntrustedDataError
    `attestation-invalid`.
    """
    definition = JsonObject(predicate, where, _INVALID).child("buildDefinition")
    kind = text_of(definition, "buildType")
    if kind != BUILD_TYPE:
        raise UsageError(
            f"{where} is of a build that mbuild cannot do again: its buildType is {kind[:200] or 'missing'}",
            code="attestation-foreign",
            hint="signature and subject were checked; rebuild it with what built it",
        )
    return _Reader(JsonObject(predicate, where, _INVALID), where).recipe()


class _Reader:
    """The parts of a provenance of mbuild."""

    def __init__(self, predicate: JsonObject, where: str) -> None:
        self._where = where
        definition = predicate.child("buildDefinition")
        self._external = definition.child("externalParameters")
        self._internal = definition.child("internalParameters")
        self._builder = predicate.child("runDetails").child("builder")
        self._dependencies = definition.children("resolvedDependencies")
        if not self._external.has("machinefile"):
            raise incomplete(self._where, "it does not hold the Machinefile: it is of mode=min")
        self._options = self._external.child("options")
        self._check_names(self._external, _EXTERNAL, "it does not say what ")
        self._check_names(self._internal, _INTERNAL, "it does not say what ")
        self._check_names(self._options, _OPTIONS, "it does not say what the option ", optional=_OPTIONAL)

    def recipe(self) -> Recipe:
        external, options = self._external, self._options
        platform = platform_of(external, "platform")
        digest = text_of(external.child("machinefileDigest"), "sha256")
        if not _SHA256.fullmatch(digest):
            raise external.wrong("machinefileDigest", "has no sha256")
        return Recipe(
            builder=text_of(self._builder, "id"),
            mbuild=text_of(self._builder.child("version"), "mbuild"),
            machinefile=text_of(external, "machinefile", MAX_MACHINEFILE),
            machinefile_digest=digest,
            ignore=texts_of(external, "ignore"),
            target=text_of(external, "target"),
            platform=platform,
            build_platform=platform_of(self._internal, "buildPlatform"),
            build_args=pairs_of(external, "buildArguments"),
            hidden_args=texts_of(external, "hiddenBuildArguments"),
            labels=pairs_of(external, "labels"),
            hidden_labels=texts_of(external, "hiddenLabels"),
            network=self._network(),
            clock=self._clock(),
            epoch=self._epoch(),
            keep_times=self._keeps_times(),
            git_modes=options.flag("normalizeModes"),
            hosts=self._hosts(),
            allow=self._allow(),
            secrets=texts_of(options, "secrets"),
            ssh=texts_of(options, "ssh"),
            annotations=pairs_of(options, "annotations"),
            inline_cache=options.flag("inlineCache"),
            shape=self._shape(),
            output=self._output(),
            took=claimed(self._dependencies, platform, self._where, _INVALID),
        )

    def _check_names(
        self, fields: JsonObject, known: tuple[str, ...], missing: str, *, optional: tuple[str, ...] = ()
    ) -> None:
        unknown = sorted(set(fields.fields) - set(known))
        if unknown:
            raise UsageError(
                f"{fields.where} has {unknown[0][:80]!r}, which may have changed the image and is not known here",
                code="attestation-unknown",
                hint="verify with the version of mbuild that built it, or with a newer one",
            )
        for name in known:
            if name not in fields.fields and name not in optional:
                raise incomplete(self._where, f"{missing}{name} was")

    def _network(self) -> NetworkMode:
        try:
            return NetworkMode(text_of(self._options, "network"))
        except ValueError as error:
            raise self._options.wrong("network", "is no network") from error

    def _clock(self) -> Clock:
        try:
            return Clock(text_of(self._options, "clock"))
        except ValueError as error:
            raise self._options.wrong("clock", "is no clock") from error

    def _keeps_times(self) -> bool:
        times = text_of(self._options, "timestamps")
        if times not in ("normal", "keep"):
            raise self._options.wrong("timestamps", "is neither `normal` nor `keep`")
        return times == "keep"

    def _epoch(self) -> int | None:
        if not self._options.has("sourceDateEpoch"):
            return None
        return number_of(self._options, "sourceDateEpoch", 0, MAX_TIME)

    def _hosts(self) -> Pairs:
        try:
            return parse_hosts(list(texts_of(self._options, "hosts")))
        except UsageError as error:
            raise self._options.wrong("hosts", f"cannot be: {error.message}") from error

    def _allow(self) -> frozenset[str]:
        words = texts_of(self._options, "allow")
        for word in words:
            if word not in _ALLOWED:
                raise self._options.wrong("allow", f"has {word[:80]!r}, which nothing is called")
        return frozenset(words)

    def _shape(self) -> MachineShape | None:
        if not self._options.has("shape"):
            return None
        shape = self._options.child("shape")
        self._check_names(shape, _SHAPE, "it does not say what a machine's ")
        return MachineShape(
            number_of(shape, "cpus", 1, MOST_CPUS),
            number_of(shape, "memory", LEAST_MEMORY, _MOST_MEMORY),
            number_of(shape, "disk", LEAST_DISK, _MOST_MEMORY),
        )

    def _output(self) -> OutputSpec | None:
        if not self._options.has("output"):
            return None
        form = self._options.child("output")
        self._check_names(form, _FORM, "it does not say what an output's ")
        try:
            compressor = Compressor(text_of(form, "compression"))
        except ValueError as error:
            raise form.wrong("compression", "is none") from error
        levels = compressor.levels or range(1)
        return OutputSpec(
            OutputType.IMAGE,
            compression=Compression(compressor, number_of(form, "level", levels[0], levels[-1])),
            force_compression=form.flag("forceCompression"),
            names=(_REBUILT,),
            annotations=annotations_of(pairs_of(form, "annotations")),
            oci_media_types=form.flag("ociMediaTypes"),
        )


def annotations_of(pairs: Pairs) -> Annotations:
    """Annotations of a manifest."""
    return Annotations(tuple(Annotation(key, value) for key, value in pairs))
