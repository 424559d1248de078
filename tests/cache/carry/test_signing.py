"""Signatures: what they cover, and what keys are taken."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from carry_support import digest_of, entry, index, layer, mount

from cache.carry.entry import CacheEntry, CarriedMount, Signature
from cache.carry.index import parse_index
from cache.carry.signing import Signer, Verifier
from cache.results import StepResult
from machinefile.errors import UsageError


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.key and a.pub, b.key and b.pub, and keys that cannot be used."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("a", "b"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", f"{folder}/{name}.key")
        openssl("pkey", "-in", f"{folder}/{name}.key", "-pubout", "-out", f"{folder}/{name}.pub")
    openssl("pkey", "-in", f"{folder}/a.key", "-aes256", "-passout", "pass:x", "-out", f"{folder}/locked.key")
    openssl("genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{folder}/ec.key")
    openssl("pkey", "-in", f"{folder}/ec.key", "-pubout", "-out", f"{folder}/ec.pub")
    (folder / "nonsense").write_text("-----BEGIN PUBLIC KEY-----\nnothing\n-----END PUBLIC KEY-----\n")
    (folder / "empty").write_text("")
    return folder


def signer(keys: Path, name: str = "a") -> Signer:
    return Signer.from_file(keys / f"{name}.key")


def verifier(keys: Path, *names: str) -> Verifier:
    return Verifier.from_files(keys / f"{name}.pub" for name in names)


ENTRY = replace(entry("step", b"one", b"two"), records=digest_of(b"records"))
MOUNT = mount("pip")
STEPS = ENTRY.result.steps


def with_steps(*steps: object) -> CacheEntry:
    return replace(ENTRY, result=replace(ENTRY.result, steps=steps))  # type: ignore[arg-type]


@pytest.mark.parametrize("one", [ENTRY, MOUNT], ids=["entry", "mount"])
def test_what_is_signed_is_trusted_by_who_has_the_key(keys: Path, one: CacheEntry | CarriedMount) -> None:
    signed: CacheEntry | CarriedMount = signer(keys).sign(one)
    assert verifier(keys, "a").trusts(signed)
    assert verifier(keys, "b", "a").trusts(signed)
    assert not verifier(keys, "b").trusts(signed)
    assert not verifier(keys).trusts(signed)
    assert not verifier(keys, "a").trusts(one)
    assert signer(keys).trusts(signed)
    assert not signer(keys, "b").trusts(signed)
    assert not signer(keys).trusts(one)


@pytest.mark.parametrize(
    "changed",
    [
        replace(ENTRY, key=digest_of(b"another step")),
        replace(ENTRY, content=digest_of(b"another content")),
        replace(ENTRY, records=""),
        replace(ENTRY, result=replace(ENTRY.result, created=1)),
        with_steps(),
        with_steps(*STEPS[:-1]),
        with_steps(*STEPS, None),
        with_steps(STEPS[1], STEPS[0], STEPS[2]),
        with_steps(None, *STEPS),
        with_steps(replace(layer(b"one"), diff_id=digest_of(b"x")), *STEPS[1:]),
        with_steps(replace(layer(b"one"), digest=digest_of(b"x")), *STEPS[1:]),
        with_steps(replace(layer(b"one"), size=4), *STEPS[1:]),
        with_steps(replace(layer(b"one"), media_type="application/x"), *STEPS[1:]),
    ],
    ids=lambda one: str(one.payload()[-40:]),
)
def test_whatever_a_build_believes_is_signed(keys: Path, changed: CacheEntry) -> None:
    signed = signer(keys).sign(ENTRY)
    assert not verifier(keys, "a").trusts(replace(changed, signatures=signed.signatures))


@pytest.mark.parametrize(
    "changed",
    [
        replace(MOUNT, identity="0" * 64),
        replace(MOUNT, id="npm"),
        replace(MOUNT, digest=digest_of(b"x")),
        replace(MOUNT, size=5),
        replace(MOUNT, created=5),
    ],
    ids=lambda one: str(one.payload()[-40:]),
)
def test_all_of_a_mount_is_signed(keys: Path, changed: CarriedMount) -> None:
    signed = signer(keys).sign(MOUNT)
    assert not verifier(keys, "a").trusts(replace(changed, signatures=signed.signatures))


def test_no_field_was_forgotten() -> None:
    """Whoever adds a field decides whether it is signed, and says so here."""
    signed = {"key", "content", "result", "records"}
    assert set(CacheEntry.__slots__) == signed | {"used", "signatures"}
    assert set(StepResult.__slots__) == {"steps", "created"} | {"seconds", "hearsay"}
    assert set(CarriedMount.__slots__) == {"identity", "id", "digest", "size", "created", "signatures"}


def test_how_long_a_step_took_and_when_it_was_used_are_not_signed(keys: Path) -> None:
    signed = signer(keys).sign(ENTRY)
    result = replace(ENTRY.result, seconds=99.0)
    assert verifier(keys, "a").trusts(replace(signed, used=1, result=result))


def test_a_signature_does_not_fit_another_entry(keys: Path) -> None:
    signed = signer(keys).sign(ENTRY)
    assert not verifier(keys, "a").trusts(replace(entry("other", b"one"), signatures=signed.signatures))
    assert not verifier(keys, "a").trusts(replace(MOUNT, signatures=signed.signatures))


def test_a_signature_of_the_same_key_takes_the_place_of_the_older(keys: Path) -> None:
    both = signer(keys, "b").sign(signer(keys, "a").sign(ENTRY))
    assert len(both.signatures) == 2
    again = signer(keys, "a").sign(replace(both, content=digest_of(b"new")))
    assert len(again.signatures) == 2
    assert verifier(keys, "a").trusts(again)
    assert not verifier(keys, "b").trusts(again)


def test_too_many_signatures_of_others_do_not_hide_ours(keys: Path) -> None:
    others = tuple(Signature(f"{number:064x}", "A" * 86 + "==") for number in range(100))
    signed = signer(keys).sign(replace(ENTRY, signatures=others))
    read = parse_index(index(signed).to_json(), "it").entries[ENTRY.key]
    assert verifier(keys, "a").trusts(read)


@pytest.mark.parametrize("value", ["", "A", "!" * 88, "A" * 86 + "==", "ä" * 88])
def test_nonsense_is_no_signature(keys: Path, value: str) -> None:
    key_id = signer(keys).key_id
    assert not verifier(keys, "a").trusts(replace(ENTRY, signatures=(Signature(key_id, value),)))


def test_a_file_may_have_several_public_keys(keys: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pub"
    both.write_bytes((keys / "a.pub").read_bytes() + b"# and\n" + (keys / "b.pub").read_bytes())
    assert Verifier.from_files([both]).trusts(signer(keys, "b").sign(ENTRY))


Load = Callable[[Path], object]
LOAD_PUBLIC: Load = lambda path: Verifier.from_files([path])  # noqa: E731


@pytest.mark.parametrize(
    ("load", "name", "word"),
    [
        (Signer.from_file, "locked.key", "password"),
        (Signer.from_file, "ec.key", "another kind"),
        (Signer.from_file, "a.pub", "no private key"),
        (Signer.from_file, "nonsense", "no private key"),
        (Signer.from_file, "empty", "no private key"),
        (Signer.from_file, "none", "not there"),
        (Signer.from_file, "", "no file"),
        (LOAD_PUBLIC, "a.key", "is a private key"),
        (LOAD_PUBLIC, "ec.pub", "another kind"),
        (LOAD_PUBLIC, "nonsense", "no public key"),
        (LOAD_PUBLIC, "empty", "no public key"),
        (LOAD_PUBLIC, "none", "not there"),
    ],
)
def test_other_keys_are_refused(keys: Path, load: Load, name: str, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(keys / name)
    assert caught.value.code == "signing-key"
    assert word in caught.value.message
    assert caught.value.hint
