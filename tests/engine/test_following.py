"""Which command's machine is restored while another runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.following import following as find_following
from engine.vm.execution import SPARE_LAYERS, Execution

if TYPE_CHECKING:
    from conftest import Workshop

BASE = "FROM base AS first\nCOPY a /bin/sh\n"


def following(workshop: Workshop, text: str) -> dict[str, tuple[str, ...]]:
    """The instruction lines of commands that follow others, by the lines of these."""
    workshop.write("a", "x")
    plan = workshop.plan(BASE + text)
    found = find_following(plan.to_run()).after_run
    return {str(plan.step(step_id).step.span.line): operation.argv[-1:] for step_id, operation in found.items()}


def test_the_first_command_on_top_of_another_follows_it(workshop: Workshop) -> None:
    text = "RUN one\nENV A=b\nCOPY a /c\nWORKDIR /d\nRUN two\nRUN three\n"
    assert following(workshop, text) == {"3": ("two",), "7": ("three",)}


def test_a_command_of_another_stage_follows_where_it_stands_on_the_first(workshop: Workshop) -> None:
    text = "RUN one\nFROM first AS x\nRUN two\nFROM first\nRUN three\nCOPY --from=x /a /b\n"
    assert following(workshop, text) == {"3": ("two",)}


def test_commands_with_disks_of_their_own_are_not_waited_for(workshop: Workshop) -> None:
    mounts = ("type=cache,target=/c", "type=bind,target=/c,source=a")
    for mount in mounts:
        assert following(workshop, f"RUN one\nRUN --mount={mount} two\nRUN three\n") == {"4": ("three",)}
    assert following(workshop, "RUN one\nRUN --mount=type=tmpfs,target=/c two\n") == {"3": ("two",)}


def test_too_many_layers_between_are_too_many(workshop: Workshop) -> None:
    for between in range(SPARE_LAYERS + 1):
        copies = "".join(f"COPY a /{number}\n" for number in range(between))
        assert bool(following(workshop, f"RUN one\n{copies}RUN two\n")) == (between < SPARE_LAYERS)


def test_what_is_there_already_is_not_waited_for(workshop: Workshop) -> None:
    workshop.write("a", "x")
    workshop.build(BASE + "RUN one\nRUN two\n")
    assert following(workshop, "RUN one\nRUN two\nRUN three\n") == {}


def test_a_command_after_copies_is_made_ready_for_while_they_are_made(workshop: Workshop) -> None:
    workshop.write("a", "x")
    workshop.build(BASE + "WORKDIR /w\nCOPY a /b\nRUN one\nRUN two\n", jobs=1)
    assert [len(outlook.disks) for outlook in workshop.sandbox.expected] == [1]
    assert [execution.then is not None for execution in workshop.sandbox.executions] == [True, False]
    workshop.sandbox.expected.clear()
    workshop.build(BASE + "COPY a /d\nRUN three\n", jobs=1)
    workshop.build("FROM base\nRUN alone\n")  # of neither is known what it is: other things stand before it
    assert [len(outlook.disks) for outlook in workshop.sandbox.expected] == [2]  # on the copy that is there


def standing(workshop: Workshop, text: str) -> set[str]:
    """The lines of the steps that a command to come stands on."""
    workshop.write("a", "x")
    plan = workshop.plan(BASE + text)
    return {str(plan.step(step_id).step.span.line) for step_id in find_following(plan.to_run()).stood_on}


def test_what_is_below_a_command_is_stood_on(workshop: Workshop) -> None:
    assert standing(workshop, "RUN one\nCOPY a /c\nRUN two\nCOPY a /d\n") == {"2", "3", "4"}
    assert standing(workshop, "RUN one\nFROM base\nCOPY --from=first /bin/sh /sh\n") == {"2"}


def test_what_is_there_already_is_not_counted(workshop: Workshop) -> None:
    workshop.write("a", "x")
    workshop.build(BASE + "RUN one\n")
    assert standing(workshop, "RUN one\nRUN two\nRUN three\n") == {"4"}


def test_no_machine_is_made_ready_before_the_worker_gets_to_the_copies_of_its_stage(workshop: Workshop) -> None:
    workshop.write("a", "x")
    expected: list[int] = []
    behave = workshop.sandbox._behave

    def counted(execution: Execution) -> tuple[int, bytes, bytes]:
        expected.append(len(workshop.sandbox.expected))
        return behave(execution)

    workshop.sandbox._behave = counted
    stages = "FROM base AS x\nCOPY a /b\nRUN one\nFROM base AS y\nENV A=b\nCOPY a /c\nRUN two\n"
    workshop.build(f"{stages}FROM base\nCOPY --from=x /bin /x\nCOPY --from=y /bin /y\n", jobs=1)
    assert expected == [1, 2]
