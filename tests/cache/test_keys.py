"""Keys: equal records have equal keys, different ones different keys."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import keys
from cache.keys import Record, Value

scalars = st.none() | st.booleans() | st.integers() | st.text()
values: st.SearchStrategy[Value] = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4).map(tuple))
records = st.builds(
    Record, st.text(max_size=8), st.lists(st.tuples(st.text(max_size=8), values), max_size=4).map(tuple)
)


def typed(value: object) -> object:
    """The value with its types beside it: in Python True equals 1."""
    if isinstance(value, tuple):
        return tuple(map(typed, value))
    return (type(value), value)


@given(records, records)
def test_two_records_share_a_key_only_when_they_are_the_same(one: Record, other: Record) -> None:
    same = typed(dataclasses.astuple(one)) == typed(dataclasses.astuple(other))
    assert (one.key() == other.key()) is same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("a b",)),
        (("ab", "c"), ("a", "bc")),
        ((), ("",)),
        (("",), ("", "")),
        ((("a",), "b"), ("a", ("b",))),
        (("1",), (1,)),
        ((True,), (1,)),
        ((None,), ("",)),
        (("a\0b",), ("a", "b")),
        (("s1:a",), ("a",)),
    ],
)
def test_values_that_look_alike_have_different_keys(one: Value, other: Value) -> None:
    assert Record("run", (("argv", one),)).key() != Record("run", (("argv", other),)).key()


def test_the_operation_and_the_names_of_fields_count() -> None:
    base = Record("run", (("argv", "x"),))
    assert base.key() != Record("copy", (("argv", "x"),)).key()
    assert base.key() != Record("run", (("user", "x"),)).key()


def test_the_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record("run", (("argv", ("true",)),))
    before = record.key()
    monkeypatch.setattr(keys, "VERSION", keys.VERSION + 1)
    assert Record("run", (("argv", ("true",)),)).key() != before, "a key is worked out once a record"


def test_text_that_is_not_unicode_has_a_key() -> None:
    assert Record("copy", (("path", "\udcff"),)).key() != Record("copy", (("path", "\ufffd"),)).key()


def test_a_long_value_counts_as_the_tuple_that_it_is() -> None:
    value: Value = ("a", ("b", 1, None), True)
    assert keys.canonical(keys.Long(value)) == keys.canonical(value)
    assert Record("copy", (("files", (keys.Long(value),)),)).key() == Record("copy", (("files", (value,)),)).key()


@given(values, st.sampled_from([0, 3, 999, 1000, 1001, 2500]))
def test_a_key_is_the_digest_of_the_canonical_bytes(value: Value, times: int) -> None:
    record = Record("copy", (("files", (value,) * times), ("value", value)))
    whole = keys.canonical(("mbuild", keys.VERSION, record.operation, record.fields))
    assert record.key() == f"sha256:{hashlib.sha256(whole).hexdigest()}"


def test_a_key_stays_what_it_was() -> None:
    """If this fails on purpose, raise keys.VERSION: results made before must not be found again."""
    record = Record("run", (("argv", ("/bin/sh", "-c", "true")), ("mounts", ()), ("user", ""), ("parent", None)))
    assert record.key() == "sha256:bb7231960bf347283b81f9389e0b2569290dda47b733f6dd26287e1f862c325f"
