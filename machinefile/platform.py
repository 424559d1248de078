"""Platforms as OCI and Docker name them: os/architecture[/variant]."""

from __future__ import annotations

from machinefile.values import dataclass

_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "i386": "386",
    "i686": "386",
}


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """What an image runs on, normalised: `x86_64` is `amd64`, `arm64/v8` is `arm64`, `arm` is `arm/v7`."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `linux/amd64`, `linux/arm/v7`, `arm64` or `linux`.

        Raises ValueError when the text is none of these.
        Source: containerd's platforms package, whose normalisation Docker and BuildKit share.
        """
        parts = text.strip().lower().split("/")
        if not 1 <= len(parts) <= 3 or not all(part and part.isascii() for part in parts):
            raise ValueError(f"not a platform: {text!r}")
        if len(parts) == 1:
            parts = [parts[0], native().architecture] if parts[0] in _SYSTEMS else ["linux", parts[0]]
        system, rest = parts[0], "/".join(parts[1:])
        architecture, _, variant = _ALIASES.get(rest, rest).partition("/")
        if architecture == "aarch64":
            architecture = "arm64"
        if architecture == "arm64" and variant in ("8", "v8"):
            variant = ""
        if architecture == "arm":
            variant = "v" + (variant.removeprefix("v") or "7")
        if architecture == "amd64" and variant == "v1":
            variant = ""
        return cls(system, architecture, variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd", "wasi"})


def native() -> Platform:
    """The platform of the machine this runs on, as a guest sees it: always Linux."""
    import os

    machine = os.uname().machine
    architecture, _, variant = _ALIASES.get(machine, machine).partition("/")
    return Platform("linux", architecture, variant)
