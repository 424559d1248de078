"""`mbuild run`: start an image of the store in a microVM."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence

from engine.events import Event, Note
from engine.machines.run import MachineRun
from engine.runner import find_image, run_image
from engine.vm.execution import Execution, Sandbox
from engine.vm.portforward import PortForward
from machinefile.errors import UsageError
from mbuild.arguments import Parser, add_store_option
from mbuild.machines import find_machine, run_machine
from mbuild.session import make_sandbox, open_driver


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Run an image; gives the exit code of its command."""
    parser = Parser(prog="mbuild run", description="Start an image of the store in a microVM of its own.")
    add_store_option(parser)
    parser.add_argument(
        "-p", "--publish", action="append", default=[], metavar="HOST:GUEST", help="a port here that leads into it"
    )
    parser.add_argument("--hostname", default="", metavar="NAME", help="a restored machine's name (default: random)")
    parser.add_argument("--cold", action="store_true", help="start the image, though there is a machine to restore")
    parser.add_argument("image", metavar="NAME", help="the name it was built with, or a machine's folder")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="what to run in place of its CMD")
    options = parser.parse_args(arguments)
    with open_driver(options.cache_dir, _tell, cancelled) as driver:
        sandbox = make_sandbox(driver.store, _tell)
        machine = find_machine(driver.store, options.image)
        if machine is not None:
            return run_machine(
                machine,
                options.image,
                tuple(options.command),
                MachineRun(tuple(map(_port, options.publish)), options.hostname),
                driver.store,
                _pass_on,
                _tell,
                cancelled,
                lambda execution: _run_cold(sandbox, execution, cancelled),
                cold="--cold" if options.cold else "",
            )
        image = find_image(driver.store, options.image)
        return run_image(image, tuple(options.command), driver.store, driver.source, sandbox, _pass_on, cancelled)


def _run_cold(sandbox: Sandbox, execution: Execution, cancelled: threading.Event) -> int:
    with sandbox.execute(execution, _pass_on, cancelled) as result:
        return result.code


def _port(text: str) -> PortForward:
    host, _, guest = text.rpartition(":")
    numbers = [int(word) for word in (host, guest) if word.isascii() and word.isdigit() and len(word) < 6]
    if len(numbers) != 2 or not all(0 < number < 1 << 16 for number in numbers):
        raise UsageError(f"-p {text} is not HOST:GUEST", code="usage", hint="for example -p 8080:80")
    return PortForward(numbers[1], numbers[0])


def _pass_on(stream: int, data: bytes) -> None:
    out = (sys.stdout if stream == 1 else sys.stderr).buffer
    out.write(data)
    out.flush()


def _tell(event: Event) -> None:
    if isinstance(event, Note):
        print(f"mbuild: {event.message}", file=sys.stderr)
