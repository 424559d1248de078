"""Spans of time: how they nest, what is kept of them, and that nothing is while nobody records."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cache import spans
from cache.spans import Recorded, Recording, ending, recorded, span
from machinefile.errors import HostError


def within(outer: Recorded, inner: Recorded) -> bool:
    return (
        outer.row == inner.row
        and outer.begun <= inner.begun
        and inner.begun + inner.seconds <= outer.begun + outer.seconds + 1e-9
    )


def in_threads(*work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=one, name="workers") for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_nothing_is_recorded_while_nobody_asks_for_it() -> None:
    quiet = span("a", "test", number=1)
    assert quiet is span("b", "test")
    with quiet as same:
        same.note(number=2)
    with recorded() as recording:
        pass
    with span("late", "test"):
        pass
    assert recording.spans == []
    assert recording.rows == []


def test_spans_nest_and_say_what_was_noted() -> None:
    with recorded() as recording:
        with span("outer", "test", number=1) as outer:
            with span("inner", "deep"):
                pass
            outer.note(found=True)
        with span("next", "test"):
            pass
    inner, outer_one, following = recording.spans
    assert [one.name for one in recording.spans] == ["inner", "outer", "next"]
    assert (inner.category, outer_one.facts, inner.facts) == ("deep", {"number": 1, "found": True}, {})
    assert within(outer_one, inner)
    assert following.begun >= outer_one.begun + outer_one.seconds
    assert recording.rows == ["MainThread"]


def test_an_error_is_noted_by_its_code_and_not_by_what_it_says() -> None:
    with recorded() as recording:
        with pytest.raises(HostError), span("ours", "test"):
            raise HostError("hunter2 is wrong", code="host-failed")
        with pytest.raises(KeyError), span("theirs", "test"):
            raise KeyError("hunter2")
    assert [one.facts for one in recording.spans] == [{"failed": "host-failed"}, {"failed": "KeyError"}]


def test_threads_that_work_at_once_have_rows_of_their_own_and_later_ones_use_these_again() -> None:
    both = threading.Barrier(2)

    def work() -> None:
        with span("outer", "test"), span("inner", "test"):
            both.wait(30)

    with recorded() as recording, span("main", "test"):
        in_threads(work, work)
        in_threads(work, work)
    assert recording.rows == ["MainThread", "workers", "workers"]
    inner = [one for one in recording.spans if one.name == "inner"]
    outer = [one for one in recording.spans if one.name == "outer"]
    assert sorted(one.row for one in inner) == [1, 1, 2, 2]
    for one in inner:
        assert sum(within(other, one) for other in outer) == 1


def test_the_rows_of_pools_have_the_names_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    with recorded() as recording:
        for name in ("ahead_0", "Thread-7 (work)", "steps"):
            monkeypatch.setattr(threading.current_thread(), "name", name)
            with span("a", "test"):
                pass
    assert recording.rows == ["ahead", "Thread", "steps"]


def test_the_first_spans_are_kept_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "MOST", 3)
    with recorded() as recording, span("outermost", "test"):
        for number in range(5):
            with span(f"{number}", "test") as one:
                one.note(number=number)
    assert [one.name for one in recording.spans] == ["0", "1", "outermost"]
    assert recording.dropped == 3


def test_what_is_open_at_the_end_is_kept_as_it_is_and_nothing_after_it() -> None:
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        with span("abandoned", "test"):
            begun.set()
            end.wait(30)
            with span("too late", "test"):
                pass

    thread = threading.Thread(target=work)
    with recorded() as recording:
        thread.start()
        assert begun.wait(30)
    end.set()
    thread.join(30)
    (abandoned,) = recording.spans
    assert (abandoned.name, abandoned.facts) == ("abandoned", {"unfinished": True})


def test_recordings_leave_nothing_behind_for_the_next_one() -> None:
    with recorded() as first, span("first", "test"), recorded() as second, span("second", "test"):
        pass
    with pytest.raises(RuntimeError), recorded():
        raise RuntimeError
    assert [one.name for one in first.spans] == ["first"]
    assert [one.name for one in second.spans] == ["second"]
    assert span("off", "test") is span("off", "test")


def test_what_began_before_the_recording_can_be_added() -> None:
    recording = Recording(origin=100.0)
    recording.add("start-up", "phase", 100.5, 102.0)
    recording.add("older", "phase", 99.0, 101.0)
    assert [(one.begun, one.seconds) for one in recording.spans] == [(0.5, 1.5), (0.0, 1.0)]


def test_what_the_end_of_something_takes_is_a_span_of_its_own() -> None:
    told: list[str] = []

    @contextmanager
    def resource() -> Iterator[str]:
        told.append("begun")
        try:
            yield "it"
        finally:
            told.append("ended")

    with recorded() as recording:
        with ending(resource(), "stop", "test") as got, span("use", "test"):
            told.append(got)
        with pytest.raises(RuntimeError), ending(resource(), "stop", "test"):
            raise RuntimeError
    assert told == ["begun", "it", "ended", "begun", "ended"]
    assert [(one.name, one.facts) for one in recording.spans] == [("use", {}), ("stop", {}), ("stop", {})]
