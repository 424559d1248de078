"""The index: JSON in, JSON out, whatever somebody else put into its database."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.index import Index, Kind
from machinefile.errors import StoreError


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path / "index")
    yield made
    made.close()


def test_values_come_back_as_they_went_in(index: Index) -> None:
    index.put(Kind.RESULT, "k", {"steps": [None, ["a", 1]], "text": "\u00e9"})
    assert index.get(Kind.RESULT, "k") == {"steps": [None, ["a", 1]], "text": "\u00e9"}
    assert index.get(Kind.CONTENT, "k") is None
    assert list(index.keys(Kind.RESULT)) == ["k"]
    index.drop(Kind.RESULT, "k")
    assert index.get(Kind.RESULT, "k") is None


def test_another_process_sees_what_was_put(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    other = Index(tmp_path / "index")
    assert other.get(Kind.RESULT, "k") == [1]
    other.close()


def test_a_large_value_is_kept(index: Index) -> None:
    value = ["x" * 1000] * 5000
    index.put(Kind.RECORD, "k", value)
    assert index.get(Kind.RECORD, "k") == value


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (pytest.fail, ("a pickle from the store was run",))


def _set_row(folder: Path, column: str, value: object) -> None:
    database = sqlite3.connect(folder / "cache.db")
    with database:
        database.execute(f"UPDATE Cache SET {column} = ?", (value,))
    database.close()


def test_a_pickle_in_the_database_is_never_run(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    index.close()
    _set_row(tmp_path / "index", "value", pickle.dumps(_Bomb()))
    _set_row(tmp_path / "index", "mode", 4)
    assert index.get(Kind.RESULT, "k") is None


def test_a_pickled_key_in_the_database_is_never_run(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    index.close()
    _set_row(tmp_path / "index", "key", pickle.dumps(_Bomb()))
    _set_row(tmp_path / "index", "raw", 0)
    assert list(index.keys(Kind.RESULT)) == []


def test_a_value_that_is_not_json_counts_as_missing(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    index.close()
    _set_row(tmp_path / "index", "value", b"\xff\x00 not json")
    assert index.get(Kind.RESULT, "k") is None


def test_a_row_that_points_at_a_file_reads_no_file(index: Index, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("[1]")
    index.put(Kind.RESULT, "k", [2])
    index.close()
    _set_row(tmp_path / "index", "mode", 2)
    _set_row(tmp_path / "index", "filename", "../secret")
    assert index.get(Kind.RESULT, "k") is None


def test_a_damaged_database_is_set_aside_and_begun_anew(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    index.close()
    for path in (tmp_path / "index").iterdir():
        path.write_bytes(b"this is no database" * 1000)
    assert index.get(Kind.RESULT, "k") is None
    index.put(Kind.RESULT, "k", [2])
    assert index.get(Kind.RESULT, "k") == [2]
    assert len(list(tmp_path.glob("index.damaged.*"))) == 1


def test_an_index_that_somebody_holds_is_busy(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    index._opened()._timeout = 0.1
    index._opened()._local.__dict__.clear()  # the connection has the old one
    holder = sqlite3.connect(tmp_path / "index" / "cache.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StoreError, match="the store's index is busy") as caught:
            index.put(Kind.RESULT, "k", [2])
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert caught.value.code == "store-failed"
    index.put(Kind.RESULT, "k", [2])
