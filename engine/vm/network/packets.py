"""Frames: read strictly, so that what is let through means the same to whoever reads it next, and answers to them.

Sources: RFC 791, 792, 793, 768, 826.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from engine.vm.network.addresses import GUEST
from machinefile.values import dataclass

_ETHERNET, _IP = 14, 20
_ARP = bytes.fromhex("0001080006040001")
"""Ethernet, IPv4, six bytes, four bytes, a request."""
_FRAGMENT = 0x3FFF
"""More fragments follow, or this one is not the first."""
_UNREACHABLE, _FILTERED = 3, 13


class Protocol(IntEnum):
    """IP's protocols that a guest has."""

    ICMP = 1
    TCP = 6
    UDP = 17


@dataclass(frozen=True, slots=True)
class Packet:
    """An IPv4 packet of the guest's own address without options, whole or a fragment."""

    frame: bytes
    protocol: Protocol
    destination: int
    fragment: bool
    """Then there are no ports."""
    end: int
    """Where in the frame the packet ends."""
    source_port: int = 0
    port: int = 0
    """The destination's; 0 for ICMP."""
    opens: bool = False
    """TCP: this asks for a connection."""

    @property
    def payload(self) -> bytes:
        """What a UDP packet carries."""
        return self.frame[_ETHERNET + _IP + 8 : self.end]


def is_arp_request(frame: bytes) -> bool:
    """Whether the guest asks in its own name for an Ethernet address."""
    return (
        len(frame) >= 42
        and frame[12:14] == b"\x08\x06"
        and frame[14:22] == _ARP
        and int.from_bytes(frame[28:32], "big") == GUEST
    )


def flow_key(frame: bytes) -> bytes:
    """What is the same for all packets of a flow: protocol, addresses, ports. Empty for a frame that must be read
    with care: one with options, a fragment, or one that is not as long as it says.
    """
    if (
        len(frame) < 42
        or frame[12:15] != b"\x08\x00\x45"
        or (frame[20] << 8 | frame[21]) & _FRAGMENT
        or not 28 <= (frame[16] << 8 | frame[17]) <= len(frame) - _ETHERNET
    ):
        return b""
    return frame[23:24] + frame[26:38]


def read_packet(frame: bytes) -> Packet | None:
    """The packet in a frame; None for whatever is not exactly one that a guest has a use for."""
    if len(frame) < _ETHERNET + _IP + 8 or frame[12:15] != b"\x08\x00\x45":
        return None
    length, _, flags, _, protocol = struct.unpack_from(">HHHBB", frame, 16)
    source, destination = struct.unpack_from(">II", frame, 26)
    end = _ETHERNET + length
    if not _ETHERNET + _IP + 8 <= end <= len(frame) or source != GUEST:
        return None
    try:
        known = Protocol(protocol)
    except ValueError:
        return None
    if flags & _FRAGMENT:
        return Packet(frame, known, destination, True, end)
    if known is Protocol.ICMP:
        return Packet(frame, known, destination, False, end) if frame[34] == 8 else None
    source_port, port = struct.unpack_from(">HH", frame, 34)
    if known is Protocol.UDP:
        whole = struct.unpack_from(">H", frame, 38)[0] == end - _ETHERNET - _IP
        return Packet(frame, known, destination, False, end, source_port, port) if whole else None
    if end < _ETHERNET + _IP + 20:
        return None
    return Packet(frame, known, destination, False, end, source_port, port, frame[47] & 0x12 == 0x02)


def refuse(packet: Packet) -> bytes | None:
    """The answer that ends the sender's wait: a reset, or word that the packet was filtered."""
    if packet.protocol is Protocol.TCP and not packet.fragment:
        return _reset(packet) if packet.opens else None
    quoted = packet.frame[_ETHERNET : min(packet.end, _ETHERNET + _IP + 8)]
    message = struct.pack(">BBHI", _UNREACHABLE, _FILTERED, 0, 0) + quoted
    message = message[:2] + _checksum(message) + message[4:]
    return _reply(packet, Protocol.ICMP, message)


def _reset(packet: Packet) -> bytes:
    (sequence,) = struct.unpack_from(">I", packet.frame, 38)
    # A SYN counts as one byte; no data is expected in it.
    values = (packet.port, packet.source_port, 0, sequence + 1 & 0xFFFFFFFF, 5 << 4, 0x14, 0, 0, 0)
    segment = struct.pack(">HHIIBBHHH", *values)
    return _reply(packet, Protocol.TCP, _with_checksum(packet, Protocol.TCP, segment, 16))


def datagram(packet: Packet, payload: bytes) -> bytes:
    """An answer to a UDP packet."""
    segment = struct.pack(">HHHH", packet.port, packet.source_port, 8 + len(payload), 0) + payload
    return _reply(packet, Protocol.UDP, _with_checksum(packet, Protocol.UDP, segment, 6))


def _with_checksum(packet: Packet, protocol: Protocol, segment: bytes, at: int) -> bytes:
    pseudo = struct.pack(">IIBBH", packet.destination, GUEST, 0, protocol, len(segment))
    return segment[:at] + _checksum(pseudo + segment) + segment[at + 2 :]


def _reply(packet: Packet, protocol: Protocol, payload: bytes) -> bytes:
    header = struct.pack(">BBHHHBBHII", 0x45, 0, _IP + len(payload), 0, 0, 64, protocol, 0, packet.destination, GUEST)
    header = header[:10] + _checksum(header) + header[12:]
    return packet.frame[6:12] + packet.frame[:6] + b"\x08\x00" + header + payload


def _checksum(data: bytes) -> bytes:
    words = struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])
    total: int = sum(words) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")
