"""What goes wrong with a machine that holds a program, as errors that say what it left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.vm.channel import GuestFailureError, GuestGoneError, SilentGuestError
from engine.vm.hypervisor import Autopsy
from engine.vm.protocol import ProtocolError
from engine.vm.qemu import QemuMachine
from engine.vm.qmp import QmpError
from machinefile.errors import HostError

TRIES = 3
"""How often a machine is started that does not come to life."""


class StalledError(Exception):
    """A machine did not come to life; nothing of the user ran in it."""


def silent(last: str) -> HostError:
    """None of the tries gave a machine that answers; `last` says what the last one left."""
    return HostError(
        f"a microVM did not come to life in {TRIES} tries: {last}", code="vm-silent", hint="run: mbuild doctor"
    )


def set_up_failure(error: Exception, autopsy: Autopsy) -> HostError:
    """The agent could not lay out the root."""
    return HostError(
        f"the microVM cannot be set up: {error}\n{autopsy}",
        code="vm-setup",
        hint="a layer may be damaged: build again with --no-cache",
    )


@contextmanager
def explained(machine: QemuMachine, when: str) -> Iterator[None]:
    """Turns what goes wrong with a machine into an error that says what it left behind."""
    try:
        yield
    except (GuestGoneError, SilentGuestError, GuestFailureError, ProtocolError, QmpError) as error:
        reasons = {SilentGuestError: "it does not answer", GuestGoneError: "it ended by itself"}
        reason = reasons.get(type(error), str(error))
        autopsy = machine.autopsy()
        hint = "run it again"
        if autopsy.out_of_memory:
            hint = "give it more memory with MACHINE memory="
        raise HostError(
            f"the microVM broke down while {when}: {reason}\n{autopsy}", code="vm-died", hint=hint
        ) from error
