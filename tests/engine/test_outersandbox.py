"""A sandbox around another does as that one does, and a lazy one makes it only when there is something to do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.outersandbox import LazySandbox, OuterSandbox
from engine.vm.execution import Execution, Outlook, Sandbox
from engine.vm.fake import FakeSandbox
from machinefile.steps import MachineShape

EXECUTION = Execution((Path("/disk"),), ("false",), ())


class Forgetful(FakeSandbox):
    """Counts how often it had to let go."""

    forgotten = 0

    def forget(self) -> None:
        self.forgotten += 1


@pytest.fixture
def inner() -> Forgetful:
    return Forgetful(lambda execution: (3, b"", b""))


@pytest.mark.parametrize("around", [OuterSandbox, lambda inner: LazySandbox(lambda: inner)], ids=["outer", "lazy"])
def test_all_that_is_asked_of_it_the_inner_one_does(inner: Forgetful, around: type, tmp_path: Path) -> None:
    sandbox: Sandbox = around(inner)
    outlook = Outlook((Path("/disk"),))
    newer, into = tmp_path / "newer", tmp_path / "into"
    newer.write_bytes(b"2")
    into.write_bytes(b"1")
    with sandbox.execute(EXECUTION, lambda stream, data: None, threading.Event()) as result:
        assert result.code == 3
    sandbox.merge(newer, into, MachineShape(), threading.Event())
    sandbox.expect(outlook, threading.Event())
    sandbox.forget()
    assert (inner.executions, into.read_bytes(), inner.expected) == ([EXECUTION], b"12", [outlook])
    assert (inner.forgotten, sandbox.starts) == (1, 1)


def test_a_lazy_one_is_made_once_and_not_to_let_go_or_to_be_counted(inner: Forgetful) -> None:
    made: list[Forgetful] = []

    def make() -> Forgetful:
        made.append(inner)
        return inner

    sandbox = LazySandbox(make)
    sandbox.forget()
    assert (sandbox.starts, made) == (0, [])
    for _ in range(2):
        with sandbox.execute(EXECUTION, lambda stream, data: None, threading.Event()):
            pass
    assert (sandbox.starts, made) == (2, [inner])
