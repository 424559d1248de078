"""Ethernet frames as a guest would send them, and a reader of the answers, for tests."""

from __future__ import annotations

import socket
import struct

GUEST = "10.0.2.15"
GUEST_MAC, GATEWAY_MAC = bytes.fromhex("525400123456"), bytes.fromhex("525500020202")
SYN, ACK = 0x02, 0x10


def ip_frame(protocol: int, destination: str, payload: bytes, source: str = GUEST, flags: int = 0) -> bytes:
    """An IPv4 packet without options; `flags` are those of fragments with their offset."""
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, flags, 64, protocol, 0)
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return GATEWAY_MAC + GUEST_MAC + b"\x08\x00" + header + addresses + payload


def tcp_frame(destination: str, port: int, flags: int = SYN, **options: object) -> bytes:
    """A TCP segment without data, from port 40000."""
    segment = struct.pack(">HHIIBBHHH", 40000, port, 1000, 0, 5 << 4, flags, 65535, 0, 0)
    return ip_frame(6, destination, segment, **options)  # type: ignore[arg-type]


def udp_frame(destination: str, port: int, payload: bytes = b"x", **options: object) -> bytes:
    """A UDP packet, from port 40000."""
    header = struct.pack(">HHHH", 40000, port, 8 + len(payload), 0)
    return ip_frame(17, destination, header + payload, **options)  # type: ignore[arg-type]


def ping_frame(destination: str) -> bytes:
    """An echo request."""
    return ip_frame(1, destination, struct.pack(">BBHHH", 8, 0, 0, 1, 1))


def query(name: str, kind: int = 1, number: int = 77) -> bytes:
    """A DNS query of one question."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def ones_complement(data: bytes) -> int:
    """0xffff for data that carries its right checksum (RFC 1071)."""
    data += b"\0" * (len(data) & 1)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def assert_sound(frame: bytes) -> None:
    """An answer to the guest: addressed to it, with right lengths and checksums."""
    assert frame[:6] == GUEST_MAC
    assert frame[6:12] == GATEWAY_MAC
    packet = frame[14:]
    assert len(packet) == int.from_bytes(packet[2:4], "big")
    assert ones_complement(packet[:20]) == 0xFFFF
    assert packet[16:20] == socket.inet_aton(GUEST)
    body = packet[20:]
    pseudo = packet[12:20] + struct.pack(">BBH", 0, packet[9], len(body)) if packet[9] != 1 else b""
    assert ones_complement(pseudo + body) == 0xFFFF


def addresses_in(frame: bytes) -> tuple[int, list[str]]:
    """The code and the addresses of a DNS answer that repeats a question of a single name."""
    message = frame[42:]
    code, count = message[3] & 15, int.from_bytes(message[6:8], "big")
    return code, [socket.inet_ntoa(message[len(message) - 16 * n - 4 : len(message) - 16 * n]) for n in range(count)]
