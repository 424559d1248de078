"""Lock files: what they pin, what a build does with the pins, and what it says about those that are missing."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from engine.events import WarningRaised
from engine.locking import Upgrade, make_lock
from engine.pins import Lock, image_name
from engine.remote.contexts import ContextKind, parse_context
from engine.report import BuildReport
from engine.request import BuildRequest
from machinefile.errors import MachinefileError, MbuildError, TransferError, UntrustedDataError, UsageError
from machinefile.imageconfig import ImageConfig
from machinefile.lockfile import FilePin, ImagePin, Lockfile, RepositoryPin
from machinefile.platform import Platform, native

if TYPE_CHECKING:
    from conftest import FileServer, GitServer

    from tests.engine.conftest import Workshop

OTHER = Platform("linux", "s390x")


@dataclass
class Project:
    """A Machinefile with its lock file."""

    workshop: Workshop
    text: str
    contexts: Sequence[str] = ()
    platforms: tuple[Platform, ...] = ()
    pins: Lockfile | None = None

    def request(self, *, locked: bool = False, use: bool = True, target: str | None = None) -> BuildRequest:
        named = tuple(map(parse_context, self.contexts))
        asked = self.workshop.request(
            self.text,
            target=target,
            contexts=frozenset(one.name for one in named),
            image_contexts=frozenset(one.name for one in named if one.kind is ContextKind.IMAGE),
        )
        lock = Lock("M.lock", self.pins) if self.pins is not None and use else None
        return dataclasses.replace(asked, contexts=named, platforms=self.platforms, lock=lock, locked=locked)

    def lock(self, upgrade: Upgrade | None = None) -> Lockfile:
        """Lock, and keep it."""
        shop = self.workshop
        self.pins = make_lock(self.request(), shop.store, shop.source, shop.events.append, shop.cancelled, upgrade)
        return self.pins

    def build(self, *, locked: bool = False, use: bool = True, target: str | None = None) -> BuildReport:
        """Build with it."""
        return self.workshop.driver.build(self.request(locked=locked, use=use, target=target))

    def refused(self, kind: type[MbuildError], *, locked: bool = False) -> MbuildError:
        """Build; it must fail."""
        with pytest.raises(kind) as caught:
            self.build(locked=locked)
        return caught.value


def warnings(workshop: Workshop) -> list[str]:
    return [f"{one.location} {one.message}" for one in workshop.events if isinstance(one, WarningRaised)]


def move(workshop: Workshop, name: str = "base", platform: Platform | None = None) -> str:
    """Another image under the name; gives its digest."""
    return workshop.source.add(name, [], ImageConfig(env=(("NEW", name),)), platform=platform)


def test_a_tag_that_moved_changes_nothing_until_the_lock_is_upgraded(workshop: Workshop) -> None:
    project = Project(workshop, "FROM base\nRUN write a b\n")
    (pin,) = project.lock().images
    assert (pin.name, pin.platform, pin.index) == ("base:latest", native(), "")
    first = project.build(locked=True)
    moved = move(workshop)
    asked = len(workshop.source.asked)
    assert project.build(locked=True).digest == first.digest
    assert all("@" in name for name in workshop.source.asked[asked:])
    assert project.lock().images == (pin,)
    assert project.build(use=False).digest != first.digest
    assert project.lock(Upgrade(("base",))).images == (dataclasses.replace(pin, digest=moved),)
    assert project.build().digest != first.digest
    assert warnings(workshop) == []


def test_every_stage_and_platform_is_pinned(workshop: Workshop) -> None:
    for platform in (native(), OTHER):
        for name in ("base", "tools"):
            move(workshop, name, platform)
    move(workshop, "unneeded")
    text = f"FROM --platform={native()} unneeded AS spare\nFROM base\nCOPY --from=tools f /f\n"
    project = Project(workshop, text, platforms=(OTHER, native()))
    found = project.lock()
    wanted = {(f"{name}:latest", one) for name in ("base", "tools") for one in (native(), OTHER)}
    assert {(pin.name, pin.platform) for pin in found.images} == {*wanted, ("unneeded:latest", native())}
    assert found.platforms == tuple(sorted((native(), OTHER)))


def test_what_nothing_names_any_more_is_left_out_and_what_is_new_is_added(workshop: Workshop) -> None:
    project = Project(workshop, "FROM base\n")
    project.lock()
    move(workshop, "other")
    project.text = "FROM other\n"
    assert [pin.name for pin in project.lock().images] == ["other:latest"]


def test_only_what_is_named_is_upgraded_and_an_unknown_name_is_told(workshop: Workshop) -> None:
    project = Project(workshop, "FROM base AS a\nFROM registry.example/team/tool:1\n")
    move(workshop, "registry.example/team/tool:1")
    old = {pin.name: pin.digest for pin in project.lock().images}
    moved = move(workshop)
    workshop.source.add("registry.example/team/tool:1", [], ImageConfig(user="x"))
    new = {pin.name: pin.digest for pin in project.lock(Upgrade(("base:latest",))).images}
    assert new == {**old, "base:latest": moved}
    with pytest.raises(UsageError) as caught:
        project.lock(Upgrade(("tool",)))
    assert caught.value.code == "lock-unknown-name"
    assert "registry.example/team/tool:1" in caught.value.hint
    later = {pin.name: pin.digest for pin in project.lock(Upgrade(("registry.example/team/tool",))).images}
    assert later["registry.example/team/tool:1"] != old["registry.example/team/tool:1"]


def test_a_pin_that_is_missing_is_warned_of_and_refused_with_locked(workshop: Workshop) -> None:
    project = Project(workshop, "FROM base\n", pins=Lockfile((native(),)))
    project.build()
    assert warnings(workshop) == [
        f"Machinefile:1:1 M.lock has no pin for base:latest for {native()}: mbuild lock adds it"
    ]
    asked = len(workshop.source.asked)
    project.text = "FROM base AS a\nFROM scratch\nCOPY --from=a f /f\nCOPY --from=tools f /f\n"
    error = project.refused(UsageError, locked=True)
    assert error.code == "lock-incomplete"
    assert f"Machinefile:1:1: base:latest for {native()}" in error.message
    assert f"Machinefile:4:1: tools:latest for {native()}" in error.message
    assert workshop.source.asked[asked:] == []


def test_a_pinned_image_that_is_gone_is_told_as_such(workshop: Workshop) -> None:
    digest = "sha256:" + "0" * 64
    project = Project(workshop, "FROM base\n", pins=Lockfile((native(),), (ImagePin("base:latest", native(), digest),)))
    error = project.refused(TransferError)
    assert error.code == "lock-image-gone"
    assert "M.lock" in error.message
    assert digest in error.message
    assert "mbuild lock --upgrade base:latest" in error.hint
    assert error.span is not None
    assert error.span.line == 1


def test_an_image_of_this_machine_must_be_the_pinned_one(workshop: Workshop) -> None:
    move(workshop, "oci-layout:there:1")
    project = Project(workshop, "FROM oci-layout:there:1\n")
    assert [pin.name for pin in project.lock().images] == ["oci-layout:there:1"]
    project.build(locked=True)
    workshop.source.add("oci-layout:there:1", [], ImageConfig(env=(("A", "moved"),)))
    error = project.refused(UntrustedDataError)
    assert error.code == "lock-mismatch"
    assert "mbuild lock --upgrade oci-layout:there:1" in error.hint


def test_what_the_file_pins_itself_needs_no_lock(workshop: Workshop, server: FileServer) -> None:
    digest = workshop.source.add("fixed", [], ImageConfig())
    checksum = "sha256:" + hashlib.sha256(b"x").hexdigest()
    text = (
        f"FROM fixed@{digest}\nADD --checksum={checksum} {server.put('/f', b'x')} /\n"
        f"ADD https://127.0.0.1:1/p.git#{'c' * 40} /p\n"
    )
    project = Project(workshop, text)
    assert project.lock() == Lockfile((native(),))
    project.workshop.plan(text)
    assert workshop.driver.plan(project.request(locked=True)).graph.target == "0"


def test_a_named_image_is_pinned_by_what_it_is_not_by_what_it_is_called(workshop: Workshop) -> None:
    project = Project(workshop, "FROM sys\nRUN write a b\n", contexts=("sys=docker-image://base",))
    workshop.source.add("docker-image://base", [], ImageConfig(env=(("A", "named"),)))
    (pin,) = project.lock().images
    assert pin.name == "base:latest"
    first = project.build(locked=True)
    workshop.source.add("docker-image://base", [], ImageConfig(env=(("A", "moved"),)))
    assert project.build(locked=True).digest == first.digest
    project.contexts = ("sys=docker-image://another",)
    assert project.refused(UsageError, locked=True).code == "lock-incomplete"


def test_a_file_that_changed_is_an_error_that_names_the_lock(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"one")
    project = Project(workshop, f"FROM base\nADD {url} /tool\n")
    assert project.lock().files == (FilePin(url, "sha256:" + hashlib.sha256(b"one").hexdigest()),)
    asked = len(server.asked)
    first = project.build(locked=True)
    assert len(server.asked) == asked  # it came with the lock
    server.put("/tool", b"two")
    assert project.build(locked=True).digest == first.digest
    assert project.pins is not None
    wanted = "sha256:" + hashlib.sha256(b"three").hexdigest()
    project.pins = dataclasses.replace(project.pins, files=(FilePin(url, wanted),))
    error = project.refused(UntrustedDataError)
    assert error.code == "digest-mismatch"
    assert "M.lock" in error.message
    assert wanted in error.message
    assert f"mbuild lock --upgrade {url}" in error.hint
    assert error.span is not None
    assert error.span.line == 2
    project.lock(Upgrade((url,)))
    assert workshop.files(project.build().digest)["tool"] == b"two"


def test_a_file_without_a_pin_is_refused_with_locked_before_it_is_fetched(
    workshop: Workshop, server: FileServer
) -> None:
    project = Project(workshop, "FROM base\n")
    project.lock()
    url = server.put("/tool", b"one")
    project.text += f"ADD {url} /tool\n"
    error = project.refused(UsageError, locked=True)
    assert error.code == "lock-incomplete"
    assert f"Machinefile:2:1: {url}" in error.message
    assert server.asked == []
    project.build()
    assert warnings(workshop) == [f"Machinefile:2:1 M.lock has no pin for {url}: mbuild lock adds it"]


def test_a_password_does_not_get_into_the_lock(workshop: Workshop, server: FileServer) -> None:
    url = server.put("/tool", b"one").replace("://", "://ada:geheim@")
    project = Project(workshop, f"FROM base\nADD {url} /tool\n")
    assert "geheim" not in project.lock().render()
    project.build(locked=True)


def test_a_branch_that_moved_gives_the_same_files_and_the_same_git_folder(
    workshop: Workshop, git_server: GitServer
) -> None:
    work = git_server.repository()
    work.write("f", "one")
    commit = work.commit()
    text = f"FROM base\nADD {work.url} /a\nADD --keep-git-dir=true {work.url}#main /b\nCOPY --from=src f /c\n"
    project = Project(workshop, text, contexts=(f"src={work.url}?branch=main",))
    found = project.lock()
    assert set(found.repositories) == {
        RepositoryPin(work.url, "", commit, "refs/heads/main"),
        RepositoryPin(work.url, "main", commit, "refs/heads/main"),
        RepositoryPin(work.url, "refs/heads/main", commit, "refs/heads/main"),
    }
    work.write("f", "two")
    moved = work.commit()
    built = workshop.files(project.build(locked=True).digest)
    assert (built["a/f"], built["b/f"], built["c"]) == (b"one", b"one", b"one")
    assert built["b/.git/HEAD"].decode().strip() == commit
    assert built["b/.git/refs/heads/main"].decode().strip() == commit
    upgraded = project.lock(Upgrade((f"{work.url}#main",)))
    assert {pin.ref: pin.commit for pin in upgraded.repositories} == {
        "": commit,
        "main": moved,
        "refs/heads/main": commit,
    }


def test_a_tag_that_moved_gives_the_same_git_folder(workshop: Workshop, git_server: GitServer) -> None:
    work = git_server.repository()
    for content in ("one", "two"):
        work.write("f", content)
        work.commit(content)
        work.tag("v1", content)
        if content == "one":
            project = Project(workshop, f"FROM base\nADD --keep-git-dir=true {work.url}#v1 /b\n")
            (pin,) = project.lock().repositories
    assert pin.name == "refs/tags/v1"
    built = workshop.files(project.build(locked=True).digest)
    assert built["b/f"] == b"one"
    assert built["b/.git/refs/tags/v1"].decode().strip() == pin.tag


def test_a_repository_without_a_pin_is_refused_with_locked(workshop: Workshop) -> None:
    url = "git://127.0.0.1:1/p.git"
    project = Project(workshop, f"FROM base\nADD {url}#v1 /a\n", contexts=(f"src={url}",))
    base = move(workshop)
    project.pins = Lockfile((native(),), (ImagePin("base:latest", native(), base),))
    error = project.refused(UsageError, locked=True)
    assert f"Machinefile:2:1: {url}#v1" in error.message
    assert f"the context src, {url}" in error.message


def test_a_pin_that_the_files_own_checksum_contradicts_is_refused(workshop: Workshop) -> None:
    url = "git://127.0.0.1:1/p.git"
    pins = Lockfile((native(),), (), (), (RepositoryPin(url, "v1", "c" * 40),))
    project = Project(workshop, f"FROM scratch\nADD --checksum={'d' * 10} {url}#v1 /a\n", pins=pins)
    assert project.refused(UntrustedDataError).code == "lock-mismatch"


def test_a_mistake_in_any_stage_is_told(workshop: Workshop) -> None:
    project = Project(workshop, "FROM base AS a\nEXPOSE what\nFROM base\n")
    with pytest.raises(MachinefileError) as caught:
        project.lock()
    assert caught.value.span is not None
    assert caught.value.span.line == 2


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("debian", "debian:latest"),
        ("docker.io/library/debian:12", "debian:12"),
        ("docker-image://localhost:5000/a", "localhost:5000/a:latest"),
        ("oci-layout://dir:1", "oci-layout:dir:1"),
        ("docker-archive:file.tar", "docker-archive:file.tar"),
        ("debian:12@sha256:" + "1" * 64, ""),
        ("scratch", ""),
        ("UPPER", ""),
    ],
)
def test_names_have_one_spelling(written: str, name: str) -> None:
    assert image_name(written) == name
