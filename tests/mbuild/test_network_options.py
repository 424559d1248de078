"""The options about the network, Docker's proxies, and what is shown and written of what steps reached."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from engine.events import Event, NetworkReached, Reached
from engine.vm.network.rules import EgressPolicy
from machinefile.errors import UsageError
from mbuild.arguments import Parser, add_step_options
from mbuild.egresslog import EgressRecord
from mbuild.network import add_network_options, configured_proxies, egress_policy
from mbuild.progress.plain import Plain
from mbuild.progress.rawjson import RawJson
from mbuild.progress.stream import Screen

TOLD = NetworkReached(
    "b.1",
    "[b 2/2] RUN make",
    (
        Reached("deb.example", "", 53, "dns"),
        Reached("deb.example", "198.51.100.7", 80, "tcp"),
        Reached("", "203.0.113.9", 0, "icmp"),
        Reached("evil.ex\x1b[2Jample", "", 53, "dns", denied=True),
        Reached("", "10.0.2.2", 22, "tcp", denied=True),
    ),
    3,
)


def policy(*words: str) -> EgressPolicy:
    parser = Parser()
    add_network_options(parser)
    add_step_options(parser)
    return egress_policy(parser.parse_args(words))


def test_without_options_there_are_no_rules() -> None:
    assert policy() == EgressPolicy(None)
    assert policy("--allow", "network.host") == EgressPolicy(None, host_network=True)
    assert len(policy("--allow-net", "a.example", "--allow-net", "b.example:80").rules or ()) == 2


@pytest.mark.parametrize("value", ["device", "network", ""])
def test_nothing_else_can_be_allowed(value: str) -> None:
    with pytest.raises(UsageError, match="invalid choice"):
        policy("--allow", value)


def test_proxies_come_from_dockers_configuration(tmp_path: Path) -> None:
    environ = {"DOCKER_CONFIG": str(tmp_path)}
    assert configured_proxies(environ) == {}
    settings = {"httpProxy": "http://p.example:1", "noProxy": "a,b", "allProxy": "", "ftpProxy": None}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": settings}, "auths": {}}))
    assert configured_proxies(environ) == {"HTTP_PROXY": "http://p.example:1", "NO_PROXY": "a,b"}
    assert configured_proxies({"HTTP_PROXY": "http://not.asked:1", "HOME": str(tmp_path / "nobody")}) == {}


@pytest.mark.parametrize("text", ['{"proxies"', '{"proxies": []}', '{"proxies": {"default": {"httpProxy": 1}}}'])
def test_proxies_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        configured_proxies({"DOCKER_CONFIG": str(tmp_path)})
    assert caught.value.code == "docker-config-invalid"


def test_a_step_s_network_is_a_line_each() -> None:
    stream = io.StringIO()
    with Plain(Screen(stream)) as display:
        display(TOLD)
    assert stream.getvalue().splitlines() == [
        "#1 [b 2/2] RUN make",
        "#1 reached deb.example:80 (198.51.100.7)",
        "#1 reached 203.0.113.9",
        "#1 denied evil.example",
        "#1 denied 10.0.2.2:22",
        "#1 reached for 3 more",
    ]


def test_programs_get_the_fields() -> None:
    stream = io.StringIO()
    with RawJson(Screen(stream), clock=lambda: 1.0) as display:
        display(TOLD)
    record = json.loads(stream.getvalue())
    assert record["type"] == "network_reached"
    assert record["entries"][1] == {
        "name": "deb.example",
        "address": "198.51.100.7",
        "port": 80,
        "protocol": "tcp",
        "denied": False,
    }


def test_the_log_keeps_everything_and_passes_events_on() -> None:
    seen: list[Event] = []
    record = EgressRecord(seen.append)
    record(TOLD)
    assert seen == [TOLD]
    lines = [json.loads(line) for line in record.lines().splitlines()]
    assert [line.get("protocol") for line in lines] == ["dns", "tcp", "icmp", "dns", "tcp", None]
    assert lines[-1] == {"step": "b.1", "label": "[b 2/2] RUN make", "more": 3}
    (fact,) = record.facts()
    assert fact["more"] == 3
