"""Whether a signed statement is to be believed: who signed it, and what it is about."""

from __future__ import annotations

from collections.abc import Sequence

from engine.attest.attached import Attached, Found
from engine.attest.dsse import AttestationVerifier, parse_envelope
from engine.attest.statement import MEDIA_TYPE, PROVENANCE_TYPE, Statement, parse_statement
from machinefile.errors import UntrustedDataError, UsageError
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class CheckedStatement:
    """A statement of somebody who is believed, about the image that was asked for."""

    statement: Statement
    key_id: str
    """Of the key that signed it; empty for one without a signature, which was believed nevertheless."""


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
    _check_subject(statement, digest, where)
    return CheckedStatement(statement, key_id)


def find_provenance(
    attached: Attached, verifier: AttestationVerifier | None, digest: str, name: str, *, unsigned: bool = False
) -> CheckedStatement:
    """The first of the provenances that is to be believed; without a `verifier` only if it has no signature, and only
    with `unsigned`.

    Raises UsageError: `attestation-missing`, `attestation-key-missing`; and as `check_attestation`.
    """
    found = attached.provenances
    if not found:
        others = f"; what is said about it is {', '.join(attached.others[:8])}" if attached.others else ""
        raise UsageError(
            f"{name} has no provenance{others}",
            code="attestation-missing",
            hint="build it with --provenance=mode=max, or name the file that has it: --attestation=FILE",
        )
    signed = [one for one in found if one.signed]
    if verifier is None and signed:
        raise UsageError(
            f"{signed[0].where} is signed, and there is no key to check it with",
            code="attestation-key-missing",
            hint="name the public key of who made it: --key PUBLIC.pem",
        )
    if not (signed or unsigned) or (verifier is not None and not signed):
        raise UntrustedDataError(
            f"{found[0].where} is not signed: anybody may have written it",
            code="attestation-unsigned",
            hint="" if verifier is not None else "--allow-unsigned believes it nevertheless",
        )
    return _first_good(signed or found, verifier, digest)


def _first_good(found: Sequence[Found], verifier: AttestationVerifier | None, digest: str) -> CheckedStatement:
    failure: UntrustedDataError | None = None
    for one in found:
        try:
            if verifier is not None:
                checked = check_attestation(one.data, verifier, digest, one.where)
            else:
                checked = CheckedStatement(parse_statement(one.data, one.where), "")
                _check_subject(checked.statement, digest, one.where)
            kind = checked.statement.predicate_type
            if kind != PROVENANCE_TYPE:
                raise UntrustedDataError(f"{one.where} is no provenance but {kind[:200]}", code="attestation-invalid")
        except UntrustedDataError as error:
            failure = failure or error
        else:
            return checked
    raise failure or AssertionError("nothing was looked at")


def _check_subject(statement: Statement, digest: str, where: str) -> None:
    if all(subject.digest != digest for subject in statement.subjects):
        raise UntrustedDataError(
            f"{where} is about {_listed(statement)}, not about {digest}",
            code="attestation-subject",
            hint="it belongs to another image, or to another build of this one",
        )


def _listed(statement: Statement) -> str:
    return ", ".join(subject.digest[:80] for subject in statement.subjects[:3]) or "nothing"
