"""RUN --clock and --clock: from the file and the command line down to the guest, and into the key or not."""

from __future__ import annotations

import json
import shlex
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from engine.attest.provenance import kept_provenance
from engine.explain.differences import SettingDifference
from engine.explain.words import describe
from engine.layers.entry import NORMAL_TIME
from engine.verify.varied import ShiftedSandbox
from engine.vm.execution import Execution, FixedClock
from engine.vm.fake import FakeHypervisor
from engine.vm.protocol import Op, Values
from engine.vm.sandbox import MicroVmSandbox
from machinefile.clocks import EARLIEST, LATEST, Clock, declared_epoch
from machinefile.errors import MachinefileError
from machinefile.parser import parse
from machinefile.source import Source
from machinefile.steps import MachineShape
from machinefile.syntax_json import to_json
from mbuild.arguments import Parser, add_build_options
from mbuild.commands.debug import way_in
from mbuild.request import read_request

if TYPE_CHECKING:
    from conftest import Workshop


def clocks(workshop: Workshop, text: str, clock: Clock = Clock.REAL, **options: object) -> list[FixedClock | None]:
    """What the steps of a build had for a clock."""
    workshop.build(text, clock=clock, **options)
    return [execution.clock for execution in workshop.sandbox.executions]


def test_a_step_has_the_clock_that_it_asks_for(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a 1\nRUN --clock=epoch write b 2\nRUN --clock=frozen write c 3\n"
    assert clocks(workshop, text) == [None, FixedClock(NORMAL_TIME), FixedClock(NORMAL_TIME, held=True)]


def test_the_option_is_for_steps_that_do_not_say(workshop: Workshop) -> None:
    text = "FROM base\nRUN write a 1\nRUN --clock=real write b 2\nRUN --clock=epoch write c 3\n"
    assert clocks(workshop, text, Clock.FROZEN) == [FixedClock(NORMAL_TIME, held=True), None, FixedClock(NORMAL_TIME)]


def test_the_epoch_is_what_the_step_sees(workshop: Workshop) -> None:
    text = "FROM base\nRUN --clock=epoch write a 1\nARG SOURCE_DATE_EPOCH\nRUN --clock=epoch write b 2\n"
    given = (("SOURCE_DATE_EPOCH", "1700000000"),)
    assert clocks(workshop, text, build_args=given) == [FixedClock(NORMAL_TIME), FixedClock(1_700_000_000)]
    assert [dict(one.environment)["SOURCE_DATE_EPOCH"] for one in workshop.sandbox.executions] == [
        str(NORMAL_TIME),
        "1700000000",
    ]


def test_an_empty_epoch_is_none(workshop: Workshop) -> None:
    assert clocks(workshop, "FROM base\nENV SOURCE_DATE_EPOCH=\nRUN --clock=epoch write a 1\n") == [
        FixedClock(NORMAL_TIME)
    ]


def test_a_clock_may_be_an_argument_and_that_of_a_trigger(workshop: Workshop) -> None:
    text = "FROM base AS below\nONBUILD RUN --clock=frozen write a 1\nFROM below\nARG HOW=epoch\n"
    assert clocks(workshop, f"{text}RUN --clock=$HOW write b 2\n") == [
        FixedClock(NORMAL_TIME, held=True),
        FixedClock(NORMAL_TIME),
    ]


def test_the_key_has_every_clock_but_the_real_one(workshop: Workshop) -> None:
    def step(flag: str, clock: Clock = Clock.REAL) -> tuple[str, str]:
        planned = workshop.plan(f"FROM base\nRUN {flag}write a 1\n", clock=clock).step("0.1")
        return planned.key, json.dumps(planned.record.to_json())

    plain = step("")
    assert step("--clock=real ") == step("--clock=real ", Clock.FROZEN) == plain
    assert "clock" not in plain[1]
    assert step("--clock=epoch ") == step("", Clock.EPOCH) != plain
    assert step("--clock=frozen ") == step("", Clock.FROZEN)
    assert len({plain[0], step("", Clock.EPOCH)[0], step("", Clock.FROZEN)[0]}) == 3


def test_what_is_no_clock_is_refused_at_its_place(workshop: Workshop) -> None:
    for value in ("", "froze", "0", "Epoch"):
        with pytest.raises(MachinefileError) as caught:
            workshop.plan(f"FROM base\nRUN --clock={value} true\n")
        assert caught.value.code == "bad-clock"
        assert caught.value.span is not None
        assert (caught.value.span.line, caught.value.span.column) == (2, 5)


@pytest.mark.parametrize("epoch", ["0", str(EARLIEST - 1), str(LATEST + 1), "9" * 5000, "-1", "now", "٣" * 9])
def test_what_no_clock_can_be_set_to_is_no_epoch(epoch: str) -> None:
    with pytest.raises(ValueError, match=epoch):
        declared_epoch({"SOURCE_DATE_EPOCH": epoch})


def test_an_epoch_that_no_clock_can_be_set_to_is_refused(workshop: Workshop) -> None:
    text = "FROM base\nENV SOURCE_DATE_EPOCH=0\nRUN write a 1\n"
    workshop.plan(text)
    for clock in (Clock.EPOCH, Clock.FROZEN):
        with pytest.raises(MachinefileError) as caught:
            workshop.plan(text, clock=clock)
        assert caught.value.code == "bad-clock"


def test_the_first_and_the_last_epoch_will_do(workshop: Workshop) -> None:
    text = "FROM base\n" + "".join(
        f"ENV SOURCE_DATE_EPOCH={epoch}\nRUN --clock=frozen write a {epoch}\n" for epoch in (EARLIEST, LATEST)
    )
    assert clocks(workshop, text) == [FixedClock(EARLIEST, held=True), FixedClock(LATEST, held=True)]


def test_no_other_instruction_has_a_clock(workshop: Workshop) -> None:
    for line in ("COPY --clock=epoch a b", "ADD --clock=epoch a b", "SNAPSHOT --clock=epoch"):
        with pytest.raises(MachinefileError) as caught:
            workshop.plan(f"FROM base\n{line}\n")
        assert caught.value.code == "unknown-flag"


def test_parsing_gives_the_flag_as_it_is_written() -> None:
    parsed = to_json(parse(Source("Machinefile", "FROM base\nRUN --clock=$HOW true\n")))
    assert parsed["instructions"][1]["flags"] == [["clock", "$HOW"]]


def test_a_fixed_clock_is_not_shifted_and_starts_with_the_command(tmp_path: Path) -> None:
    def told(clock: FixedClock | None) -> list[tuple[int, int]]:
        """What it is told about its clock, with the seconds, and where the folders that stay are made and its command
        starts."""
        hypervisor = FakeHypervisor()
        execution = replace(EXECUTION, clock=clock)
        with ShiftedSandbox(MicroVmSandbox(hypervisor, tmp_path)).execute(
            execution, lambda *_: None, threading.Event()
        ):
            pass
        (machine,) = hypervisor.machines
        found = []
        for frame in machine.commands:
            values = Values(frame.payload)
            if frame.op in (Op.SET_CLOCK, Op.HOLD_CLOCK):
                found.append((frame.op, values.number()))
            elif frame.op == Op.SPAWN or (frame.op == Op.ENSURE and b"/etc" not in frame.payload):
                found.append((frame.op, 0))
        return found

    restored, *then = told(FixedClock(EARLIEST))
    before, start, folders = (Op.SET_CLOCK, EARLIEST - 3600), (Op.SET_CLOCK, EARLIEST), [(Op.ENSURE, 0)] * 3
    assert restored[0] == Op.SET_CLOCK
    assert restored[1] > EARLIEST
    assert then == [before, start, *folders, before, start, (Op.ENSURE, 0), start, (Op.SPAWN, 0)]
    held = told(FixedClock(7 * EARLIEST, held=True))[1:]
    assert held == [(Op.HOLD_CLOCK, 7 * EARLIEST), *folders, (Op.ENSURE, 0), (Op.SPAWN, 0)]
    assert [op for op, _ in told(None)] == [Op.SET_CLOCK, Op.SET_CLOCK, *[Op.ENSURE] * 4, Op.SPAWN]


EXECUTION = Execution((), ("true",), (("PATH", "/bin"),), working_dir="/work", shape=MachineShape(disk=64 << 20))


def test_the_command_line_says_it_and_says_it_again_to_look_inside(tmp_path: Path) -> None:
    (tmp_path / "Machinefile").write_text("FROM scratch\n")
    parser = Parser()
    add_build_options(parser)
    options = parser.parse_args(["--clock=frozen", str(tmp_path)])
    assert read_request(options).options.clock is Clock.FROZEN
    assert "--clock frozen" in shlex.join(shlex.split(way_in(options, "0.1")))
    plain = parser.parse_args([str(tmp_path)])
    assert read_request(plain).options.clock is Clock.REAL
    assert "--clock" not in way_in(plain, "0.1")


def test_the_option_is_told_by_a_provenance(workshop: Workshop) -> None:
    for clock in (Clock.REAL, Clock.FROZEN):
        request = workshop.request("FROM base\nRUN write a 1\n", names=("docker.io/library/app:1",), clock=clock)
        digest = workshop.driver.build(request).digest
        kept = kept_provenance(workshop.store, digest)
        assert kept is not None
        assert f'"clock": "{clock.value}"' in json.dumps(kept)


def test_another_clock_is_explained() -> None:
    assert list(describe(SettingDifference("clock", None, "frozen"))) == ["--clock is new: frozen"]
