"""Scope, stages, references: a file to a graph of resolved steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machinefile.building import DEFAULT_PATH
from machinefile.errors import MachinefileError, TransferError
from machinefile.imageconfig import Healthcheck, ImageConfig
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.platform import Platform
from machinefile.resolve import base_references, resolve
from machinefile.source import Source
from machinefile.steps import (
    SCRATCH,
    BaseImage,
    BaseReference,
    BuildGraph,
    Copy,
    From,
    FromContext,
    FromNothing,
    FromStep,
    InlineFile,
    MachineShape,
    Metadata,
    MountType,
    NetworkMode,
    RemoteSource,
    Run,
    Sharing,
    Snapshot,
    Workdir,
)
from machinefile.vocabulary import INSTRUCTIONS

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def build(text: str, images: Mapping[str, ImageConfig] | None = None, **options: object) -> BuildGraph:
    def lookup(base: BaseReference) -> BaseImage:
        return BaseImage(f"sha256:{base.reference}", (images or {}).get(base.reference, ImageConfig()))

    chosen: dict[str, object] = {"platform": AMD64, "build_platform": AMD64, **options}
    return resolve(parse(Source("M", text)), BuildOptions(**chosen), lookup)  # type: ignore[arg-type]


def runs(graph: BuildGraph) -> list[Run]:
    return [step.operation for step in graph.steps if isinstance(step.operation, Run)]


def copies(graph: BuildGraph) -> list[Copy]:
    return [step.operation for step in graph.steps if isinstance(step.operation, Copy)]


def environment(text: str, **options: object) -> dict[str, str]:
    """What the last RUN of a file sees, without PATH."""
    graph = build(text, **options)  # type: ignore[arg-type]
    found = dict(runs(graph)[-1].environment)
    assert found.pop("PATH") == DEFAULT_PATH
    return found


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("FROM a\nENV A=1\nRUN x", {}, {"A": "1"}),
        ("FROM a\nENV A=1\nENV A=2 B=$A\nRUN x", {}, {"A": "2", "B": "1"}),
        ("FROM a\nARG A=1\nRUN x", {}, {"A": "1"}),
        ("FROM a\nARG A\nRUN x", {}, {}),
        ("FROM a\nARG A=1\nRUN x", {"build_args": (("A", "2"),)}, {"A": "2"}),
        ("FROM a\nARG A=1 B=${A}2\nRUN x", {}, {"A": "1", "B": "12"}),
        ("FROM a\nARG A=1\nENV A=2\nRUN x", {"build_args": (("A", "3"),)}, {"A": "2"}),
        ("FROM a\nARG A=1\nENV A=${A:-5}\nRUN x", {}, {"A": "1"}),
        ("ARG A=1\nFROM a\nRUN x", {}, {}),
        ("ARG A=1\nFROM a\nARG A\nRUN x", {}, {"A": "1"}),
        ("ARG A=1\nFROM a\nARG A=2\nRUN x", {}, {"A": "2"}),
        ("ARG A=1\nARG B=$A\nFROM a\nARG B\nRUN x", {"build_args": (("A", "7"),)}, {"B": "7"}),
        (
            "FROM a\nARG TARGETARCH TARGETPLATFORM BUILDOS\nRUN x",
            {"platform": ARM64},
            {"TARGETARCH": "arm64", "TARGETPLATFORM": "linux/arm64", "BUILDOS": "linux"},
        ),
        ("FROM a AS b\nARG A=1\nENV E=2\nFROM b\nRUN x", {}, {"A": "1", "E": "2"}),
        ("FROM a AS b\nARG A=1\nFROM c\nRUN x", {}, {}),
    ],
)
def test_a_run_sees_env_and_the_args_in_scope(text: str, options: dict[str, object], expected: dict[str, str]) -> None:
    assert environment(text, **options) == expected


def test_path_comes_from_the_image_where_it_has_one() -> None:
    graph = build("FROM a\nENV PATH=/x:$PATH\nRUN x", {"a": ImageConfig(env=(("PATH", "/bin"),))})
    assert dict(runs(graph)[0].environment)["PATH"] == "/x:/bin"
    assert graph.config.env == (("PATH", "/x:/bin"),)


def test_an_image_without_path_gets_one() -> None:
    assert build("FROM scratch").config.env == (("PATH", DEFAULT_PATH),)


def test_proxies_reach_commands_but_not_words_or_history() -> None:
    graph = build("FROM a\nENV P=$http_proxy\nRUN x", build_args=(("http_proxy", "p:1"),))
    (run,) = runs(graph)
    assert run.proxy == (("HTTP_PROXY", "p:1"), ("http_proxy", "p:1"))
    assert "http_proxy" not in dict(run.environment)
    assert dict(graph.config.env)["P"] == ""


def test_commands_are_not_rewritten() -> None:
    graph = build('FROM a\nENV D=1\nRUN D=/x && mkdir "$D" \'$HOME\'\nCMD echo $D\nENTRYPOINT ["$D"]')
    assert runs(graph)[0].argv == ("/bin/sh", "-c", "D=/x && mkdir \"$D\" '$HOME'")
    assert graph.config.entrypoint == ("$D",)
    assert graph.config.cmd == ("/bin/sh", "-c", "echo $D")


@pytest.mark.parametrize(
    ("text", "created_by"),
    [
        ("RUN make", "RUN /bin/sh -c make # buildkit"),
        ('RUN ["a", "b"]', "RUN a b # buildkit"),
        ("ARG A=1 B\nRUN make", "RUN |2 A=1 B= /bin/sh -c make # buildkit"),
        ("ARG A=1\nENV A=2\nRUN make", "RUN |1 A=2 /bin/sh -c make # buildkit"),
        ("COPY a b /c/", "COPY a b /c/ # buildkit"),
        ("COPY --chown=u:g --chmod=755 --parents a /c", "COPY --parents --chown=u:g --chmod=755 a /c # buildkit"),
        ("COPY <<E /c\nE", "COPY <<E /c # buildkit"),
        ("ADD a b", "ADD a b # buildkit"),
        ("ENV A=b C=d", "ENV A=b C=d"),
        ("ENV A b c", "ENV A=b c"),
        ("LABEL a=b", "LABEL a=b"),
        ("ARG A=1 B", "ARG A=1 B"),
        ("WORKDIR x", "WORKDIR /x"),
        ("WORKDIR /", "WORKDIR /"),
        ("USER u", "USER u"),
        ('CMD ["x", "a\\"b"]', 'CMD ["x" "a\\"b"]'),
        ("CMD x", 'CMD ["/bin/sh" "-c" "x"]'),
        ("ENTRYPOINT x", 'ENTRYPOINT ["/bin/sh" "-c" "x"]'),
        ('SHELL ["a", "b"]', "SHELL [a b]"),
        ("EXPOSE 80 53/udp", "EXPOSE [53/udp 80/tcp]"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ("STOPSIGNAL SIGINT", "STOPSIGNAL SIGINT"),
        ("MAINTAINER Some One", "MAINTAINER Some One"),
        (
            "HEALTHCHECK --interval=90s --retries=2 CMD a b",
            "HEALTHCHECK {Test:[CMD-SHELL a b] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}",
        ),
    ],
)
def test_history_is_written_as_buildkit_does(text: str, created_by: str) -> None:
    assert build(f"FROM scratch\n{text}").steps[-1].created_by == created_by


def test_the_history_lists_every_stage_below_and_nothing_else() -> None:
    graph = build("FROM a AS b\nENV A=1\nRUN x\nFROM c AS d\nRUN y\nFROM b\nCOPY --from=d /y /\nMACHINE cpus=1\nUSER u")
    assert [graph.step(step).instruction for step in graph.history] == [
        "ENV A=1",
        "RUN x",
        "COPY --from=d /y /",
        "USER u",
    ]


def test_a_cmd_of_the_base_goes_when_the_entrypoint_changes() -> None:
    images = {"a": ImageConfig(cmd=("old",), entrypoint=("e",))}
    assert build('FROM a\nENTRYPOINT ["n"]', images).config.cmd is None
    assert build('FROM a\nCMD ["c"]\nENTRYPOINT ["n"]', images).config.cmd == ("c",)
    assert build('FROM a AS b\nCMD ["c"]\nFROM b\nENTRYPOINT ["n"]', images).config.cmd is None
    assert build("FROM a\nENTRYPOINT []", images).config.entrypoint is None


def test_settings_land_in_the_configuration() -> None:
    graph = build(
        'FROM scratch\nUSER 1:2\nWORKDIR /a\nWORKDIR b/../c\nEXPOSE 80 8000-8001/UDP 80\nVOLUME ["/v"]\n'
        'LABEL a=1 "b c"="d e"\nLABEL a=2\nSTOPSIGNAL 9\nSHELL ["/bin/bash", "-c"]\n'
        'HEALTHCHECK --timeout=1.5s CMD ["a"]\nMAINTAINER me\nONBUILD RUN $x\nCMD go',
        labels=(("z", "1"), ("a", "3")),
    )
    assert graph.config == ImageConfig(
        env=(("PATH", DEFAULT_PATH),),
        user="1:2",
        working_dir="/a/c",
        cmd=("/bin/bash", "-c", "go"),
        args_escaped=True,
        shell=("/bin/bash", "-c"),
        labels=(("a", "3"), ("b c", "d e"), ("z", "1")),
        exposed_ports=("80/tcp", "8000/udp", "8001/udp"),
        volumes=("/v",),
        stop_signal="9",
        healthcheck=Healthcheck(("CMD", "a"), timeout=1_500_000_000),
        on_build=("RUN $x",),
    )
    assert graph.author == "me"


def test_metadata_has_no_children() -> None:
    graph = build("FROM a\nENV A=1\nRUN x\nLABEL b=1\nRUN y")
    parents = {step.instruction: graph.step(step.parent).instruction for step in graph.steps if step.parent}
    assert parents == {"ENV A=1": "FROM a", "RUN x": "FROM a", "LABEL b=1": "RUN x", "RUN y": "RUN x"}
    assert graph.step(graph.result).instruction == "RUN y"


def test_only_what_the_target_needs_is_in_the_graph() -> None:
    text = "FROM a AS one\nRUN 1\nFROM b AS two\nRUN 2\nFROM scratch AS three\nCOPY --from=one / /\nFROM two AS four\n"
    graph = build(text, target="three")
    assert {step.stage for step in graph.steps} == {"one", "three"}
    assert [step.stage for step in build(text).steps] == ["two", "two"]
    assert build(text, target="0").target == "one"
    assert base_references(parse(Source("M", text)), BuildOptions(target="THREE", platform=AMD64)) == (
        BaseReference("a", AMD64),
    )


def test_an_unknown_target_gets_the_nearest_name() -> None:
    with pytest.raises(MachinefileError, match="no stage buidl") as caught:
        build("FROM a AS build\nFROM b AS test", target="buidl")
    assert caught.value.code == "unknown-target"
    assert caught.value.hint == "did you mean build?"


def test_from_sees_earlier_stages_only() -> None:
    graph = build("FROM b AS a\nFROM c AS b\nFROM a\nRUN x")
    assert [step.operation.base.reference for step in graph.steps if isinstance(step.operation, From)] == ["b"]


def test_files_come_from_stages_numbers_images_and_contexts() -> None:
    text = "FROM a AS one\nRUN x\nFROM scratch\nCOPY --from=ONE / /1\nCOPY --from=0 / /2\nCOPY --from=img / /3\n"
    text += "COPY --from=ctx / /4\nCOPY x /5\nRUN --mount=from=img,target=/m --mount=from=one,target=/n y"
    graph = build(text, contexts=frozenset({"ctx"}))
    assert [copy.origin for copy in copies(graph)] == [
        FromStep("one.1"),
        FromStep("one.1"),
        FromStep("img.0"),
        FromContext("ctx"),
        FromContext(),
    ]
    assert graph.steps[-1].inputs == ("img.0", "one.1")
    seen: set[str] = set()
    for step in graph.steps:
        assert {step.parent, *step.inputs} - {None} <= seen
        seen.add(step.id)


def test_a_named_context_stands_in_for_an_image_or_a_stage() -> None:
    images = frozenset({"deb", "y"})
    text = "FROM docker.io/library/deb:latest AS x\nRUN 1\nFROM x AS y\nRUN 2\nFROM y"
    graph = build(text, contexts=images, image_contexts=images)
    assert [step.instruction for step in graph.steps] == ["FROM context:y AS y"]
    graph = build("FROM deb\nRUN 1", contexts=images, image_contexts=images)
    assert [step.instruction for step in graph.steps] == ["FROM context:deb", "RUN 1"]


def test_a_named_context_that_is_a_folder_is_built_from_by_copying_it() -> None:
    graph = build("FROM deb AS x\nRUN 1\nFROM x", contexts=frozenset({"deb"}))
    assert [step.instruction for step in graph.steps] == ["FROM context:deb AS x", "COPY --from=deb / /", "RUN 1"]
    assert [copy.origin for copy in copies(graph)] == [FromContext("deb")]
    assert [step.operation.base.reference for step in graph.steps if isinstance(step.operation, From)] == [SCRATCH]


def test_a_named_context_that_is_an_image_is_copied_from_as_one() -> None:
    names = frozenset({"img"})
    text = "FROM scratch\nCOPY --from=img / /1\nRUN --mount=from=docker.io/library/img,target=/m x"
    graph = build(text, contexts=names, image_contexts=names)
    assert [copy.origin for copy in copies(graph)] == [FromStep("context:img.0")]
    assert graph.steps[-1].inputs == ("context:img.0",)


def test_triggers_run_right_below_the_from_and_once() -> None:
    images = {"a": ImageConfig(on_build=("ENV T=$X", "RUN <<E\nhi\nE", "COPY --from=one /f /"))}
    graph = build("FROM s AS one\nRUN 1\nFROM a AS two\nRUN 2\nFROM two\nRUN 3", images)
    assert [step.instruction for step in graph.steps] == [
        "FROM s AS one",
        "RUN 1",
        "FROM a AS two",
        "ENV T=",
        "RUN <<E (hi)",
        "COPY --from=one /f /",
        "RUN 2",
        "RUN 3",
    ]
    assert [run.argv[-1] for run in runs(graph)] == ["1", "hi\n", "2", "3"]
    assert graph.config.on_build == ()


def test_a_stages_own_triggers_run_in_its_child() -> None:
    graph = build("FROM a AS b\nONBUILD RUN t\nFROM b AS c\nRUN x\nFROM c\nRUN y")
    assert [run.argv[-1] for run in runs(graph)] == ["t", "x", "y"]


def test_a_bad_trigger_is_reported_at_the_from() -> None:
    with pytest.raises(MachinefileError, match="in the ONBUILD of a: unknown instruction RNU") as caught:
        build("FROM a", {"a": ImageConfig(on_build=("RNU x",))})
    assert caught.value.span is not None
    assert (caught.value.span.line, caught.value.span.column) == (1, 6)


def test_an_image_that_cannot_be_had_is_reported_at_its_from() -> None:
    def lookup(base: BaseReference) -> BaseImage:
        raise TransferError(f"no {base.reference}", code="not-found")

    with pytest.raises(TransferError) as caught:
        resolve(parse(Source("M", "FROM scratch AS build\nFROM biuld")), BuildOptions(), lookup)
    assert caught.value.span is not None
    assert (caught.value.span.line, caught.value.hint) == (2, "did you mean the stage build?")


@pytest.mark.parametrize(
    ("text", "sources", "destination", "into"),
    [
        ("COPY a b", ("a",), "/w/b", False),
        ("COPY /a/../b ./../../c /d", ("b", "c"), "/d", True),
        ("COPY . .", (".",), "/w", True),
        ("COPY a/ /d/", ("a",), "/d", True),
        ("COPY a /d/.", ("a",), "/d", True),
        ("COPY $V*.txt ${V}/", ("v*.txt",), "/w/v", True),
        ('COPY ["a b", "c d"]', ("a b",), "/w/c d", False),
        ("COPY --parents a/./b/../c /d", ("a/./c",), "/d", False),
        ('COPY "a" "b"', ("a",), "/w/b", False),
    ],
)
def test_paths_of_a_copy_are_clean(text: str, sources: tuple[str, ...], destination: str, into: bool) -> None:
    (copy,) = copies(build(f"FROM scratch\nWORKDIR /w\nENV V=v\n{text}"))
    assert (copy.sources, copy.destination, copy.into_directory) == (sources, destination, into)


def test_flags_of_a_copy() -> None:
    (copy,) = copies(build("FROM a\nARG U=me\nCOPY --chown=$U:2 --chmod=u+x --link --exclude=*.o --exclude=x a b"))
    assert (copy.owner, copy.mode, copy.link, copy.exclude) == ("me:2", "u+x", True, ("*.o", "x"))
    assert not copy.unpack


def test_heredocs_become_files() -> None:
    (copy,) = copies(build("FROM a\nENV V=v\nCOPY <<A <<-'B' /d/\n$V \"q\"\nA\n\t$V\nB"))
    assert copy.files == (InlineFile("A", 'v "q"\n'), InlineFile("B", "$V\n"))
    assert copy.origin == FromNothing()
    assert copy.into_directory


def test_add_unpacks_and_fetches() -> None:
    checksum = "sha256:" + "0" * 64
    graph = build(
        f"FROM a\nADD a.tar /d/\nADD --unpack=false b.tar /d/\nADD --checksum={checksum} https://h/x /d/\n"
        "ADD --keep-git-dir git@h.example:o/r.git#v1 /r\nADD https://h/r.git x /d/"
    )
    assert [copy.unpack for copy in copies(graph)] == [True, False, True]
    remote = [step.operation for step in graph.steps if isinstance(step.operation, RemoteSource)]
    assert [(each.url, each.checksum, each.keep_git_dir) for each in remote] == [
        ("https://h/x", checksum, False),
        ("git@h.example:o/r.git#v1", "", True),
        ("https://h/r.git", "", False),
    ]


@pytest.mark.parametrize(
    ("text", "argv", "files"),
    [
        ("RUN <<E\na\nb\nE", ("/bin/sh", "-c", "a\nb\n"), ()),
        ("RUN <<-E\n\ta\nE", ("/bin/sh", "-c", "a\n"), ()),
        (
            "RUN <<E\n#!/bin/x\na\nE",
            ("/bin/sh", "-c", "/dev/pipes/E"),
            (InlineFile("/dev/pipes/E", "#!/bin/x\na\n"),),
        ),
        ("RUN <<E cat >x\n$a\nE", ("/bin/sh", "-c", "<<E cat >x\n$a\nE"), ()),
        ("RUN a <<E && b <<F\n1\nE\n2\nF", ("/bin/sh", "-c", "a <<E && b <<F\n1\nE\n2\nF"), ()),
    ],
)
def test_heredocs_of_a_run(text: str, argv: tuple[str, ...], files: tuple[InlineFile, ...]) -> None:
    (run,) = runs(build(f"FROM a\n{text}"))
    assert (run.argv, run.files) == (argv, files)


def test_mounts() -> None:
    graph = build(
        "FROM a\nWORKDIR /w\nARG C=/c\nRUN --mount=type=cache,target=$C,sharing=locked,uid=5 --mount=target=rel,rw"
        " --mount=type=tmpfs,dst=/t,size=1m --mount=type=secret,id=s,env=TOKEN,required"
        " --mount=type=secret,target=/run/x,mode=0440 --mount=type=ssh x"
    )
    cache, bind, tmpfs, secret, file, ssh = runs(graph)[0].mounts
    assert (cache.type, cache.target, cache.id, cache.sharing, cache.uid, cache.read_only) == (
        MountType.CACHE,
        "/c",
        "/c",
        Sharing.LOCKED,
        5,
        False,
    )
    assert (bind.target, bind.origin, bind.source, bind.read_only) == ("/w/rel", FromContext(), "/", False)
    assert (tmpfs.target, tmpfs.size) == ("/t", 1 << 20)
    assert (secret.id, secret.target, secret.environment, secret.required) == ("s", "", "TOKEN", True)
    assert (file.id, file.target, file.mode) == ("x", "/run/x", 0o440)
    assert (ssh.id, ssh.target) == ("default", "/run/buildkit/ssh_agent.0")


def test_the_network_of_a_run() -> None:
    graph = build("FROM a\nRUN --network=none x\nRUN y", network=NetworkMode.HOST)
    assert [run.network for run in runs(graph)] == [NetworkMode.NONE, NetworkMode.HOST]


def test_a_machine_is_for_the_whole_stage_and_those_built_from_it() -> None:
    text = "FROM a AS b\nRUN x\nMACHINE cpus=4 memory=512M\nFROM b\nMACHINE disk=1G\nRUN y\n"
    text += "SNAPSHOT --ready=tcp:80 --timeout=5s"
    graph = build(text)
    assert [run.shape for run in runs(graph)] == [
        MachineShape(4, 512 << 20, 20 << 30),
        MachineShape(4, 512 << 20, 1 << 30),
    ]
    assert graph.shape == MachineShape(4, 512 << 20, 1 << 30)
    assert graph.snapshot == Snapshot("tcp:80", 5.0)
    assert build("FROM a\nMACHINE cpus=4", shape=MachineShape(1, 1 << 30, 2 << 30)).shape == MachineShape(
        4, 1 << 30, 2 << 30
    )
    assert build("FROM a\nMACHINE memory=1.3G").shape.memory == 1331 << 20


def test_a_workdir_is_owned_by_the_user() -> None:
    graph = build("FROM a\nUSER u\nWORKDIR x\nWORKDIR /")
    assert [step.operation for step in graph.steps[2:]] == [Workdir("/x", "u"), Metadata("WORKDIR", ("/",))]


def test_unset_variables_are_warned_of_with_a_suggestion() -> None:
    graph = build("FROM a\nARG VERSION=1\nARG EMPTY\nENV A=$VERSOIN B=${C:-x} D=$EMPTY\nRUN $ANYTHING")
    assert [(warning.code, warning.hint) for warning in graph.warnings] == [("UndefinedVar", "did you mean $VERSION?")]


def test_a_build_argument_that_nothing_takes_is_warned_of() -> None:
    graph = build("ARG V=1\nFROM a:$V\nARG NAME", build_args=(("NMAE", "x"), ("V", "2"), ("NO_PROXY", "h")))
    assert [(warning.code, warning.hint) for warning in graph.warnings] == [("UnusedBuildArg", "did you mean NAME?")]


def test_the_platform_of_a_from() -> None:
    graph = build("FROM --platform=$BUILDPLATFORM a AS b\nFROM --platform=arm64 c\nCOPY --from=b / /", platform=ARM64)
    bases = [step.operation.base for step in graph.steps if isinstance(step.operation, From)]
    assert bases == [BaseReference("a", AMD64), BaseReference("c", ARM64)]


def test_stages_of_one_name_stay_apart() -> None:
    graph = build("FROM a AS x\nRUN 1\nFROM b AS x\nRUN 2\nFROM x\nRUN 3")
    assert [run.argv[-1] for run in runs(graph)] == ["2", "3"]
    assert len({step.id for step in graph.steps}) == len(graph.steps)


def test_a_thousand_stages_resolve() -> None:
    text = "FROM a AS s0\n" + "".join(f"FROM s{number} AS s{number + 1}\nENV A{number}=1\n" for number in range(1_000))
    graph = build(text)
    assert len(graph.history) == 1_000
    assert graph.digraph().number_of_nodes() == 1_001


_ARGUMENTS = st.text(alphabet="ab$A{}:-/.=,\"'\\[] 01<&^é\t", max_size=24)
_STARTS = st.sampled_from(
    [
        *(name for name in sorted(INSTRUCTIONS) if name != "FROM"),
        "RUN --mount=type=",
        "RUN --mount=target=/x,",
        "COPY --from=",
        "COPY --chmod=",
        "ADD https://h/",
        "EXPOSE 1",
        "MACHINE cpus=",
        "HEALTHCHECK --retries=1 CMD",
        "SNAPSHOT --ready=",
        "FROM a AS",
    ]
)


@settings(max_examples=300)
@given(st.lists(st.builds("{}{}{}".format, _STARTS, st.sampled_from(["", " "]), _ARGUMENTS), min_size=1, max_size=4))
def test_resolving_raises_nothing_but_its_own_error(lines: list[str]) -> None:
    with suppress(MachinefileError):
        build("FROM a\n" + "\n".join(lines))


@given(st.lists(st.text(alphabet="ab$A{}:-/.\"'[] <\n", max_size=24), max_size=3))
def test_an_images_triggers_raise_nothing_but_the_languages_error(triggers: list[str]) -> None:
    with suppress(MachinefileError):
        build("FROM a", {"a": ImageConfig(on_build=tuple(f"RUN {trigger}" for trigger in triggers))})
