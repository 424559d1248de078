"""Why steps miss, told before anything runs: with a fake registry and fake microVMs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cache.index import Kind
from engine.events import WarningRaised
from engine.explain.explanation import Cause, Explanation, Link
from engine.explain.past import GENERATIONS
from engine.explain.values import explanation_value
from engine.explain.words import lines
from engine.layers.entry import Entry, EntryType
from engine.layers.tarwrite import Item, write_layer
from engine.lookup import CachePolicy
from engine.request import BuildRequest
from machinefile.errors import MissError, UsageError
from machinefile.imageconfig import ImageConfig
from machinefile.parser import parse
from machinefile.source import Source

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = """\
FROM base AS build
ARG VERSION=1
COPY src /src
RUN write out $VERSION
FROM base
COPY --from=build /out /out
WORKDIR /srv
"""


def explain(workshop: Workshop, text: str, step: str = "", **options: object) -> dict[str, Explanation]:
    request = workshop.request(text, **options)  # type: ignore[arg-type]
    _, found = workshop.driver.explain(request, step)
    for one in found:
        json.dumps(explanation_value(one))
    return {one.planned.step.id: one for one in found}


def told(explanation: Explanation) -> str:
    return "\n".join(lines(explanation))


def reasons(workshop: Workshop, text: str, **options: object) -> dict[str, str]:
    return {one.step.id: one.reason for one in workshop.plan(text, **options).steps if not one.hit}


@pytest.mark.parametrize("odd", [float("inf"), float("nan"), 10**400], ids=["infinite", "nan", "huge"])
def test_a_time_that_is_none_is_not_shown(workshop: Workshop, odd: float) -> None:
    workshop.build("FROM base\nRUN write a x\n")
    index = workshop.store.index
    (project,) = index.keys(Kind.PAST)
    past = index.get(Kind.PAST, project)
    assert isinstance(past, dict)
    for kind in (Kind.RESULT, Kind.CONTENT):
        for key in list(index.keys(kind)):
            index.put(kind, key, {"steps": [], "seconds": odd, "created": odd})
    for place, traces in past.items():
        past[place] = [[*trace[:3], odd, odd] for trace in traces]
    index.put(Kind.PAST, project, past)
    shown = "".join(told(one) for one in explain(workshop, "FROM base\nRUN write a y\n").values())
    assert "nan" not in shown
    assert "inf" not in shown


def test_a_changed_file_is_named_where_it_matters_and_the_steps_after_follow(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    workshop.build(TEXT)
    assert explain(workshop, TEXT) == {}
    workshop.write("src/app.py", "2")
    assert reasons(workshop, TEXT) == {
        "build.2": "src/app.py changed",
        "build.3": "build.2 below it is to be built",
        "1.1": "build.3 below it is to be built",
        "1.2": "1.1 below it is to be built",
    }
    found = explain(workshop, TEXT)
    assert [one.cause for one in found.values()] == [Cause.CHANGED, Cause.FOLLOWS, Cause.FOLLOWS, Cause.FOLLOWS]
    assert [one.roots for one in found.values()] == [("build.2",)] * 4
    assert "src/app.py changed (6b86b273ff34 -> d4735e3a265e)" in told(found["build.2"])
    assert "reads from build.3, which is to be built" in told(found["1.1"])
    assert "it begins with build.2" in told(found["1.2"])
    assert workshop.sandbox.starts == 1


def test_an_argument_is_told_with_both_values(workshop: Workshop) -> None:
    workshop.write("src/app.py")
    workshop.build(TEXT)
    assert reasons(workshop, TEXT, build_args=(("VERSION", "2"),))["build.3"] == "variable VERSION: 1 -> 2"
    edited = TEXT.replace("write out $VERSION", "write out it")
    assert reasons(workshop, edited)["build.3"] == "the command: write out $VERSION -> write out it"


def test_a_step_that_has_its_own_change_tells_both(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    workshop.build(TEXT)
    workshop.write("src/app.py", "2")
    found = explain(workshop, TEXT, build_args=(("VERSION", "2"),))["build.3"]
    assert found.cause is Cause.CHANGED
    assert found.roots == ("build.2",)
    assert "variable VERSION: 1 -> 2" in told(found)
    assert "stands on build.2, which is to be built" in told(found)


def test_a_base_that_moved_is_told_by_its_digests(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a b\n"
    workshop.build(text)
    layer = io.BytesIO()
    write_layer([Item(Entry("moved", EntryType.DIRECTORY, 0o755))], layer)
    config = ImageConfig(env=(("PATH", "/bin"), ("LANG", "C")), cmd=("/bin/sh",))
    for name in ("base", "other"):
        workshop.source.add(name, [layer.getvalue()], config)
    found = explain(workshop, text)["0.1"]
    assert found.below[0].link is Link.BASE
    assert found.below[0].old != found.below[0].new
    assert f"the base base: {found.below[0].old[:19]} -> {found.below[0].new[:19]}" in told(found)
    renamed = explain(workshop, text.replace("FROM base", "FROM other"))["0.1"]
    assert "the base was base (sha256:" in told(renamed)
    assert explain(workshop, text, "0.0")["0.0"].cause is Cause.NOT_PULLED


def test_lines_that_were_put_in_or_taken_out_are_named(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a 1\nRUN write b 2\nRUN write c 3\n"
    workshop.build(text)
    workshop.build("FROM base\nRUN write a 1\nRUN write new x\n")
    workshop.build(text)
    added = explain(workshop, text.replace("RUN write b", "RUN write new x\nRUN write b"))
    assert list(added) == ["0.3", "0.4"], "the new step itself was built for another file"
    assert [one.link for one in added["0.3"].below] == [Link.ADDED]
    assert "new below it: 0.2" in told(added["0.3"])
    assert added["0.4"].cause is Cause.FOLLOWS
    removed = explain(workshop, text.replace("RUN write b 2\n", ""))["0.2"]
    assert removed.below[0].link is Link.REMOVED
    assert "gone from below it: RUN write b 2" in told(removed)


def test_a_step_below_that_is_there_and_another_one_is_told(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a {}\nRUN write b 2\n"
    workshop.build(text.format(1))
    workshop.build("FROM base\nRUN write a 2\n")
    found = explain(workshop, text.format(2))["0.2"]
    assert found.below[0].link is Link.CHANGED
    assert "0.1 below it: the command: write a 1 -> write a 2" in told(found)


def test_evicted_is_told_from_never_built(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a b\n"
    assert explain(workshop, text)["0.1"].cause is Cause.NEVER_BUILT
    workshop.build(text)
    planned = workshop.plan(text).step("0.1")
    assert planned.result is not None
    layer = planned.result.layers[0].digest
    workshop.store.blobs.drop(layer)
    gone = explain(workshop, text)["0.1"]
    assert gone.cause is Cause.EVICTED
    assert gone.lost == (layer,)
    assert layer in told(gone)
    workshop.store.index.drop(Kind.RESULT, planned.key)
    assert explain(workshop, text)["0.1"].cause is Cause.EVICTED
    workshop.store.index.drop(Kind.RECORD, planned.key)
    workshop.store.index.drop(Kind.CONTENT, planned.key)
    assert explain(workshop, text)["0.1"].cause is Cause.EVICTED, "the file's past still knows"
    assert "gone" in reasons(workshop, text)["0.1"]


def test_the_nearest_build_is_the_one_with_the_fewest_differences(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    one, two = (("VERSION", "1"), ("X", "1")), (("VERSION", "2"), ("X", "2"))
    text = TEXT.replace("ARG VERSION=1", "ARG VERSION\nARG X")
    workshop.build(text, build_args=one)
    workshop.build(text, build_args=two)
    assert reasons(workshop, text, build_args=(("VERSION", "1"), ("X", "3")))["build.4"] == "variable X: 1 -> 3"


def test_a_file_that_was_never_built_here_is_compared_with_what_is_most_like_it(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    workshop.build("FROM base\nRUN write something long-enough\n")
    request = workshop.request("FROM base\n")
    elsewhere = replace(
        request, machinefile=parse(Source("Elsewhere", "FROM base\nRUN write something long-enough!\n"))
    )
    _, (found,) = workshop.driver.explain(elsewhere)
    assert found.nearest is not None
    assert not found.nearest.same_place
    assert found.nearest.instruction == "RUN write something long-enough"
    assert "the most similar step known: RUN write something long-enough" in told(found)
    unlike = replace(request, machinefile=parse(Source("Elsewhere", "FROM base\nRUN nothing\nWORKDIR /x\n")))
    _, found_unlike = workshop.driver.explain(unlike)
    assert found_unlike[1].nearest is None


def test_a_plan_and_an_explanation_write_nothing(workshop: Workshop) -> None:
    workshop.build("FROM base\nRUN write a b\n")
    before = {kind: list(workshop.store.index.keys(kind)) for kind in Kind}
    workshop.plan("FROM base\nRUN write a c\n")
    explain(workshop, "FROM base\nRUN write a c\n")
    assert {kind: list(workshop.store.index.keys(kind)) for kind in Kind} == before
    assert workshop.sandbox.starts == 1


def test_what_is_remembered_of_a_step_is_bounded(workshop: Workshop) -> None:
    for number in range(GENERATIONS + 3):
        workshop.build(f"FROM base\nRUN write a {number}\n")
    (project,) = workshop.store.index.keys(Kind.PAST)
    past = workshop.store.index.get(Kind.PAST, project)
    assert isinstance(past, dict)
    assert {place.rpartition(" ")[2]: len(traces) for place, traces in past.items()} == {
        "0.0": 1,
        "0.1": GENERATIONS,
    }


def test_the_lists_of_files_of_a_large_copy_do_not_pile_up(workshop: Workshop) -> None:
    for number in range(250):
        workshop.write(f"src/f{number}", "x")
    text = "FROM scratch\nCOPY src /src\n"
    for number in range(GENERATIONS + 2):
        workshop.write("src/f0", f"edit {number}")
        workshop.build(text)
    index = workshop.store.index
    large = [key for key in index.keys(Kind.RECORD) if "packed" in str(index.get(Kind.RECORD, key))[:500]]
    assert len(large) == GENERATIONS
    workshop.write("src/f0", "edit 0")
    assert explain(workshop, text) == {}, "the results are all there"
    workshop.write("src/f0", "another")
    assert reasons(workshop, text) == {"0.1": "src/f0 changed"}


@pytest.mark.parametrize("value", [[], {"linux/amd64 0.1": 3}, {"linux/amd64 0.1": [[1]]}, {"x": [["a", "b"]]}])
def test_a_past_that_makes_no_sense_is_none(workshop: Workshop, value: object) -> None:
    text = "FROM base\nRUN write a b\n"
    workshop.build(text)
    (project,) = workshop.store.index.keys(Kind.PAST)
    workshop.store.index.put(Kind.PAST, project, value)
    assert explain(workshop, text.replace("b\n", "c\n"))["0.1"].cause in (Cause.CHANGED, Cause.NEVER_BUILT)


def test_how_long_steps_took_is_known_for_hits_and_for_misses(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    workshop.build(TEXT)
    plan = workshop.plan(TEXT)
    assert all(one.seconds is not None for one in plan.steps if one.step.makes_layer)
    assert all(one.seconds is None for one in plan.steps if not one.step.makes_layer)
    workshop.write("src/app.py", "2")
    changed = workshop.plan(TEXT)
    assert [one.seconds for one in changed.steps] == [one.seconds for one in plan.steps]


def test_what_an_equal_file_system_led_to_is_foreseen(workshop: Workshop) -> None:
    workshop.build("FROM base\nENV a=1\nRUN write x y\nRUN write z w\n")
    workshop.build("FROM base\nENV a=2\nRUN write x y\n")
    text = "FROM base\nENV a=2\nRUN write x y\nENV a=1\nRUN write z w\nRUN write q r\n"
    plan = workshop.plan(text)
    assert [(one.step.id, one.hit) for one in plan.steps if one.step.makes_layer] == [
        ("0.2", True),
        ("0.4", True),
        ("0.5", False),
    ]
    assert plan.step("0.4").reason == "an equal file system led to it before"
    assert plan.step("0.5").reason == "never built with these inputs"
    assert workshop.build(text).run == 1
    shorter = text.replace("RUN write q r\n", "")
    workshop.store.index.drop(Kind.RESULT, plan.step("0.4").key)
    request = replace(workshop.request(shorter), fail_on_miss=True)
    assert workshop.driver.build(request).run == 0


def test_fail_on_miss_runs_and_pulls_nothing_and_says_what_is_missing(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    request = replace(workshop.request(TEXT), fail_on_miss=True)
    with pytest.raises(MissError) as caught:
        workshop.driver.build(request)
    assert caught.value.code == "cache-miss"
    assert caught.value.exit_code == 1
    assert "build.2" in caught.value.message
    assert workshop.sandbox.starts == 0
    assert workshop.source.fetched == []
    workshop.build(TEXT)
    assert workshop.driver.build(request).run == 0
    workshop.write("src/app.py", "2")
    with pytest.raises(MissError, match=r"build\.2  COPY src /src: src/app\.py changed"):
        workshop.driver.build(request)


def filtered(workshop: Workshop, text: str, *stages: str) -> BuildRequest:
    return replace(workshop.request(text), cache=CachePolicy(filters=stages))


@pytest.mark.parametrize("name", ["build", "BUILD", "0"])
def test_the_steps_of_a_filtered_stage_run_again_and_others_only_if_it_comes_out_anew(
    workshop: Workshop, name: str
) -> None:
    workshop.write("src/app.py", "1")
    workshop.build(TEXT)
    request = filtered(workshop, TEXT, name)
    plan = workshop.driver.plan(request)
    assert {one.step.id: one.reason for one in plan.steps if not one.hit} == {
        "build.2": "--no-cache-filter build",
        "build.3": "--no-cache-filter build",
        "1.1": "build.3 below it is to be built",
        "1.2": "1.1 below it is to be built",
    }
    assert workshop.driver.build(request).run == 2, "what comes after meets the same files"
    _, found = workshop.driver.explain(request)
    assert [one.cause for one in found] == [Cause.REFUSED, Cause.REFUSED, Cause.FOLLOWS, Cause.FOLLOWS]
    assert workshop.build(TEXT).run == 0


def test_a_filtered_stage_that_comes_out_anew_is_what_the_others_see(workshop: Workshop) -> None:
    text = "FROM base AS build\nRUN write out now\nFROM base\nCOPY --from=build /out /out\n"
    answers = iter(["first", "second"])
    behave = workshop.sandbox._behave

    def another(execution: object) -> tuple[int, bytes, bytes]:
        return behave(replace(execution, argv=("write out " + next(answers),)))  # type: ignore[type-var]

    workshop.sandbox._behave = another  # type: ignore[assignment]
    workshop.build(text)
    report = workshop.driver.build(filtered(workshop, text, "build"))
    assert report.run == 2
    assert workshop.files(report.digest)["out"] == b"second"
    assert workshop.files(workshop.build(text).digest)["out"] == b"second"


def test_a_filter_that_names_no_stage_is_warned_of(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    workshop.build(TEXT)
    assert workshop.driver.build(filtered(workshop, TEXT, "nope")).run == 0
    warnings = [event for event in workshop.events if isinstance(event, WarningRaised)]
    assert [(one.code, "nope" in one.message) for one in warnings] == [("no-cache-filter-unknown", True)]


def test_no_cache_is_the_reason_and_the_change_is_still_told(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a {}\n"
    workshop.build(text.format(1))
    same = explain(workshop, text.format(1), use_cache=False)["0.1"]
    assert same.cause is Cause.REFUSED
    assert told(same).startswith("--no-cache\n")
    assert "write a 1 -> write a 2" in told(explain(workshop, text.format(2), use_cache=False)["0.1"])


@pytest.mark.parametrize(
    ("words", "ids"),
    [("build", ["build.2", "build.3"]), ("build.3", ["build.3"]), ("4", ["build.3"]), ("3", ["build.2"])],
)
def test_a_step_is_named_as_debug_has_it(workshop: Workshop, words: str, ids: list[str]) -> None:
    workshop.write("src/app.py", "1")
    assert list(explain(workshop, TEXT, words)) == ids


def test_a_step_that_is_not_there_is_told(workshop: Workshop) -> None:
    workshop.write("src/app.py", "1")
    with pytest.raises(UsageError) as caught:
        explain(workshop, TEXT, "nowhere")
    assert caught.value.code == "step-unknown"


def test_each_platform_has_a_past_of_its_own(workshop: Workshop) -> None:
    from machinefile.platform import Platform

    platforms = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
    text = "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n"
    workshop.write("a", "1")
    request = replace(workshop.request(text), platforms=platforms)
    workshop.driver.build(request)
    workshop.write("a", "2")
    _, found = workshop.driver.explain(replace(workshop.request(text), platforms=platforms))
    assert [told(one).splitlines()[0][:9] for one in found] == ["a changed", "a changed"]
    assert all(len(one.differences) == 1 and one.nearest and one.nearest.same_place for one in found)


def test_a_long_file_is_planned_and_explained_without_depth(workshop: Workshop) -> None:
    count = 1200
    text = "FROM base\n" + "".join(f"WORKDIR /d{number}\n" for number in range(count))
    _, found = workshop.driver.explain(workshop.request(text))
    assert len(found) == count
    assert {one.roots for one in found} == {("0.1",)}
