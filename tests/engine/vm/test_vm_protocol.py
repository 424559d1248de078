"""Frames and values between the host and the agent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.vm import protocol
from engine.vm.protocol import Command, Decoder, Frame, Op, ProtocolError, Values, pack

HEADER = Path(protocol.__file__).with_name("agent") / "agent.h"
frames = st.builds(Frame, st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(max_size=300), st.booleans())


@given(st.lists(frames, max_size=6), st.integers(1, 40))
def test_frames_survive_any_cutting(sent: list[Frame], size: int) -> None:
    stream = b"".join(frame.encode() for frame in sent)
    decoder = Decoder()
    got = [frame for at in range(0, len(stream), size) for frame in decoder.feed(stream[at : at + size])]
    assert got == sent


@given(st.lists(st.integers(0, 2**64 - 1) | st.binary(max_size=50), max_size=8))
def test_values_come_out_as_they_went_in(values: list[int | bytes]) -> None:
    taken = Values(pack(values))
    assert [taken.number() if isinstance(value, int) else taken.data() for value in values] == values


@given(st.binary(max_size=40))
def test_names_of_any_bytes_survive_as_text(raw: bytes) -> None:
    text = raw.decode("utf-8", "surrogateescape")
    assert Values(pack([text])).data() == raw
    assert Values(pack([raw])).text() == text


@given(st.binary(max_size=60))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    values = Values(payload)
    try:
        values.data()
        values.number()
    except ProtocolError:
        return
    assert len(payload) >= 13


def test_a_frame_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(b"\xff" * 12))


def test_a_text_is_followed_by_a_nul_for_the_agent() -> None:
    assert pack(["ab"]) == b"\x02\0\0\0ab\0"
    with pytest.raises(ProtocolError):
        Values(b"\x02\0\0\0abX").data()


def test_a_command_becomes_a_frame_with_its_tag() -> None:
    assert Command(Op.SYNC, (), True).frame(9) == Frame(25, 9, b"", True)


def test_both_halves_agree_on_the_operations() -> None:
    named = dict(re.findall(r"OP_(\w+) = (\d+),", HEADER.read_text()))
    assert {op.name: str(op.value) for op in Op} == named


def test_both_halves_agree_on_the_version_and_the_port() -> None:
    text = HEADER.read_text()
    assert f"#define PROTOCOL_VERSION {protocol.PROTOCOL_VERSION}\n" in text
    assert f'#define PORT_NAME "{protocol.PORT_NAME}"\n' in text
