"""Which image of an index is meant for a platform. Source: containerd's platforms package, `Only`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.manifest import Index, Manifest, parse_manifest
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.platform import Platform

MAX_DEPTH = 4
"""Indexes within indexes."""
MAX_INDEXES = 32
"""Indexes read for one image."""


def acceptable(wanted: Platform) -> tuple[Platform, ...]:
    """The platforms whose images run on `wanted`, best first: older variants, and the 32-bit sibling."""
    system, number = wanted.os, _number(wanted.variant)
    found = [wanted]
    if wanted.architecture == "amd64":
        found += [_platform(system, "amd64", f"v{n}") for n in range(number - 1, 0, -1)]
        found.append(Platform(system, "386"))
    elif wanted.architecture == "arm":
        found += [_platform(system, "arm", f"v{n}") for n in range(number - 1, 4, -1)]
    elif wanted.architecture == "arm64":
        if wanted.variant:
            found.append(Platform(system, "arm64"))
        found += [_platform(system, "arm", f"v{n}") for n in range(8, 4, -1)]
    return tuple(found)


def choose(index: Index, wanted: Platform) -> Descriptor | None:
    """The entry that suits the platform best, or None. Entries that name no platform are not considered."""
    for platform in acceptable(wanted):
        for entry in index.manifests:
            if entry.platform == platform:
                return entry
    return None


def select(
    root: Descriptor, wanted: Platform, read: Callable[[Descriptor], bytes], name: str
) -> tuple[Descriptor, Manifest, bytes]:
    """Follow indexes from `root` to the manifest for a platform: its descriptor, itself, and its bytes.

    `read` gives verified bytes. A lone manifest is taken whatever it runs on, as Docker takes it. Raises
    TransferError (`platform-missing`) and UntrustedDataError (`index-too-deep`, `manifest-*`).
    """
    search = _Search(wanted, read, name)
    found = search.below(root, MAX_DEPTH)
    if found is None:
        listed = ", ".join(sorted(search.seen)) or "none at all"
        raise TransferError(
            f"{name} has no image for {wanted}; it has {listed}",
            code="platform-missing",
            hint="choose one of these with --platform",
        )
    return found


class _Search:
    def __init__(self, wanted: Platform, read: Callable[[Descriptor], bytes], name: str) -> None:
        self.wanted = wanted
        self.read = read
        self.name = name
        self.seen: set[str] = set()
        self.indexes = 0

    def below(self, descriptor: Descriptor, depth: int) -> tuple[Descriptor, Manifest, bytes] | None:
        data = self.read(descriptor)
        parsed = parse_manifest(data, f"the manifest {descriptor.digest} of {self.name}")
        if isinstance(parsed, Manifest):
            return descriptor, parsed, data
        self.indexes += 1
        if not depth or self.indexes > MAX_INDEXES:
            raise UntrustedDataError(f"{self.name} has indexes within indexes without end", code="index-too-deep")
        for candidate in self._candidates(parsed):
            found = self.below(candidate, depth - 1)
            if found is not None:
                return found
        return None

    def _candidates(self, index: Index) -> Iterator[Descriptor]:
        best = choose(index, self.wanted)
        if best is not None:
            yield best
        self.seen.update(str(e.platform) for e in index.manifests if e.platform and e.platform.os != "unknown")
        unmarked = [entry for entry in index.manifests if entry.platform is None]
        yield from (entry for entry in unmarked if entry.media_type in mediatype.INDEXES)
        plain = [entry for entry in unmarked if entry.media_type not in mediatype.INDEXES]
        if len(plain) == 1:  # nothing to choose: as good as a lone manifest
            yield from plain


def _number(variant: str) -> int:
    digits = variant.removeprefix("v").partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 3 else 0


def _platform(system: str, architecture: str, variant: str) -> Platform:
    return Platform.parse(f"{system}/{architecture}/{variant}")
