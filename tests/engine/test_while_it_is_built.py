"""What happens while a build runs: files of the context edited, bases that share layers, results that are too old."""

from __future__ import annotations

import dataclasses
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from output_support import file, layer

from cache.locks import locked
from engine.debug import spot_of
from engine.events import NetworkReached, Note, Reached
from engine.layerstore import LayerStore
from engine.output.image import assemble
from engine.output.spec import parse_output
from engine.secrets import Secrets
from engine.vm.execution import Ending, Result
from engine.vm.network.gate import EgressLog
from machinefile.errors import InterruptedBuildError, MachinefileError, MbuildError, StepError, UsageError
from machinefile.platform import Platform, native

if TYPE_CHECKING:
    from conftest import Workshop

FOREIGN = Platform("linux", "arm64" if native().architecture != "arm64" else "amd64")


@pytest.mark.parametrize("number", range(5))
def test_two_bases_with_a_layer_in_common_come_side_by_side(workshop: Workshop, number: int) -> None:
    shared = [layer(file(f"shared{one}", b"s" * 1000)) for one in range(3)]
    for name in ("one", "two"):
        workshop.source.add(name, [*shared, layer(file(name, name.encode()))])
    fetch = workshop.source.fetch_blob

    def slowly(image: object, descriptor: object, sink: object) -> None:
        time.sleep(0.02 * (number % 3))
        fetch(image, descriptor, sink)  # type: ignore[arg-type]

    workshop.source.fetch_blob = slowly  # type: ignore[method-assign, assignment]
    text = "FROM one AS a\nRUN write x 1\nFROM two\nCOPY --from=a /x /x\nRUN write y 2\n"
    report = workshop.build(text, jobs=2)
    assert workshop.files(report.digest)["y"] == b"2"
    assert sorted(workshop.source.fetched) == sorted(set(workshop.source.fetched))


def test_modes_of_directories_on_the_way_count_with_parents_alone(workshop: Workshop) -> None:
    workshop.write("src/deep/f")
    plain, kept = "FROM base\nCOPY src/deep/f /x/\n", "FROM base\nCOPY --parents src/deep/f /x/\n"
    for text in (plain, kept):
        workshop.build(text)
    (workshop.context / "src").chmod(0o700)
    assert workshop.build(plain).run == 0
    report = workshop.build(kept)
    assert report.run == 1
    assert workshop.layers(report.digest)[-1]["x/src"][0].mode == 0o700


@pytest.mark.parametrize(
    "text",
    [
        "FROM base\nCOPY sub /sub\n",
        "FROM base\nRUN --mount=type=bind,source=sub,target=/sub write out 1\n",
    ],
)
def test_a_context_file_edited_meanwhile_is_not_kept_under_its_old_key(
    workshop: Workshop, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.write("sub/f", "old")
    write = LayerStore.write

    def edit_and_write(self: LayerStore, items: object, **options: bool) -> object:
        workshop.write("sub/f", "new")
        return write(self, items, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(LayerStore, "write", edit_and_write)
        with pytest.raises(MachinefileError, match=r"'sub/f' changed while it was being built") as caught:
            workshop.build(text)
    assert caught.value.code == "context-changed"
    assert caught.value.span is not None
    workshop.write("sub/f", "old")
    assert workshop.build(text).run == 1
    assert workshop.build(text).run == 0


def test_a_file_that_was_not_used_may_be_edited(workshop: Workshop) -> None:
    workshop.write("used", "1")
    workshop.write("other", "1")
    real = workshop.sandbox._behave
    workshop.sandbox._behave = lambda execution: (workshop.write("other", "2"), real(execution))[1]
    assert workshop.build("FROM base\nRUN write a b\nCOPY used /used\n").run == 2


def test_no_cache_takes_no_result_from_before_it_began(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a b\n"
    workshop.build(text)
    (key,) = [one.key for one in workshop.plan(text).steps if one.step.makes_layer]
    with locked(workshop.store.root / "locks", f"step {key}"):
        thread = threading.Thread(target=workshop.build, args=(text,), kwargs={"use_cache": False})
        thread.start()
        deadline = time.monotonic() + 20
        wanted = "waiting for another build of"
        while not any(isinstance(event, Note) and wanted in event.message for event in workshop.events):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    thread.join(30)
    assert len(workshop.sandbox.executions) == 2


def test_a_step_of_another_platform_can_be_looked_into(workshop: Workshop) -> None:
    workshop.source.add("base", [layer(file("etc/machine", b"x"))], platform=FOREIGN)
    text = "FROM base AS build\nARG TARGETARCH\nENV FOR=$TARGETARCH\nRUN write a b\nRUN write c d\n"
    request = dataclasses.replace(workshop.request(text), platforms=(native(), FOREIGN))
    plan = workshop.driver.plan(request)
    for graph in plan.graphs:
        spot = spot_of(plan, graph.result)
        assert spot.step.id == graph.result
        assert ("FOR", graph.platform.architecture) in spot.run.environment
        assert ("FOR", graph.platform.architecture) in spot_of(plan, graph.result, after=True).run.environment
    assert len({graph.result for graph in plan.graphs}) == 2
    with pytest.raises(UsageError) as caught:
        spot_of(plan, "nowhere")
    assert caught.value.code == "step-unknown"


def test_the_files_of_another_platform_can_be_looked_into(workshop: Workshop) -> None:
    workshop.source.add("base", [layer(file("etc/machine", b"x"))], platform=FOREIGN)
    request = workshop.request("FROM base\nARG TARGETARCH\nCOPY <<EOF /f\n$TARGETARCH\nEOF\n")
    request = dataclasses.replace(request, platforms=(native(), FOREIGN))
    with workshop.driver.look_inside(request, lambda plan: spot_of(plan, plan.results[1], after=True)) as inside:
        assert len(inside.below) == 2
        assert inside.below[0].digest == workshop.driver.plan(request).base_of(f"0.2@{FOREIGN}").layers[0].digest


@pytest.mark.parametrize("output", ["type=image", "type=image,push=true"])
def test_an_image_without_a_name_is_refused_before_anything_is_built(workshop: Workshop, output: str) -> None:
    specification = parse_output(output)
    driver = workshop.driver
    driver.push = lambda built, names, open_blob, check: None
    with pytest.raises(UsageError) as caught:
        driver.build(workshop.request("FROM base\nRUN write a b\n", outputs=(specification,)))
    assert caught.value.code == "output-nameless"
    assert workshop.sandbox.executions == []
    driver.build(workshop.request("FROM base\nRUN write a b\n", outputs=(specification,), names=("docker.io/a/b:1",)))


def test_a_name_that_a_step_looked_up_shows_no_secret(workshop: Workshop) -> None:
    secrets = Secrets((("token", b"SeCretToken\n"),))
    log = EgressLog((Reached("sEcrettoken.evil.example", "", 0, "dns", denied=True),))

    class Reaching:
        starts = 1

        @contextmanager
        def execute(self, *_: object) -> object:
            yield Result(Ending.EXITED, 1, egress=log)

        def forget(self) -> None:
            """It has nothing ready."""

    driver = workshop.driver
    driver.sandbox = Reaching  # type: ignore[assignment]
    request = dataclasses.replace(workshop.request("FROM base\nRUN fail 1\n"), secrets=secrets)
    with pytest.raises(StepError) as caught:
        driver.build(request)
    (told,) = [event for event in workshop.events if isinstance(event, NetworkReached)]
    assert [one.name for one in told.entries] == ["***.evil.example"]
    assert "***.evil.example" in caught.value.hint
    assert "ecrettoken" not in (str(workshop.events) + caught.value.hint).lower()


def test_compressing_ends_when_the_build_is_stopped(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_and_assemble(*arguments: object) -> object:
        workshop.cancelled.set()
        return assemble(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("engine.finishing.assemble", stop_and_assemble)
    with pytest.raises(InterruptedBuildError):
        workshop.build("FROM base\nCOPY <<EOF /f\nx\nEOF\n")


def test_who_waits_for_a_layer_can_be_interrupted(workshop: Workshop) -> None:
    driver = workshop.driver
    text = "FROM base\nRUN write a b\n"
    request = workshop.request(text)
    base = driver.plan(request).base_of(driver.plan(request).graph.result)
    stopper = threading.Timer(0.2, workshop.cancelled.set)
    ended: list[MbuildError] = []

    def build() -> None:
        try:
            driver.build(request)
        except MbuildError as error:
            ended.append(error)

    with locked(workshop.store.root / "locks", f"layer {base.layers[0].diff_id}"):
        thread = threading.Thread(target=build)
        thread.start()
        stopper.start()
        thread.join(5)
        assert [type(error) for error in ended] == [InterruptedBuildError]
