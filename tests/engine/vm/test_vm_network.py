"""What microVMs reach and what they do not. All servers are on this machine, and no name leaves it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from vm_support import NetworkMode, Runner

from engine.vm.execution import Execution, Result
from engine.vm.network import dns
from engine.vm.network import gate as gate_module
from engine.vm.network.rules import EgressPolicy, parse_rule
from machinefile.errors import HostError

pytestmark = pytest.mark.vm

PARK = "198.51.100.77"
"""An address for documentation (RFC 5737): nothing is there, and nothing is sent there."""


class Server:
    """Greets on every interface of this machine."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("0.0.0.0", 0))
        self.port: int = self._listener.getsockname()[1]
        self.served = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.served += 1
            with connection:
                connection.sendall(b"hello\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    """See Server."""
    made = Server()
    yield made
    made.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the host's resolver knows."""
    known: dict[str, str] = {}

    def look_up(name: bytes, *_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if name.decode() not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[name.decode()], 0))]

    monkeypatch.setattr(dns.socket, "getaddrinfo", look_up)
    return known


def own_address() -> str:
    """An address of this machine that is not its loopback interface's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((PARK, 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network interface")
        return str(probe.getsockname()[0])


def reach(run: Runner, script: str, **options: object) -> tuple[str, Result]:
    """Run a script; gives what it printed and how it ended."""
    printed: list[bytes] = []
    execution: Execution = run.execution(script, **options)
    with run.sandbox.execute(execution, lambda _, data: printed.append(data), threading.Event()) as result:
        return b"".join(printed).decode(), result


def policy(*rules: str) -> EgressPolicy:
    return EgressPolicy(tuple(map(parse_rule, rules)))


def told(result: Result) -> list[str]:
    """The log, short."""
    return [f"{'no ' * entry.denied}{entry.protocol} {entry}" for entry in result.egress.entries]


def test_what_a_step_reaches_is_written_down(run: Runner, server: Server, names: dict[str, str]) -> None:
    names["box.example"] = address = own_address()
    text, result = reach(run, f"nc box.example {server.port} </dev/null; nc -w 5 gone.example 1 </dev/null")
    assert text.splitlines()[0] == "hello"
    assert "bad address" in text
    assert told(result) == ["dns box.example", f"tcp box.example:{server.port} ({address})", "dns gone.example"]


def test_the_hosts_loopback_is_closed(run: Runner, server: Server) -> None:
    script = f"time nc -w 20 10.0.2.2 {server.port} </dev/null; nslookup host.mbuild.internal"
    text, result = reach(run, script)
    assert server.served == 0
    assert text.count("Connection refused") == 1
    assert all(float(line.split()[-1].rstrip("s")) < 5 for line in text.splitlines() if line.startswith("real"))
    assert "no tcp host.mbuild.internal" in "\n".join(told(result))


def test_only_what_is_allowed_gets_through(run: Runner, server: Server, names: dict[str, str]) -> None:
    address = own_address()
    names.update({"good.example": address, "evil.example": address})
    script = f"""nc evil.example {server.port} </dev/null; nc -w 20 {address} {server.port} </dev/null
        echo now; nc good.example {server.port} </dev/null; nc -w 20 good.example 1 </dev/null
        ping -c1 -w 5 {PARK} >/dev/null; nslookup good.example {PARK} >/dev/null; exit 3"""
    text, result = reach(run, script, egress=policy(f"good.example:{server.port}"))
    before, _, after = text.partition("now\n")
    assert "hello" not in before
    assert after.splitlines().count("hello") == 1
    assert server.served == 1
    assert result.code == 3
    assert [line for line in told(result) if not line.startswith("no")] == [
        "dns good.example",
        f"tcp good.example:{server.port} ({address})",
    ]
    denied = {str(entry) for entry in result.egress.denied}
    assert denied == {"evil.example", f"{address}:{server.port}", f"good.example:1 ({address})", PARK, f"{PARK}:53"}


def test_names_and_hosts_given_to_a_step(run: Runner, server: Server) -> None:
    hosts = (("me", "host-gateway"), ("six", "2001:db8::1"))
    text, _ = reach(run, f"tail -n2 /etc/hosts; nc me {server.port} </dev/null", hosts=hosts)
    assert text == "10.0.2.2\tme\n2001:db8::1\tsix\nhello\n"


def test_the_hosts_network_where_it_is_allowed(run: Runner, server: Server) -> None:
    script = f"nc host.mbuild.internal {server.port} </dev/null"
    text, _ = reach(run, script, network=NetworkMode.HOST, egress=EgressPolicy(host_network=True))
    assert text == "hello\n"


def test_without_a_network_nothing_is_sent_or_asked(run: Runner, server: Server, names: dict[str, str]) -> None:
    names["box.example"] = own_address()
    script = (
        f"nslookup box.example; nc -w 2 10.0.2.2 {server.port}; nc -w 2 {names['box.example']} {server.port}; exit 0"
    )
    text, result = reach(run, script, network=NetworkMode.NONE, hosts=(("me", "host-gateway"),))
    assert "hello" not in text
    assert server.served == 0
    assert result.egress.entries == ()


def test_when_the_judge_fails_the_network_is_closed_and_the_step_ends(
    run: Runner, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = gate_module.Gate.judge

    def break_down(gate: gate_module.Gate, frame: bytes) -> gate_module.Verdict:
        if frame[12:14] == b"\x08\x00" and frame[23] == 6:
            raise RuntimeError("a mistake in the judge")
        return judge(gate, frame)

    monkeypatch.setattr(gate_module.Gate, "judge", break_down)
    with pytest.raises(HostError) as caught:
        reach(run, f"nc {own_address()} {server.port} </dev/null; sleep 30")
    assert caught.value.code == "vm-died"
    assert "a mistake in the judge" in caught.value.message
    assert server.served == 0
