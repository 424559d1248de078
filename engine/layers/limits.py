"""How much of a layer that others made we are ready to take."""

from __future__ import annotations

import os
from collections.abc import Mapping

from machinefile.errors import UsageError
from machinefile.values import dataclass

VARIABLE = "MBUILD_MAX_LAYER_BYTES"


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """Caps on one layer. What is above any of them is refused, whatever its digest says."""

    max_bytes: int = 16 << 30
    """Bytes of the layer after decompression."""
    max_entries: int = 1_000_000
    """Headers. An entry costs about 0.7 KiB of memory here and next to nothing in a compressed blob."""
    max_path: int = 4096
    """Bytes of a path or a link target (Linux: PATH_MAX)."""
    max_name: int = 255
    """Bytes of one component of a path (Linux: NAME_MAX)."""
    max_pax: int = 1 << 20
    """Bytes of one PAX header: everything an entry says beside its name and its content."""
    max_xattr: int = 64 << 10
    """Bytes of one extended attribute's value (Linux: XATTR_SIZE_MAX)."""
    max_metadata: int = 512 << 20
    """Bytes of paths, link targets and extended attributes of all entries together."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> LayerLimits:
        """The limits with MBUILD_MAX_LAYER_BYTES applied: bytes, or a number with K, M, G or T.

        Raises UsageError (`bad-environment`) when the variable holds neither.
        """
        text = (os.environ if environment is None else environment).get(VARIABLE, "").strip()
        if not text:
            return cls()
        number, factor = text, 1
        unit = text[-1].upper()
        if unit in "KMGT":
            number, factor = text[:-1], 1 << (10 * ("KMGT".index(unit) + 1))
        if not (number.isascii() and number.isdigit()) or int(number) == 0:
            raise UsageError(
                f"{VARIABLE} is {text!r}, which is not a number of bytes",
                code="bad-environment",
                hint=f"write it as bytes or with a unit: {VARIABLE}=32G",
            )
        return cls(max_bytes=int(number) * factor)
