"""--ssh, and what a step may ask of an agent."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sshagent import AgentScreen, AgentSource, check_agents, parse_agent
from machinefile.errors import MachinefileError, UsageError
from machinefile.imageconfig import ImageConfig
from machinefile.platform import native
from machinefile.steps import BuildGraph, Mount, MountType, Run, Step

LIST, ADD, SIGN = b"\0\0\0\1\x0b", b"\0\0\0\x05\x11keys", b"\0\0\0\x05\x0ddata"
REFUSED = b"\0\0\0\1\xff"


@given(st.lists(st.integers(1, 4)))
def test_listing_and_signing_pass_and_all_else_becomes_what_no_agent_knows(cuts: list[int]) -> None:
    sent, out, screen = LIST + ADD + SIGN + b"\0\0\0\1\x13" + LIST, b"", AgentScreen()
    for cut in cuts:
        out += screen.pass_on(sent[:cut])
        sent = sent[cut:]
    out += screen.pass_on(sent)
    assert out == LIST + REFUSED + SIGN + REFUSED + LIST


def test_a_message_of_no_length_is_dropped() -> None:
    assert AgentScreen().pass_on(b"\0\0\0\0" + LIST) == LIST


def test_the_forms_of_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, other, agent = tmp_path / "k", tmp_path / "l", tmp_path / "s"
    key.write_text("")
    other.write_text("")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(agent))
        assert parse_agent(f"default={agent}") == AgentSource("default", socket=str(agent))
        assert parse_agent(f"git={key},{other}") == AgentSource("git", keys=(str(key), str(other)))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        assert parse_agent("default") == AgentSource("default", socket=str(agent))
        assert parse_agent("git") == AgentSource("git", socket=str(agent))
        with pytest.raises(UsageError) as mixed:
            parse_agent(f"a={agent},{key}")
        assert mixed.value.code == "ssh-invalid"
    with pytest.raises(UsageError) as missing:
        parse_agent(f"a={tmp_path}/none")
    assert missing.value.code == "ssh-missing"
    monkeypatch.delenv("SSH_AUTH_SOCK")
    with pytest.raises(UsageError) as unset:
        parse_agent("default")
    assert unset.value.code == "ssh-missing"


def test_only_a_mount_that_is_required_must_be_given() -> None:
    def graph(required: bool) -> BuildGraph:
        run = Run(("x",), (), "", "/", mounts=(Mount(MountType.SSH, "/s", id="git", required=required),))
        return BuildGraph("0", (Step("0.0", "0", "RUN x", run, None),), "0.0", ImageConfig(), native())

    check_agents(graph(False), ())
    check_agents(graph(True), (AgentSource("git"),))
    with pytest.raises(MachinefileError) as caught:
        check_agents(graph(True), (AgentSource("default"),))
    assert caught.value.code == "ssh-missing"
