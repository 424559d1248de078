"""What a build says about the network, down to what a step is run with, and into its key or not."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.events import NetworkReached, Reached
from engine.records import record_of
from engine.vm.execution import Ending, Result
from engine.vm.network.gate import EgressLog
from engine.vm.network.rules import EgressPolicy, parse_rule
from machinefile.steps import Run

if TYPE_CHECKING:
    from conftest import Workshop

HOSTS = (("db", "198.51.100.1"), ("me", "host-gateway"))
TEXT = "FROM base\nRUN write f 1\n"


def test_given_hosts_reach_the_step_and_its_key(workshop: Workshop) -> None:
    workshop.build(TEXT, hosts=HOSTS)
    assert workshop.sandbox.executions[-1].hosts == HOSTS
    keys = {workshop.plan(TEXT, hosts=hosts).steps[1].key for hosts in ((), HOSTS, HOSTS[:1], HOSTS[::-1])}
    assert len(keys) == 4


def test_without_hosts_a_record_is_what_it_was_before_there_were_any(workshop: Workshop) -> None:
    plan = workshop.plan(TEXT)
    record = record_of(plan.steps[1].step, plan.graph.platform, lambda step: step, {})
    assert [name for name, _ in record.fields][-4:] == ["working_dir", "network", "mounts", "files"]


def test_the_policy_reaches_the_step_and_not_its_key(workshop: Workshop) -> None:
    policy = EgressPolicy((parse_rule("a.example:80"),))
    request = dataclasses.replace(workshop.request(TEXT), egress=policy)
    workshop.driver.build(request)
    assert workshop.sandbox.executions[-1].egress is policy
    assert workshop.build(TEXT).hit == 1


def test_proxies_of_this_machine_are_renamed_and_their_port_is_opened(workshop: Workshop) -> None:
    text = "FROM base\nARG HTTPS_PROXY\nRUN write f 1\n"
    given = (("HTTP_PROXY", "http://localhost:31"), ("HTTPS_PROXY", "http://127.0.0.1:32"), ("NO_PROXY", "localhost"))
    workshop.build(text, build_args=given)
    execution = workshop.sandbox.executions[-1]
    seen = dict(execution.environment)
    assert seen["http_proxy"] == seen["HTTP_PROXY"] == "http://10.0.2.2:31"
    assert seen["HTTPS_PROXY"] == "http://10.0.2.2:32"
    assert seen["no_proxy"] == "localhost"
    assert execution.loopback_ports == frozenset((31, 32))


def test_a_file_cannot_open_the_host_by_calling_it_a_proxy(workshop: Workshop) -> None:
    workshop.build("FROM base\nENV http_proxy=http://10.0.2.2:5432\nRUN write f 1\n")
    assert workshop.sandbox.executions[-1].loopback_ports == frozenset()


def test_what_a_step_reached_is_told_before_its_end(workshop: Workshop) -> None:
    entry = Reached("a.example", "198.51.100.1", 80, "tcp")
    execute = workshop.sandbox.execute

    @contextmanager
    def reaching(*arguments: object):  # type: ignore[no-untyped-def]
        with execute(*arguments) as result:  # type: ignore[arg-type]
            yield Result(Ending.EXITED, 0, result.changes, egress=EgressLog((entry,), 2))

    workshop.sandbox.execute = reaching  # type: ignore[method-assign]
    workshop.build(TEXT)
    kinds = [type(event).__name__ for event in workshop.events]
    told = next(event for event in workshop.events if isinstance(event, NetworkReached))
    assert (told.entries, told.more) == ((entry,), 2)
    assert kinds.index("NetworkReached") == len(kinds) - 1 - kinds[::-1].index("StepEnded") - 1


def test_every_run_has_the_same_hosts(workshop: Workshop) -> None:
    plan = workshop.plan("FROM base AS a\nRUN write f 1\nFROM base\nCOPY --from=a /f /\nRUN write g 1\n", hosts=HOSTS)
    runs = [step.step.operation for step in plan.steps if isinstance(step.step.operation, Run)]
    assert [run.hosts for run in runs] == [HOSTS, HOSTS]
