"""The machine of a build's first command is restored while the build is planned, when there is reason to."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from layer_support import obey

from engine.driver import Driver
from engine.vm.fake import FakeSandbox
from machinefile.errors import MbuildError

if TYPE_CHECKING:
    from conftest import Workshop

FIRST = "FROM base\nRUN write a x\n"
OTHER = "FROM base\nRUN write b x\n"


class Watched(FakeSandbox):
    """Counts how often what waits was ended."""

    forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1


@dataclass
class Bench:
    """Builds that each have a sandbox of their own."""

    workshop: Workshop

    def build(self, text: str, *, fails: bool = False, **options: object) -> Watched:
        made: list[Watched] = []

        def make() -> Watched:
            made.append(Watched(obey))
            return made[-1]

        request = self.workshop.request(text, use_cache=bool(options.pop("use_cache", True)))
        driver = Driver(self.workshop.store, self.workshop.source, make, self.workshop.events.append)
        if fails:
            with pytest.raises(MbuildError):
                driver.build(replace(request, **options))  # type: ignore[arg-type]
        else:
            driver.build(replace(request, **options))  # type: ignore[arg-type]
        assert len(made) <= 1, "the sandbox in which a machine waits is the one of the build"
        assert all(sandbox.forgotten for sandbox in made if sandbox.expected), "what waits is ended"
        return made[0] if made else Watched(obey)

    @property
    def disks(self) -> list[Path]:
        return sorted((self.workshop.store.root / "disks").iterdir())

    @property
    def note(self) -> Path:
        (found,) = (self.workshop.store.root / "contexts").glob("*.ahead")
        return found


@pytest.fixture
def bench(workshop: Workshop) -> Bench:
    """One that has built FIRST once."""
    bench = Bench(workshop)
    assert bench.build(FIRST).expected == [], "nothing is known of it yet"
    return bench


def test_a_run_that_is_new_finds_its_machine_waiting(bench: Bench) -> None:
    sandbox = bench.build(OTHER)
    assert [execution.outlook for execution in sandbox.executions] == sandbox.expected


def test_nothing_is_restored_for_runs_that_are_known(bench: Bench) -> None:
    bench.build(OTHER)
    for text in (OTHER, FIRST, OTHER + "LABEL a=b\n"):
        sandbox = bench.build(text)
        assert (sandbox.expected, sandbox.executions) == ([], [])


def test_what_was_built_in_vain_is_told_apart_no_more(bench: Bench) -> None:
    bench.build("FROM base\nRUN fail 1\n", fails=True)
    assert len(bench.build("FROM base\nRUN fail 1\n", fails=True).expected) == 1, "it has to run again"


def test_without_the_cache_a_machine_is_always_needed(bench: Bench) -> None:
    assert len(bench.build(FIRST, use_cache=False).expected) == 1


def test_a_build_that_may_not_run_anything_restores_nothing(bench: Bench) -> None:
    assert bench.build(OTHER, fails=True, fail_on_miss=True).expected == []


def test_a_build_that_fails_before_its_first_step_ends_the_machine(bench: Bench) -> None:
    assert len(bench.build(OTHER + "COPY missing /c\n", fails=True).expected) == 1


def test_what_the_machine_stands_on_follows_what_ran_first(bench: Bench) -> None:
    bench.build(FIRST + "RUN write c x\n")
    sandbox = bench.build(FIRST + "RUN write d x\n")
    assert [execution.outlook for execution in sandbox.executions] == sandbox.expected
    assert len(sandbox.expected[0].disks) == 2


def test_where_other_things_stand_before_it_nothing_is_guessed(bench: Bench) -> None:
    assert bench.build("FROM base\nENV A=b\nRUN write b x\n").expected == []
    assert bench.build("FROM base\nRUN write c x\n").expected == []


def test_a_disk_that_was_touched_is_not_what_a_machine_begins_with(bench: Bench) -> None:
    bench.disks[0].write_bytes(b"something else")
    sandbox = bench.build(OTHER)
    assert sandbox.expected == []
    assert len(sandbox.executions) == 1


def test_a_disk_that_is_gone_is_made_anew_and_nothing_is_restored(bench: Bench) -> None:
    bench.disks[0].unlink()
    assert bench.build(OTHER).expected == []


@pytest.mark.parametrize(
    "outlook",
    [
        [1, 2, 3, 4, 5], [["../../x"], [1, 2, 3], "default", [], []], [[], [1, 2], "default", [], []],
        [[], [1, 2, 3], "nowhere", [], []], [[], ["x", 2, 3], "default", [], []],
        [[], [1, 2, 3], "default", [[1]], []], [[], [1, 2, 3], "host", [], []], [],
    ],
)  # fmt: skip
def test_what_no_machine_was_restored_with_is_not_believed(bench: Bench, outlook: list[object]) -> None:
    known = json.loads(bench.note.read_text())
    bench.note.write_text(json.dumps([*known[:2], outlook, *known[3:]]))
    sandbox = bench.build(OTHER)
    assert sandbox.expected == []
    assert len(sandbox.executions) == 1


@pytest.mark.parametrize("note", ["", "{", "[1]", '[2,[],[],0,""]', '[1,[1],[],0,""]'])
def test_a_note_that_is_damaged_says_nothing(bench: Bench, note: str) -> None:
    bench.note.write_text(note)
    sandbox = bench.build(OTHER)
    assert sandbox.expected == []
    assert len(sandbox.executions) == 1


def test_commands_with_disks_of_their_own_leave_no_note_of_their_machine(workshop: Workshop) -> None:
    bench = Bench(workshop)
    bench.build("FROM base\nRUN --mount=type=cache,target=/c write a x\n")
    assert bench.build("FROM base\nRUN --mount=type=cache,target=/c write b x\n").expected == []
