"""The index: JSON in, JSON out, whatever somebody else put into its database."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
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


def test_an_entry_that_stands_under_another_key_counts_as_missing(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "a", ["of a"])
    index.put(Kind.RESULT, "b", ["of b"])
    index.close()
    database = sqlite3.connect(tmp_path / "index" / "cache.db")
    with database:
        ((value,),) = database.execute("SELECT value FROM Cache WHERE key = 'result:a'").fetchall()
        database.execute("UPDATE Cache SET value = ? WHERE key = 'result:b'", (value,))
    database.close()
    assert index.get(Kind.RESULT, "a") == ["of a"]
    assert index.get(Kind.RESULT, "b") is None
    assert not index.is_sound(Kind.RESULT, "b")
    assert index.is_sound(Kind.RESULT, "a")
    assert index.is_sound(Kind.RESULT, "nothing")


def test_an_entry_from_before_there_were_checksums_is_still_read(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    index.close()
    _set_row(tmp_path / "index", "value", b'{"steps":[]}')
    assert index.get(Kind.RESULT, "k") == {"steps": []}
    assert index.is_sound(Kind.RESULT, "k")


def _garbage(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"this is no database" * 1000)


def _cut(folder: Path) -> None:
    with (folder / "cache.db").open("r+b") as file:
        file.truncate(5000)


def _empty(folder: Path) -> None:
    (folder / "cache.db").write_bytes(b"")


def _other_tables(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    database = sqlite3.connect(folder / "cache.db")
    with database:
        database.execute("CREATE TABLE Cache (something TEXT)")
    database.close()


def _settings(folder: Path) -> None:
    database = sqlite3.connect(folder / "cache.db")
    with database:
        database.execute("INSERT INTO Settings VALUES ('disk_nonsense', 'x')")
    database.close()


def _removed(folder: Path) -> None:
    shutil.rmtree(folder)


def _no_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def _no_file(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder / "cache.db").mkdir(parents=True)


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize(
    "harm",
    [_garbage, _cut, _empty, _other_tables, _settings, _removed, _no_folder, _no_file],
    ids=lambda harm: harm.__name__,
)
def test_whatever_becomes_of_the_database_the_index_goes_on(
    index: Index, tmp_path: Path, harm: Callable[[Path], None], is_open: bool
) -> None:
    other = Index(tmp_path / "index")
    for number in range(200):
        index.put(Kind.RESULT, f"k{number}", ["x" * 200])
    other.put(Kind.RESULT, "k1", [])
    assert other.get(Kind.RESULT, "k0") is not None
    if not is_open:
        index.close()
        other.close()
    harm(tmp_path / "index")
    for one in (index, other, index):
        one.get(Kind.RESULT, "k0")
        one.put(Kind.RESULT, "new", [1])
    assert other.get(Kind.RESULT, "new") == [1]
    assert index.get(Kind.RESULT, "new") == [1]
    other.close()


def _unlinked(folder: Path) -> None:
    (folder / "cache.db").unlink()


@pytest.mark.parametrize("only_reads", [False, True], ids=["writer", "reader"])
@pytest.mark.parametrize("harm", [_empty, _unlinked], ids=lambda harm: harm.__name__)
def test_who_opens_what_was_emptied_under_another_waits_for_nobody(
    index: Index, tmp_path: Path, harm: Callable[[Path], None], only_reads: bool
) -> None:
    """The other's locks stay, on a database that sqlite would make anew."""
    index.put(Kind.RESULT, "old", [1])
    if only_reads:
        index.close()
    assert index.get(Kind.RESULT, "old") == [1]
    harm(tmp_path / "index")
    newcomer = Index(tmp_path / "index")
    try:
        assert newcomer.get(Kind.RESULT, "old") is None
        newcomer.put(Kind.RESULT, "new", [2])
        assert index.get(Kind.RESULT, "new") == [2]
        index.put(Kind.RESULT, "newer", [3])
        assert newcomer.get(Kind.RESULT, "newer") == [3]
    finally:
        newcomer.close()


def test_those_who_make_a_database_at_once_make_one(tmp_path: Path) -> None:
    makers = [Index(tmp_path / "index") for _ in range(6)]
    start = threading.Barrier(len(makers))

    def use(number: int) -> None:
        start.wait()
        makers[number].put(Kind.RESULT, str(number), [number])

    threads = [threading.Thread(target=use, args=(number,)) for number in range(len(makers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*makers[0].keys(Kind.RESULT)} == {str(number) for number in range(len(makers))}
    assert makers[0].set_aside() == ()
    for one in makers:
        one.close()


def test_one_process_may_set_a_database_aside_more_than_once(index: Index, tmp_path: Path) -> None:
    for number in range(3):
        index.put(Kind.RESULT, "k", [number])
        index.close()
        _garbage(tmp_path / "index")
        assert index.get(Kind.RESULT, "k") is None
    assert len(index.set_aside()) == 3
    assert all(path.name.startswith("index.damaged.") for path in index.set_aside())


def test_two_that_find_the_same_damage_set_one_database_aside(index: Index, tmp_path: Path) -> None:
    others = [Index(tmp_path / "index") for _ in range(4)]
    for one in others:
        one.put(Kind.RESULT, "k", [1])
    _garbage(tmp_path / "index")
    start = threading.Barrier(len(others))

    def use(one: Index) -> None:
        start.wait()
        one.put(Kind.RESULT, "k", [2])

    threads = [threading.Thread(target=use, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.get(Kind.RESULT, "k") for one in others] == [[2]] * len(others)
    assert len(index.set_aside()) == 1
    for one in others:
        one.close()


def test_what_another_process_set_aside_is_written_to_no_more(index: Index, tmp_path: Path) -> None:
    index.put(Kind.RESULT, "k", [1])
    (tmp_path / "index").rename(tmp_path / "index.damaged.x")
    index.put(Kind.RESULT, "k", [2])
    other = Index(tmp_path / "index")
    assert other.get(Kind.RESULT, "k") == [2]
    other.close()


def test_a_disk_that_is_full_is_no_damage(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """sqlite has rolled back by itself then, and diskcache fails at doing so again."""
    import diskcache

    def write(cache: diskcache.Cache, name: str, value: bytes) -> None:
        with cache.transact():
            cache._sql("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")

    index.put(Kind.RESULT, "old", 1)
    monkeypatch.setattr(diskcache.Cache, "set", write)
    with pytest.raises(StoreError) as caught:
        index.put(Kind.RESULT, "new", 1)
    assert caught.value.code == "store-full"
    assert index.get(Kind.RESULT, "old") == 1
    assert index.set_aside() == ()


@pytest.mark.parametrize(("free", "code"), [(0, "store-full"), (1 << 30, "store-failed")])
def test_a_disk_that_fails_because_it_is_full_is_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: str
) -> None:
    def fail(folder: Path) -> object:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("cache.index.open_cache", fail)
    monkeypatch.setattr("cache.reserve.free_bytes", lambda folder: free)
    with pytest.raises(StoreError) as caught:
        Index(tmp_path / "index").put(Kind.RESULT, "k", 1)
    assert caught.value.code == code


def test_many_entries_go_in_parts_where_there_is_no_room_for_all_at_once(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        index.put(Kind.RESULT, str(number), number)
    most = 3

    class Narrow(sqlite3.Connection):
        def executemany(self, sql: str, names: list[tuple[str]]) -> sqlite3.Cursor:  # type: ignore[override]
            if len(names) > most:
                raise sqlite3.OperationalError("database or disk is full")
            return super().executemany(sql, names)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Narrow))
    index.drop_all((Kind.RESULT, str(number)) for number in range(9))
    assert list(index.keys(Kind.RESULT)) == ["9"]
    most = 0
    with pytest.raises(StoreError):
        index.drop_all([(Kind.RESULT, "9")])
