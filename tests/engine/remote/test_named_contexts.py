"""--build-context: folders, repositories and images under names of their own."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.remote.contexts import ContextKind, NamedContext, parse_context
from engine.report import BuildReport
from engine.request import BuildRequest
from machinefile.errors import MachinefileError, UsageError
from machinefile.imageconfig import ImageConfig

if TYPE_CHECKING:
    from conftest import GitServer

    from tests.engine.conftest import Workshop


def request(workshop: Workshop, text: str, *contexts: str) -> BuildRequest:
    parsed = tuple(map(parse_context, contexts))
    asked = workshop.request(
        text,
        contexts=frozenset(one.name for one in parsed),
        image_contexts=frozenset(one.name for one in parsed if one.kind is ContextKind.IMAGE),
    )
    return dataclasses.replace(asked, contexts=parsed)


def build(workshop: Workshop, text: str, *contexts: str) -> BuildReport:
    return workshop.driver.build(request(workshop, text, *contexts))


def tar_of_one(path: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(path)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    folder = tmp_path / "assets"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "logo").write_text("logo")
    (folder / "secret").write_text("secret")
    (folder / ".dockerignore").write_text("secret\n")
    return folder


def test_a_folder_can_be_copied_from_less_what_its_own_dockerignore_says(workshop: Workshop, assets: Path) -> None:
    workshop.write("secret", "mine")
    text = "FROM base\nCOPY --from=assets . /a/\nCOPY secret /b/\n"
    files = workshop.files(build(workshop, text, f"assets={assets}").digest)
    assert files["a/sub/logo"] == b"logo"
    assert "a/secret" not in files
    assert files["b/secret"] == b"mine"


def test_a_changed_file_of_a_folder_is_noticed(workshop: Workshop, assets: Path) -> None:
    text = "FROM base\nCOPY --from=assets sub/logo /logo\n"
    build(workshop, text, f"assets={assets}")
    assert build(workshop, text, f"assets={assets}").hit == 1
    (assets / "sub" / "logo").write_text("other")
    changed = build(workshop, text, f"assets={assets}")
    assert (changed.run, workshop.files(changed.digest)["logo"]) == (1, b"other")


def test_a_folder_can_be_built_from(workshop: Workshop, assets: Path) -> None:
    made = build(workshop, "FROM assets AS a\nCOPY --from=assets sub/logo /logo\n", f"assets={assets}")
    files = workshop.files(made.digest)
    assert (files["sub/logo"], files["logo"]) == (b"logo", b"logo")
    manifest, configuration = workshop.image(made.digest)
    assert len([one for one in configuration.history if not one.empty_layer]) == len(manifest.layers) == 2


def test_a_folder_stands_in_for_a_stage(workshop: Workshop, assets: Path) -> None:
    text = "FROM base AS assets\nRUN fail 1\nFROM base\nCOPY --from=assets /sub/logo /logo\n"
    made = build(workshop, text, f"assets={assets}")
    assert workshop.files(made.digest)["logo"] == b"logo"
    assert made.restores == 0


def test_an_image_stands_in_for_a_base(workshop: Workshop) -> None:
    workshop.source.add("docker-image://other/alpine:3", [tar_of_one("x", b"1")], ImageConfig(env=(("A", "b"),)))
    made = build(workshop, "FROM docker.io/library/alpine\nRUN write y 2\n", "alpine=docker-image://other/alpine:3")
    files = workshop.files(made.digest)
    assert (files["x"], files["y"]) == (b"1", b"2")
    assert ("A", "b") in workshop.image(made.digest)[1].config.env
    assert "alpine" not in workshop.source.asked


def test_an_image_can_be_copied_from(workshop: Workshop) -> None:
    workshop.source.add("oci-layout:///some/layout:v1", [tar_of_one("bin/tool", b"tool")])
    text = "FROM base\nCOPY --from=tools /bin/tool /bin/tool\nCOPY --from=tools /bin/tool /bin/two\n"
    made = build(workshop, text, "tools=oci-layout:///some/layout:v1")
    assert workshop.files(made.digest)["bin/two"] == b"tool"
    assert build(workshop, text, "tools=oci-layout:///some/layout:v1").hit == 2


def test_an_image_stands_in_for_a_stage(workshop: Workshop) -> None:
    workshop.source.add("docker-image://other", [tar_of_one("x", b"1")])
    text = "FROM base AS tools\nRUN fail 1\nFROM tools\nCOPY --from=tools /x /y\n"
    files = workshop.files(build(workshop, text, "tools=docker-image://other").digest)
    assert (files["x"], files["y"]) == (b"1", b"1")


def test_a_repository_can_be_copied_from(workshop: Workshop, git_server: GitServer) -> None:
    work = git_server.repository()
    work.write("src/f", "one")
    work.write("other")
    work.commit()
    text = "FROM base\nCOPY --from=project . /src\n"
    made = build(workshop, text, f"project={work.url}#main:src")
    assert workshop.files(made.digest)["src/f"] == b"one"
    assert "src/other" not in workshop.files(made.digest)
    assert build(workshop, text, f"project={work.url}#main:src").hit == 1


def test_a_repository_that_no_step_looks_into_is_not_fetched(workshop: Workshop) -> None:
    assert build(workshop, "FROM base\nRUN write a b\n", "project=https://127.0.0.1:1/x.git").run == 1


def test_what_a_context_does_not_have_is_told_with_its_name(workshop: Workshop, assets: Path) -> None:
    with pytest.raises(MachinefileError) as raised:
        build(workshop, "FROM base\nCOPY --from=assets secret /x\n", f"assets={assets}")
    assert raised.value.code == "source-missing"
    assert "assets" in raised.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=docker-image://alpine", NamedContext("a", ContextKind.IMAGE, "docker-image://alpine")),
        ("a=oci-layout://dir:tag", NamedContext("a", ContextKind.IMAGE, "oci-layout://dir:tag")),
        ("docker.io/library/alpine:latest=.", NamedContext("alpine", ContextKind.FOLDER, ".")),
        ("ghcr.io/a/b:1=.", NamedContext("ghcr.io/a/b:1", ContextKind.FOLDER, ".")),
        ("Base=.", NamedContext("base", ContextKind.FOLDER, ".")),
        ("p=https://h.org/x.git#v1", NamedContext("p", ContextKind.REPOSITORY, "https://h.org/x.git#v1")),
        ("p=git@h.org:x.git", NamedContext("p", ContextKind.REPOSITORY, "git@h.org:x.git")),
    ],
)
def test_contexts_are_read_as_docker_reads_them(text: str, expected: NamedContext) -> None:
    assert parse_context(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a", "usage"),
        ("=x", "usage"),
        ("a=", "usage"),
        ("a b=.", "usage"),
        ("scratch=.", "usage"),
        ("context=.", "usage"),
        ("a=/does/not/exist", "context-missing"),
        ("a=https://h.org/x.tar.gz", "context-unsupported"),
        ("a=target:b", "context-unsupported"),
        ("a=docker-image://Not A Name", "reference-invalid"),
        ("a=https://h.org/x.git?tga=1", "bad-git-url"),
    ],
)
def test_contexts_that_make_no_sense_are_refused(text: str, code: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_context(text)
    assert raised.value.code == code


def test_a_bad_dockerignore_names_its_file(workshop: Workshop, assets: Path) -> None:
    (assets / ".dockerignore").write_text("[\n")
    with pytest.raises(MachinefileError) as raised:
        build(workshop, "FROM base\n", f"assets={assets}")
    assert raised.value.span is not None
    assert raised.value.span.source.name == str(assets / ".dockerignore")
