"""A statement about images. Source: in-toto attestation framework, spec/v1/statement.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from engine.images.jsonvalue import JsonObject
from engine.images.reference import Reference
from machinefile.errors import UntrustedDataError
from machinefile.platform import Platform
from machinefile.values import dataclass

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MEDIA_TYPE = "application/vnd.in-toto+json"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
SPDX_TYPE = "https://spdx.dev/Document"
MAX_STATEMENT_BYTES = 256 << 20

_CODE = "attestation-invalid"
_MOST_PARTS = 4_000_000
"""Objects, lists and fields: as text a value has few bytes, read it has many. A list of 100,000 packages has fewer."""

Predicate = Mapping[str, object]
"""What a statement says, in the form that its type asks for."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about."""

    name: str
    digest: str
    """`sha256:...` of a manifest."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody says about its subjects."""

    predicate_type: str
    predicate: Predicate
    subjects: tuple[Subject, ...]

    def to_json(self) -> bytes:
        """The same for equal statements, whatever order their fields came in."""
        return canonical(
            {
                "_type": STATEMENT_TYPE,
                "subject": [
                    {"name": one.name, "digest": {"sha256": one.digest.removeprefix("sha256:")}}
                    for one in self.subjects
                ],
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
            }
        )


def canonical(value: Predicate) -> bytes:
    """Compact JSON, its fields in the order of their names."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode("ascii")


def parse_statement(data: bytes, where: str = "the statement") -> Statement:
    """Read one. Subjects that have no sha256 are left out. Raises UntrustedDataError (`attestation-invalid`)."""
    if sum(map(data.count, (b"[", b"{", b","))) > _MOST_PARTS:
        raise UntrustedDataError(f"{where} has more than {_MOST_PARTS} parts", code=_CODE)
    fields = JsonObject.parse(data, where, _CODE, MAX_STATEMENT_BYTES)
    if fields.text("_type") != STATEMENT_TYPE:
        raise UntrustedDataError(f"{where} is not an in-toto statement of version 1", code=_CODE)
    if not fields.text("predicateType"):
        raise fields.wrong("predicateType", "is missing")
    subjects = tuple(
        Subject(one.text("name"), f"sha256:{digest}")
        for one in fields.children("subject")
        if (digest := one.child("digest").text("sha256"))
    )
    return Statement(fields.text("predicateType"), fields.child("predicate").fields, subjects)


def subjects_of(digest: str, names: Sequence[str], platform: Platform | None) -> tuple[Subject, ...]:
    """An image under each of its names, as BuildKit names them; `_` for one without a name."""
    return tuple(Subject(image_purl(name, platform), digest) for name in names) or (Subject("_", digest),)


def image_purl(name: str, platform: Platform | None, digest: str = "") -> str:
    """A package URL of an image. Source: package-url/purl-spec, type docker."""
    reference = Reference.parse(name)
    repository = reference.repository
    if reference.registry != "docker.io":
        repository = f"{reference.registry}/{repository}"
    repository = repository.removeprefix("library/")
    version = f"@{quote(reference.tag, safe='-._~')}" if reference.tag else ""
    qualifiers = {"digest": digest, "platform": str(platform) if platform is not None else ""}
    query = "&".join(f"{key}={quote(value, safe=':-._~')}" for key, value in qualifiers.items() if value)
    return f"pkg:docker/{quote(repository, safe='/-._~')}{version}" + (f"?{query}" if query else "")
