"""What carries out steps, several at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from engine.steps.mounts import MountMaker
from engine.steps.provisions import Provisions
from engine.steps.worker import Worker


def test_commands_that_begin_together_have_their_mounts_from_one_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def make(*arguments: Any) -> MountMaker:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # a second one that was made beside it would be here by then
        return MountMaker(*arguments)

    monkeypatch.setattr("engine.steps.mounts.MountMaker", make)
    nothing: Any = None
    worker = Worker(nothing, nothing, nothing, {}, nothing, Provisions(), lambda step_id: (), lambda event: None)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: worker.mounts, range(2))
    assert first is second
