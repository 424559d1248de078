"""Who judges what a guest sends."""

from __future__ import annotations

from collections.abc import Sequence

from engine.vm.execution import Execution, Outlook
from engine.vm.network.gate import Gate
from engine.vm.network.packets import Protocol
from engine.vm.network.rules import EgressPolicy
from engine.vm.portforward import PortForward
from machinefile.steps import NetworkMode


def gate_of(execution: Execution | Outlook, ports: Sequence[PortForward] = ()) -> Gate | None:
    """The gate of a command's machine; None where the network leads nowhere."""
    if execution.network is NetworkMode.NONE:
        return None
    return Gate(
        execution.egress,
        execution.hosts,
        loopback=execution.network is NetworkMode.HOST,
        loopback_ports=execution.loopback_ports,
        served=_served(ports),
    )


def usual_gate(ports: Sequence[PortForward]) -> Gate:
    """The gate of a machine that may reach all but this host's loopback interface."""
    return Gate(EgressPolicy(), served=_served(ports))


def _served(ports: Sequence[PortForward]) -> frozenset[tuple[Protocol, int]]:
    return frozenset((Protocol.UDP if port.udp else Protocol.TCP, port.guest) for port in ports)
