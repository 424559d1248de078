"""Whether a signed statement is to be believed: who signed it, and what it is about."""

from __future__ import annotations

from engine.attest.dsse import AttestationVerifier, parse_envelope
from engine.attest.statement import MEDIA_TYPE, Statement, parse_statement
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class CheckedStatement:
    """A statement of somebody who is believed, about the image that was asked for."""

    statement: Statement
    key_id: str
    """Of the key that signed it."""


def check_attestation(
    data: bytes, verifier: AttestationVerifier, digest: str, where: str = "the attestation"
) -> CheckedStatement:
    """Read an envelope, check its signature, and that what it says is about the manifest with that digest.

    Nothing of the payload is read before its signature is good. Raises UntrustedDataError: `attestation-invalid`,
    `attestation-unsigned` (none of the keys signed it as it is), `attestation-subject` (it is about something else).
    """
    envelope = parse_envelope(data, where)
    key_id = verifier.signer_of(envelope)
    if not key_id:
        raise UntrustedDataError(
            f"{where} is not signed with any of the keys that are believed, or was changed since",
            code="attestation-unsigned",
            hint="do not trust it; or name the public key of who made it",
        )
    if envelope.payload_type != MEDIA_TYPE:
        raise UntrustedDataError(f"{where} holds no in-toto statement", code="attestation-invalid")
    statement = parse_statement(envelope.payload, where)
    if all(subject.digest != digest for subject in statement.subjects):
        raise UntrustedDataError(
            f"{where} is about {_listed(statement)}, not about {digest}",
            code="attestation-subject",
            hint="it belongs to another image, or to another build of this one",
        )
    return CheckedStatement(statement, key_id)


def _listed(statement: Statement) -> str:
    return ", ".join(subject.digest[:80] for subject in statement.subjects[:3]) or "nothing"
