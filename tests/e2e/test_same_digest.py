"""The same Machinefile, files and base give the same bytes, whoever builds them, where, when, and in which order."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from open_folders import open_to_all

from .conftest import ROOT, Mbuild

TEXT = """\
FROM {base} AS first
COPY . /all
FROM scratch AS second
ADD archive.tar /unpacked/
COPY d/*.txt /texts/
FROM {base}
WORKDIR /srv/app
COPY --chown=7:8 . .
COPY --from=first /all/program /usr/bin/
COPY --from=second / /second
COPY <<END /etc/message
  hello
END
LABEL a=b
"""
FILES = {"b.txt": "b", "a.txt": "a", "d/I.txt": "I", "d/ı.txt": "dotless", "d/z/deep": "deep", ".hidden": "h"}
OPTIONS = ("--normalize-modes", "--source-date-epoch=1700000000", "--label", "c=d")

# What Python reads when it starts: the host's own order of directories turned round, and another day.
TURNED_ROUND = """\
import os
_scandir, _listdir = os.scandir, os.listdir
class _Reversed(list):
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def close(self): pass
def scandir(path="."):
    with _scandir(path) as found:
        return _ReversedIterator(sorted(found, key=lambda one: os.fsencode(one.name), reverse=True))
class _ReversedIterator(_Reversed):
    def __init__(self, found): super().__init__(found); self._all = iter(found)
    def __iter__(self): return self
    def __next__(self): return next(self._all)
os.scandir = scandir
os.listdir = lambda path=".": sorted(_listdir(path), reverse=True)
open(os.environ["TURNED_ROUND"], "w").close()
"""
ANOTHER_DAY = """\
import os, time
_time = time.time
time.time = lambda: _time() + 400 * 86400
time.time_ns = lambda: int(time.time() * 1e9)
open(os.environ["ANOTHER_DAY"], "w").close()
"""


def checkout(
    folder: Path, base: str, *, umask: int = 0o022, mtime: int = 1_600_000_000, backwards: bool = False
) -> Path:
    """The context, as a tool would write it under this umask."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("inside")
        entry.mtime = 1_234_567
        tar.addfile(entry)
    contents = {name: text.encode() for name, text in FILES.items()}
    contents |= {"archive.tar": archive.getvalue(), "Machinefile": TEXT.format(base=base).encode(), "program": b"#!x"}
    before = os.umask(umask)
    try:
        for name in sorted(contents, reverse=backwards):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            executable = name == "program"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777 if executable else 0o666)
            os.write(descriptor, contents[name])
            os.close(descriptor)
            os.utime(path, (mtime, mtime))
        (folder / "link").symlink_to("b.txt")
    finally:
        os.umask(before)
    return folder


@dataclass
class Variation:
    """How the second build is unlike the first."""

    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    mtime: int = 1_600_000_000
    backwards: bool = False
    prefix: tuple[str, ...] = ()
    startup: str = ""
    warm: bool = False
    store: str = "store"


ANOTHER_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
VARIATIONS = {
    "umask of the checkout": Variation(umask=0o077),
    "umask of the checkout, the other way": Variation(umask=0o000),
    "time of the checkout": Variation(mtime=1_500_000_001, backwards=True),
    "locale": Variation(environment={"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONUTF8": "0"}),
    "time zone": Variation(environment={"TZ": "Asia/Kathmandu"}),
    "time of day": Variation(startup=ANOTHER_DAY),
    "order of directories": Variation(startup=TURNED_ROUND),
    "hashes of Python": Variation(environment={"PYTHONHASHSEED": "77"}),
    "one at a time": Variation(options=("--jobs=1",)),
    "many at a time": Variation(options=("--jobs=16",)),
    "a warm cache": Variation(warm=True),
    "place of the store": Variation(store="a/much/longer/path with blanks"),
    "another user": Variation(prefix=ANOTHER_USER),
}


def outcome(mbuild: Mbuild, context: Path, *options: str) -> tuple[str, bytes]:
    """The image's digest, and the archive of it."""
    archive = mbuild.folder / "out" / "image.tar"
    archive.unlink(missing_ok=True)
    done = mbuild.ok("-q", "-o", f"type=oci,dest={archive}", *OPTIONS, *options, context)
    return done.stdout.strip(), archive.read_bytes()


@pytest.fixture(scope="module")
def reference(busybox: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """What the build that all others are compared with came to."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "out").mkdir()
    return outcome(Mbuild(folder, folder / "store"), checkout(folder / "context", busybox))


@pytest.mark.parametrize("name", VARIATIONS)
def test_nothing_around_the_build_shows(
    name: str, reference: tuple[str, bytes], busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = VARIATIONS[name]
    if how.prefix and os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    context = checkout(
        tmp_path / "place/of/context", busybox, umask=how.umask, mtime=how.mtime, backwards=how.backwards
    )
    (tmp_path / "out").mkdir()
    (tmp_path / how.store).mkdir(parents=True)
    mark = tmp_path / "out" / "started"
    mbuild = Mbuild(tmp_path, tmp_path / how.store, how.prefix, dict(how.environment))
    if how.startup:
        (tmp_path / "startup").mkdir()
        (tmp_path / "startup/sitecustomize.py").write_text(how.startup)
        mbuild.environment["PYTHONPATH"] = f"{tmp_path / 'startup'}:{ROOT}"
        mbuild.environment |= {"TURNED_ROUND": str(mark), "ANOTHER_DAY": str(mark)}
    if how.prefix:
        open_to_all(tmp_path)
        for folder in (tmp_path, tmp_path / "out", mbuild.store):
            folder.chmod(0o777)
    if how.warm:
        outcome(mbuild, context)
    assert outcome(mbuild, context, *how.options) == reference
    assert mark.exists() == bool(how.startup), "the variation was there"


def test_without_a_time_of_ones_own_it_is_the_same_too(mbuild: Mbuild, busybox: str) -> None:
    context = checkout(mbuild.folder / "context", busybox)
    first = mbuild.ok("-q", context).stdout
    mbuild.store = mbuild.folder / "another"
    mbuild.environment = {"TZ": "Asia/Kathmandu"}
    assert mbuild.ok("-q", "--no-cache", context).stdout == first


def test_modes_count_unless_they_are_normalized(mbuild: Mbuild, busybox: str) -> None:
    one, other = (checkout(mbuild.folder / str(umask), busybox, umask=umask) for umask in (0o022, 0o077))
    assert mbuild.ok("-q", one).stdout != mbuild.ok("-q", other).stdout
    assert mbuild.ok("-q", "--normalize-modes", one).stdout == mbuild.ok("-q", "--normalize-modes", other).stdout


def test_the_time_comes_from_the_option_the_argument_or_the_environment(mbuild: Mbuild, busybox: str) -> None:
    context = checkout(mbuild.folder / "context", busybox, mtime=1_700_000_000)
    number = mbuild.ok("-q", "--source-date-epoch=1700000000", context).stdout
    assert mbuild.ok("-q", context).stdout != number
    assert mbuild.ok("-q", "--source-date-epoch=context", context).stdout == number
    assert mbuild.ok("-q", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", context).stdout == number
    mbuild.environment = {"SOURCE_DATE_EPOCH": "1700000000"}
    assert mbuild.ok("-q", context).stdout == number
    assert mbuild.build(context)["steps"] == {"hit": 8, "run": 0, "total": 8}
    mbuild.environment = {"SOURCE_DATE_EPOCH": "yesterday"}
    refused = mbuild(context)
    assert refused.returncode == 2
    assert "yesterday" in refused.stderr


def test_a_commit_that_is_not_all_there_is_noted(mbuild: Mbuild, busybox: str) -> None:
    context = checkout(mbuild.folder / "context", busybox)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    dates = {"GIT_COMMITTER_DATE": "1700000000 +0000", "GIT_CONFIG_GLOBAL": os.devnull, "PATH": os.environ["PATH"]}
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "all")):
        subprocess.run(["git", *words], cwd=context, env=dates, check=True, capture_output=True)
    (context / ".dockerignore").write_text(".git\n.dockerignore\n")
    done = mbuild.ok("--progress=plain", "--source-date-epoch=git", context)
    assert "has changes that are not in the commit" in done.stderr
    assert done.stdout == mbuild.ok("-q", "--source-date-epoch=1700000000", context).stdout
