"""Signatures of what a cache says: Ed25519, with keys as `openssl genpkey -algorithm ed25519` writes them.

What is signed is what a build believes of an entry (CacheEntry.payload). A signature says that whoever has the private
key found this result for this key; it says nothing of how long the step took, or when the entry was last used.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cache.carry.entry import CacheEntry, CarriedMount, Signature
from cache.carry.index import MOST_SIGNATURES
from cache.keyfiles import KeyFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_T = TypeVar("_T", CacheEntry, CarriedMount)

_MAKE = "make a key with: openssl genpkey -algorithm ed25519 -out cache.key"
_DERIVE = "make a public key with: openssl pkey -in cache.key -pubout -out cache.pub"


class Signer:
    """Who vouches for what this build exports."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._own = Verifier([key.public_key()])
        self.key_id = _key_id(key.public_key())

    @classmethod
    def from_file(cls, path: Path) -> Signer:
        """A private key in PEM (PKCS 8), without a password. Raises UsageError (`signing-key`)."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        file = KeyFile(path, _MAKE, _DERIVE)
        key = file.private()
        if not isinstance(key, Ed25519PrivateKey):
            raise file.wrong("is a key of another kind than Ed25519", _MAKE)
        return cls(key)

    def sign(self, one: _T) -> _T:
        """With our signature, in the place of an older one of the same key."""
        value = base64.b64encode(self._key.sign(one.payload())).decode()
        # Ours comes first: of too many signatures the last are dropped.
        return replace(one, signatures=(Signature(self.key_id, value), *_without(one.signatures, self.key_id)))

    def trusts(self, one: CacheEntry | CarriedMount) -> bool:
        """Whether this key has signed it as it is."""
        return self._own.trusts(one)


class Verifier:
    """Whom this build believes: any of some keys."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys: Mapping[str, Ed25519PublicKey] = {_key_id(key): key for key in keys}

    @classmethod
    def from_files(cls, paths: Iterable[Path]) -> Verifier:
        """Public keys in PEM; a file may have several. Raises UsageError (`signing-key`)."""
        return cls([key for path in paths for key in _public_keys(path)])

    def trusts(self, one: CacheEntry | CarriedMount) -> bool:
        """Whether one of the keys has signed it as it is. Takes some 0.1 ms a signature of a known key."""
        from cryptography.exceptions import InvalidSignature

        payload = one.payload()
        for signature in one.signatures[:MOST_SIGNATURES]:
            key = self._keys.get(signature.key_id)
            if key is None:
                continue
            try:
                key.verify(base64.b64decode(signature.value, validate=True), payload)
            except (InvalidSignature, ValueError):
                continue
            return True
        return False


def _public_keys(path: Path) -> Iterable[Ed25519PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    file = KeyFile(path, _MAKE, _DERIVE)
    for key in file.public():
        if not isinstance(key, Ed25519PublicKey):
            raise file.wrong("has a key of another kind than Ed25519", _DERIVE)
        yield key


def _key_id(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def _without(signatures: tuple[Signature, ...], key_id: str) -> tuple[Signature, ...]:
    return tuple(one for one in signatures if one.key_id != key_id)[: MOST_SIGNATURES - 1]
