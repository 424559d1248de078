"""How a guest's instructions are run: by the processor (KVM) or by software (TCG)."""

from __future__ import annotations

import os
from enum import Enum

from machinefile.errors import UsageError

VARIABLE = "MBUILD_ACCEL"


class Accelerator(Enum):
    """The ways QEMU has, by its names."""

    KVM = "kvm"
    TCG = "tcg"

    @property
    def option(self) -> str:
        """The value of -accel."""
        return {Accelerator.KVM: "kvm", Accelerator.TCG: "tcg,thread=multi"}[self]

    @property
    def cpu(self) -> str:
        """The value of -cpu. Under TCG an old model is faster than `max`, and one of its features is not emulated."""
        return {Accelerator.KVM: "host", Accelerator.TCG: "Nehalem,-spec-ctrl"}[self]

    @property
    def boot_timeout(self) -> float:
        """Seconds that a boot may take on a busy machine."""
        return {Accelerator.KVM: 10.0, Accelerator.TCG: 40.0}[self]


def demanded() -> Accelerator | None:
    """What MBUILD_ACCEL asks for. Raises UsageError `accelerator-unknown`."""
    text = os.environ.get(VARIABLE, "").strip().lower()
    if not text:
        return None
    try:
        return Accelerator(text)
    except ValueError as error:
        raise UsageError(
            f"{VARIABLE}={text} names no accelerator",
            code="accelerator-unknown",
            hint=f"set {VARIABLE} to kvm or tcg, or unset it",
        ) from error
