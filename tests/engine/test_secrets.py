"""Secrets are found in whatever a build makes, however it is cut, and shown nowhere."""

from __future__ import annotations

import io
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.layers.entry import Entry, EntryType
from engine.layers.tarwrite import Item, write_layer
from engine.secrets import SHORTEST, Finder, MaskedOutput, Masker, Secrets
from machinefile.errors import StepError

LETTERS = st.sampled_from(b"ab")
NEEDLE = st.lists(LETTERS, min_size=SHORTEST, max_size=9).map(bytes)
TEXT = st.lists(st.one_of(st.lists(LETTERS, max_size=6).map(bytes), NEEDLE, st.just(b"\n")), max_size=12).map(b"".join)


def _secrets(values: list[bytes]) -> Secrets:
    return Secrets(tuple((f"s{number}", value) for number, value in enumerate(values)))


def _cut(text: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(marks)]


def _masked(secrets: Secrets, parts: list[bytes]) -> tuple[bytes, bool]:
    masker = Masker(secrets)
    shown = b"".join([*(masker.feed(part) for part in parts), masker.finish()])
    return shown, masker.found is not None


def _covered(text: bytes, needles: list[bytes]) -> bytes:
    """The plain way: every byte that belongs to some secret, marked; runs that overlap are one mask."""
    starts: dict[int, int] = {}
    for needle in needles:
        for at in range(len(text) - len(needle) + 1):
            if text.startswith(needle, at):
                starts[at] = max(starts.get(at, 0), at + len(needle))
    shown, end = bytearray(), 0
    for at in range(len(text)):
        if at in starts:
            if at >= end:
                shown += b"***"
            end = max(end, starts[at])
        if at >= end:
            shown.append(text[at])
    return bytes(shown)


@given(st.lists(NEEDLE, min_size=1, max_size=3), TEXT, st.lists(st.integers(0, 200), max_size=8))
def test_a_stream_is_masked_the_same_however_it_is_cut(needles: list[bytes], text: bytes, places: list[int]) -> None:
    shown, found = _masked(_secrets(needles), _cut(text, places))
    assert shown == _covered(text, needles)
    assert found == any(needle in text for needle in needles)
    assert not any(needle in shown for needle in needles)


@given(st.lists(NEEDLE, min_size=1, max_size=3), TEXT, st.lists(st.integers(0, 200), max_size=8))
def test_a_finder_finds_what_is_there_however_it_is_cut(needles: list[bytes], text: bytes, places: list[int]) -> None:
    finder = Finder(_secrets(needles))
    found = [finder.feed(part) for part in _cut(text, places)]
    assert any(secret_id is not None for secret_id in found) == any(needle in text for needle in needles)


@pytest.mark.parametrize(
    ("value", "needle"),
    [
        (b"secret-1\n", b"secret-1"),
        (b"secret-1\r\n", b"secret-1"),
        (b"secret-1\n\n", b"secret-1\n"),
        (b"12345\n", None),
    ],
)
def test_one_end_of_a_line_is_left_out_and_what_is_short_is_not_looked_for(value: bytes, needle: bytes | None) -> None:
    secrets = Secrets((("a", value),))
    assert secrets.needles == ((("a", needle),) if needle is not None else ())
    assert secrets.too_short == (() if needle is not None else ("a",))


def test_nothing_waits_that_no_secret_begins_with() -> None:
    shown: list[tuple[int, bytes]] = []
    output = MaskedOutput(Secrets((("a", b"secret-1"),)), lambda stream, data: shown.append((stream, data)))
    with output:
        output.write(1, b"line\nsec")
        output.write(2, b"ret-1\n")
        assert shown == [(1, b"line\n"), (2, b"ret-1\n")], "the streams are apart"
        output.write(1, b"ond\n")
    assert shown[2:] == [(1, b"second\n")]
    output.check()


def test_what_waits_is_shown_at_the_end() -> None:
    shown: list[bytes] = []
    with MaskedOutput(Secrets((("a", b"secret-1"),)), lambda _, data: shown.append(data)) as _:
        pass
    masked = MaskedOutput(Secrets((("a", b"secret-1"),)), lambda _, data: shown.append(data))
    with masked:
        masked.write(1, b"secret")
    assert shown == [b"secret"]


@pytest.mark.parametrize(
    ("entry", "content", "place"),
    [
        (Entry("d/f", EntryType.FILE, 0o644, size=30), b"x" * 11 + b"secret-1" + b"x" * 11, "/d/f"),
        (Entry("d/l", EntryType.SYMLINK, 0o777, link="a/secret-1"), b"", "/d/l"),
        (Entry("d/secret-1", EntryType.DIRECTORY, 0o755), b"", "/d/***"),
        (Entry("f", EntryType.FILE, 0o644, xattrs=(("user.x", b"my secret-1"),)), b"", "/f"),
        (Entry("secret-1", EntryType.WHITEOUT, 0), b"", "/***"),
    ],
)
def test_a_layer_with_a_secret_is_not_written(entry: Entry, content: bytes, place: str) -> None:
    secrets = Secrets((("token", b"secret-1\n"),))
    item = Item(entry, (lambda: io.BytesIO(content)) if content else None)
    with pytest.raises(StepError) as caught:
        write_layer(map(secrets.guard, [item]), io.BytesIO())
    assert caught.value.code == "secret-leaked"
    assert place in caught.value.message
    assert "'token'" in caught.value.message
    assert "secret-1" not in caught.value.message + caught.value.hint


def test_a_layer_without_a_secret_is_written_as_it_is() -> None:
    item = Item(Entry("f", EntryType.FILE, 0o644, size=7), lambda: io.BytesIO(b"content"))
    plain, guarded = io.BytesIO(), io.BytesIO()
    write_layer([item], plain)
    write_layer([Secrets((("a", b"secret-1"),)).guard(item)], guarded)
    assert plain.getvalue() == guarded.getvalue()


def test_looking_takes_no_time_to_speak_of() -> None:
    finder = Finder(Secrets(tuple((str(n), f"secret number {n}".encode()) for n in range(4))))
    chunk = b"some bytes of a file\n" * 50_000
    begun = time.process_time()
    for _ in range(100):
        finder.feed(chunk)
    assert time.process_time() - begun < 5, "100 MB"


def test_secrets_show_themselves_nowhere() -> None:
    assert "secret-1" not in repr(Secrets((("a", b"secret-1"),)))
