"""Envelopes: what is signed, and who is believed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from engine.attest.check import check_attestation
from engine.attest.dsse import AttestationSigner, AttestationVerifier, Envelope, pae, parse_envelope
from engine.attest.statement import PROVENANCE_TYPE, Statement, Subject
from machinefile.errors import UntrustedDataError, UsageError

DIGEST = "sha256:" + "a" * 64
CURVES = {"ed25519": ["ed25519"], "p256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]}


def key_pair(folder: Path, *algorithm: str) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    private, public = folder / "key", folder / "key.pub"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", *algorithm, "-out", private], check=True, capture_output=True, timeout=30
    )
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=30)
    return private, public


def statement(digest: str = DIGEST) -> bytes:
    return Statement(PROVENANCE_TYPE, {"b": 1, "a": 2}, (Subject("_", digest),)).to_json()


def test_what_is_signed_is_as_the_specification_has_it() -> None:
    # The vector of secure-systems-lab/dsse, protocol.md.
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("", b"") == b"DSSEv1 0  0 "
    assert pae("ü", b"\0") == b"DSSEv1 2 \xc3\xbc 1 \0", "lengths are those of bytes"


def test_the_vector_of_the_specification_verifies() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    # The key and the signature of protocol.md, "Test vectors".
    key = ec.EllipticCurvePublicNumbers(
        46950820868899156662930047687818585632848591499744589407958293238635476079160,
        5640078356564379163099075877009565129882514886557779369047442380624545832820,
        ec.SECP256R1(),
    ).public_key()
    envelope = parse_envelope(
        json.dumps(
            {
                "payload": "aGVsbG8gd29ybGQ=",
                "payloadType": "http://example.com/HelloWorld",
                "signatures": [
                    {"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}
                ],
            }
        ).encode()
    )
    assert envelope.payload == b"hello world"
    # It is written as two numbers side by side there, not as DER, which is what openssl and sigstore write.
    assert AttestationVerifier([key]).signer_of(envelope) == ""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    raw = envelope.signatures[0][1]
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    assert AttestationVerifier([key]).signer_of(Envelope(envelope.payload_type, envelope.payload, (("", der),)))


@pytest.mark.parametrize("kind", CURVES)
def test_a_statement_is_believed_of_who_signed_it(kind: str, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path / "ours", *CURVES[kind])
    _, other = key_pair(tmp_path / "other", *CURVES[kind])
    signer = AttestationSigner.from_file(private)
    data = signer.sign(statement()).to_json()
    checked = check_attestation(data, AttestationVerifier.from_files([other, public]), DIGEST)
    assert checked.key_id == signer.key_id
    assert checked.statement.predicate == {"a": 2, "b": 1}
    with pytest.raises(UntrustedDataError) as unsigned:
        check_attestation(data, AttestationVerifier.from_files([other]), DIGEST)
    assert unsigned.value.code == "attestation-unsigned"
    with pytest.raises(UntrustedDataError) as elsewhere:
        check_attestation(data, AttestationVerifier.from_files([public]), "sha256:" + "b" * 64)
    assert elsewhere.value.code == "attestation-subject"


@pytest.mark.parametrize("field", ["payload", "payloadType"])
def test_a_changed_envelope_is_not_believed(field: str, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ed25519")
    fields = json.loads(AttestationSigner.from_file(private).sign(statement()).to_json())
    fields[field] = fields[field][:-4] + "AAA="
    with pytest.raises(UntrustedDataError) as refused:
        check_attestation(json.dumps(fields).encode(), AttestationVerifier.from_files([public]), DIGEST)
    assert refused.value.code == "attestation-unsigned"


def test_what_is_signed_but_no_statement_is_refused(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "ed25519")
    signer, verifier = AttestationSigner.from_file(private), AttestationVerifier.from_files([public])
    envelopes = [signer.sign(b"[]"), signer.sign(b'{"_type":"x"}'), signer.sign(statement(), "text/plain")]
    for envelope in envelopes:
        with pytest.raises(UntrustedDataError) as refused:
            check_attestation(envelope.to_json(), verifier, DIGEST)
        assert refused.value.code == "attestation-invalid"


def test_an_envelope_of_countless_signatures_is_refused() -> None:
    data = json.dumps({"payload": "", "payloadType": "", "signatures": [{"sig": ""}] * 1000}).encode()
    with pytest.raises(UntrustedDataError):
        parse_envelope(data)


@pytest.mark.parametrize("algorithm", [("RSA",), ("EC", "-pkeyopt", "ec_paramgen_curve:P-384")])
def test_keys_of_other_kinds_are_refused(algorithm: tuple[str, ...], tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, *algorithm)
    for read in (lambda: AttestationSigner.from_file(private), lambda: AttestationVerifier.from_files([public])):
        with pytest.raises(UsageError) as refused:
            read()
        assert refused.value.code == "signing-key"


def test_an_envelope_that_would_grow_when_it_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.loads", lambda text: pytest.fail("it is read"))
    with pytest.raises(UntrustedDataError) as refused:
        parse_envelope(b'{"x":[' + b"[]," * 2000 + b"0]}")
    assert refused.value.code == "attestation-invalid"


def test_a_file_of_keys_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    _, public = key_pair(tmp_path, "ed25519")
    public.write_bytes(public.read_bytes() + b"#" * (64 << 10) + public.read_bytes())
    with pytest.raises(UsageError) as refused:
        AttestationVerifier.from_files([public])
    assert refused.value.code == "signing-key"
    assert "longer" in refused.value.message
