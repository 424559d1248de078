"""Repositories from a real `git daemon`: which commit, which files, and nothing of the user's configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from local_server import FolderServer

from engine.layers.entry import EntryType
from engine.layers.limits import LayerLimits
from engine.remote.checkout import Checkout
from engine.remote.git import Git
from engine.remote.giturl import GitUrl, parse_git_url
from engine.remote.repository import Found, Repository, find_commit
from machinefile.errors import HostError, InterruptedBuildError, MbuildError, TransferError

if TYPE_CHECKING:
    from conftest import GitServer, Work


class Bench:
    """A folder to fetch into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cancelled = threading.Event()
        self.limits = LayerLimits()

    @property
    def git(self) -> Git:
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return Git(scratch, self.cancelled, largest=self.limits.max_bytes)

    def checkout(self, text: str, *, keep: bool = False, into: str = "fetched") -> Checkout:
        url = parse_git_url(text)
        target = self.folder / into
        target.mkdir()
        return Repository(self.git, target, self.limits).checkout(url, find_commit(self.git, url), keep_git_dir=keep)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def names(tree: Checkout, path: str = "") -> list[str]:
    """Everything below a path but directories."""
    found = []
    for name in tree.children(path):
        below = f"{path}/{name}" if path else name
        entry = tree.entry(below)
        assert entry is not None
        found += names(tree, below) if entry.type is EntryType.DIRECTORY else [below]
    return found


def content(tree: Checkout, path: str) -> str:
    with tree.open(path) as file:
        return file.read().decode()


def run_git(folder: Path, *arguments: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    argv = ["git", "-c", f"safe.directory={folder}", *arguments]
    return subprocess.run(argv, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def work(git_server: GitServer) -> Work:
    return git_server.repository()


def test_files_modes_and_links_come_as_git_knows_them(bench: Bench, work: Work) -> None:
    work.write("a.txt", "text", 0o600)
    work.write("sub/run", "#!/bin/sh", 0o700)
    (work.folder / "link").symlink_to("../../etc/passwd")
    work.commit()
    old = os.umask(0o077)
    try:
        tree = bench.checkout(work.url)
    finally:
        os.umask(old)
    assert names(tree) == ["a.txt", "link", "sub/run"]
    entries = {path: tree.entry(path) for path in ("a.txt", "sub", "sub/run", "link")}
    assert [entry and entry.mode for entry in entries.values()] == [0o644, 0o755, 0o755, 0o777]
    assert entries["link"] is not None
    assert (entries["link"].type, entries["link"].link) == (EntryType.SYMLINK, "../../etc/passwd")
    assert content(tree, "a.txt") == "text"


def test_a_name_is_a_whole_name_then_a_branch_then_a_tag(bench: Bench, work: Work) -> None:
    first = work.commit("first")
    work.push("HEAD:refs/tags/both", "HEAD:refs/tags/v1", "HEAD:refs/pull/4/head")
    second = work.commit("second", "HEAD:refs/heads/main", "HEAD:refs/heads/both")

    def found(ref: str) -> tuple[str, str]:
        commit = find_commit(bench.git, GitUrl(work.url, ref))
        return commit.commit, commit.ref

    assert found("") == (second, "refs/heads/main")
    assert found("both") == (second, "refs/heads/both")
    assert found("v1") == (first, "refs/tags/v1")
    assert found("refs/tags/both") == (first, "refs/tags/both")
    assert found("tags/both") == (first, "refs/tags/both")
    assert found("pull/4/head") == (first, "refs/pull/4/head")
    assert found(first) == (first, "")
    with pytest.raises(TransferError) as raised:
        found("nothing")
    assert raised.value.code == "git-ref-missing"


def test_an_annotated_tag_is_its_commit_and_a_checksum_may_name_either(bench: Bench, work: Work) -> None:
    commit = work.commit()
    run_git(work.folder, "-c", "user.name=A", "-c", "user.email=a@b", "tag", "-a", "v1", "-m", "one")
    work.push("refs/tags/v1")
    tag = run_git(work.folder, "rev-parse", "refs/tags/v1")
    assert tag != commit
    for checksum in (commit, commit[:12], tag):
        assert find_commit(bench.git, GitUrl(work.url, "v1", checksum=checksum)).commit == commit
    with pytest.raises(TransferError) as raised:
        find_commit(bench.git, GitUrl(work.url, "v1", checksum="0" * 40))
    assert raised.value.code == "digest-mismatch"
    assert commit in raised.value.message


def test_an_older_commit_can_be_had_by_its_name(bench: Bench, work: Work) -> None:
    work.write("f", "old")
    old = work.commit()
    work.write("f", "new")
    work.commit()
    assert content(bench.checkout(f"{work.url}#{old}"), "f") == "old"


def test_a_pinned_commit_counts_when_the_branch_has_moved(bench: Bench, work: Work) -> None:
    work.write("f", "old")
    work.commit()
    url = GitUrl(work.url, "main")
    found = find_commit(bench.git, url)
    work.write("f", "new")
    work.commit()
    (bench.folder / "x").mkdir()
    tree = Repository(bench.git, bench.folder / "x", bench.limits).checkout(url, found, keep_git_dir=False)
    assert content(tree, "f") == "old"


def test_a_commit_that_is_not_there_is_named(bench: Bench, work: Work) -> None:
    work.commit()
    with pytest.raises(TransferError) as raised:
        bench.checkout(f"{work.url}#{'1' * 40}")
    assert raised.value.code in ("git-failed", "git-ref-missing")
    assert "1" * 40 in raised.value.message


def test_an_empty_commit_has_no_files(bench: Bench, work: Work) -> None:
    work.commit()
    assert names(bench.checkout(work.url)) == []


def test_a_plain_web_server_will_do(bench: Bench, work: Work) -> None:
    work.write("f", "old")
    old = work.commit()
    work.write("f", "new")
    work.commit()
    run_git(work.bare, "update-server-info")
    with FolderServer(work.bare.parent) as server:
        url = f"{server.url}/project.git"
        assert content(bench.checkout(url), "f") == "new"
        assert content(bench.checkout(f"{url}#{old}", into="other"), "f") == "old"


def test_submodules_come_along_with_relative_addresses_and_in_one_another(bench: Bench, git_server: GitServer) -> None:
    inner, middle, outer = (git_server.repository(f"{name}.git") for name in ("inner", "middle", "outer"))
    inner.write("deep.txt")
    inner.commit()
    _add_submodule(middle, "../inner.git", inner, "in")
    middle.write("middle.txt")
    middle.commit()
    _add_submodule(outer, middle.url, middle, "lib/mid")
    outer.write("top.txt")
    outer.commit()
    tree = bench.checkout(outer.url)
    assert names(tree) == [
        ".gitmodules",
        "lib/mid/.gitmodules",
        "lib/mid/in/deep.txt",
        "lib/mid/middle.txt",
        "top.txt",
    ]
    assert content(tree, "lib/mid/in/deep.txt") == "deep.txt"
    without = bench.checkout(f"{outer.url}?submodules=false", into="other")
    assert names(without) == [".gitmodules", "top.txt"]
    entry = without.entry("lib/mid")
    assert entry is not None
    assert entry.type is EntryType.DIRECTORY


def _add_submodule(work: Work, address: str, other: Work, path: str) -> None:
    commit = run_git(other.folder, "rev-parse", "HEAD")
    text = work.folder / ".gitmodules"
    text.write_text(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {address}\n')
    run_git(work.folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    (work.folder / path).mkdir(parents=True)


@pytest.mark.parametrize(
    "address", ["file:///etc", "ext::sh -c touch% /tmp/x", "/etc", "--upload-pack=x", "../../../x"]
)
def test_submodules_from_this_machine_are_refused(bench: Bench, work: Work, address: str) -> None:
    work.write("f")
    work.commit()
    _add_submodule(work, address, work, "sub")
    work.commit()
    with pytest.raises(TransferError) as raised:
        bench.checkout(work.url)
    assert raised.value.code in ("git-submodule", "git-failed")


def test_a_submodule_without_an_address_is_told(bench: Bench, work: Work) -> None:
    work.write("f")
    commit = work.commit()
    run_git(work.folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    (work.folder / "sub").mkdir()
    work.commit()
    with pytest.raises(TransferError) as raised:
        bench.checkout(work.url)
    assert raised.value.code == "git-submodule"


def test_submodules_that_hold_themselves_end(bench: Bench, work: Work) -> None:
    work.write("f")
    work.commit()
    # A commit cannot hold its own name, but a server may give the same repository for every address.
    for _ in range(12):
        _replace_submodule(work)
    with pytest.raises(TransferError) as raised:
        bench.checkout(work.url)
    assert raised.value.code == "git-submodule"


def _replace_submodule(work: Work) -> None:
    commit = run_git(work.folder, "rev-parse", "HEAD")
    (work.folder / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = {work.url}\n')
    (work.folder / "s").mkdir(exist_ok=True)
    run_git(work.folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},s")
    work.commit()


def test_keep_git_dir_gives_a_clone_that_works_and_is_the_same_each_time(bench: Bench, work: Work) -> None:
    work.write("f", "one")
    work.commit()
    work.write("f", "two")
    commit = work.commit()
    work.push("HEAD:refs/tags/v1")
    trees = [bench.checkout(f"{work.url}#v1", keep=True, into=into) for into in ("a", "b")]
    found = [{path: trees[number].digest(path) for path in names(trees[number])} for number in range(2)]
    assert found[0] == found[1]
    assert ".git/shallow" in found[0]
    clone = bench.folder / "clone"
    for path in names(trees[0]):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        with trees[0].open(path) as source, (clone / path).open("wb") as target:
            shutil.copyfileobj(source, target)
    (clone / ".git/refs/heads").mkdir(parents=True, exist_ok=True)
    assert run_git(clone, "rev-parse", "HEAD") == commit
    assert run_git(clone, "status", "--porcelain") == ""
    assert run_git(clone, "describe", "--tags") == "v1"
    assert run_git(clone, "fsck", "--strict") == ""
    assert run_git(clone, "remote", "get-url", "origin") == work.url
    assert run_git(clone, "log", "--format=%H") == commit


def test_the_name_of_a_branch_is_no_way_out_of_its_folder(bench: Bench, work: Work) -> None:
    """A server says what HEAD stands for, and a provenance what a tag was called."""
    work.write("f", "one")
    found = Found(work.commit(), "refs/heads/../../../../../out")
    target = bench.folder / "fetched"
    target.mkdir()
    Repository(bench.git, target, bench.limits).checkout(GitUrl(work.url), found, keep_git_dir=True)
    assert not (bench.folder / "out").exists()

    class Lying(Git):
        def run(self, *words: str, **options: Any) -> bytes:
            return f"ref: {found.ref}\tHEAD\n{found.commit}\tHEAD\n".encode()

    assert find_commit(Lying(bench.folder, bench.cancelled, largest=1), GitUrl(work.url)).ref == ""


def test_neither_hooks_nor_configuration_of_the_user_have_a_say(
    bench: Bench, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    hook = home / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[core]\n\thooksPath = {home}/hooks\n\tautocrlf = true\n[url "git://127.0.0.1:1/"]\n\tinsteadOf = {work.url}\n'
        f'[filter "f"]\n\tsmudge = touch {tmp_path}/ran; cat\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.sshCommand")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "false")
    work.write("f", "a\nb\n")
    work.write(".gitattributes", "* filter=f\n")
    work.commit()
    assert content(bench.checkout(work.url), "f") == "a\nb\n"
    assert not (tmp_path / "ran").exists()


def test_what_the_repository_says_of_line_ends_counts(bench: Bench, work: Work) -> None:
    work.write("f.bat", "a\nb\n")
    work.write(".gitattributes", "*.bat text eol=crlf\n")
    work.commit()
    assert content(bench.checkout(work.url), "f.bat") == "a\r\nb\r\n"


def test_too_many_files_are_not_checked_out(bench: Bench, work: Work) -> None:
    for number in range(20):
        work.write(f"f{number}")
    work.commit()
    bench.limits = LayerLimits(max_entries=10)
    with pytest.raises(TransferError) as raised:
        bench.checkout(work.url)
    assert raised.value.code == "git-too-large"
    assert not list((bench.folder / "fetched").glob("*/files/*"))


def test_a_repository_that_is_too_large_is_given_up(bench: Bench, work: Work) -> None:
    (work.folder / "big").write_bytes(os.urandom(3 << 20))
    work.commit()
    bench.limits = LayerLimits(max_bytes=1 << 20)
    with pytest.raises(TransferError) as raised:
        bench.checkout(work.url)
    assert raised.value.code == "git-too-large"


def test_a_repository_that_is_not_there_is_told_without_a_prompt(bench: Bench, git_server: GitServer) -> None:
    with pytest.raises(TransferError) as raised:
        bench.checkout(git_server.url("none.git"))
    assert raised.value.code == "git-failed"
    assert "none.git" in raised.value.message


def test_git_that_is_not_installed_is_named_with_what_to_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("engine.process.environment", lambda extra=None: {"PATH": str(tmp_path), **(extra or {})})
    with pytest.raises(HostError) as raised:
        bench.git.run("version", timeout=5)
    assert raised.value.code == "program-missing"
    assert "install git" in raised.value.hint


def test_git_is_killed_when_the_build_is_cancelled_or_the_time_is_up(bench: Bench) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/x"
        begun = time.monotonic()
        with pytest.raises(TransferError) as raised:
            bench.git.run("ls-remote", "--", url, timeout=0.3, remote=url)
        assert raised.value.code == "git-timeout"
        threading.Timer(0.2, bench.cancelled.set).start()
        with pytest.raises(InterruptedBuildError):
            bench.git.run("ls-remote", "--", url, timeout=30, remote=url)
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("address", ["file:///etc", "ext::true", "http://127.0.0.1:1/x", "ssh://127.0.0.1/x"])
def test_git_reaches_nothing_but_what_it_was_told_to(bench: Bench, address: str) -> None:
    for remote in ("", "https://127.0.0.1:1/x"):
        with pytest.raises(TransferError, match="not allowed"):
            bench.git.run("ls-remote", "--", address, timeout=30, remote=remote)


def test_a_password_is_in_no_message_of_git(bench: Bench) -> None:
    with pytest.raises(MbuildError) as raised:
        find_commit(bench.git, parse_git_url("http://ada:lovelace@127.0.0.1:1/x.git"))
    assert "lovelace" not in raised.value.message + raised.value.hint
