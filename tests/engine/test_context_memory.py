"""What is remembered of a context's files between builds, and what is hashed again all the same."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache import contexts
from cache.contexts import KEPT_DAYS, SAFE_AGE, ContextDigests, KnownContexts
from engine.context import Context
from engine.records import _listing
from machinefile.errors import MachinefileError
from machinefile.ignore import IgnoreRules

if TYPE_CHECKING:
    from conftest import Workshop

DAY = 86_400 * 10**9


class Place:
    """A context and the file of the store that remembers it, with a clock of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = folder / "context"
        self.root.mkdir()
        self.file = folder / "memory" / "file"
        self.temporary = folder
        self.later = 2 * SAFE_AGE
        """How far the clock is ahead of that of the file system, in nanoseconds."""
        self.read: list[str] = []
        real = Context._open

        def spy(context: Context, path: str) -> tuple[int, os.stat_result]:
            self.read.append(path)
            return real(context, path)

        monkeypatch.setattr(Context, "_open", spy)

    def digests(self) -> ContextDigests:
        return ContextDigests(self.file, self.temporary, lambda: time.time_ns() + self.later)

    def hash(self, *paths: str) -> tuple[list[str], list[str]]:
        """The digests of files in a build of their own, and which of them were read for that."""
        self.read.clear()
        digests = self.digests()
        context = Context(self.root, IgnoreRules(), digests)
        names = list(paths) or list(context.children(""))
        for name in names:
            assert context.entry(name) is not None
        context.hash_all(names)
        found = [context.digest(name) for name in names]
        digests.save()
        return found, sorted(self.read)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_a_file_that_did_not_change_is_not_read_again(place: Place) -> None:
    for name in ("a", "b"):
        (place.root / name).write_text(name)
    first, read = place.hash()
    assert read == ["a", "b"]
    assert place.hash() == (first, [])
    (place.root / "b").write_text("c")
    changed, read = place.hash()
    assert read == ["b"]
    assert changed[0] == first[0]
    assert changed[1] != first[1]
    assert place.hash() == (changed, [])


def test_a_change_that_keeps_size_and_mtime_is_seen(place: Place) -> None:
    path = place.root / "f"
    path.write_text("one")
    before = path.stat()
    (first,), _ = place.hash()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    (second,), read = place.hash()
    assert read == ["f"]
    assert second != first


def test_another_file_in_its_place_is_seen(place: Place) -> None:
    (place.root / "f").write_text("one")
    (place.root / "g").write_text("two")
    (one, two), _ = place.hash("f", "g")
    os.rename(place.root / "g", place.root / "f")
    (now,), _ = place.hash("f")
    assert now == two != one


@pytest.mark.parametrize("which", ["mtime", "ctime"])
def test_what_was_new_when_it_was_hashed_is_hashed_again(place: Place, which: str) -> None:
    """It may have been written to once more in the same tick of the file system's clock."""
    path = place.root / "f"
    path.write_text("one")
    if which == "ctime":
        os.utime(path, (1, 1))
        place.later = 0
    else:
        ahead = path.stat().st_mtime_ns + place.later
        os.utime(path, ns=(ahead, ahead))
    for _ in range(2):
        assert place.hash()[1] == ["f"]
    assert not place.file.exists()


def test_files_of_another_age_are_files_too(place: Place) -> None:
    """Nanoseconds before 1970, and more than 63 bits of them."""
    for name, seconds in (("before", -(2**31)), ("after", 2**34)):
        (place.root / name).write_text("x")
        os.utime(place.root / name, (seconds, seconds))
    place.hash("before", "after")
    assert place.hash("before", "after")[1] == ["after"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:-76],
        lambda data: b"another form\n" + data[13:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
        lambda data: os.urandom(1000),
    ],
)
def test_a_damaged_memory_is_no_memory(place: Place, damage: object) -> None:
    (place.root / "f").write_text("one")
    first, _ = place.hash()
    place.file.write_bytes(damage(place.file.read_bytes()))  # type: ignore[operator]
    assert place.hash() == (first, ["f"])
    assert place.hash() == (first, [])


def test_the_memory_may_go_at_any_time_and_may_be_impossible_to_write(place: Place) -> None:
    (place.root / "f").write_text("one")
    first, _ = place.hash()
    place.file.unlink()
    place.file.parent.rmdir()
    assert place.hash() == (first, ["f"])
    place.file.unlink()
    place.file.mkdir()
    assert place.hash() == (first, ["f"])


def test_two_builds_at_once_lose_nothing_of_each_other(place: Place) -> None:
    for name in ("a", "b"):
        (place.root / name).write_text(name)
    one, two = place.digests(), place.digests()
    for name, digests in (("a", one), ("b", two)):
        context = Context(place.root, IgnoreRules(), digests)
        context.entry(name)
        context.digest(name)
    one.save()
    two.save()
    assert place.hash()[1] == []


def test_what_is_learned_later_on_a_day_counts_and_nothing_else_is_lost(place: Place) -> None:
    for name in ("a", "b"):
        (place.root / name).write_text(name)
    place.hash()
    digests = place.digests()
    status = (place.root / "a").stat()
    digests.learn(status, b"c" * 32, digests.now())
    digests.save()
    known = place.digests()
    assert known.take(contexts.stamp_of(status)) == b"c" * 32
    assert known.take(contexts.stamp_of((place.root / "b").stat())) is not None


def test_what_nobody_asks_for_is_forgotten_and_what_is_asked_for_stays(place: Place) -> None:
    for name in ("old", "used"):
        (place.root / name).write_text(name)
    place.hash()
    size = place.file.stat().st_size
    for _ in range(4):
        place.later += KEPT_DAYS // 2 * DAY
        assert place.hash("used")[1] == []
    (place.root / "new").write_text("new")
    place.hash("new")
    assert place.file.stat().st_size == size
    assert place.hash("used", "old")[1] == ["old"]


def test_there_is_a_limit_to_what_is_remembered(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MOST_FILES", 3)
    for number in range(9):
        (place.root / str(number)).write_text(str(number))
    place.hash()
    assert len(place.hash()[1]) == 6
    monkeypatch.setattr(contexts, "MOST_FILES", 2)
    assert len(place.hash()[1]) == 9, "a file that is too large is not read at all"


def test_it_holds_neither_names_nor_contents(place: Place) -> None:
    (place.root / "name-of-file").write_text("what is in the file")
    place.hash()
    data = place.file.read_bytes()
    assert b"name-of" not in data
    assert b"what is in" not in data


def test_folders_are_remembered_apart_by_their_real_path(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    known = KnownContexts(tmp_path / "contexts", tmp_path)
    files = [known.of(tmp_path / name)._path for name in ("one", "link", "two")]
    assert files[0] == files[1] != files[2]


def test_many_files_are_hashed_as_one_by_one(place: Place) -> None:
    for number in range(300):
        (place.root / f"{number:03}").write_text(str(number))
    (place.root / "large").write_bytes(b"l" * (3 << 20))
    together, read = place.hash()
    assert len(read) == 301
    context = Context(place.root, IgnoreRules())
    assert [context.digest(name) for name in context.children("")] == together


def test_one_of_many_that_cannot_be_read_fails_them_all(place: Place) -> None:
    for number in range(300):
        (place.root / f"{number:03}").write_text(str(number))
    context = Context(place.root, IgnoreRules())
    names = context.children("")
    (place.root / "200").unlink()
    (place.root / "200").symlink_to("201")
    with pytest.raises(MachinefileError) as caught:
        context.hash_all(names)
    assert caught.value.code == "context-unreadable"


def test_threads_that_hash_a_file_somebody_writes_to_agree_on_one_content(place: Place) -> None:
    (place.root / "f").write_text("one")
    context = Context(place.root, IgnoreRules())
    start, found = threading.Barrier(4, timeout=30), []

    def work() -> None:
        start.wait()
        (place.root / "f").write_text(threading.current_thread().name)
        found.append(context.digest("f"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_what_is_ignored_is_neither_opened_nor_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("kept/f", "kept/x.log", "node_modules/a/b", "deep/node_modules/c"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    os.mkfifo(tmp_path / "pipe.log")
    opened: list[str] = []
    real_open, real_scandir = os.open, os.scandir

    def spied_open(path: str, flags: int) -> int:
        opened.append(os.path.relpath(path, tmp_path))
        return real_open(path, flags)

    def spied_scandir(path: str) -> object:
        opened.append(os.path.relpath(path, tmp_path))
        return real_scandir(path)

    context = Context(tmp_path, IgnoreRules.parse("**/*.log\n**/node_modules\n"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", spied_open)
        patched.setattr(os, "scandir", spied_scandir)
        listed = _listing(context, "", None)
    assert sorted(opened) == [".", "deep", "kept", "kept/f"]
    assert [entry[0] for entry in listed if isinstance(entry, tuple)] == ["", "deep", "kept", "kept/f"]


def test_a_build_remembers_and_the_next_reads_nothing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.write("src/f", "1")
    text = "FROM base\nCOPY src /src\n"
    (workshop.context / "src/f").chmod(0o644)
    monkeypatch.setattr(contexts, "SAFE_AGE", -DAY)
    first = workshop.build(text)
    monkeypatch.setattr(Context, "_open", lambda context, path: pytest.fail(f"{path} was read"))
    again = workshop.build(text)
    assert (again.run, again.digest) == (0, first.digest)
    (kept,) = (workshop.store.root / "contexts").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o644


def test_a_file_that_was_remembered_may_not_change_while_it_is_built(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.write("f", "one")
    workshop.write("g", "one")
    monkeypatch.setattr(contexts, "SAFE_AGE", -DAY)
    workshop.build("FROM base\nCOPY f /f\n")
    behave = workshop.sandbox._behave
    workshop.sandbox._behave = lambda execution: (workshop.write("f", "two"), behave(execution))[1]
    with pytest.raises(MachinefileError) as caught:
        workshop.build("FROM base\nRUN write a b\nCOPY f /f\n")
    assert caught.value.code == "context-changed"


def test_the_store_tells_each_digest_once_and_the_context_keeps_it(place: Place) -> None:
    for name in ("a", "b"):
        (place.root / name).write_text(name)
    place.hash()
    context = Context(place.root, IgnoreRules(), known := place.digests())
    context.children("")
    first = [context.digest(name) for name in ("a", "b", "a")]
    assert first == [hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b", "a")]
    assert known.take(contexts.stamp_of((place.root / "a").stat())) is None
    (place.root / "a").write_text("c")
    with pytest.raises(MachinefileError) as caught:
        context.check("a")
    assert caught.value.code == "context-changed"
    context.check("b")
