"""Records of copies of very many files, whose bytes and JSON are made in pieces."""

import hashlib
import json
import tracemalloc

import pytest

from cache import keys, records
from cache.keys import Long, Record, Value, canonical


def files(count: int) -> tuple[Value, ...]:
    return tuple((f"folder/{number}", "file", 0o644, f"{number:064x}") for number in range(count))


def record_of(listed: Value) -> Record:
    return Record("copy", (("parent", None), ("files", (("src", listed),)), ("empty", ()), ("link", False)))


def one_tuple(value: Value) -> bytes:
    """What a key is made of, each tuple put together by itself."""
    if not isinstance(value, tuple):
        return canonical(value)
    content = b"".join(map(one_tuple, value))
    return b"t%d:%s" % (len(content), content)


@pytest.mark.parametrize("count", [0, 1, keys._MANY, keys._MANY + 1, 2 * keys._MANY + 7])
@pytest.mark.parametrize("kind", [Long, tuple])
def test_a_key_is_the_same_however_long_the_listing_is(kind: type, count: int) -> None:
    record = record_of(kind(files(count)))
    whole = ("mbuild", keys.VERSION, record.operation, record.fields)
    assert record.key() == "sha256:" + hashlib.sha256(one_tuple(whole)).hexdigest()


@pytest.mark.parametrize("count", [0, 1, records._AT_ONCE, 2 * records._AT_ONCE + 1])
def test_the_json_in_pieces_is_that_of_the_whole(count: int) -> None:
    whole = record_of(Long(files(count))).to_json()
    text = json.dumps(whole, separators=(",", ":"), sort_keys=True).encode()
    assert b"".join(records._texts(whole)) == text


@pytest.mark.parametrize("count", [1, 5000])
def test_a_record_is_read_as_it_was_kept(count: int) -> None:
    record = record_of(Long(files(count)))
    kept = records.unpack(json.loads(json.dumps(records.pack(record, "COPY src /"))))
    assert kept is not None
    assert dict(kept.fields) == dict(record.fields)
    assert kept.instruction == "COPY src /"
    assert kept.large == (count > 1)


def test_what_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(Long(files(500)))
    size = len(b"".join(records._texts(record.to_json())))
    monkeypatch.setattr(records, "MAX_BYTES", size)
    assert records.pack(record) is not None
    monkeypatch.setattr(records, "MAX_BYTES", size - 1)
    assert records.pack(record) is None


def test_packing_holds_little_more_than_what_comes_of_it() -> None:
    record = record_of(Long(files(20_000)))
    records.pack(record)  # imports what it needs
    tracemalloc.start()
    try:
        packed = records.pack(record)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert packed is not None
    assert peak < 2_500_000, "the JSON has 1.9 MB, as text and once more as bytes if it is made at once"
