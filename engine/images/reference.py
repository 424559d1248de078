"""What a FROM may name: an image in a registry, in an OCI layout, in a docker-save archive, or nothing."""

from __future__ import annotations

import re
from dataclasses import replace

from engine.images.digest import is_digest
from machinefile.errors import UsageError
from machinefile.values import dataclass

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
SCRATCH = "scratch"

_DEFAULT_ENDPOINT = "registry-1.docker.io"
_DEFAULT_ALIASES = frozenset({"docker.io", "index.docker.io"})
"""What names the default registry. Source: distribution/reference, splitDockerDomain."""
_DEFAULT_HOSTS = _DEFAULT_ALIASES | {_DEFAULT_ENDPOINT, "registry.hub.docker.com"}
_LONGEST_NAME = 255

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?")
_OTHER_DIGEST = re.compile(r"sha(?:384|512):[0-9a-f]+")
_BARE_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry, with everything that Docker's short names leave out filled in.

    Source: the grammar of distribution/reference, and its rules for the default registry.
    """

    registry: str
    """`docker.io`, `localhost:5000`, `[::1]:5000`."""
    repository: str
    """`library/debian`."""
    tag: str = ""
    digest: str = ""
    """Decides when there is a tag too."""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as `docker pull` does; without tag and digest it is `latest`.

        Raises UsageError (`reference-invalid`).
        """
        return _parse_name(text)

    @property
    def endpoint(self) -> str:
        """The host, and port, that speaks for the registry."""
        return endpoint_of(self.registry)

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def short(self) -> str:
        """As people write it: no default registry, no `library/`."""
        name = f"{self.registry}/{self.repository}"
        for prefix in (f"{DEFAULT_REGISTRY}/library/", f"{DEFAULT_REGISTRY}/"):
            if name.startswith(prefix):
                name = name[len(prefix) :]
                break
        return name + self._suffix

    def pinned(self, digest: str) -> Reference:
        """The same image at exactly this digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, slots=True)
class LayoutReference:
    """An image in an OCI layout: a folder, or a tar of one."""

    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"oci-layout:{self.path}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, slots=True)
class ArchiveReference:
    """An image in an archive that `docker save` wrote."""

    path: str
    name: str = ""
    """Which image, where the archive has several: `debian:12`."""

    def __str__(self) -> str:
        return f"docker-archive:{self.path}" + (f":{self.name}" if self.name else "")


@dataclass(frozen=True, slots=True)
class Scratch:
    """No image: an empty file system."""

    def __str__(self) -> str:
        return SCRATCH


def endpoint_of(registry: str) -> str:
    """The host, and port, that speaks for a registry."""
    return _DEFAULT_ENDPOINT if registry == DEFAULT_REGISTRY else registry


def registry_of(endpoint: str) -> str:
    """The registry that a host, and port, speaks for."""
    return DEFAULT_REGISTRY if endpoint in _DEFAULT_HOSTS else endpoint


AnyReference = Reference | LayoutReference | ArchiveReference | Scratch


def parse_reference(text: str) -> AnyReference:
    """Read what FROM, --from or --build-context names.

    `scratch`, `oci-layout:PATH[:TAG][@DIGEST]`, `docker-archive:PATH[:NAME]`, `docker-image://NAME` or NAME;
    `//` may follow the colon of a kind. Raises UsageError (`reference-invalid`).
    """
    if text == SCRATCH:
        return Scratch()
    kind, colon, rest = text.partition(":")
    if colon and kind == "oci-layout":
        return _parse_layout(text, rest.removeprefix("//"))
    if colon and kind == "docker-archive":
        return _parse_archive(text, rest.removeprefix("//"))
    if text.startswith("docker-image://"):
        return Reference.parse(text.removeprefix("docker-image://"))
    return Reference.parse(text)


def _parse_name(text: str) -> Reference:
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        reason = f"{digest!r} is not a digest" if not _OTHER_DIGEST.fullmatch(digest) else "its digest is not a sha256"
        raise _invalid(text, reason, "a digest is sha256: and 64 hexadecimal digits; no other is supported")
    if _BARE_ID.fullmatch(text):
        raise _invalid(text, "an image's id is not a name", "write NAME@sha256:DIGEST")
    name, tag = _split_tag(name)
    if tag and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag", "a tag is up to 128 letters, digits, '_', '.' and '-'")
    registry, repository = _split_registry(name)
    if not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f"{registry!r} is not a registry's name", "write HOST[:PORT]/NAME[:TAG]")
    if not _REPOSITORY.fullmatch(repository):
        raise _invalid(text, f"{repository!r} is not a repository's name", _repository_hint(repository))
    if len(registry) + 1 + len(repository) > _LONGEST_NAME:
        raise _invalid(text, f"the name is longer than {_LONGEST_NAME} characters", "")
    return Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)


def _split_tag(name: str) -> tuple[str, str]:
    head, colon, tail = name.rpartition(":")
    if not colon or "/" in tail:  # that colon stands before a port
        return name, ""
    return (head, tail) if tail else (name, "")


def _split_registry(name: str) -> tuple[str, str]:
    """The first part is a registry only if it cannot be the start of a repository's name."""
    first, slash, rest = name.partition("/")
    is_host = slash and (any(c in first for c in ".:") or first == "localhost" or first != first.lower())
    registry, repository = (first, rest) if is_host else (DEFAULT_REGISTRY, name)
    if registry in _DEFAULT_ALIASES:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _parse_layout(text: str, rest: str) -> LayoutReference:
    head, _, tail = rest.rpartition("@")
    path, digest = (head, tail) if is_digest(tail) else (rest, "")
    if not digest and tail.startswith("sha256:"):
        raise _invalid(text, f"{tail!r} is not a digest", "a digest is sha256: and 64 hexadecimal digits")
    path, tag = _split_tag(path)
    if tag and not _TAG.fullmatch(tag):
        path, tag = f"{path}:{tag}", ""  # a colon in the path's own last part
    if not path:
        raise _invalid(text, "no path is given", "write oci-layout:PATH[:TAG][@DIGEST]")
    return LayoutReference(path, tag, digest)


def _parse_archive(text: str, rest: str) -> ArchiveReference:
    path, _, name = rest.partition(":")
    if not path:
        raise _invalid(text, "no path is given", "write docker-archive:PATH[:NAME]")
    if name:
        Reference.parse(name)
    return ArchiveReference(path, name)


def _repository_hint(repository: str) -> str:
    if repository != repository.lower():
        return f"names are lower case: {repository.lower()}"
    return "a name is made of lower-case letters and digits, joined by '.', '_', '-' and '/'"


def _invalid(text: str, reason: str, hint: str) -> UsageError:
    return UsageError(f"{text!r} is not the name of an image: {reason}", code="reference-invalid", hint=hint)
