"""ADD of URLs and repositories in whole builds: what is in the layer, and when a step hits."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from engine.layers.entry import NORMAL_TIME, Entry
from engine.layers.times import MAX_TIME
from machinefile.errors import MachinefileError, MbuildError, TransferError, UntrustedDataError

if TYPE_CHECKING:
    from conftest import FileServer, GitServer

    from tests.engine.conftest import Workshop

Layer = dict[str, tuple[Entry, bytes]]


def add(workshop: Workshop, words: str) -> Layer:
    return workshop.layers(workshop.build(f"FROM base\nADD {words}\n").digest)[-1]


def archive(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size, info.uid, info.gid, info.mode = len(content), 7, 8, 0o640
        tar.addfile(info, io.BytesIO(content))
    return gzip.compress(out.getvalue())


def test_a_file_is_roots_and_0600_with_the_one_time_of_all_layers(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"hello", modified="Wed, 21 Oct 2015 07:28:00 GMT")
    entry, content = add(workshop, f"{url} /opt/tool")["opt/tool"]
    assert content == b"hello"
    assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o600, 0, 0, NORMAL_TIME)


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("/dir/tool", "/opt/tool2", "opt/tool2"),
        ("/dir/tool", "/opt/", "opt/tool"),
        ("/dir/tool?x=1", "/etc", "etc/tool"),
        ("/a%5B1%5D*.txt", "/opt/", "opt/a[1]*.txt"),
        ("/", "/opt/", "opt/__unnamed__"),
    ],
)
def test_it_is_named_by_the_destination_or_by_its_address(
    workshop: Workshop, server: FileServer, path: str, target: str, expected: str
) -> None:
    url = server.put(path.partition("?")[0], b"hello", headers={"Content-Disposition": 'attachment; filename="other"'})
    full = url + path[len(path.partition("?")[0]) :]
    assert add(workshop, f"{full} {target}")[expected][1] == b"hello"


def test_chown_and_chmod_count_for_it(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"hello")
    entry, _ = add(workshop, f"--chown=ada:wheel --chmod=755 {url} /opt/")["opt/tool"]
    assert (entry.mode, entry.uid, entry.gid) == (0o755, 1000, 10)


def test_an_archive_is_unpacked_only_when_asked(workshop: Workshop, server: FileServer) -> None:
    data = archive("d/f", b"inside")
    url = server.put("/a.tar.gz", data)
    assert add(workshop, f"{url} /opt/")["opt/a.tar.gz"][1] == data
    entry, content = add(workshop, f"--unpack=true {url} /opt/")["opt/d/f"]
    assert (content, entry.uid, entry.gid, entry.mode) == (b"inside", 7, 8, 0o640)
    other = server.put("/plain", b"no archive")
    assert add(workshop, f"--unpack {other} /opt/")["opt/plain"][1] == b"no archive"


def test_local_files_and_urls_in_one_instruction(workshop: Workshop, server: FileServer) -> None:
    workshop.write("here.txt", "local")
    one, two = server.put("/one", b"1"), server.put("/two", b"2")
    files = workshop.files(workshop.build(f"FROM base\nADD here.txt {one} {two} /opt/\n").digest)
    assert (files["opt/here.txt"], files["opt/one"], files["opt/two"]) == (b"local", b"1", b"2")


def test_an_unchanged_file_hits_and_a_changed_one_is_built_again(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"old", etag='"1"')
    text = f"FROM base\nADD {url} /tool\nRUN write x y\n"
    assert workshop.build(text).run == 2
    again = workshop.build(text)
    assert (again.hit, again.run) == (2, 0)
    assert server.sent == 3
    server.put("/tool", b"new", etag='"2"')
    changed = workshop.build(text)
    assert changed.run == 2
    assert workshop.files(changed.digest)["tool"] == b"new"


def test_the_same_content_from_another_address_hits(workshop: Workshop, server: FileServer) -> None:
    one, two = server.put("/a/tool", b"same"), server.put("/b/tool", b"same")
    workshop.build(f"FROM base\nADD {one} /opt/\n")
    assert workshop.build(f"FROM base\nADD {two} /opt/\n").hit == 1
    other = server.put("/b/other", b"same")
    assert workshop.build(f"FROM base\nADD {other} /opt/\n").hit == 0, "its name in the directory is another"


def test_with_a_checksum_nothing_is_asked_for_what_is_there(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"hello")
    checksum = "sha256:" + hashlib.sha256(b"hello").hexdigest()
    text = f"FROM base\nADD --checksum={checksum} {url} /tool\n"
    plan = workshop.plan(text)
    assert [one.hit for one in plan.counted()] == [False]
    assert server.asked == [], "a plan asks nothing at all"
    workshop.build(text)
    asked = len(server.asked)
    assert workshop.build(text).hit == 1
    workshop.build(text.replace("/tool\n", "/elsewhere\n"))
    assert len(server.asked) == asked == 1
    without = workshop.build(f"FROM base\nADD {url} /tool\n")
    assert without.hit == 1, "the checksum itself is in no key"


def test_a_wrong_checksum_fails_the_step_with_its_place(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"evil")
    with pytest.raises(UntrustedDataError) as raised:
        workshop.build(f"FROM base\nADD --checksum=sha256:{'0' * 64} {url} /tool\n")
    assert raised.value.code == "digest-mismatch"
    assert raised.value.span is not None
    assert raised.value.span.line == 2


def test_a_plan_pins_and_the_build_after_it_fetches_nothing(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"hello", etag='"1"')
    text = f"FROM base\nADD {url} /tool\n"
    assert [one.hit for one in workshop.plan(text).counted()] == [False]
    workshop.build(text)
    assert server.sent == 5
    assert [one.hit for one in workshop.plan(text).counted()] == [True]


def test_a_file_that_cannot_be_had_stops_the_build_before_it_begins(workshop: Workshop, server: FileServer) -> None:
    with pytest.raises(TransferError) as raised:
        workshop.build(f"FROM base\nRUN write a b\nADD {server.url}/none /tool\n")
    assert raised.value.code == "remote-missing"
    assert raised.value.span is not None
    assert raised.value.span.line == 3
    assert workshop.sandbox.starts == 0


def test_what_the_target_does_not_need_is_not_asked_for(workshop: Workshop, server: FileServer) -> None:
    workshop.build(f"FROM base AS unused\nADD {server.url}/none /tool\nFROM base\nRUN write a b\n")
    assert server.asked == []


@pytest.mark.parametrize("words", ["https:///x /y", "http://[::1/x /y", "http://h.org/%00 /y"])
def test_an_address_that_makes_no_sense_is_told_with_its_place(workshop: Workshop, words: str) -> None:
    with pytest.raises(MbuildError) as raised:
        workshop.build(f"FROM base\nADD {words}\n")
    assert isinstance(raised.value, MachinefileError)
    assert raised.value.problems[0].span is not None


def test_a_repository_gives_its_files_without_git(workshop: Workshop, git_server: GitServer) -> None:
    work = git_server.repository()
    work.write("a.txt")
    work.write("src/run.sh", "#!/bin/sh", 0o755)
    work.commit()
    made = add(workshop, f"{work.url} /src")
    assert {path for path in made if path.startswith("src/")} == {"src/a.txt", "src/src", "src/src/run.sh"}
    entry, _ = made["src/src/run.sh"]
    assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o755, 0, 0, NORMAL_TIME)
    part = add(workshop, f"--chown=ada --exclude=*.md {work.url}#main:src /src")
    assert (part["src/run.sh"][0].uid, "src/a.txt" in part) == (1000, False)


def test_a_repository_is_fetched_again_only_when_the_commit_is_another(
    workshop: Workshop, git_server: GitServer
) -> None:
    work = git_server.repository()
    work.write("f", "old")
    commit = work.commit()
    text = f"FROM base\nADD {work.url}#main /src\n"
    assert workshop.build(text).run == 1
    assert workshop.build(text).hit == 1
    assert workshop.build(f"FROM base\nADD {work.url}#{commit} /src\n").hit == 1
    assert workshop.build(f"FROM base\nADD --checksum={commit} {work.url}#main /src\n").hit == 1
    work.write("f", "new")
    work.commit()
    changed = workshop.build(text)
    assert (changed.run, workshop.files(changed.digest)["src/f"]) == (1, b"new")
    with pytest.raises(UntrustedDataError) as raised:
        workshop.build(f"FROM base\nADD --checksum={commit} {work.url}#main /elsewhere\n")
    assert raised.value.code == "digest-mismatch"


def test_keep_git_dir_brings_dot_git(workshop: Workshop, git_server: GitServer) -> None:
    work = git_server.repository()
    work.write("f")
    commit = work.commit()
    first = workshop.build(f"FROM base\nADD --keep-git-dir=true {work.url} /src\n")
    assert workshop.files(first.digest)["src/.git/HEAD"] == f"{commit}\n".encode()
    second = workshop.build(f"FROM base\nADD --keep-git-dir=true {work.url} /src\n", use_cache=False)
    assert second.digest == first.digest
    asked = add(workshop, f"{work.url}?keep-git-dir=true /src")
    assert "src/.git/HEAD" in asked
    assert "src/.git" not in add(workshop, f"{work.url} /src")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("{url}#main:none /x", "source-missing"),
        ("{url}#main:f /x", "source-missing"),
        ("{url}?tga=1 /x", "bad-git-url"),
        ("--checksum=sha256:" + "0" * 64 + " {url} /x", "bad-checksum"),
        ("--checksum=" + "0" * 40 + " {url}?checksum=" + "1" * 40 + " /x", "bad-checksum"),
        ("--keep-git-dir {url}?keep-git-dir=false /x", "bad-keep-git-dir"),
        ("{url}#none /x", "git-ref-missing"),
    ],
)
def test_what_a_repository_does_not_have_is_told_with_its_place(
    workshop: Workshop, git_server: GitServer, words: str, code: str
) -> None:
    work = git_server.repository()
    work.write("f")
    work.commit()
    with pytest.raises(MbuildError) as raised:
        add(workshop, words.format(url=work.url))
    assert raised.value.code == code
    assert raised.value.span is not None


def test_nothing_fetched_is_left_behind(workshop: Workshop, git_server: GitServer) -> None:
    work = git_server.repository()
    work.write("f", "x" * 10_000)
    work.commit()
    add(workshop, f"{work.url} /src")
    left = [path for path in workshop.store.temporary.rglob("*") if path.is_file() and path.name != "lock"]
    assert left == []


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (DATE, 1_445_412_480),
        ("Wed Oct 21 07:28:00 2015", 1_445_412_480),
        ("", 0),
        ("yesterday", 0),
        ("Wed, 21 Oct 99999999 07:28:00 GMT", 0),
        ("Wed, 21 Oct 1915 07:28:00 GMT", 0),
        ("Wed, 21 Oct 9915 07:28:00 GMT", MAX_TIME),
    ],
)
def test_a_file_that_keeps_its_time_has_what_the_server_says(
    workshop: Workshop, server: FileServer, monkeypatch: pytest.MonkeyPatch, said: str, expected: int
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    url = server.put("/tool", b"hello", modified=said)
    digest = hashlib.sha256(b"hello").hexdigest()
    for words in (url, f"--checksum=sha256:{digest} {url}"):
        report = workshop.driver.build(
            replace(workshop.request(f"FROM base\nADD {words} /opt/tool\n"), keep_times=True)
        )
        assert workshop.layers(report.digest)[-1]["opt/tool"][0].mtime == expected
    monkeypatch.undo()
    time.tzset()


def test_a_repository_has_the_time_of_its_checkout(workshop: Workshop, git_server: GitServer) -> None:
    work = git_server.repository()
    work.write("file")
    work.commit()
    begun = int(time.time())
    report = workshop.driver.build(replace(workshop.request(f"FROM base\nADD {work.url} /src\n"), keep_times=True))
    entry, _ = workshop.layers(report.digest)[-1]["src/file"]
    assert begun <= entry.mtime <= time.time()
