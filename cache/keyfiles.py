"""Files with keys, as `openssl genpkey` and `openssl pkey -pubout` write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from machinefile.errors import UsageError
from machinefile.values import dataclass

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

_MAX_FILE = 64 << 10
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file with keys."""

    path: Path
    make: str
    """How a private key that is of use is made."""
    derive: str
    """How the public one is made of it."""

    def private(self) -> PrivateKeyTypes:
        """The private key in it: PEM (PKCS 8), without a password. Raises UsageError (`signing-key`)."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            return load_pem_private_key(self._read(), password=None)
        except TypeError as error:
            raise self.wrong(
                "has a password", "take it off, nobody can be asked for it: openssl pkey -in KEY -out NEW"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self.wrong("is no private key in PEM", self.make) from error

    def public(self) -> Iterator[PublicKeyTypes]:
        """The public keys in it, in PEM. Raises UsageError (`signing-key`)."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        blocks = list(_BLOCK.finditer(self._read()))
        if not blocks:
            raise self.wrong("has no public key in PEM", self.derive)
        for block in blocks:
            if b"PRIVATE" in block[1]:
                raise self.wrong("is a private key: who only checks signatures must not have it", self.derive)
            try:
                yield load_pem_public_key(block[0])
            except (ValueError, UnsupportedAlgorithm) as error:
                raise self.wrong("has something that is no public key", self.derive) from error

    def wrong(self, why: str, hint: str) -> UsageError:
        """The error that says what is the matter with the file."""
        return UsageError(f"the key {self.path} {why}", code="signing-key", hint=hint)

    def _read(self) -> bytes:
        try:
            if not self.path.is_file():
                raise self.wrong("is not there" if not self.path.exists() else "is no file", "check the path")
            with open(self.path, "rb") as file:
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise self.wrong(f"cannot be read: {error.strerror}", "check its rights") from error
        if len(data) > _MAX_FILE:
            raise self.wrong(f"is longer than {_MAX_FILE} bytes", "name a file that has nothing but keys")
        return data
