"""How to build an image again, from its provenance alone.

A statement may be signed and still say anything: each field is read once, into the type that it has to have, and what
this mbuild does not know is refused, for it may have changed the result.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from engine.attest.dependencies import FILES_DIGEST
from engine.attest.provenance import BUILD_TYPE
from engine.attest.statement import Predicate
from engine.images.digest import is_digest
from engine.images.jsonvalue import JsonObject
from engine.layers.stamp import MAX_TIME
from engine.output.annotations import Annotation, Annotations
from engine.output.compress import Compression, Compressor
from engine.output.kinds import OutputSpec, OutputType
from engine.remote.giturl import is_commit
from machinefile.errors import MbuildError, UntrustedDataError, UsageError
from machinefile.hosts import parse_hosts
from machinefile.imageconfig import Pairs
from machinefile.lockfile import FilePin, ImagePin, Lockfile, RepositoryPin
from machinefile.machines import LEAST_DISK, LEAST_MEMORY, MOST_CPUS
from machinefile.platform import Platform
from machinefile.steps import MachineShape, NetworkMode

MAX_MACHINEFILE = 16 << 20
"""Characters; as large as a Machinefile may be."""
_MOST_ENTRIES = 10_000
"""Of any list or object."""
_LONGEST = 1 << 20
"""Characters of any other text."""
_INVALID = "attestation-invalid"
_INCOMPLETE = "attestation-incomplete"
_WHOLE = "ask who built it for a provenance of mode=max (mbuild --provenance=mode=max)"
_EXTERNAL = (
    *("machinefile", "machinefileDigest", "ignore", "target", "platform", "buildArguments", "hiddenBuildArguments"),
    *("labels", "hiddenLabels", "options"),
)
_INTERNAL = ("keyVersion", "buildPlatform")
_OPTIONS = (
    *("network", "sourceDateEpoch", "normalizeModes", "hosts", "allow", "buildContexts", "secrets", "ssh"),
    *("annotations", "inlineCache", "shape", "output"),
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
class ImageContext:
    """An image that --build-context gave."""

    name: str
    reference: str
    """How FROM would name it, with its digest if it is in a registry."""


@dataclass(frozen=True, slots=True)
class RepositoryContext:
    """A git repository that --build-context gave."""

    name: str
    address: str
    """Without a password."""


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
    epoch: int | None
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
    folders: Pairs
    """What steps took of folders: the context's name, empty for the main one, and a digest in hex."""
    images: tuple[ImageContext, ...]
    repositories: tuple[RepositoryContext, ...]
    pins: Lockfile
    """What bases, files and repositories were."""

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
    kind = _text(definition, "buildType")
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
            raise self._incomplete("it does not hold the Machinefile: it is of mode=min")
        self._options = self._external.child("options")
        self._check_names(self._external, _EXTERNAL, "it does not say what ")
        self._check_names(self._internal, _INTERNAL, "it does not say what ")
        self._check_names(self._options, _OPTIONS, "it does not say what the option ", optional=_OPTIONAL)

    def recipe(self) -> Recipe:
        external, options = self._external, self._options
        texts = _entries(self._dependencies, "resolvedDependencies", external)
        named = [one for each in texts for one in self._dependency(each)]
        pins = [one for one in named if isinstance(one, ImagePin | FilePin | RepositoryPin)]
        platform = self._platform(external, "platform")
        digest = _text(external.child("machinefileDigest"), "sha256")
        if not _SHA256.fullmatch(digest):
            raise external.wrong("machinefileDigest", "has no sha256")
        return Recipe(
            builder=_text(self._builder, "id"),
            mbuild=_text(self._builder.child("version"), "mbuild"),
            machinefile=_text(external, "machinefile", MAX_MACHINEFILE),
            machinefile_digest=digest,
            ignore=_texts(external, "ignore"),
            target=_text(external, "target"),
            platform=platform,
            build_platform=self._platform(self._internal, "buildPlatform"),
            build_args=_pairs(external, "buildArguments"),
            hidden_args=_texts(external, "hiddenBuildArguments"),
            labels=_pairs(external, "labels"),
            hidden_labels=_texts(external, "hiddenLabels"),
            network=self._network(),
            epoch=self._epoch(),
            git_modes=options.flag("normalizeModes"),
            hosts=self._hosts(),
            allow=self._allow(),
            secrets=_texts(options, "secrets"),
            ssh=_texts(options, "ssh"),
            annotations=_pairs(options, "annotations"),
            inline_cache=options.flag("inlineCache"),
            shape=self._shape(),
            output=self._output(),
            folders=tuple(sorted(one for one in named if isinstance(one, tuple))),
            images=tuple(one for one in named if isinstance(one, ImageContext)),
            repositories=tuple(one for one in named if isinstance(one, RepositoryContext)),
            pins=self._lock(platform, pins),
        )

    def _incomplete(self, why: str) -> UsageError:
        return UsageError(
            f"{self._where} does not say enough to build the image again: {why}", code=_INCOMPLETE, hint=_WHOLE
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
                raise self._incomplete(f"{missing}{name} was")

    def _platform(self, fields: JsonObject, name: str) -> Platform:
        try:
            return Platform.parse(_text(fields, name))
        except ValueError as error:
            raise fields.wrong(name, f"is no platform: {error}") from error

    def _network(self) -> NetworkMode:
        try:
            return NetworkMode(_text(self._options, "network"))
        except ValueError as error:
            raise self._options.wrong("network", "is no network") from error

    def _epoch(self) -> int | None:
        if not self._options.has("sourceDateEpoch"):
            return None
        return _number(self._options, "sourceDateEpoch", 0, MAX_TIME)

    def _hosts(self) -> Pairs:
        try:
            return parse_hosts(list(_texts(self._options, "hosts")))
        except UsageError as error:
            raise self._options.wrong("hosts", f"cannot be: {error.message}") from error

    def _allow(self) -> frozenset[str]:
        words = _texts(self._options, "allow")
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
            _number(shape, "cpus", 1, MOST_CPUS),
            _number(shape, "memory", LEAST_MEMORY, _MOST_MEMORY),
            _number(shape, "disk", LEAST_DISK, _MOST_MEMORY),
        )

    def _output(self) -> OutputSpec | None:
        if not self._options.has("output"):
            return None
        form = self._options.child("output")
        self._check_names(form, _FORM, "it does not say what an output's ")
        try:
            compressor = Compressor(_text(form, "compression"))
        except ValueError as error:
            raise form.wrong("compression", "is none") from error
        levels = compressor.levels or range(1)
        return OutputSpec(
            OutputType.IMAGE,
            compression=Compression(compressor, _number(form, "level", levels[0], levels[-1])),
            force_compression=form.flag("forceCompression"),
            names=(_REBUILT,),
            annotations=annotations_of(_pairs(form, "annotations")),
            oci_media_types=form.flag("ociMediaTypes"),
        )

    def _dependency(self, fields: JsonObject) -> tuple[_Said, ...]:
        digest, annotations = fields.child("digest"), fields.child("annotations")
        if annotations.has("reference"):
            return self._image(fields, annotations, _digest(digest))
        if digest.has(FILES_DIGEST):
            files = _text(digest, FILES_DIGEST)
            if not _SHA256.fullmatch(files) or not annotations.has("context"):
                raise digest.wrong(FILES_DIGEST, "is no digest of a context")
            return ((_text(annotations, "context"), files),)
        if digest.has("gitCommit"):
            return self._repository(annotations, digest)
        if len(digest.fields) != 1 or not fields.has("uri"):
            raise self._incomplete(f"{fields.where} is of no kind that mbuild knows")
        return (FilePin(_text(fields, "uri"), _checksum(digest)),)

    def _image(self, fields: JsonObject, annotations: JsonObject, digest: str) -> tuple[_Said, ...]:
        reference, platform = _text(annotations, "reference"), self._platform(annotations, "platform")
        if annotations.has("context"):
            image = _exact(_text(annotations, "image"), digest, fields)
            context = ImageContext(_text(annotations, "context"), image)
            return (context, *self._pin(image, platform, digest))
        return self._pin(reference, platform, digest)

    def _pin(self, reference: str, platform: Platform, digest: str) -> tuple[ImagePin, ...]:
        name = _pinned_name(reference)  # what has a digest in its name needs no pin
        return (ImagePin(name, platform, digest),) if name else ()

    def _repository(self, annotations: JsonObject, digest: JsonObject) -> tuple[_Said, ...]:
        if not annotations.has("repository"):
            raise self._incomplete(f"{annotations.where} lacks the repository's address")
        commit, ref = _text(digest, "gitCommit"), _text(annotations, "ref")
        if not is_commit(commit):
            raise digest.wrong("gitCommit", "is no whole commit")
        tag = _text(annotations, "tag")
        if tag and not is_commit(tag):
            raise annotations.wrong("tag", "is no object of git")
        pin = RepositoryPin(_text(annotations, "repository"), ref, commit, _text(annotations, "name"), tag)
        if not annotations.has("context"):
            return (pin,)
        return (pin, RepositoryContext(_text(annotations, "context"), _text(annotations, "address")))

    def _lock(self, platform: Platform, pins: Iterable[ImagePin | FilePin | RepositoryPin]) -> Lockfile:
        found: dict[tuple[type, str, str], _Pin] = {}
        for pin in pins:
            key = (type(pin), *_identity(pin))
            if found.setdefault(key, pin) != pin:
                raise UntrustedDataError(
                    f"{self._where} says of {_identity(pin)[0][:200]} that it was two things at once", code=_INVALID
                )
        values = found.values()
        return Lockfile(
            (platform,),
            tuple(one for one in values if isinstance(one, ImagePin)),
            tuple(one for one in values if isinstance(one, FilePin)),
            tuple(one for one in values if isinstance(one, RepositoryPin)),
        )


_Pin = ImagePin | FilePin | RepositoryPin
_Said = _Pin | ImageContext | RepositoryContext | tuple[str, str]


def annotations_of(pairs: Pairs) -> Annotations:
    """Annotations of a manifest."""
    return Annotations(tuple(Annotation(key, value) for key, value in pairs))


def _identity(pin: _Pin) -> tuple[str, str]:
    match pin:
        case ImagePin():
            return pin.name, str(pin.platform)
        case FilePin():
            return pin.url, ""
        case RepositoryPin():
            return pin.url, pin.ref


def _pinned_name(reference: str) -> str:
    from engine.pins import image_name

    return image_name(reference)


def _exact(image: str, digest: str, fields: JsonObject) -> str:
    """The name with the digest, where a name can have one."""
    from engine.images.reference import Reference, parse_reference

    try:
        reference = parse_reference(image)
    except MbuildError as error:
        raise fields.wrong("annotations", f"name no image: {error.message}") from error
    return str(reference.pinned(digest)) if isinstance(reference, Reference) else image


def _entries(children: tuple[JsonObject, ...], name: str, fields: JsonObject) -> tuple[JsonObject, ...]:
    if len(children) > _MOST_ENTRIES:
        raise fields.wrong(name, f"has more than {_MOST_ENTRIES} entries")
    return children


def _text(fields: JsonObject, name: str, most: int = _LONGEST) -> str:
    text = fields.text(name)
    if len(text) > most:
        raise fields.wrong(name, f"is longer than {most} characters")
    return text


def _texts(fields: JsonObject, name: str) -> tuple[str, ...]:
    found = fields.texts(name)
    if len(found) > _MOST_ENTRIES or any(len(text) > _LONGEST for text in found):
        raise fields.wrong(name, "is too long")
    return found


def _pairs(fields: JsonObject, name: str) -> Pairs:
    found = fields.pairs(name)
    if len(found) > _MOST_ENTRIES or any(len(key) > _LONGEST or len(value) > _LONGEST for key, value in found):
        raise fields.wrong(name, "is too long")
    return found


def _number(fields: JsonObject, name: str, least: int, most: int) -> int:
    value = fields.integer(name)
    if not least <= value <= most:
        raise fields.wrong(name, f"is not from {least} to {most}")
    return value


def _digest(digest: JsonObject) -> str:
    found = f"sha256:{_text(digest, 'sha256')}"
    if not is_digest(found):
        raise digest.wrong("sha256", "is no digest")
    return found


def _checksum(digest: JsonObject) -> str:
    (name,) = digest.fields
    checksum = f"{name}:{_text(digest, name)}"
    if not _CHECKSUM.fullmatch(checksum):
        raise digest.wrong(name[:80], "is no checksum that mbuild knows")
    return checksum
