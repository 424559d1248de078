"""Annotations of an image, and where they stand, as docker buildx's --annotation and BuildKit's -o name the places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from enum import Enum

from machinefile.errors import UsageError
from machinefile.imageconfig import Pairs
from machinefile.platform import Platform
from machinefile.values import dataclass

CREATED = "org.opencontainers.image.created"
"""OCI image spec, annotations.md: when the image was made, as RFC 3339 has it."""


class Place(Enum):
    """What an annotation can stand on."""

    MANIFEST = "manifest"
    INDEX = "index"
    MANIFEST_DESCRIPTOR = "manifest-descriptor"
    """A manifest's line in the index."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation."""

    key: str
    value: str
    place: Place = Place.MANIFEST
    platform: Platform | None = None
    """The only one of several images that gets it; None for all."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """What annotations an image is to have. A later one for the same key wins, and one for a platform over all."""

    entries: tuple[Annotation, ...] = ()

    def of_index(self) -> Pairs:
        """The index's, sorted."""
        return self._of(Place.INDEX, None)

    def of_manifest(self, platform: Platform | None) -> Pairs:
        """Those of the manifest for a platform, sorted."""
        return self._of(Place.MANIFEST, platform)

    def of_descriptor(self, platform: Platform | None) -> Pairs:
        """Those of that manifest's line in the index, sorted."""
        return self._of(Place.MANIFEST_DESCRIPTOR, platform)

    def check(self, platforms: Sequence[Platform]) -> None:
        """Raises UsageError (`annotation-unsupported`) for what a build for these platforms has no place for."""
        for entry in self.entries:
            if entry.place is not Place.MANIFEST and len(platforms) == 1:
                raise _unsupported(
                    f"the annotation {entry.key} of the {entry.place.value} has no place: an image for one platform "
                    "has no index",
                    "name several with --platform, or annotate the manifest",
                )
            if entry.platform is not None and entry.platform not in platforms:
                raise _unsupported(
                    f"the annotation {entry.key} is for {entry.platform}, which is not built",
                    f"built for: {', '.join(map(str, platforms))}",
                )

    def dated(self, created: str) -> Annotations:
        """The same, where those that ask when the image was made, without saying it, say `created`."""
        return Annotations(
            tuple(
                replace(entry, value=created) if entry.key == CREATED and not entry.value else entry
                for entry in self.entries
            )
        )

    def _of(self, place: Place, platform: Platform | None) -> Pairs:
        here = [entry for entry in self.entries if entry.place is place]
        found = {entry.key: entry.value for entry in here if entry.platform is None}
        found |= {entry.key: entry.value for entry in here if entry.platform is not None and entry.platform == platform}
        return tuple(sorted(found.items()))


NO_ANNOTATIONS = Annotations()

_OUTPUT_KEY = re.compile(
    r"annotation(?:-(?P<place>[a-z-]+))?(?:\[(?P<platform>[^\]]*)\])?\.(?P<key>.*)", re.DOTALL | re.IGNORECASE
)
_PLACE = re.compile(r"(?P<place>[a-z-]+)(?:\[(?P<platform>[^\]]*)\])?")
_OF_THE_LINE = "index-descriptor"
_EXAMPLE = "write KEY=VALUE, index:KEY=VALUE, manifest-descriptor:KEY=VALUE or manifest[linux/arm64]:KEY=VALUE"


def parse_annotations(texts: Iterable[str]) -> Annotations:
    """Read every --annotation: `[PLACE[[PLATFORM]][,PLACE...]:]KEY=VALUE`.

    Raises UsageError: `usage`, `annotation-unsupported`.
    """
    return Annotations(tuple(found for text in texts for found in _parse(text)))


def _parse(text: str) -> Iterator[Annotation]:
    name, equals, value = text.partition("=")
    places, colon, key = name.partition(":")
    if not colon:
        places, key = Place.MANIFEST.value, name
    if not equals or not key:
        raise UsageError(f"--annotation {text}: this is not KEY=VALUE", code="usage", hint=_EXAMPLE)
    for word in places.split(","):
        found = _PLACE.fullmatch(word)
        if found is None:
            raise UsageError(f"--annotation {text}: {word!r} is no place", code="usage", hint=_EXAMPLE)
        yield _annotation(f"--annotation {text}", found["place"], found["platform"], key, value)


def is_output_key(name: str) -> bool:
    """Whether a field of -o names an annotation."""
    return name.lower().startswith("annotation")


def parse_output_key(where: str, name: str, value: str) -> Annotation:
    """Read a field of -o: `annotation[-PLACE][[PLATFORM]].KEY=VALUE`. `where` names it in messages.

    Raises UsageError: `usage`, `annotation-unsupported`.
    """
    found = _OUTPUT_KEY.fullmatch(name)
    if found is None or not found["key"]:
        hint = "write annotation.KEY=VALUE, annotation-index.KEY=VALUE or annotation[linux/arm64].KEY=VALUE"
        raise UsageError(f"{where}: {name} names no annotation", code="output-invalid", hint=hint)
    return _annotation(where, (found["place"] or Place.MANIFEST.value).lower(), found["platform"], found["key"], value)


def _annotation(where: str, place: str, platform: str | None, key: str, value: str) -> Annotation:
    if place == _OF_THE_LINE:
        raise _unsupported(
            f"{where}: nothing that mbuild writes keeps annotations of the index's own descriptor",
            "annotate the index: index:KEY=VALUE",
        )
    known = [one.value for one in Place]
    if place not in known:
        raise _unsupported(f"{where}: annotations cannot stand on {place!r}", f"places: {', '.join(known)}")
    if platform is not None and place == Place.INDEX.value:
        raise _unsupported(f"{where}: the index is for all platforms", "leave the platform out")
    try:
        return Annotation(key, value, Place(place), Platform.parse(platform) if platform is not None else None)
    except ValueError as error:
        raise UsageError(f"{where}: {error}", code="usage", hint="write it as linux/arm64") from error


def _unsupported(message: str, hint: str) -> UsageError:
    return UsageError(message, code="annotation-unsupported", hint=hint)
