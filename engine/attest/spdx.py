"""The packages of an image as an SPDX document. Source: SPDX specification 2.3, JSON format.

The same image gives the same bytes: nothing is random, and its time is that of the image.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from engine.attest.packages import Inventory, Package
from engine.attest.statement import Predicate

_NONE = "NOASSERTION"
_DOCUMENT = "SPDXRef-DOCUMENT"
_IMAGE = "SPDXRef-Image"
_NO_TIME = "1970-01-01T00:00:00Z"


def document(found: Inventory, *, name: str, digest: str, created: str, tool: str) -> Predicate:
    """The document about the image with that manifest. `created` is the image's own time (RFC 3339), or nothing."""
    value: dict[str, object] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": name,
        # The form for who has no site of their own; the digest in place of the random number asked for is as unique.
        "documentNamespace": f"https://spdx.org/spdxdocs/mbuild-{_short(digest, tool, str(found.unread))}",
        "creationInfo": {"created": _whole_seconds(created), "creators": [f"Tool: {tool}"]},
    }
    if found.unread:
        value["comment"] = f"{found.unread} files about packages could not be read whole: there may be more packages"
    identities = [_identity(package) for package in found.packages]
    value["packages"] = [
        _image(name, digest),
        *(_described(package, identity) for package, identity in zip(found.packages, identities, strict=True)),
    ]
    value["relationships"] = [
        _relation(_DOCUMENT, "DESCRIBES", _IMAGE),
        *(_relation(_IMAGE, "CONTAINS", identity) for identity in identities),
    ]
    return value


def _image(name: str, digest: str) -> dict[str, object]:
    return {
        "SPDXID": _IMAGE,
        "name": name,
        "versionInfo": digest,
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest.removeprefix("sha256:")}],
    }


def _described(package: Package, identity: str) -> dict[str, object]:
    return {
        "SPDXID": identity,
        "name": package.name,
        "versionInfo": package.version,
        "supplier": _NONE,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": _NONE,
        "copyrightText": _NONE,
        "sourceInfo": f"found in /{_printable(package.path)}",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": package.purl}
        ],
    }


def _whole_seconds(created: str) -> str:
    """SPDX has no other times than of whole seconds in UTC. An image need not say when it was made."""
    try:
        time = datetime.fromisoformat(created)
        if time.tzinfo is None:
            return _NO_TIME
        return time.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
    except (ValueError, OverflowError):
        return _NO_TIME


def _relation(one: str, kind: str, other: str) -> dict[str, object]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _identity(package: Package) -> str:
    """Letters, digits, `.` and `-` alone may stand in it."""
    return f"SPDXRef-{package.kind}-{_short(package.purl, package.path)}"


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _printable(path: str) -> str:
    """A path in which what is not UTF-8, or no printable character, is replaced."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
