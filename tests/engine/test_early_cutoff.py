"""A step that runs again and comes to the same bytes changes nothing for the steps above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Workshop

CHAIN = """\
FROM base
RUN write zero 0
{first}
RUN write one 1
WORKDIR /srv
COPY f /srv/f
RUN write two 2
"""
STAGES = """\
FROM base AS build
COPY source /source
RUN write out made
FROM base AS middle
RUN write own 1
COPY --from=build /out /out
RUN write middle 2
FROM base
COPY --from=middle /out /out
RUN --mount=from=middle,target=/m write last 3
RUN write end 4
"""


def ran(workshop: Workshop) -> list[str]:
    found = [execution.argv[-1] for execution in workshop.sandbox.executions]
    workshop.sandbox.executions.clear()
    return found


def test_nothing_runs_on_top_of_a_step_that_came_out_the_same(workshop: Workshop) -> None:
    workshop.write("f")
    workshop.build(CHAIN.format(first="RUN write first same"))
    ran(workshop)
    text = CHAIN.format(first='RUN ["write first same"]')
    planned = [one.hit for one in workshop.plan(text).counted()]
    assert planned == [True, False, False, False, False, False], "before it has run nobody knows"
    report = workshop.build(text)
    assert ran(workshop) == ["write first same"]
    assert (report.run, report.hit) == (1, 5)
    assert all(one.hit for one in workshop.plan(text).counted())


def test_what_came_out_otherwise_does_run_again(workshop: Workshop) -> None:
    workshop.write("f")
    workshop.build(CHAIN.format(first="RUN write first same"))
    ran(workshop)
    report = workshop.build(CHAIN.format(first="RUN write first other"))
    assert ran(workshop) == ["write first other", "write one 1", "write two 2"]
    assert report.hit == 1


def test_the_ripple_stops_several_stages_away(workshop: Workshop) -> None:
    workshop.write("source", "1 # a comment")
    first = workshop.build(STAGES)
    ran(workshop)
    workshop.write("source", "1 # another")
    report = workshop.build(STAGES)
    assert ran(workshop) == ["write out made"], "its command reads what changed; what it made is the same"
    # COPY --from=build reads a stage that has other files now, so it is carried out, and gives the same layer.
    assert report.run == 3
    assert report.digest == first.digest
    assert workshop.build(STAGES).run == 0


def test_the_step_that_comes_out_otherwise_at_last_ends_the_stop(workshop: Workshop) -> None:
    """Results found by content on the way do not hide a change further up."""
    text = "FROM base\nRUN write a 1\nRUN write b 1\n{}RUN write c 1\n"
    workshop.build(text.format(""))
    ran(workshop)
    changed = text.format("RUN write more 1\n").replace("RUN write a 1", 'RUN ["write a 1"]')
    assert workshop.files(workshop.build(changed).digest)["more"] == b"1"
    assert ran(workshop) == ["write a 1", "write more 1", "write c 1"]
