"""RUN --ttl: results that count for so long and no longer, and what happens to the steps on top of them."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cache.index import Kind
from cache.locks import locked
from engine.events import Note
from engine.lookup import Results
from engine.vm.execution import Execution
from machinefile.errors import MachinefileError

if TYPE_CHECKING:
    from conftest import Workshop

DAY = 86_400
TEXT = "FROM base\nRUN --ttl=7d write now 1\nRUN write above 2\n"
TWO_STAGES = """\
FROM base AS news
RUN --ttl=7d write now 1
FROM base AS middle
COPY --from=news /now /copied
RUN write own 1
FROM base
COPY --from=middle /own /own
RUN write last 1
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Clock:
    """Moves time on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)


def ran(workshop: Workshop) -> list[str]:
    """The commands that ran since this was last asked."""
    found = [execution.argv[-1] for execution in workshop.sandbox.executions]
    workshop.sandbox.executions.clear()
    return found


def comes_to(workshop: Workshop, command: str, instead: str) -> None:
    """From now on a command does what another would."""
    behave = workshop.sandbox._behave

    def changed(execution: Execution) -> object:
        same = execution.argv[-1] == command
        return behave(dataclasses.replace(execution, argv=(*execution.argv[:-1], instead)) if same else execution)

    workshop.sandbox._behave = changed  # type: ignore[assignment]


def reasons(workshop: Workshop, text: str) -> list[str]:
    return [one.reason for one in workshop.plan(text).counted() if not one.hit]


def test_a_young_result_counts_and_an_old_one_does_not(workshop: Workshop, clock: Clock) -> None:
    workshop.build(TEXT)
    ran(workshop)
    clock.ahead = 6.9 * DAY
    assert workshop.build(TEXT).run == 0
    clock.ahead = 7.1 * DAY
    assert reasons(workshop, TEXT) == ["its result is older than 7d", "0.1 below it is to be built"]
    report = workshop.build(TEXT)
    assert ran(workshop) == ["write now 1"], "what stands on it has the same files below"
    assert report.run == 1
    clock.ahead = 14 * DAY
    assert workshop.build(TEXT).run == 0, "the new time counts"
    clock.ahead = 14.2 * DAY
    assert workshop.build(TEXT).run == 1


def test_without_a_ttl_no_result_grows_old(workshop: Workshop, clock: Clock) -> None:
    workshop.build("FROM base\nRUN write a b\n")
    clock.ahead = 10_000 * DAY
    assert workshop.build("FROM base\nRUN write a b\n").run == 0


def test_the_ttl_is_not_in_the_key(workshop: Workshop, clock: Clock) -> None:
    workshop.build("FROM base\nRUN write a b\n")
    clock.ahead = 2 * DAY
    assert workshop.build("FROM base\nRUN --ttl=3d write a b\n").run == 0
    assert workshop.build("FROM base\nRUN --ttl=1d write a b\n").run == 1
    assert workshop.build("FROM base\nRUN write a b\n").run == 0


def test_what_came_out_otherwise_reruns_what_stands_on_it(workshop: Workshop, clock: Clock) -> None:
    workshop.build(TEXT)
    ran(workshop)
    comes_to(workshop, "write now 1", "write now other")
    clock.ahead = 8 * DAY
    report = workshop.build(TEXT)
    assert ran(workshop) == ["write now 1", "write above 2"]
    assert workshop.files(report.digest)["now"] == b"other"
    again = workshop.build(TEXT)
    assert (again.run, again.digest) == (0, report.digest)


def test_a_change_ripples_through_copies_and_stops_where_it_leaves_no_trace(workshop: Workshop, clock: Clock) -> None:
    before = workshop.build(TWO_STAGES)
    ran(workshop)
    comes_to(workshop, "write now 1", "write now other")
    clock.ahead = 8 * DAY
    report = workshop.build(TWO_STAGES)
    assert ran(workshop) == ["write now 1", "write own 1"], "/own is the same, so the last step is not run"
    assert report.digest == before.digest
    assert workshop.build(TWO_STAGES).run == 0


def test_what_another_build_ran_again_counts_for_this_one_with_what_it_came_to(
    workshop: Workshop, clock: Clock
) -> None:
    """The last step's old result is still there, and what it was made of is not what its key's steps come to now."""
    short = TEXT.removesuffix("RUN write above 2\n")
    workshop.build(TEXT)
    comes_to(workshop, "write now 1", "write now other")
    clock.ahead = 8 * DAY
    workshop.build(short)
    ran(workshop)
    assert reasons(workshop, TEXT) == ["built before, of other files than are there now"]
    report = workshop.build(TEXT)
    assert ran(workshop) == ["write above 2"]
    assert workshop.files(report.digest)["now"] == b"other"


def test_equal_content_does_not_bring_an_old_result_back(workshop: Workshop, clock: Clock) -> None:
    workshop.build("FROM base\nRUN write x 1\nRUN --ttl=1h write now 1\n")
    ran(workshop)
    clock.ahead = DAY
    text = 'FROM base\nRUN ["write x 1"]\nRUN --ttl=1h write now 1\n'
    assert workshop.build(text).run == 2
    assert ran(workshop) == ["write x 1", "write now 1"]


def test_equal_content_keeps_its_age(workshop: Workshop, clock: Clock) -> None:
    workshop.build("FROM base\nRUN write x 1\nRUN --ttl=1d write now 1\n")
    clock.ahead = 0.75 * DAY
    text = 'FROM base\nRUN ["write x 1"]\nRUN --ttl=1d write now 1\n'
    assert workshop.build(text).run == 1
    clock.ahead = 1.5 * DAY
    assert workshop.build(text).run == 1


def test_no_age_at_all_runs_each_time(workshop: Workshop) -> None:
    text = "FROM base\nRUN --ttl=0 write now 1\n"
    assert [workshop.build(text).run for _ in range(2)] == [1, 1]


def test_a_result_of_tomorrow_does_not_count(workshop: Workshop, clock: Clock) -> None:
    clock.ahead = 100 * DAY
    workshop.build(TEXT)
    clock.ahead = 0
    assert "clock" in reasons(workshop, TEXT)[0]
    assert workshop.build(TEXT).run == 1
    assert workshop.build(TEXT).run == 0


@pytest.mark.parametrize(("ttl", "ahead", "run"), [("0", 1, 1), ("0", DAY / 2, 1), ("7d", DAY / 2, 1), ("7d", 60, 0)])
def test_a_result_of_a_fast_clock_counts_only_if_that_cannot_matter(
    workshop: Workshop, clock: Clock, ttl: str, ahead: float, run: int
) -> None:
    text = f"FROM base\nRUN --ttl={ttl} write now 1\n"
    clock.ahead = ahead
    workshop.build(text)
    clock.ahead = 0
    assert workshop.build(text).run == run


def test_a_result_from_a_time_to_come_is_not_what_was_made_meanwhile(workshop: Workshop, clock: Clock) -> None:
    results = Results(workshop.store)
    clock.ahead = DAY
    workshop.build(TEXT)
    key = workshop.plan(TEXT).step("0.1").key
    assert results.made_meanwhile(key) is not None
    clock.ahead = 0
    assert results.made_meanwhile(key) is None


def test_a_result_that_another_build_makes_meanwhile_counts(workshop: Workshop, clock: Clock) -> None:
    workshop.build(TEXT)
    ran(workshop)
    clock.ahead = 8 * DAY
    key = workshop.plan(TEXT).step("0.1").key
    reports = []
    with locked(workshop.store.root / "locks", f"step {key}"):
        threads = [threading.Thread(target=lambda: reports.append(workshop.build(TEXT))) for _ in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while sum(isinstance(event, Note) and "waiting for" in event.message for event in workshop.events) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    for thread in threads:
        thread.join(30)
    assert ran(workshop) == ["write now 1"]
    assert sorted(report.run for report in reports) == [0, 1]


def test_lost_layers_above_are_told_from_other_files_below(workshop: Workshop) -> None:
    workshop.build(TEXT)
    result = workshop.plan(TEXT).step("0.2").result
    assert result is not None
    workshop.store.blobs.drop(result.layers[-1].digest)
    assert reasons(workshop, TEXT) == ["built before, but its layers are gone from the store"]


def test_a_result_without_steps_under_a_content_key_is_none(workshop: Workshop) -> None:
    workshop.build(TEXT)
    for key in list(workshop.store.index.keys(Kind.CONTENT)):
        workshop.store.index.put(Kind.CONTENT, key, {"steps": [], "seconds": 0, "created": time.time()})
    assert workshop.build(TEXT).run == 1


def test_a_ttl_may_be_an_argument(workshop: Workshop, clock: Clock) -> None:
    text = "ARG AGE=1d\nFROM base\nARG AGE\nRUN --ttl=$AGE write a b\n"
    workshop.build(text)
    clock.ahead = 2 * DAY
    assert reasons(workshop, text) == ["its result is older than 1d"]


@pytest.mark.parametrize("value", ["", "soon", "7", "-1d", "1y"])
def test_what_is_no_age_is_refused_at_its_place(workshop: Workshop, value: str) -> None:
    with pytest.raises(MachinefileError) as caught:
        workshop.plan(f"FROM base\nRUN --ttl={value} true\n")
    assert caught.value.code == "bad-ttl"
    assert caught.value.span is not None
    assert (caught.value.span.line, caught.value.span.column) == (2, 5)


def test_nothing_of_a_ttl_is_in_a_record(workshop: Workshop) -> None:
    (with_ttl, without) = (workshop.plan(f"FROM base\nRUN {flag}true\n").step("0.1") for flag in ("--ttl=7d ", ""))
    assert json.dumps(with_ttl.record.to_json()) == json.dumps(without.record.to_json())
