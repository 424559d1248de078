"""RUN --mount in a guest: what is seen there, what is kept, and how one that cannot be made is told."""

from __future__ import annotations

import tarfile
import threading
from pathlib import Path

import pytest
from vm_support import SHAPE, LayerBuilder, Runner

from engine.vm.disks import copy_sparse, scratch_image
from engine.vm.execution import Ending
from engine.vm.mounts import BindMount, CacheMount, SecretFile, TmpfsMount
from machinefile.errors import StepError

pytestmark = pytest.mark.vm


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer with a folder, a file in it, and links that lead about."""
    builder = LayerBuilder().folder("data").add("data/file", content=b"content\n")
    builder.add("data/absolute", tarfile.SYMTYPE, link="/data/file")
    return builder.write(tmp_path / "mounted.sqfs")


@pytest.fixture
def new_cache(tmp_path: Path) -> Path:
    """The disk of a cache without anything."""
    return _cache(tmp_path, "cache")


def _cache(folder: Path, name: str, size: int = 64 << 20) -> Path:
    disk = folder / name
    copy_sparse(scratch_image(folder / "images", size), disk)
    return disk


def test_layers_and_parts_of_them_are_bound_read_only_and_leave_nothing(run: Runner, layer: Path) -> None:
    mounts = (
        BindMount("/mnt/whole", (layer,)),
        BindMount("/one", (layer,), "/data/file", is_file=True),
        BindMount("/tmp", (run.base, layer), "/bin"),
        BindMount("/nothing", ()),
    )
    ran = run(
        "cat /mnt/whole/data/file /one; readlink /mnt/whole/data/absolute; test -x /tmp/busybox && echo same;"
        "touch /mnt/whole/x 2>&1; echo x 2>&1 > /one; rm /one 2>&1; ls /nothing; touch /nothing/x 2>&1; true",
        mounts=mounts,
    )
    assert ran.text.splitlines()[:4] == ["content", "content", "/data/file", "same"]
    assert ran.text.count("Read-only file system") == 3
    assert set(ran.changes) == {"", "proc", "sys", "dev"}


def test_a_writable_bind_takes_changes_and_throws_them_away(run: Runner, layer: Path) -> None:
    mounts = (BindMount("/data", (layer,), "/data", writable=True), BindMount("/again", (layer,), "/data"))
    ran = run("echo changed > /data/file; touch /data/new; ls /data; cat /data/file /again/file", mounts=mounts)
    assert ran.text.split() == ["absolute", "file", "new", "changed", "content"]
    assert set(ran.changes) == {"", "proc", "sys", "dev"}


def test_a_mount_below_another_is_mounted_after_it(run: Runner, layer: Path) -> None:
    mounts = (SecretFile("/a/b/data/file", b"hidden"), BindMount("/a/b", (layer,)), TmpfsMount("/a", mode=0o700))
    ran = run("cat /a/b/data/file; stat -c %a /a; stat -c '%a %u' /a/b/data/file", mounts=mounts)
    assert ran.text == "hidden700\n400 0\n"
    assert set(ran.changes) == {"", "proc", "sys", "dev"}


def test_memory_is_as_large_as_was_said_and_goes_with_the_step(run: Runner) -> None:
    ran = run("stat -c %a /t; dd if=/dev/zero of=/t/x bs=1M count=9", mounts=(TmpfsMount("/t", 8 << 20),))
    assert (ran.code, ran.text) == (1, "1777\n")
    assert b"No space left" in ran.err
    assert ran.ending is Ending.EXITED, "it is not the step's disk that is full"


def test_a_secret_is_there_for_its_owner_alone_and_cannot_be_changed(run: Runner) -> None:
    mounts = (SecretFile("/run/secrets/token", b"\0hidden", 0o440, 5, 6),)
    ran = run(
        "stat -c '%a %u %g' /run/secrets/token; wc -c < /run/secrets/token; echo x > /run/secrets/token", mounts=mounts
    )
    assert (ran.code, ran.text) == (1, "440 5 6\n7\n")
    assert b"Read-only" in ran.err
    assert set(run("true", mounts=mounts).changes) == {"", "proc", "sys", "dev"}


def test_a_stub_that_the_step_has_filled_stays(run: Runner) -> None:
    ran = run("umount /x/y 2>/dev/null; echo kept > /x/z", mounts=(TmpfsMount("/x/y"),))
    assert ran.changes["x/z"].content == b"kept\n"
    assert "x/y" not in ran.changes


def test_a_cache_keeps_what_a_step_wrote_also_one_that_failed(run: Runner, new_cache: Path) -> None:
    fresh = CacheMount("/c", new_cache, is_new=True, mode=0o700, uid=7)
    ran = run("stat -c '%a %u %g' /c; ls -A /c; echo one > /c/one; exit 3", mounts=(fresh,))
    assert (ran.code, ran.text) == (3, "700 7 0\n")
    again = (CacheMount("/c", new_cache), CacheMount("/d/e", new_cache, read_only=True))
    ran = run("cat /c/one; echo two > /c/two; cat /d/e/two; touch /d/e/x 2>&1; true", mounts=again)
    assert ran.text.splitlines()[:2] == ["one", "two"]
    assert "Read-only" in ran.text
    assert set(ran.changes) == {"", "proc", "sys", "dev"}


def test_a_new_cache_may_begin_with_files_of_layers(run: Runner, new_cache: Path, layer: Path) -> None:
    mount = CacheMount("/c", new_cache, is_new=True, seed=(layer,), seed_source="/data")
    assert run("cat /c/file; echo x > /c/file; ls /c", mounts=(mount,)).text.split() == ["content", "absolute", "file"]
    assert run("cat /c/file", mounts=(CacheMount("/c", new_cache),)).text == "x\n"


def test_a_full_cache_is_told(run: Runner, tmp_path: Path) -> None:
    mount = CacheMount("/c", _cache(tmp_path, "small", 8 << 20), is_new=True)
    assert run("dd if=/dev/zero of=/c/x bs=1M", mounts=(mount,)).ending is Ending.CACHE_FULL


def test_two_caches_become_one_with_the_newest_of_both(run: Runner, tmp_path: Path) -> None:
    one, other = _cache(tmp_path, "one"), _cache(tmp_path, "other")
    first = """
mkdir -p /c/sub/deep; echo mine > /c/sub/deep/f; ln /c/sub/deep/f /c/sub/hard; ln -s nowhere /c/link
echo newer > /c/both; touch -d '2030-01-01 00:00' /c/both
echo older > /c/kept; touch -d '2001-01-01 00:00:00' /c/kept
mkdir /c/folder; echo x > /c/folder/x; chown 5:6 /c/sub; chmod 2750 /c/sub; mkfifo /c/pipe; touch /c/.mbuild
echo x > /c/plain; mkdir /c/.mbuild-merge
"""
    second = "echo older > /c/both; echo newer > /c/kept; mkdir /c/sub; echo file > /c/folder; echo own > /c/own"
    second += "; mkdir /c/.mbuild-merge"
    assert run(first, mounts=(CacheMount("/c", one, is_new=True),)).code == 0
    assert run(second, mounts=(CacheMount("/c", other, is_new=True),)).code == 0
    run.sandbox.merge(one, other, SHAPE, threading.Event())
    look = (
        "cd /c; cat both kept own sub/deep/f; readlink link; stat -c %h sub/hard; stat -c %F pipe folder; ls -A . sub"
    )
    assert run(look, mounts=(CacheMount("/c", other),)).text.split("\n") == [
        *("newer", "newer", "own", "mine", "nowhere", "2", "fifo", "regular file"),
        *(".:", ".mbuild", ".mbuild-merge", "both", "folder", "kept", "link", "own", "pipe", "plain", "sub", ""),
        *("sub:", "deep", "hard", ""),
    ]


def test_the_same_folder_made_by_the_loser_alone_keeps_what_it_is(run: Runner, tmp_path: Path) -> None:
    one, other = _cache(tmp_path, "one"), _cache(tmp_path, "other")
    run(
        "mkdir /c/d; chown 5:6 /c/d; chmod 2750 /c/d; touch -d '2001-01-01 00:00:00' /c/d",
        mounts=(CacheMount("/c", one, is_new=True),),
    )
    run("true", mounts=(CacheMount("/c", other, is_new=True),))
    run.sandbox.merge(one, other, SHAPE, threading.Event())
    assert run("stat -c '%a %u %g %Y' /c/d", mounts=(CacheMount("/c", other),)).text == "2750 5 6 978307200\n"


@pytest.mark.parametrize(
    "mount",
    [TmpfsMount("/etc/passwd"), SecretFile("/etc", b"x"), SecretFile("/bin/sh/x", b"x")],
    ids=lambda one: one.target,
)
def test_what_cannot_be_mounted_on_is_told(run: Runner, mount: TmpfsMount | SecretFile) -> None:
    with pytest.raises(StepError) as caught:
        run("true", mounts=(mount,))
    assert caught.value.code == "mount-target"
    assert mount.target in caught.value.message


def test_the_working_directory_is_made_inside_a_mount(run: Runner, layer: Path) -> None:
    mounts = (BindMount("/data", (layer,), "/data", writable=True),)
    assert run("pwd; ls ..", working_dir="/data/work/deep", mounts=mounts).text == "/data/work/deep\ndeep\n"


def test_a_command_that_takes_too_long_is_ended_and_its_cache_kept(run: Runner, new_cache: Path) -> None:
    ran = run("echo kept > /c/f; sleep 100", timeout=2.0, mounts=(CacheMount("/c", new_cache, is_new=True),))
    assert ran.ending is Ending.TIMED_OUT
    assert run("cat /c/f", mounts=(CacheMount("/c", new_cache),)).text == "kept\n"
