"""SOURCE_DATE_EPOCH: where its value comes from."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from engine.epoch import Epoch, find_epoch
from machinefile.errors import HostError, UsageError
from machinefile.ignore import IgnoreRules

NAME = "SOURCE_DATE_EPOCH"


def found(
    option: str | None = None, arg: str | None = None, env: str | None = None, root: Path = Path(), ignore: str = ""
) -> Epoch | None:
    def given(value: str | None) -> dict[str, str]:
        return {} if value is None else {NAME: value}

    return find_epoch(option, given(arg), given(env), root, IgnoreRules.parse(ignore))


def test_the_option_goes_before_the_argument_and_that_before_the_environment() -> None:
    assert found("1", "2", "3") == Epoch(1)
    assert found(None, "2", "3") == Epoch(2)
    assert found(None, None, "3") == Epoch(3)
    assert found() is None


def test_an_empty_argument_or_variable_asks_for_none() -> None:
    assert found(None, "", "3") is None
    assert found(None, None, "") is None


@pytest.mark.parametrize("text", ["-1", "1.5", "0x1", "yesterday", "1 ", "٣", "8589934592", "1" * 40, ""])
def test_anything_else_than_a_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        found(text)
    assert refused.value.code == "source-date-epoch"
    if text:
        for where in ({"arg": text}, {"env": text}):
            with pytest.raises(UsageError) as refused:
                found(None, **where)
            assert refused.value.code == "source-date-epoch"


def test_the_contexts_time_is_that_of_its_newest_file(tmp_path: Path) -> None:
    for name, time in (("old", 1000.0), ("d/new", 2000.9), ("ignored", 3000.0)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
        os.utime(path, (time, time))
    (tmp_path / "link").symlink_to("/etc")
    assert found("context", root=tmp_path, ignore="ignored") == Epoch(2000), "directories and links do not count"


def test_a_context_without_a_file_has_no_time(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError) as refused:
        found("context", root=tmp_path)
    assert refused.value.code == "source-date-epoch"


def git(folder: Path, *arguments: str) -> None:
    names = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    dates = {"GIT_AUTHOR_DATE": "1111111111 +0900", "GIT_COMMITTER_DATE": "1234567890 +0200"}
    kept = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *arguments], cwd=folder, env=kept | names | dates, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "app").mkdir(parents=True)
    (folder / "app/file").write_text("content")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_commits_time_is_that_of_the_committer(repository: Path) -> None:
    assert found("git", root=repository) == Epoch(1234567890)
    assert found("git", root=repository / "app") == Epoch(1234567890)


def test_what_is_not_committed_is_noted(repository: Path) -> None:
    (repository / "beside").write_text("not in the context")
    assert found("git", root=repository / "app") == Epoch(1234567890)
    (repository / "app/new").write_text("x")
    dirty = found("git", root=repository / "app")
    assert dirty is not None
    assert dirty.seconds == 1234567890
    assert "changes" in dirty.note


def test_no_program_of_the_repository_is_started(repository: Path) -> None:
    mark = repository.parent / "started"
    git(repository, "config", "core.fsmonitor", f"touch {mark};")
    git(repository, "config", "log.showSignature", "true")
    git(repository, "config", "gpg.program", f"touch {mark};")
    assert found("git", root=repository) == Epoch(1234567890)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["evil", "e=v.il", "évil"])
@pytest.mark.parametrize("variable", ["clean", "process"])
def test_no_filter_of_the_repository_is_started(repository: Path, name: str, variable: str) -> None:
    mark = repository.parent / "started"
    included = repository / ".git" / "more"
    (repository / ".git" / "info" / "attributes").write_text(f"file filter={name}\n")
    git(repository, "config", "--file", str(included), f"filter.{name}.{variable}", f"touch {mark}; cat")
    git(repository, "config", "--file", str(included), f"filter.{name}.required", "true")
    git(repository, "config", "include.path", str(included))
    (repository / "app/file").write_text("CONTENT")  # as long as it was, so that git has to read it
    dirty = found("git", root=repository)
    assert dirty is not None
    assert (dirty.seconds, "changes" in dirty.note) == (1234567890, True)
    assert not mark.exists()


def test_nothing_is_fetched_for_a_repository_that_lacks_it(repository: Path) -> None:
    mark = repository.parent / "started"
    for key, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", f"ext::sh -c touch% {mark}"),
        ("protocol.ext.allow", "always"),
    ):
        git(repository, "config", key, value)
    tree = subprocess.run(["git", "rev-parse", "HEAD^{tree}"], cwd=repository, check=True, capture_output=True)
    name = tree.stdout.decode().strip()
    (repository / ".git" / "objects" / name[:2] / name[2:]).unlink()
    with pytest.raises(UsageError) as refused:
        found("git", root=repository)
    assert refused.value.code == "source-date-epoch"
    assert not mark.exists()


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        found("git", root=tmp_path)
    assert refused.value.code == "source-date-epoch"
    assert "git" in refused.value.message


def test_git_itself_may_be_missing(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.process.environment", lambda extra=None: {"PATH": "/nonexistent"})
    with pytest.raises(HostError) as missing:
        found("git", root=repository)
    assert missing.value.code == "program-missing"
