"""Signed envelopes around statements: DSSE, with Ed25519 or ECDSA over P-256.

Source: secure-systems-lab/dsse, protocol.md and envelope.md, version 1.0. What is signed is PAE(type, payload).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cache.keyfiles import KeyFile
from engine.attest.statement import MAX_STATEMENT_BYTES, MEDIA_TYPE
from engine.images.jsonvalue import JsonObject, dump
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
_MOST_SIGNATURES = 16
_MOST_PARTS = 1000
"""Objects, lists and fields: as text a value has few bytes, read it has many, and who wrote it is not known yet."""
_CODE = "attestation-invalid"
_MAKE = "make a key with: openssl genpkey -algorithm ed25519 -out attest.key"
_DERIVE = "make a public key with: openssl pkey -in attest.key -pubout -out attest.pub"
_OTHER = "of another kind than Ed25519 or ECDSA with P-256"


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, and who signed it."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]
    """Each with the id of its key, which nothing vouches for."""

    def to_json(self) -> bytes:
        """As it is stored."""
        return dump(
            {
                "payloadType": self.payload_type,
                "payload": base64.b64encode(self.payload).decode(),
                "signatures": [
                    {"keyid": key_id, "sig": base64.b64encode(value).decode()} for key_id, value in self.signatures
                ],
            }
        )


def parse_envelope(data: bytes, where: str = "the envelope") -> Envelope:
    """Read one; nothing is verified. Raises UntrustedDataError (`attestation-invalid`)."""
    if sum(map(data.count, (b"[", b"{", b","))) > _MOST_PARTS:
        raise UntrustedDataError(f"{where} has more than {_MOST_PARTS} parts", code=_CODE)
    fields = JsonObject.parse(data, where, _CODE, 2 * MAX_STATEMENT_BYTES)
    signatures = fields.children("signatures")
    if len(signatures) > _MOST_SIGNATURES:
        raise fields.wrong("signatures", f"has {len(signatures)} entries; at most {_MOST_SIGNATURES} are read")
    return Envelope(
        fields.text("payloadType"),
        _bytes(fields, "payload"),
        tuple((one.text("keyid"), _bytes(one, "sig")) for one in signatures),
    )


def _bytes(fields: JsonObject, name: str) -> bytes:
    """Either of the two alphabets, as the specification asks of readers."""
    text = fields.text(name).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:
        raise fields.wrong(name, "is not base64") from error


class AttestationSigner:
    """Who vouches for what is said."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key
        self.key_id = key_id_of(key.public_key())

    @classmethod
    def from_file(cls, path: Path) -> AttestationSigner:
        """A private key in PEM, without a password. Raises UsageError (`signing-key`)."""
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        file = KeyFile(path, _MAKE, _DERIVE)
        key = file.private()
        if isinstance(key, Ed25519PrivateKey):
            return cls(key)
        if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
            return cls(key)
        raise file.wrong(f"is a key {_OTHER}", _MAKE)

    def sign(self, payload: bytes, payload_type: str = MEDIA_TYPE) -> Envelope:
        """The payload in an envelope. The same key and payload give the same bytes, where the cryptographic library
        of this machine has deterministic ECDSA (RFC 6979); Ed25519 is so everywhere."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        data = pae(payload_type, payload)
        value = self._key.sign(data) if isinstance(self._key, Ed25519PrivateKey) else _sign_ecdsa(self._key, data)
        return Envelope(payload_type, payload, ((self.key_id, value),))


class AttestationVerifier:
    """Whom somebody believes: any of some keys."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        self._keys: Mapping[str, PublicKey] = {key_id_of(key): key for key in keys}

    @classmethod
    def from_files(cls, paths: Iterable[Path]) -> AttestationVerifier:
        """Public keys in PEM; a file may have several. Raises UsageError (`signing-key`)."""
        return cls([key for path in paths for key in _public_keys(path)])

    def signer_of(self, envelope: Envelope) -> str:
        """The id of a key that signed the envelope as it is; empty if none of these did. What the envelope says of
        ids is not believed."""
        data = pae(envelope.payload_type, envelope.payload)
        for _, value in envelope.signatures:
            for key_id, key in self._keys.items():
                if _is_signed(key, value, data):
                    return key_id
        return ""


def key_id_of(key: PublicKey) -> str:
    """sha256 of the key as DER (SubjectPublicKeyInfo), in hex."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _sign_ecdsa(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        return key.sign(data, ECDSA(SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm:
        return key.sign(data, ECDSA(SHA256()))


def _is_signed(key: PublicKey, value: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, EllipticCurvePublicKey):
            key.verify(value, data, ECDSA(SHA256()))
        else:
            key.verify(value, data)
    except InvalidSignature:
        return False
    return True


def _public_keys(path: Path) -> Iterable[PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    file = KeyFile(path, _MAKE, _DERIVE)
    for key in file.public():
        ours = isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
        if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey) or not (
            ours or isinstance(key, Ed25519PublicKey)
        ):
            raise file.wrong(f"has a key {_OTHER}", _DERIVE)
        yield key
