"""`--profile` of whole commands. What a RUN's spans are is looked at in test_steps_in_machines.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trace_support import read_trace

if TYPE_CHECKING:
    from conftest import Mbuild

TEXT = "FROM scratch AS one\nCOPY file /file\nFROM scratch\nCOPY --from=one /file /copy\nWORKDIR /w\n"


def test_a_build_says_where_its_time_went(mbuild: Mbuild) -> None:
    context = mbuild.context(TEXT, file="hello")
    trace, tar = mbuild.folder / "trace", mbuild.folder / "out.tar"
    mbuild.build("--profile", trace, "-o", f"type=oci,dest={tar}", context)
    events, names = read_trace(trace)
    phases = [event.name for event in events if event.category == "phase"]
    wanted = ["start-up", "read", "open the store", "resolve", "plan", "steps", "finish", "close the store"]
    assert [phase for phase in phases if phase in wanted] == wanted
    by_name = {event.name: event for event in events}
    steps = [event for event in events if event.category == "step" and "key" in event.args]
    assert {(step.name, step.args["outcome"]) for step in steps} >= {
        ("[one 2/2] COPY file /file", "run"),
        ("[1 2/3] COPY --from=one /file /copy", "run"),
        ("[1 3/3] WORKDIR /w", "run"),
    }
    assert all(step.args["key"].startswith("sha256:") for step in steps)
    copied = by_name["[one 2/2] COPY file /file"]
    assert names[copied.row].startswith("steps")
    assert {event.name for event in events if copied.holds(event)} >= {"write", "content key", "keep"}
    assert any(by_name["plan"].holds(event) for event in events if event.name == "hash")
    assert by_name["finish"].holds(by_name["output"])
    assert by_name["output"].args == {"to": str(tar)}
    assert by_name["start-up"].begun == 0

    mbuild.ok("plan", "--profile", trace, context)
    events, _ = read_trace(trace)
    assert {"start-up", "read", "plan", "look up"} <= {event.name for event in events}
    mbuild.ok("-q", "--profile", trace, context)
    events, _ = read_trace(trace)
    assert {event.args["outcome"] for event in events if "outcome" in event.args} == {"hit"}


def test_a_build_that_fails_leaves_its_trace(mbuild: Mbuild) -> None:
    trace = mbuild.folder / "trace"
    done = mbuild("--profile", trace, mbuild.context("FROM scratch\nCOPY absent /\n"))
    assert done.returncode == 2
    events, _ = read_trace(trace)
    (plan,) = (event for event in events if event.name == "plan")
    assert plan.args == {"failed": "source-missing"}
