"""What a step prints cannot drive the terminal."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.progress.text import UNSHOWABLE, LineReader, clean, label
from mbuild.progress.units import duration, moved, size

_COLOUR = re.compile(r"\x1b\[[0-9;]{1,40}m")
_HOSTILE = st.lists(
    st.one_of(
        st.text(),
        st.sampled_from(
            ["\x1b", "\x1b[", "\x1b[2J", "\x1b]0;t\x07", "\x1bP", "\x1b\\", "\x9b31m", "m", ";", "38", "\r", "\x08"]
        ),
    )
).map("".join)


def _controls(text: str) -> str:
    return re.sub(r"[^\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", "", text)


@given(_HOSTILE)
def test_without_colour_no_control_character_is_left(text: str) -> None:
    assert _controls(clean(text)) == ""


@given(_HOSTILE)
def test_with_colour_only_colour_sequences_are_left(text: str) -> None:
    assert _controls(_COLOUR.sub("", clean(text, colour=True))) == ""


@given(_HOSTILE)
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(st.lists(st.binary(), max_size=8))
def test_any_bytes_in_any_pieces_give_harmless_lines(pieces: list[bytes]) -> None:
    reader = LineReader(colour=False)
    lines = [line for piece in pieces for line in [*reader.feed(piece), reader.partial]]
    assert _controls("".join([*lines, *reader.flush()])) == ""


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp"])), st.data())
def test_characters_cut_between_two_pieces_come_out_whole(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cut = data.draw(st.integers(0, len(encoded)))
    reader = LineReader(colour=False)
    lines = [*reader.feed(encoded[:cut]), *reader.feed(encoded[cut:] + b"\n")]
    assert lines == [text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1bcreset", "reset"),
        ("\x1b[6n\x1b[cno answer", "no answer"),
        ("ding\x07", "ding"),
        ("a\x08b", "b"),
        ("tab\there", "tab\there"),
        ("\x9b2J", f"{UNSHOWABLE}2J"),
        ("\u202eevil", f"{UNSHOWABLE}evil"),
        ("\x00", UNSHOWABLE),
        ("\x1b[31mred\x1b[0m", "red"),
    ],
)
def test_sequences_that_do_something_go(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ("31", "\x1b[31m"),
        ("", "\x1b[0m"),
        ("1;38;5;208", "\x1b[1;38;5;208m"),
        ("38;5;208;1", "\x1b[38;5;208;1m"),
        ("38;2;1;2;3", "\x1b[38;2;1;2;3m"),
        ("38:2:1:2:3", "\x1b[38;2;1;2;3m"),
        ("5;32", "\x1b[32m"),
        ("8", ""),
        ("38;5", ""),
        ("38;9;1", "\x1b[1m"),
        ("38;5;<1", ""),
        ("?25", ""),
    ],
)
def test_of_sgr_colours_and_weights_stay(parameters: str, kept: str) -> None:
    shown = clean(f"\x1b[{parameters}mx", colour=True)
    assert shown == (f"{kept}x\x1b[0m" if kept else "x")


def test_a_long_hostile_line_takes_no_long_time() -> None:
    started = time.perf_counter()
    for piece in ("\x1b]", "\x1b[", "\x1b[1;", "\x1bP1", "x\x08"):
        clean(piece * 50_000, colour=True)
    assert time.perf_counter() - started < 5


def test_of_a_progress_bar_the_last_state_stays() -> None:
    reader = LineReader(colour=False)
    assert reader.feed(b"10%\r20%") == []
    assert reader.partial == "20%"
    assert reader.feed(b"\r30%\r") == []
    assert reader.partial == "30%"
    assert reader.feed(b"\nnext\r\n") == ["30%", "next"]


def test_a_line_without_an_end_comes_in_pieces_and_is_not_held_in_memory() -> None:
    reader = LineReader(colour=False)
    lines = reader.feed(b"x" * 100_000)
    assert len(lines) == 6
    assert len("".join(lines)) + len(reader.partial) == 100_000


def test_a_rewritten_line_is_not_held_in_memory() -> None:
    reader = LineReader(colour=False)
    for _ in range(100):
        assert reader.feed(b"x" * 1000 + b"\r") == []
    assert reader.flush() == ["x" * 1000]


def test_a_cut_line_does_not_end_in_half_a_sequence() -> None:
    reader = LineReader(colour=True, longest=5)
    assert reader.feed(b"abc\x1b[31mdef\n") == ["abc"]


def test_of_many_lines_only_the_last_are_read_when_asked_so() -> None:
    assert LineReader(colour=False).feed(b"1\n2\n3\n4\n5", last=2) == ["3", "4"]


def test_the_end_of_a_cut_character_is_marked() -> None:
    reader = LineReader(colour=False)
    assert reader.feed(b"a\xe2\x82") == []
    assert reader.flush() == ["a" + UNSHOWABLE]
    assert reader.flush() == []


def test_a_label_is_one_line() -> None:
    assert label("RUN a \\\n   b\x1b[2J\tc") == "RUN a \\ b c"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (45_600_000, "45.6 MB"),
        (999_999_999, "1.0 GB"),
        (3e15, "3000.0 TB"),
    ],
)
def test_sizes_read_well(count: float, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-1, "0.0s"), (0.04, "0.0s"), (59.94, "59.9s"), (59.96, "1m00s"), (125, "2m05s"), (3725, "1h02m")],
)
def test_times_read_well(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_an_unknown_total_is_not_shown() -> None:
    assert (moved(5, None), moved(5, 2000)) == ("5 B", "5 B / 2.0 kB")
