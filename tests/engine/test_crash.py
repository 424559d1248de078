"""What death, a full disk and a failing one leave: nothing that the next build does not put right.

Builds run in forked children, which have imported everything, so that a hundred of them take seconds.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from cache.finding import Finding
from cache.store import Store
from engine.output.spec import parse_output
from engine.storecheck import StoreCheck
from engine.vm.execution import Execution
from engine.vm.fake import FakeSandbox
from machinefile.errors import MbuildError, StoreError

if TYPE_CHECKING:
    from conftest import Workshop

SPEC = """\
FROM base AS build
RUN write out/made made
FROM base
WORKDIR /srv
COPY --from=build /out /srv/out
COPY . .
RUN write srv/last last
"""
NAME = "docker.io/library/app:latest"
KILLS = 100
_FINE, _WRONG = 0, 7
_DIED = 99


def in_child(work: Callable[[], None]) -> int:
    """Fork; the child's exit code is that of `work`: 0, or 7 with what went wrong on standard error."""
    child = os.fork()
    if child:
        return child
    code = _WRONG
    try:
        work()
        code = _FINE
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def outcome(child: int) -> int:
    """The exit code of a child; negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def quiet(workshop: Workshop) -> Workshop:
    """A workshop whose own store is closed: forked children must not inherit its locks."""
    workshop.store.__exit__()
    for number in range(3):
        workshop.write(f"src/{number}.c", f"int x{number};" * 200)
    return workshop


def build(workshop: Workshop, root: Path, out: Path | None = None, *, spec: str = SPEC, jobs: int = 1) -> str:
    """Build in a store of its own and give the image's digest."""
    outputs = (parse_output(f"type=oci,dest={out},tar=false"),) if out else ()
    with Store(root) as store:
        workshop.store = store
        return workshop.build(spec, names=(NAME,), outputs=outputs, jobs=jobs).digest


def harms(root: Path) -> list[Finding]:
    with Store(root) as store:
        check = StoreCheck(store, lambda event: None, threading.Event())
        found = [finding for finding in check.run() if finding.harm.is_damage]
        mine = store.temporary
        assert [path for path in (root / "tmp").iterdir() if path != mine and path.name != ".sweep"] == []
    return found


def test_a_build_killed_at_a_hundred_moments_is_made_good_by_the_next(quiet: Workshop, tmp_path: Path) -> None:
    seed = int(os.environ.get("MBUILD_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
    print("MBUILD_TEST_SEED =", seed)
    chance = random.Random(seed)
    root, out = tmp_path / "killed", tmp_path / "out"
    right = build(quiet, root, out)
    quiet.write("src/new.c", "int timed;")
    begun = time.monotonic()
    build(quiet, root, out)
    takes = time.monotonic() - begun
    killed = 0
    for number in range(KILLS):
        quiet.write("src/new.c", f"int n{number};")  # each time there is something left to do
        child = in_child(lambda: build(quiet, root, out) and None)
        time.sleep(chance.uniform(0, takes))  # the moment is the point
        os.kill(child, signal.SIGKILL)
        code = outcome(child)
        assert code in (_FINE, -signal.SIGKILL)
        killed += code != _FINE
        takes *= 0.8 if code == _FINE else 1.02  # the machine may be busier, or less busy, than when it was measured
        if number % 20 == 19:
            assert build(quiet, root, out) == build(quiet, tmp_path / "fresh" / str(number))
            assert harms(root) == []
    assert killed > KILLS // 3, "most were killed before they ended"
    (quiet.context / "src" / "new.c").unlink()
    assert build(quiet, root, out) == right
    assert harms(root) == []


_CALLS = (
    *("fsync", "replace", "rename", "unlink", "link", "mkdir", "rmdir", "open", "write", "chmod", "truncate"),
    *("symlink",),
)
"""Functions of `os` that change a disk, or begin to."""


@dataclass
class Fault:
    """Counts the calls that change a disk, and does something at one of them."""

    at: int
    act: Callable[[], None]
    count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reach(self) -> None:
        with self._lock:
            self.count += 1
            now = self.count == self.at
        if now:
            self.act()


@contextmanager
def faults(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> Iterator[None]:
    """Every call of _CALLS, every write to a file and every change of the index comes by `fault`."""

    def wrapped(real: Callable[..., Any], changes: Callable[..., bool] = lambda *_, **__: True) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if changes(*args, **kwargs):
                fault.reach()
            return real(*args, **kwargs)

        return call

    def creates(path: object, flags: int, *_: object, **__: object) -> bool:
        return bool(flags & os.O_CREAT)

    with monkeypatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, wrapped(getattr(os, name), *([creates] if name == "open" else [])))
        import diskcache

        for name in ("set", "delete"):
            patch.setattr(diskcache.Cache, name, wrapped(getattr(diskcache.Cache, name)))
        patch.setattr("cache.blobs.BlobWriter.write", wrapped(sys.modules["cache.blobs"].BlobWriter.write))
        yield


def count_calls(quiet: Workshop, monkeypatch: pytest.MonkeyPatch, root: Path, out: Path) -> int:
    fault = Fault(0, lambda: None)
    with faults(monkeypatch, fault):
        build(quiet, root, out)
    return fault.count


def moments(total: int, most: int) -> list[int]:
    """All calls, or, where there are too many, `most` of them, chosen by chance, the first and the last among them."""
    if total <= most:
        return list(range(1, total + 1))
    chosen = random.Random(total).sample(range(2, total), most - 2)
    return [1, *sorted(chosen), total]


def at_many_moments(
    quiet: Workshop,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    fail: Callable[[int, Path, Path], None],
    cold: int,
    warm: int,
) -> None:
    """Call `fail` with the number of a call, a store and an output: for builds that begin with nothing, and for those
    that have a file to copy and what follows from it. After each of the first and some of the second a build has to
    come right, and a check to find nothing."""
    total = count_calls(quiet, monkeypatch, folder / "whole", folder / "out")
    right = build(quiet, folder / "whole")
    for at in moments(total, cold):
        fail(at, folder / f"store{at}", folder / f"out{at}")
        assert build(quiet, folder / f"store{at}", folder / f"out{at}") == right, f"after call {at}"
        assert harms(folder / f"store{at}") == []
    root, out = folder / "store", folder / "out"
    build(quiet, root, out)
    quiet.write("src/new.c", "int counted;")
    total = count_calls(quiet, monkeypatch, root, out)
    for nth, at in enumerate(moments(total, warm)):
        quiet.write("src/new.c", f"int n{nth};")
        fail(at, root, out)
        if nth % 6 == 5 or at == total:
            (quiet.context / "src" / "new.c").unlink()
            assert build(quiet, root, out) == right, f"after call {at}"
            assert harms(root) == []


def test_a_death_at_any_call_that_changes_the_disk_is_made_good(
    quiet: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[int] = []

    def die(at: int, root: Path, out: Path) -> None:
        def work() -> None:
            with faults(monkeypatch, Fault(at, lambda: os._exit(_DIED))):
                build(quiet, root, out)

        ended.append(outcome(in_child(work)))

    at_many_moments(quiet, monkeypatch, tmp_path, die, cold=8, warm=80)
    assert set(ended) <= {_DIED, _FINE}
    assert ended.count(_DIED) > 60


def test_power_that_fails_takes_only_what_nobody_relies_on(
    quiet: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a file that was renamed without having been flushed, a crash of the system leaves nothing but the name."""
    root = tmp_path / "store"
    flushed: set[tuple[int, int]] = set()
    renamed: list[tuple[tuple[int, int], str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        status = os.fstat(descriptor)
        flushed.add((status.st_dev, status.st_ino))

    def replace(source: Any, destination: Any) -> None:
        status = os.stat(source)
        if str(destination).startswith(str(root)):
            renamed.append(((status.st_dev, status.st_ino), str(destination)))
        real_replace(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", replace)
        patch.setattr(os, "rename", replace)
        build(quiet, root, tmp_path / "out")
    assert len(renamed) > 10
    assert [name for identity, name in renamed if identity not in flushed] == []
    parents = {
        (status.st_dev, status.st_ino) for status in map(os.stat, {os.path.dirname(name) for _, name in renamed})
    }
    assert parents <= flushed, "and so are the folders"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=["full", "failing", "read-only"])
def test_a_disk_that_fails_at_any_call_is_a_clear_error_and_loses_nothing(
    quiet: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    failures: list[MbuildError] = []

    def fail(at: int, root: Path, out: Path) -> None:
        def refuse() -> NoReturn:
            raise OSError(number, os.strerror(number), "somewhere")

        with faults(monkeypatch, Fault(at, refuse)):
            try:
                build(quiet, root, out)
            except MbuildError as error:
                failures.append(error)

    at_many_moments(quiet, monkeypatch, tmp_path, fail, cold=10, warm=60)
    assert {failure.exit_code for failure in failures} == {StoreError.exit_code}
    assert all(failure.message for failure in failures)
    codes = {errno.ENOSPC: "store-full", errno.EIO: "store-failed", errno.EROFS: "store-read-only"}
    assert codes[number] in {failure.code for failure in failures}
    # What is only remembered for the next time may fail without a word.
    assert len(failures) > 35


def test_a_limit_to_the_size_of_files_is_a_clear_error(quiet: Workshop, tmp_path: Path) -> None:
    """As a file system that is full: the kernel itself says no."""
    import resource

    (quiet.context / "large").write_bytes(random.Random(1).randbytes(3 << 20))
    reading, writing = os.pipe()

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            build(quiet, tmp_path / "store")
        except MbuildError as error:
            os.write(writing, f"{error.exit_code} {error.message}".encode())

    assert outcome(in_child(work)) == _FINE
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.read().startswith("3 ")
    assert build(quiet, tmp_path / "store") == build(quiet, tmp_path / "whole")
    assert harms(tmp_path / "store") == []


def test_a_store_that_may_only_be_read_is_a_clear_error(quiet: Workshop, tmp_path: Path) -> None:
    root = tmp_path / "store"
    build(quiet, root)
    reading, writing = os.pipe()

    def work() -> None:
        if not os.geteuid():
            os.setgid(65534)
            os.setuid(65534)
        try:
            build(quiet, root)
        except MbuildError as error:
            os.write(
                writing, f"{error.exit_code} {error.code} {os.access(root / 'version', os.R_OK)} {error.hint}".encode()
            )

    # Root may write anywhere: nobody tries in its place, and must be let through to the store.
    if os.geteuid():
        changed = {path: path.stat().st_mode & ~0o222 for path in (root, *root.rglob("*"))}
    else:
        ours = [path for path in tmp_path.parents if path.stat().st_uid == 0 and path != Path("/")]
        changed = {path: path.stat().st_mode | 0o011 for path in (tmp_path, *ours)}
    before = {path: path.stat().st_mode for path in changed}
    try:
        for path, mode in changed.items():
            path.chmod(mode)
        assert outcome(in_child(work)) == _FINE
    finally:
        for path, mode in reversed(before.items()):
            path.chmod(mode)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    assert text.startswith("3 store-read-only True ")
    assert "--cache-dir" in text
    assert harms(root) == []


def test_eight_processes_build_the_same_and_different_specs_in_one_store(quiet: Workshop, tmp_path: Path) -> None:
    root, ran = tmp_path / "store", tmp_path / "ran"
    ran.touch()
    behave = quiet.sandbox._behave

    def noted(execution: Execution) -> tuple[int, bytes, bytes]:
        with ran.open("ab", buffering=0) as file:
            file.write(execution.argv[-1].encode() + b"\n")
        return behave(execution)

    quiet.sandbox = FakeSandbox(noted)
    own = [SPEC + f"RUN write srv/own own{number % 4}\n" for number in range(8)]
    reading, writing = os.pipe()  # all begin when it is closed

    def work(number: int) -> None:
        os.close(writing)
        os.read(reading, 1)
        digest = build(quiet, root, tmp_path / f"out{number}", spec=own[number], jobs=2)
        (tmp_path / f"digest{number}").write_text(digest)

    children = [in_child(lambda number=number: work(number)) for number in range(8)]  # type: ignore[misc]
    os.close(writing)
    os.close(reading)
    assert [outcome(child) for child in children] == [_FINE] * 8
    lines = ran.read_text().splitlines()
    assert sorted(lines) == sorted(
        ["write out/made made", "write srv/last last", *(f"write srv/own own{number}" for number in range(4))]
    ), "each step once"
    for number in range(8):
        right = build(quiet, tmp_path / "alone", spec=own[number])
        assert (tmp_path / f"digest{number}").read_text() == right
    assert harms(root) == []
