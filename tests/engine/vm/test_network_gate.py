"""The judge of a guest's frames: what passes, what is answered, what is remembered."""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from frames import (
    ACK,
    SYN,
    addresses_in,
    assert_sound,
    ip_frame,
    ping_frame,
    query,
    tcp_frame,
    udp_frame,
)

from engine.vm.network import addresses
from engine.vm.network import gate as gate_module
from engine.vm.network.addresses import parse_address
from engine.vm.network.dns import Answer, Code, ask_host, read_question
from engine.vm.network.gate import Gate
from engine.vm.network.packets import Protocol
from engine.vm.network.resolvconf import options_of
from engine.vm.network.rules import EgressPolicy, parse_rule
from machinefile.errors import UsageError

ELSEWHERE = "198.51.100.7"
ARP = bytes.fromhex("ffffffffffff525400123456 0806 0001080006040001 525400123456 0a00020f 000000000000 0a000202")


def policy(*rules: str) -> EgressPolicy:
    return EgressPolicy(tuple(map(parse_rule, rules)))


def passes(gate: Gate, frame: bytes) -> bool:
    return gate.judge(frame).passes


def resolve(gate: Gate, name: str, *addresses: str, code: Code = Code.FOUND, kind: int = 1) -> tuple[int, list[str]]:
    """Ask as the guest does, and let the host know these addresses."""
    verdict = gate.judge(udp_frame("10.0.2.3", 53, query(name, kind)))
    assert not verdict.passes
    if verdict.asked is None:
        assert verdict.reply is not None
        return addresses_in(verdict.reply)
    found = tuple(number for text in addresses if (number := parse_address(text)) is not None)
    frame = gate.answer(*verdict.asked, Answer(code, found))
    assert_sound(frame)
    return addresses_in(frame)


def test_without_rules_everything_outside_can_be_reached_and_is_remembered_once() -> None:
    gate = Gate(EgressPolicy())
    for _ in range(3):
        assert passes(gate, tcp_frame(ELSEWHERE, 443))
        assert passes(gate, tcp_frame(ELSEWHERE, 443, ACK))
        assert passes(gate, udp_frame(ELSEWHERE, 123))
        assert passes(gate, ping_frame(ELSEWHERE))
    assert [str(entry) for entry in gate.log.entries] == [f"{ELSEWHERE}:443", f"{ELSEWHERE}:123", ELSEWHERE]
    assert not gate.log.denied


@pytest.mark.parametrize("address", ["10.0.2.2", "10.0.2.4", "10.0.2.255", "127.0.0.1", "127.8.9.1", "0.0.0.0"])
def test_no_way_to_the_hosts_loopback_is_open(address: str) -> None:
    for gate in (Gate(EgressPolicy()), Gate(policy("*")), Gate(policy("0.0.0.0/0"))):
        verdict = gate.judge(tcp_frame(address, 22))
        assert not verdict.passes
        assert verdict.reply is not None
        assert_sound(verdict.reply)
        assert not passes(gate, tcp_frame(address, 22, ACK))
        assert not passes(gate, udp_frame(address, 69))
        assert not passes(gate, ping_frame(address))
        assert not passes(gate, ip_frame(6, address, bytes(24), flags=0x2000))
        assert len(gate.log.denied) == 3


def test_the_resolver_is_there_for_names_only() -> None:
    gate = Gate(EgressPolicy())
    assert passes(gate, tcp_frame("10.0.2.3", 53))
    assert not passes(gate, tcp_frame("10.0.2.3", 80))
    assert not passes(gate, udp_frame("10.0.2.3", 53, query("a.b")[:20]))
    assert passes(gate, udp_frame("10.0.2.3", 53, query("a.b", kind=15)))
    strict = Gate(policy("a.b"))
    assert not passes(strict, tcp_frame("10.0.2.3", 53))
    assert not passes(strict, udp_frame("10.0.2.3", 53, query("a.b", kind=15)))


def test_a_port_that_others_were_given_answers_them_and_opens_nothing() -> None:
    gate = Gate(EgressPolicy(), served=frozenset([(Protocol.TCP, 40000)]))
    assert passes(gate, tcp_frame("10.0.2.2", 51000, SYN | ACK))
    assert passes(gate, tcp_frame("10.0.2.2", 51000, ACK))
    assert not passes(gate, tcp_frame("10.0.2.2", 22, SYN))
    assert not passes(gate, udp_frame("10.0.2.2", 51000))
    datagrams = Gate(policy("a.b"), served=frozenset([(Protocol.UDP, 40000)]))
    assert passes(datagrams, udp_frame("10.0.2.2", 51000))
    assert not passes(datagrams, udp_frame(ELSEWHERE, 51000))
    assert not passes(datagrams, tcp_frame("10.0.2.2", 51000, ACK))


def test_datagrams_from_an_opened_port_reach_no_services_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.vm.network.gate.ephemeral_ports", lambda: range(40000, 50001))
    gate = Gate(EgressPolicy(), served=frozenset([(Protocol.UDP, 40000)]))
    ports = (53, 5353, 39999, 40000, 50000, 50001)
    assert [port for port in ports if passes(gate, udp_frame("10.0.2.2", port))] == [40000, 50000]


@pytest.mark.parametrize(("text", "ports"), [("1024\t2000\n", range(1024, 2001)), ("?", range(32768, 61000))])
def test_the_ports_of_clients_are_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, ports: range
) -> None:
    (tmp_path / "range").write_text(text)
    monkeypatch.setattr(addresses, "_EPHEMERAL", tmp_path / "range")
    assert addresses.ephemeral_ports.__wrapped__() == ports


def test_loopback_is_opened_whole_or_by_port() -> None:
    assert passes(Gate(EgressPolicy(), loopback=True), tcp_frame("10.0.2.2", 22))
    assert passes(Gate(EgressPolicy(), (("h", "host-gateway"),)), tcp_frame("10.0.2.2", 22))
    one = Gate(EgressPolicy(), loopback_ports=frozenset([3128]))
    assert passes(one, tcp_frame("10.0.2.2", 3128))
    assert not passes(one, tcp_frame("10.0.2.2", 22))
    assert not passes(one, tcp_frame("10.0.2.5", 3128))
    by_rule = Gate(policy("host.mbuild.internal:22"), loopback=True, loopback_ports=frozenset([3128]))
    assert passes(by_rule, tcp_frame("10.0.2.2", 22))
    assert not passes(by_rule, tcp_frame("10.0.2.2", 3128))
    assert resolve(by_rule, "host.mbuild.internal") == (0, ["10.0.2.2"])
    assert resolve(Gate(EgressPolicy()), "host.mbuild.internal")[0] == Code.UNKNOWN


def test_a_name_opens_the_addresses_it_led_to_at_its_port() -> None:
    gate = Gate(policy("deb.example:80", "*.deep.example"))
    assert not passes(gate, tcp_frame(ELSEWHERE, 80))
    assert resolve(gate, "DEB.example", ELSEWHERE) == (0, [ELSEWHERE])
    assert passes(gate, tcp_frame(ELSEWHERE, 80))
    assert not passes(gate, tcp_frame(ELSEWHERE, 443))
    assert resolve(gate, "a.b.deep.example", "203.0.113.9")[1] == ["203.0.113.9"]
    assert passes(gate, udp_frame("203.0.113.9", 9))
    assert passes(gate, ping_frame("203.0.113.9"))
    assert str(gate.log.entries[-2]) == "a.b.deep.example:9 (203.0.113.9)"


@pytest.mark.parametrize("name", ["evil.example", "deep.example", "xdeep.example", "deb.example.evil", "eb.example"])
def test_other_names_do_not_exist(name: str) -> None:
    gate = Gate(policy("deb.example:80", "*.deep.example", f"{ELSEWHERE}:1"))
    assert resolve(gate, name, ELSEWHERE)[0] == Code.UNKNOWN
    assert resolve(gate, name, ELSEWHERE, kind=16)[0] == Code.UNKNOWN
    assert {entry.name for entry in gate.log.denied} == {name}
    assert not passes(gate, tcp_frame(ELSEWHERE, 80))


def test_an_answer_never_leads_to_the_host() -> None:
    gate = Gate(policy("rebind.example"))
    assert resolve(gate, "rebind.example", "127.0.0.1", "10.0.2.2", "0.0.0.0", "224.0.0.1", ELSEWHERE) == (
        0,
        [ELSEWHERE],
    )
    assert not passes(gate, tcp_frame("10.0.2.2", 80))


def test_a_name_without_ipv4_is_there_and_has_no_address() -> None:
    gate = Gate(EgressPolicy())
    assert resolve(gate, "six.example") == (0, [])
    assert resolve(gate, "six.example", ELSEWHERE, kind=28) == (0, [])
    assert resolve(gate, "none.example", code=Code.UNKNOWN) == (3, [])
    assert resolve(gate, "slow.example", code=Code.FAILED) == (2, [])


def test_hosts_given_to_the_build_are_names_like_others() -> None:
    hosts = (("db", "198.51.100.1"), ("me", "host-gateway"), ("liar", "127.0.0.1"), ("six", "::1"))
    gate = Gate(policy("db:5432", "me:80", "liar"), hosts)
    assert passes(gate, tcp_frame("198.51.100.1", 5432))
    assert passes(gate, tcp_frame("10.0.2.2", 80))
    assert not passes(gate, tcp_frame("10.0.2.2", 81))
    assert not passes(gate, tcp_frame("127.0.0.1", 80))
    assert str(gate.log.entries[0]) == "db:5432 (198.51.100.1)"


def test_addresses_and_networks_as_rules() -> None:
    gate = Gate(policy("198.51.100.0/24:443", "203.0.113.9"))
    assert passes(gate, tcp_frame("198.51.100.255", 443))
    assert not passes(gate, tcp_frame("198.51.100.255", 80))
    assert not passes(gate, tcp_frame("198.51.101.0", 443))
    assert passes(gate, udp_frame("203.0.113.9", 1))
    # A fragment has no port: it passes where every port is open.
    assert passes(gate, ip_frame(17, "203.0.113.9", bytes(24), flags=0x2000))
    assert not passes(gate, ip_frame(17, "198.51.100.1", bytes(24), flags=0x0003))


def test_a_denied_sender_does_not_wait() -> None:
    gate = Gate(policy("a.b"))
    reset = gate.judge(tcp_frame(ELSEWHERE, 443)).reply
    assert reset is not None
    assert_sound(reset)
    assert reset[26:30] == socket.inet_aton(ELSEWHERE)
    assert struct.unpack_from(">HHIIBB", reset, 34) == (443, 40000, 0, 1001, 0x50, 0x14)
    for frame in (udp_frame(ELSEWHERE, 443), ping_frame(ELSEWHERE)):
        word = gate.judge(frame).reply
        assert word is not None
        assert_sound(word)
        assert word[34:36] == bytes((3, 13))
        assert word[42:] == frame[14:42]


def test_the_log_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MOST_REACHED", 3)
    monkeypatch.setattr(gate_module, "_MOST_FLOWS", 2)
    gate = Gate(EgressPolicy())
    for port in range(1, 9):
        assert passes(gate, tcp_frame(ELSEWHERE, port))
    assert [entry.port for entry in gate.log.entries] == [1, 2, 3]
    assert gate.log.more == 5


@given(st.binary(max_size=120) | st.binary(max_size=100).map(lambda rest: b"\0" * 12 + b"\x08\x00\x45" + rest))
def test_noise_never_passes(noise: bytes) -> None:
    assert not passes(Gate(EgressPolicy(rules=())), noise)
    read_question(noise)


ALLOWED = {("198.51.100.7", 443), ("203.0.113.9", None)}
FRAMES = (
    tcp_frame("198.51.100.7", 443, SYN),
    tcp_frame("203.0.113.9", 5, ACK),
    udp_frame("203.0.113.9", 53, query("a.b")),
    udp_frame("198.51.100.7", 443, b"payload"),
    udp_frame("10.0.2.3", 53, query("a.b")),
    ping_frame("198.51.100.7"),
    ARP,
)


@given(
    st.sampled_from(FRAMES),
    st.lists(st.tuples(st.integers(12, 60), st.integers(0, 255)), max_size=4),
    st.integers(0, 80),
)
def test_what_passes_after_any_damage_goes_where_it_may(frame: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    gate = Gate(policy("198.51.100.7:443", "203.0.113.9"))
    for whole in FRAMES:  # flows that are known already are no way around
        gate.judge(whole)
    damaged = bytearray(frame)
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    sent = bytes(damaged[: len(damaged) - cut]) if cut < len(damaged) else b""
    verdict = gate.judge(sent)
    if verdict.reply is not None:
        assert verdict.reply[:6] == sent[6:12]
    if not verdict.passes or sent[12:14] == b"\x08\x06":
        return
    assert sent[12:15] == b"\x08\x00\x45"
    assert sent[26:30] == bytes((10, 0, 2, 15))
    assert 28 <= int.from_bytes(sent[16:18], "big") <= len(sent) - 14
    destination, port = socket.inet_ntoa(sent[30:34]), int.from_bytes(sent[36:38], "big")
    fragment = int.from_bytes(sent[20:22], "big") & 0x3FFF
    if destination == "198.51.100.7":
        assert not fragment
        assert sent[23] == 1 or port == 443
    else:
        assert destination == "203.0.113.9"


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF), st.sampled_from((tcp_frame, udp_frame)))
def test_the_open_network_never_leads_back_into_the_host(address: int, port: int, make: object) -> None:
    for low in (address, 0x7F000000 | address & 0xFFFFFF, 0x0A000200 | address & 0xFF, address & 0xFFFFFF):
        text = socket.inet_ntoa(low.to_bytes(4, "big"))
        first = low >> 24
        inside = first in (0, 127) or first >= 224 or low >> 8 == 0x0A0002
        if text != "10.0.2.3":
            assert passes(Gate(EgressPolicy()), make(text, port)) is not inside  # type: ignore[operator]


def test_only_requests_for_addresses_in_the_guests_own_name_pass() -> None:
    gate = Gate(policy("a.b"))
    assert passes(gate, ARP)
    assert not passes(gate, ARP[:28] + socket.inet_aton("10.0.2.2") + ARP[32:])
    assert not passes(gate, ARP[:21] + b"\x02" + ARP[22:])
    assert not passes(gate, ARP[:41])
    assert not passes(gate, tcp_frame(ELSEWHERE, 80, source="10.0.2.16"))


@pytest.mark.parametrize(
    "text",
    [
        *("", ":80", "a b", "a.example:", "a.example:0", "a.example:65536", "a.example:x", "[::1]:80", "::1", "a/24"),
        *(
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3",
            "256.1.1.1",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "*.",
            "*a.example",
            "-a",
        ),
        *("https://a.example", "a..b", "a" * 64, "1.2.3.4/²"),
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rule(text)
    assert caught.value.code == "bad-allow-net"


def test_what_is_taken_over_from_the_hosts_resolver() -> None:
    text = "# x\nnameserver ::1\nsearch old\nsearch corp.example a.b ;x\noptions ndots:2 edns0 trust-ad rotate\n"
    assert options_of(text) == b"search corp.example a.b\noptions ndots:2 rotate\n"
    assert options_of("nameserver 127.0.0.53\nsearch .\n") == b""


def test_the_host_itself_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_host("localhost") == Answer(Code.FOUND), "its own loopback address is of no use to a guest"

    def fail(*_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert ask_host("a.example").code is Code.FAILED
