"""A machine with a web server in it, restored in this process, and the memory that its copies take."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from benchmark import specs
from benchmark.job import Output
from benchmark.measure import BenchError, run
from benchmark.peer import Mbuild
from benchmark.place import Place
from benchmark.registry import serving

COPIES = 20


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Print what machines cost, and give all figures."""
    with serving(folder) as registry:
        place, mbuild = Place(folder, registry), Mbuild(folder / "mbuild")
        job = place.job(place.context("machine"), specs.MACHINE.format(base=place.busybox), Output.NAME)
        (argv,) = mbuild.commands(job)
        made = run(argv, mbuild.environment, folder).seconds
        subject = Subject(mbuild.store, mbuild.outcome(job).digest)
    answers = [subject.answer() for _ in range(rounds)]
    first, further = subject.copies()
    agents, pages = (sorted(times) for times in zip(*answers, strict=True))
    print(f"{'machine: made':<30} {made:6.2f} s")
    print(f"{'machine: to its agent':<30} {statistics.median(agents):6.3f} s   ({agents[0]:.3f} to {agents[-1]:.3f})")
    print(f"{'machine: to its first page':<30} {statistics.median(pages):6.3f} s   ({pages[0]:.3f} to {pages[-1]:.3f})")
    print(f"{'machine: one copy':<30} {first / 1e6:6.1f} MB")
    print(f"{f'machine: each more of {COPIES}':<30} {further / 1e6:6.1f} MB")
    return {"agent": agents, "page": pages, "made": made, "first_bytes": first, "further_bytes": further}


class Subject:
    """Restores one machine, any number of times: what Python takes to start is no part of it."""

    def __init__(self, folder: Path, digest: str) -> None:
        from engine.machines.library import Library
        from engine.vm.qemu import QemuHypervisor
        from mbuild.session import open_store

        with open_store(str(folder)) as store:
            machine = Library(store).of(digest)
            if machine is None:
                raise BenchError("the machine was not made")
            self._frozen = machine.frozen
            self._vm = store.vm_folder
            self._qemu = QemuHypervisor(store.vm_folder).qemu.program

    def _restored(self, port: int) -> AbstractContextManager[Any]:
        from engine.vm.portforward import PortForward
        from engine.vm.restored import Identity, restore

        ports = [PortForward(80, port)] if port else []
        return restore(self._frozen, self._qemu, self._vm, Identity.fresh(), threading.Event(), ports=ports)

    def answer(self) -> tuple[float, float]:
        """Seconds from before QEMU's start to the guest's agent, and to a page from the web server."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        begun = time.monotonic()
        with self._restored(port) as restored, socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = b"".join(iter(lambda: client.recv(4096), b""))
            seconds = time.monotonic() - begun
        if not said.endswith(b"hello\n"):
            raise BenchError(f"the web server said {said!r}")
        return restored.answered, seconds

    def copies(self) -> tuple[int, int]:
        """Bytes of memory that one copy takes, and those that each further one of 20 adds."""
        with ExitStack() as held:
            pids = [held.enter_context(self._restored(0)).machine.pid]
            time.sleep(0.5)
            first = _proportional(pids)
            for _ in range(COPIES - 1):
                pids.append(held.enter_context(self._restored(0)).machine.pid)
            time.sleep(0.5)
            return first, (_proportional(pids) - first) // (COPIES - 1)


def _proportional(pids: list[int]) -> int:
    """Bytes of memory of processes, what they share counted once."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            total += int(rest.split()[0]) << 10 if name == "Pss" else 0
    return total
