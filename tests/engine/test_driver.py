"""Building from the Machinefile to the image, with a fake registry and fake microVMs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.events import BuildEnded, Outcome, Planned, StepEnded, StepOutput, WarningRaised
from engine.layers.entry import NORMAL_TIME
from engine.outersandbox import OuterSandbox
from engine.output.spec import parse_output
from engine.vm.execution import Execution, Output, Result, Sandbox
from machinefile.errors import InterruptedBuildError, MachinefileError, MbuildError, StepError, TransferError

if TYPE_CHECKING:
    from conftest import Workshop

TWO_STAGES = """\
ARG WORD=hello
FROM base AS build
ARG WORD
ENV GREETING=$WORD
RUN write out/greeting made
FROM base
WORKDIR /srv/app
COPY --from=build --chown=ada /out /srv/out
COPY . .
USER ada
LABEL say=$GREETING
CMD ["cat", "/srv/out/greeting"]
"""


def test_a_build_of_two_stages_gives_the_image_it_describes(workshop: Workshop) -> None:
    workshop.write("main.c", "int main;")
    report = workshop.build(TWO_STAGES)
    _, configuration = workshop.image(report.digest)
    assert workshop.files(report.digest)["srv/out/greeting"] == b"made"
    assert workshop.files(report.digest)["srv/app/main.c"] == b"int main;"
    assert "out/greeting" not in workshop.files(report.digest), "the other stage's files stay there"
    config = configuration.config
    assert config.user == "ada"
    assert config.working_dir == "/srv/app"
    assert config.cmd == ("cat", "/srv/out/greeting")
    assert dict(config.env) == {"PATH": "/bin", "LANG": "C"}
    assert dict(config.labels) == {"say": ""}
    owner = workshop.layers(report.digest)[2]["srv/out/greeting"][0]
    assert (owner.uid, owner.gid, owner.mtime) == (1000, 1001, NORMAL_TIME)


def test_the_second_build_runs_nothing_and_gives_the_same_image(workshop: Workshop) -> None:
    workshop.write("main.c")
    first = workshop.build(TWO_STAGES)
    assert first.run == 4
    assert first.restores == 1
    workshop.source.fetched.clear()
    second = workshop.build(TWO_STAGES)
    assert second.digest == first.digest
    assert (second.run, second.hit) == (0, first.total)
    assert len(workshop.sandbox.executions) == 1
    assert workshop.source.fetched == []


def test_the_plan_knows_before_the_build_what_hits(workshop: Workshop) -> None:
    workshop.write("main.c")
    cold = workshop.plan(TWO_STAGES)
    assert not any(planned.hit for planned in cold.steps if planned.step.makes_layer)
    workshop.build(TWO_STAGES)
    warm = workshop.plan(TWO_STAGES)
    assert all(planned.hit for planned in warm.steps)
    assert [planned.key for planned in warm.steps] == [planned.key for planned in cold.steps]
    workshop.write("main.c", "changed")
    changed = workshop.plan(TWO_STAGES)
    assert next(planned.step.instruction for planned in changed.steps if not planned.hit) == "COPY . ."


def test_planning_runs_and_pulls_nothing(workshop: Workshop) -> None:
    workshop.plan("FROM base\nRUN write a b\nCOPY --from=base /etc/passwd /x\n")
    assert workshop.source.fetched == []
    assert workshop.sandbox.executions == []


def test_times_and_owners_of_context_files_do_not_matter_but_modes_and_contents_do(workshop: Workshop) -> None:
    text = "FROM scratch\nCOPY a /\n"
    workshop.write("a", "1")
    first = workshop.build(text).digest
    path = workshop.context / "a"
    import os

    os.utime(path, (1, 1))
    assert workshop.build(text).digest == first
    path.chmod(0o755)
    changed = workshop.build(text)
    assert changed.run == 1
    assert changed.digest != first
    path.chmod(0o644)
    workshop.write("a", "2")
    assert workshop.build(text).digest != first


def test_a_label_before_a_run_reruns_nothing(workshop: Workshop) -> None:
    workshop.build("FROM base\nLABEL a=1\nRUN write x y\n")
    again = workshop.build("FROM base\nLABEL a=2\nRUN write x y\n")
    assert again.run == 0


def test_an_environment_before_a_run_reruns_it(workshop: Workshop) -> None:
    workshop.build("FROM base\nENV a=1\nRUN write x y\n")
    assert workshop.build("FROM base\nENV a=2\nRUN write x y\n").run == 1


def test_a_parent_that_comes_out_the_same_stops_the_ripple(workshop: Workshop) -> None:
    workshop.build("FROM base\nENV a=1\nRUN write x y\nRUN write z w\n")
    text = 'FROM base\nRUN true\nRUN ["write x y"]\nENV a=1\nRUN write z w\n'
    report = workshop.build(text)
    assert report.run == 2, "only what is new runs; the last step meets the same files"
    assert workshop.build(text).run == 0


def test_a_run_that_changes_nothing_adds_no_layer_and_an_empty_line_of_history(workshop: Workshop) -> None:
    report = workshop.build("FROM base\nRUN true\nRUN write a b\nENV c=d\nWORKDIR /bin\n")
    manifest, configuration = workshop.image(report.digest)
    assert len(manifest.layers) == 2
    assert len(configuration.diff_ids) == 2
    own = [(entry.empty_layer, entry.created_by.split()[0]) for entry in configuration.history[-4:]]
    assert own == [(True, "RUN"), (False, "RUN"), (True, "ENV"), (True, "WORKDIR")]
    assert sum(not entry.empty_layer for entry in configuration.history) == 2


def test_a_stage_that_is_not_needed_is_not_built(workshop: Workshop) -> None:
    workshop.build("FROM base AS a\nRUN fail 1\nFROM base\nRUN write x y\n")
    assert [execution.argv[-1] for execution in workshop.sandbox.executions] == ["write x y"]


def test_a_target_stops_at_its_stage(workshop: Workshop) -> None:
    report = workshop.build("FROM base AS a\nRUN write x y\nFROM base\nRUN fail 1\n", target="a")
    assert "x" in workshop.files(report.digest)


def test_a_run_sees_its_environment_its_user_and_its_home(workshop: Workshop) -> None:
    report = workshop.build(
        "FROM base\nARG word\nENV who=$word\nUSER ada\nWORKDIR /home/ada\nRUN environment seen\n",
        build_args=(("word", "me"),),
    )
    seen = workshop.files(report.digest)["seen"].decode().splitlines()
    assert seen == ["HOME=/home/ada", "LANG=C", "PATH=/bin", "SOURCE_DATE_EPOCH=315619200", "who=me", "word=me"]
    execution = workshop.sandbox.executions[-1]
    assert (execution.identity.uid, execution.identity.gid, execution.identity.groups) == (1000, 1001, (1001, 10))
    assert execution.working_dir == "/home/ada"
    assert len(execution.disks) == 2


def test_a_proxy_reaches_the_step_and_is_in_no_key(workshop: Workshop) -> None:
    text = "FROM base\nRUN environment seen\n"
    first = workshop.build(text, build_args=(("http_proxy", "http://one:3128"),))
    assert b"http_proxy=http://one:3128" in workshop.files(first.digest)["seen"]
    assert workshop.build(text, build_args=(("http_proxy", "http://two:3128"),)).run == 0


def test_a_linked_copy_follows_no_link_of_the_image(workshop: Workshop) -> None:
    workshop.write("f")
    (workshop.context / "links").mkdir()
    (workshop.context / "links" / "www").symlink_to("/srv")
    plain = workshop.build("FROM base\nCOPY links /var/\nCOPY f /var/www/\n")
    assert "srv/f" in workshop.files(plain.digest)
    linked = workshop.build("FROM base\nCOPY links /var/\nCOPY --link f /var/www/\n")
    assert "var/www/f" in workshop.files(linked.digest)


def test_a_step_that_fails_says_which_line_and_keeps_what_was_done(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a b\nRUN fail 3\n"
    with pytest.raises(StepError) as caught:
        workshop.build(text)
    assert caught.value.code == "run-failed"
    assert "exit code 3" in caught.value.message
    assert caught.value.span is not None
    assert caught.value.span.line == 3
    assert StepOutput("0.2", 1, b"it failed\n") in [
        StepOutput("0.2", event.stream, event.data) for event in workshop.events if isinstance(event, StepOutput)
    ]
    assert workshop.events[-1].outcome is Outcome.FAILED  # type: ignore[union-attr]
    assert workshop.build("FROM base\nRUN write a b\n").run == 0


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("FROM base\nCOPY missing /x\n", "source-missing", 2),
        ("FROM base\nCOPY --from=base /missing /x\n", "source-missing", 2),
        ("FROM base\nCOPY --chown=nobody-here f /x\n", "user-unknown", 2),
        ("FROM base\nUSER ghost\nRUN true\n", "user-unknown", 3),
        ("FROM base\nCOPY f /etc/passwd/x\n", "copy-conflict", 2),
        ("FROM base\nCOPY .wh.f /\n", "copy-whiteout", 2),
        ("FROM base\nWORKDIR /bin/sh\n", "copy-conflict", 2),
        ("FROM nothing-there\nRUN true\n", "image-not-found", 1),
        ("FROM base\nRUN --network=host true\n", "network-host-refused", 2),
        ("FROM base\nCOPY --chmod=rwx f /\n", "bad-mode", 2),
        ("FROM base\nRUN --mount=type=secret,id=x,required true\n", "secret-missing", 2),
        ("FROM base\nRUN --mount=source=missing,target=/c true\n", "source-missing", 2),
        ("FROM base\nRUN --mount=from=base,source=missing,target=/c true\n", "source-missing", 2),
        ("FROM base\nADD http://127.0.0.1:1/x /\n", "remote-unreachable", 2),
    ],
)
def test_what_cannot_be_done_says_so_at_its_line(workshop: Workshop, text: str, code: str, line: int) -> None:
    workshop.write("f")
    workshop.write(".wh.f")
    with pytest.raises(MbuildError) as caught:
        workshop.build(text)
    assert caught.value.code == code
    assert caught.value.span is not None
    assert caught.value.span.line == line
    assert workshop.build("FROM base\nCOPY f /\n").digest, "the store is still good"


def test_nothing_runs_when_something_in_the_file_is_not_supported(workshop: Workshop) -> None:
    with pytest.raises(MachinefileError):
        workshop.build("FROM base\nRUN write a b\nRUN --network=host true\n")
    assert workshop.sandbox.executions == []


def test_what_cannot_be_built_yet_can_be_planned(workshop: Workshop) -> None:
    plan = workshop.plan("FROM base\nMACHINE cpus=4 memory=1G\nRUN true\nSNAPSHOT --ready=tcp:80\n")
    assert [planned.step.instruction for planned in plan.steps][1:] == [
        "MACHINE cpus=4 memory=1G",
        "RUN true",
        "SNAPSHOT --ready=tcp:80",
    ]
    assert plan.graph.shape.cpus == 4


def test_a_file_that_dockerignore_leaves_out_is_missing(workshop: Workshop) -> None:
    workshop.write("secret.txt")
    with pytest.raises(MachinefileError) as caught:
        workshop.build("FROM scratch\nCOPY secret.txt /\n", ignore="*.txt")
    assert ".dockerignore" in caught.value.hint


def test_a_cancelled_build_stops_before_its_next_step(workshop: Workshop) -> None:
    workshop.cancelled.set()
    with pytest.raises(InterruptedBuildError):
        workshop.build("FROM base\nRUN write a b\n")
    assert workshop.sandbox.executions == []


def test_no_cache_runs_every_step_again(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a b\nCOPY . /c\n"
    workshop.write("f")
    first = workshop.build(text)
    again = workshop.build(text, use_cache=False)
    assert again.run == first.run == 2
    assert again.digest == first.digest


def test_a_layer_that_was_lost_is_built_again(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a b\nRUN write c d\n"
    first = workshop.build(text)
    result = workshop.plan(text).step("0.1").result
    assert result is not None
    workshop.store.blobs.drop(result.layers[0].digest)
    assert "gone" in workshop.plan(text).step("0.1").reason
    again = workshop.build(text)
    assert again.digest == first.digest
    assert again.run >= 1


def test_an_image_gets_its_names(workshop: Workshop) -> None:
    report = workshop.build("FROM base\n", names=("docker.io/library/one:1", "docker.io/library/two:2"))
    assert {image.name: image.digest for image in workshop.store.names.all()} == {
        "docker.io/library/one:1": report.digest,
        "docker.io/library/two:2": report.digest,
    }


@pytest.mark.parametrize("tar", [False, True])
def test_a_layout_is_written(workshop: Workshop, tmp_path: Path, tar: bool) -> None:
    target = tmp_path / ("out.tar" if tar else "out")
    report = workshop.build("FROM base\nRUN write a b\n", outputs=(parse_output(f"type=oci,dest={target}"),))
    if tar:
        import tarfile

        with tarfile.open(target) as packed:
            names = packed.getnames()
            assert names[0] == "blobs"
            index = json.load(packed.extractfile("index.json"))  # type: ignore[arg-type]
    else:
        index = json.loads((target / "index.json").read_text())
    assert [entry["digest"] for entry in index["manifests"]] == [report.digest]


def test_a_command_is_marked_as_docker_marks_it(workshop: Workshop) -> None:
    def marked(text: str) -> object:
        manifest = workshop.image(workshop.build(text).digest)[0]
        configuration = json.loads(workshop.store.blobs.read(manifest.config.digest))
        return configuration["config"].get("ArgsEscaped")

    assert marked("FROM base\nCMD echo\n") is True
    assert marked('FROM base\nENTRYPOINT ["x"]\n') is None


def test_an_unset_variable_is_a_warning(workshop: Workshop) -> None:
    workshop.build("FROM base\nLABEL a=$nope\n")
    codes = [event.code for event in workshop.events if isinstance(event, WarningRaised)]
    assert codes == ["UndefinedVar"]


def test_the_events_tell_the_story_in_order(workshop: Workshop) -> None:
    workshop.build("FROM base\nRUN write a b\n")
    told = [type(event).__name__ for event in workshop.events]
    from_base, run = ["StepStarted", "StepEnded"], ["StepStarted", "StepOutput", "StepEnded"]
    assert told == ["Planned", *from_base, *run, "BuildEnded"]
    planned = workshop.events[0]
    assert isinstance(planned, Planned)
    assert [label for _, label in planned.steps] == ["[0 1/2] FROM base", "[0 2/2] RUN write a b"]
    workshop.events.clear()
    workshop.build("FROM base\nRUN write a b\n")
    assert [event.outcome for event in workshop.events if isinstance(event, StepEnded)] == [Outcome.CACHED] * 2
    ended = workshop.events[-1]
    assert isinstance(ended, BuildEnded)
    assert (ended.run, ended.hit) == (0, 1)


def test_two_builds_at_once_run_a_step_once(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a b\n"
    reports: list[str] = []

    def build() -> None:
        reports.append(workshop.build(text).digest)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(reports)) == 1
    assert len(reports) == 4
    assert len(workshop.sandbox.executions) == 1


def test_a_base_whose_blob_lies_is_refused(workshop: Workshop) -> None:
    workshop.source._blobs = dict.fromkeys(workshop.source._blobs, b"something else")
    with pytest.raises(TransferError) as caught:
        workshop.build("FROM base\nRUN write a b\n")
    assert caught.value.code == "digest-mismatch"
    assert workshop.sandbox.executions == []


SIDE_BY_SIDE = """\
FROM base AS one
RUN write one met
FROM base AS two
RUN write two met
FROM base
COPY --from=one /one /
COPY --from=two /two /
"""


class Watched(OuterSandbox):
    """A sandbox that does something before each command."""

    def __init__(self, inner: Sandbox, before: Callable[[Execution, threading.Event], object]) -> None:
        super().__init__(inner)
        self.before = before

    @contextmanager
    def execute(self, execution: Execution, output: Output, cancelled: threading.Event) -> Iterator[Result]:
        self.before(execution, cancelled)
        with super().execute(execution, output, cancelled) as result:
            yield result


def test_stages_that_do_not_need_one_another_run_side_by_side(workshop: Workshop) -> None:
    meeting = threading.Barrier(2, timeout=30)
    workshop.sandbox = Watched(workshop.sandbox, lambda execution, cancelled: meeting.wait())  # type: ignore[assignment]
    report = workshop.build(SIDE_BY_SIDE, jobs=2)
    assert workshop.files(report.digest)["one"] == b"met"
    assert report.run == 4


def test_the_number_of_jobs_does_not_show_in_the_image(workshop: Workshop) -> None:
    stages = [f"FROM base AS s{number}\nRUN write f{number} {number}\n" for number in range(12)]
    copies = [f"COPY --from=s{number} /f{number} /\n" for number in range(12)]
    text = "".join([*stages, "FROM base\n", *copies])
    digests = {workshop.build(text, jobs=jobs, use_cache=False).digest for jobs in (1, 3, 8)}
    assert len(digests) == 1


def test_a_failed_step_stops_the_steps_beside_it(workshop: Workshop) -> None:
    patient_runs = threading.Event()

    def before(execution: Execution, cancelled: threading.Event) -> None:
        if execution.argv[-1] == "write one met":
            patient_runs.set()
            assert cancelled.wait(30), "nobody stopped it"
            raise InterruptedBuildError
        assert patient_runs.wait(30)

    workshop.sandbox = Watched(workshop.sandbox, before)  # type: ignore[assignment]
    text = SIDE_BY_SIDE.replace("write two met", "fail 7")
    with pytest.raises(StepError, match="exit code 7"):
        workshop.build(text, jobs=2)
    outcomes = {event.step: event.outcome for event in workshop.events if isinstance(event, StepEnded)}
    assert outcomes["one.1"] is Outcome.CANCELLED
    assert outcomes["two.1"] is Outcome.FAILED
