"""The judge of one machine's traffic: pure, fed with frames; remembers what was reached and what was denied."""

from __future__ import annotations

from engine.events import Reached
from engine.vm.network.addresses import (
    GATEWAY,
    HOST_NAME,
    RESOLVER,
    dotted,
    ephemeral_ports,
    is_group,
    is_special,
    parse_address,
)
from engine.vm.network.dns import Answer, Code, Kind, Question, read_question, write_answer
from engine.vm.network.packets import Packet, Protocol, datagram, flow_key, is_arp_request, read_packet, refuse
from engine.vm.network.rules import EgressPolicy
from machinefile.hosts import HOST_GATEWAY
from machinefile.imageconfig import Pairs
from machinefile.values import dataclass

MOST_REACHED = 500
"""Entries of a log; what comes after them is only counted."""
_MOST_FLOWS = 1 << 16
_MOST_LEARNED = 1 << 14
_DNS = 53


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a frame."""

    passes: bool = False
    reply: bytes | None = None
    """A frame for the guest."""
    asked: tuple[Packet, Question] | None = None
    """A question that the host must be asked; see `Gate.answer`."""


_PASS, _DROP = Verdict(passes=True), Verdict()


@dataclass(frozen=True, slots=True)
class EgressLog:
    """What a step reached, in the order of the first time."""

    entries: tuple[Reached, ...] = ()
    more: int = 0
    """Attempts that came when the log was full."""

    @property
    def denied(self) -> tuple[Reached, ...]:
        """What the policy held back."""
        return tuple(entry for entry in self.entries if entry.denied)


class Gate:
    """Judges the frames of one machine. Used by one thread at a time.

    `hosts` are the names given with --add-host; `loopback` opens the host's loopback interface wholly and
    `loopback_ports` some ports of it, both only where the policy has no rules. `served` are the guest's ports that
    others were given a way to: it may answer from them.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        hosts: Pairs = (),
        *,
        loopback: bool = False,
        loopback_ports: frozenset[int] = frozenset(),
        served: frozenset[tuple[Protocol, int]] = frozenset(),
    ) -> None:
        self._rules = policy.rules
        self._loopback = loopback or any(address == HOST_GATEWAY for _, address in hosts)
        self._loopback_ports = loopback_ports
        self._served = served
        self._flows: set[bytes] = set()
        self._names: dict[int, str] = {GATEWAY: HOST_NAME}
        self._learned: dict[int, set[int | None]] = {}
        """Ports open at an address because a name that is allowed led there; None for all."""
        self._log: dict[Reached, None] = {}
        self._more = 0
        for name, text in hosts:
            address = GATEWAY if text == HOST_GATEWAY else parse_address(text)
            if address is not None and (text == HOST_GATEWAY or not is_special(address)):
                self._learn(name.lower(), address)

    @property
    def log(self) -> EgressLog:
        """What happened so far."""
        return EgressLog(tuple(self._log), self._more)

    def judge(self, frame: bytes) -> Verdict:
        """Decide on a frame that the guest sent. What is not understood does not pass."""
        flow = flow_key(frame)
        if flow and flow in self._flows:
            return _PASS
        if is_arp_request(frame):
            return _PASS
        packet = read_packet(frame)
        if packet is None or is_group(packet.destination):
            return _DROP
        if self._answers_others(packet):
            return _PASS
        if packet.destination == RESOLVER and packet.protocol is Protocol.UDP and packet.port == _DNS:
            return self._question(packet)
        port = None if packet.fragment or packet.protocol is Protocol.ICMP else packet.port
        if packet.protocol is Protocol.ICMP and not packet.fragment:
            allowed = self._may_ping(packet.destination)
        else:
            allowed = self._may_reach(packet.destination, port)
        if not packet.fragment and (packet.protocol is not Protocol.TCP or packet.opens):
            self._note(packet, denied=not allowed)
        if not allowed:
            return Verdict(reply=refuse(packet))
        if packet.protocol is Protocol.UDP and port == _DNS:
            question = read_question(packet.payload)
            if question is not None:
                self._enter(Reached(question.name, "", _DNS, "dns"))
        elif port is not None and flow:
            if len(self._flows) >= _MOST_FLOWS:
                self._flows.clear()
            self._flows.add(flow)
        return _PASS

    def answer(self, packet: Packet, question: Question, answer: Answer) -> bytes:
        """The frame that answers a question the host was asked; what it found may be reached from now on."""
        usable = tuple(address for address in answer.addresses if not is_special(address))
        if question.kind == Kind.A:
            for address in usable:
                self._learn(question.name, address)
        return datagram(packet, write_answer(question, Answer(answer.code, usable)))

    def _answers_others(self, packet: Packet) -> bool:
        """Whether this goes from a port that was opened for others. A connection is theirs to open; of datagrams
        nobody can tell who began: they go only where clients are, and not where services of this host are."""
        if packet.fragment or (packet.protocol, packet.source_port) not in self._served:
            return False
        if packet.protocol is Protocol.TCP:
            return not packet.opens
        return packet.destination == GATEWAY and packet.port in ephemeral_ports()

    def _question(self, packet: Packet) -> Verdict:
        question = None if packet.fragment else read_question(packet.payload)
        if question is None:
            return _DROP
        name = question.name
        if name == HOST_NAME:
            opened = self._loopback or bool(self._loopback_ports) if self._rules is None else self._may_ping(GATEWAY)
            self._enter(Reached(name, "", _DNS, "dns", not opened))
            found = Answer(Code.FOUND, (GATEWAY,)) if opened else Answer(Code.UNKNOWN)
            return Verdict(reply=datagram(packet, write_answer(question, found)))
        allowed = self._rules is None or any(rule.allows_name(name) for rule in self._rules)
        self._enter(Reached(name, "", _DNS, "dns", not allowed))
        if not allowed:
            # Not REFUSED: programs would ask again and wait.
            return Verdict(reply=datagram(packet, write_answer(question, Answer(Code.UNKNOWN))))
        if question.kind in (Kind.A, Kind.AAAA):
            return Verdict(asked=(packet, question))
        if self._rules is None:
            return _PASS  # user networking asks the host's first nameserver
        return Verdict(reply=datagram(packet, write_answer(question, Answer(Code.FOUND))))

    def _may_reach(self, address: int, port: int | None) -> bool:
        if address == GATEWAY:
            if self._rules is None:
                return self._loopback or port in self._loopback_ports
        elif address == RESOLVER:
            return self._rules is None and port == _DNS
        elif is_special(address):
            return False
        if self._rules is None:
            return True
        learned = self._learned.get(address, set())
        if None in learned or (port is not None and port in learned):
            return True
        return any(rule.allows_address(address, port) for rule in self._rules)

    def _may_ping(self, address: int) -> bool:
        """An address of which any port may be reached may be asked whether it is there."""
        if self._rules is None or (is_special(address) and address != GATEWAY):
            return self._may_reach(address, None)
        return bool(self._learned.get(address)) or any(rule.allows_address(address, rule.port) for rule in self._rules)

    def _learn(self, name: str, address: int) -> None:
        if len(self._learned) + len(self._names) >= 2 * _MOST_LEARNED:
            return
        self._names[address] = name
        ports = {rule.port for rule in self._rules or () if rule.name and rule.allows_name(name)}
        if ports:
            self._learned.setdefault(address, set()).update(ports)

    def _note(self, packet: Packet, *, denied: bool) -> None:
        name = self._names.get(packet.destination, "")
        protocol = packet.protocol.name.lower()
        self._enter(Reached(name, dotted(packet.destination), packet.port, protocol, denied))

    def _enter(self, entry: Reached) -> None:
        if entry in self._log:
            return
        if len(self._log) < MOST_REACHED:
            self._log[entry] = None
        else:
            self._more += 1
