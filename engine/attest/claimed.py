"""What a provenance says that a build took from elsewhere: its resolved dependencies."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.attest.bounded import checksum_of, digest_of, entries_of, text_of
from engine.attest.dependencies import FILES_DIGEST
from engine.images.jsonvalue import JsonObject
from engine.remote.giturl import is_commit, is_ref_name
from machinefile.errors import MbuildError, UntrustedDataError, UsageError
from machinefile.imageconfig import Pairs
from machinefile.lockfile import FilePin, ImagePin, Lockfile, RepositoryPin
from machinefile.platform import Platform
from machinefile.values import dataclass

WHOLE = "ask who built it for a provenance of mode=max (mbuild --provenance=mode=max)"
"""The hint where too little is told."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


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


_Pin = ImagePin | FilePin | RepositoryPin
_Said = _Pin | ImageContext | RepositoryContext | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Claimed:
    """All of them."""

    folders: Pairs
    """What steps took of folders: the context's name, empty for the main one, and a digest in hex."""
    images: tuple[ImageContext, ...]
    repositories: tuple[RepositoryContext, ...]
    pins: Lockfile
    """What bases, files and repositories were."""


def claimed(dependencies: tuple[JsonObject, ...], platform: Platform, where: str, invalid: str) -> Claimed:
    """Read them. Raises UsageError `attestation-incomplete`; UntrustedDataError with the code `invalid`."""
    listed = entries_of(dependencies, where)
    named = [said for one in listed for said in _dependency(one, where)]
    pins = [one for one in named if isinstance(one, ImagePin | FilePin | RepositoryPin)]
    return Claimed(
        tuple(sorted(one for one in named if isinstance(one, tuple))),
        tuple(one for one in named if isinstance(one, ImageContext)),
        tuple(one for one in named if isinstance(one, RepositoryContext)),
        _lock(platform, pins, where, invalid),
    )


def incomplete(where: str, why: str) -> UsageError:
    """The error where too little is told."""
    return UsageError(
        f"{where} does not say enough to build the image again: {why}", code="attestation-incomplete", hint=WHOLE
    )


def platform_of(fields: JsonObject, name: str) -> Platform:
    """A platform."""
    try:
        return Platform.parse(text_of(fields, name))
    except ValueError as error:
        raise fields.wrong(name, f"is no platform: {error}") from error


def _dependency(fields: JsonObject, where: str) -> tuple[_Said, ...]:
    digest, annotations = fields.child("digest"), fields.child("annotations")
    if annotations.has("reference"):
        return _image(fields, annotations, digest_of(digest))
    if digest.has(FILES_DIGEST):
        files = text_of(digest, FILES_DIGEST)
        if not _SHA256.fullmatch(files) or not annotations.has("context"):
            raise digest.wrong(FILES_DIGEST, "is no digest of a context")
        return ((text_of(annotations, "context"), files),)
    if digest.has("gitCommit"):
        return _repository(annotations, digest, where)
    if len(digest.fields) != 1 or not fields.has("uri"):
        raise incomplete(where, f"{fields.where} is of no kind that mbuild knows")
    return (FilePin(text_of(fields, "uri"), checksum_of(digest)),)


def _image(fields: JsonObject, annotations: JsonObject, digest: str) -> tuple[_Said, ...]:
    reference, platform = text_of(annotations, "reference"), platform_of(annotations, "platform")
    if annotations.has("context"):
        image = _exact(text_of(annotations, "image"), digest, fields)
        context = ImageContext(text_of(annotations, "context"), image)
        return (context, *_pin(image, platform, digest))
    return _pin(reference, platform, digest)


def _pin(reference: str, platform: Platform, digest: str) -> tuple[ImagePin, ...]:
    from engine.pins import image_name

    name = image_name(reference)  # what has a digest in its name needs no pin
    return (ImagePin(name, platform, digest),) if name else ()


def _repository(annotations: JsonObject, digest: JsonObject, where: str) -> tuple[_Said, ...]:
    if not annotations.has("repository"):
        raise incomplete(where, f"{annotations.where} lacks the repository's address")
    commit, ref = text_of(digest, "gitCommit"), text_of(annotations, "ref")
    if not is_commit(commit):
        raise digest.wrong("gitCommit", "is no whole commit")
    tag = text_of(annotations, "tag")
    if tag and not is_commit(tag):
        raise annotations.wrong("tag", "is no object of git")
    name = text_of(annotations, "name")
    if name and not is_ref_name(name):
        raise annotations.wrong("name", "is not the whole name of a branch or tag")
    pin = RepositoryPin(text_of(annotations, "repository"), ref, commit, name, tag)
    if not annotations.has("context"):
        return (pin,) if annotations.has("name") else ()  # a commit that is named exactly
    return (pin, RepositoryContext(text_of(annotations, "context"), text_of(annotations, "address")))


def _lock(platform: Platform, pins: Iterable[_Pin], where: str, invalid: str) -> Lockfile:
    found: dict[tuple[type, str, str], _Pin] = {}
    for pin in sorted(pins, key=lambda one: isinstance(one, RepositoryPin) and not one.name):
        key = (type(pin), *_identity(pin))
        known = found.setdefault(key, pin)
        if known != pin and not _says_less(pin, known):
            raise UntrustedDataError(
                f"{where} says of {_identity(pin)[0][:200]} that it was two things at once", code=invalid
            )
    values = found.values()
    return Lockfile(
        (platform,),
        tuple(one for one in values if isinstance(one, ImagePin)),
        tuple(one for one in values if isinstance(one, FilePin)),
        tuple(one for one in values if isinstance(one, RepositoryPin)),
    )


def _says_less(pin: _Pin, known: _Pin) -> bool:
    """Whether it is of an address with a checksum, for which nobody asked what the name is in full."""
    if not isinstance(pin, RepositoryPin) or not isinstance(known, RepositoryPin):
        return False
    return not pin.name and pin.commit == known.commit


def _identity(pin: _Pin) -> tuple[str, str]:
    match pin:
        case ImagePin():
            return pin.name, str(pin.platform)
        case FilePin():
            return pin.url, ""
        case RepositoryPin():
            return pin.url, pin.ref


def _exact(image: str, digest: str, fields: JsonObject) -> str:
    """The name with the digest, where a name can have one."""
    from engine.images.reference import Reference, parse_reference

    try:
        reference = parse_reference(image)
    except MbuildError as error:
        raise fields.wrong("annotations", f"name no image: {error.message}") from error
    return str(reference.pinned(digest)) if isinstance(reference, Reference) else image
