"""`mbuild run`: start an image of the store in a microVM."""

from __future__ import annotations

import argparse
import os
import posixpath
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.bases import Bases
from engine.driver import Driver
from engine.events import Event, Note
from engine.layerstore import LayerStore
from engine.runner import RunRequest, Volume, find_image, mounts_of, run_image
from engine.vm.execution import Execution, Sandbox
from engine.vm.portforward import PortForward
from machinefile.errors import UsageError
from machinefile.imageconfig import Pairs
from machinefile.steps import MachineShape, NetworkMode
from mbuild.arguments import Parser, add_registry_options, add_store_option, registry_flags
from mbuild.limits import read_shape
from mbuild.machines import find_machine, run_machine
from mbuild.session import make_sandbox, open_driver
from mbuild.terminal import make_session, pass_on

_ENV_FILE_LIMIT = 1 << 20


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Run an image; gives the exit code of its command."""
    options = _parser().parse_args(arguments)
    request = RunRequest(
        command=tuple(options.command),
        entrypoint=options.entrypoint,
        environment=environment_of(options.env_file, options.env),
        user=options.user,
        working_dir=_absolute(options.workdir),
        hostname=options.hostname,
        shape=read_shape(options) or MachineShape(),
        network=_network(options),
        ports=tuple(parse_port(text) for text in options.publish),
        volumes=tuple(parse_volume(text) for text in options.volume),
        session=make_session(interactive=options.interactive, terminal=options.tty, cancelled=cancelled),
    )
    with open_driver(options.cache_dir, _tell, cancelled, registry_flags(options)) as driver:
        sandbox = make_sandbox(driver.store, _tell)
        machine = find_machine(driver.store, options.image)
        if machine is not None:
            return run_machine(
                machine,
                options.image,
                request,
                driver.store,
                pass_on,
                _tell,
                cancelled,
                lambda execution: _run_cold(driver, sandbox, request, execution, cancelled),
                cold=_why_cold(options),
            )
        image = find_image(driver.store, options.image)
        return run_image(image, request, driver.store, driver.source, sandbox, pass_on, cancelled)


def _run_cold(
    driver: Driver, sandbox: Sandbox, request: RunRequest, execution: Execution, cancelled: threading.Event
) -> int:
    layers = LayerStore(driver.store, Bases(driver.store, driver.source, _tell))
    execution = replace(execution, mounts=mounts_of(request.volumes, driver.store, layers))
    with sandbox.execute(execution, pass_on, cancelled) as result:
        return result.code


_COLD = tuple("cold interactive tty env env_file user workdir entrypoint volume memory cpus disk".split())  # noqa: SIM905
"""The options that a machine which already runs cannot follow."""


def _why_cold(options: argparse.Namespace) -> str:
    given = [name for name in _COLD if getattr(options, name)]
    given += ["network"] if options.network != "default" else []
    return ", ".join(f"--{name.replace('_', '-')}" for name in given)


def _parser() -> Parser:
    parser = Parser(prog="mbuild run", description="Start an image of the store in a microVM of its own.")
    add = parser.add_argument
    add_store_option(parser)
    add_registry_options(parser)
    add("-i", "--interactive", action="store_true", help="pass standard input on")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set a variable")
    add("--env-file", action="append", default=[], metavar="FILE", help="set the variables of a file")
    add("-u", "--user", default=None, metavar="USER[:GROUP]", help="who runs it, by name or number")
    add("-w", "--workdir", default=None, metavar="DIR", help="where it starts")
    add("--entrypoint", default=None, metavar="PROGRAM", help="in place of ENTRYPOINT and CMD; empty for neither")
    add("--hostname", default="", metavar="NAME", help="its name (default: mbuild; of a restored machine a random one)")
    add("--cold", action="store_true", help="start the image, though there is a machine to restore")
    add("--memory", default="", metavar="SIZE", help="the machine's memory (default: 2G)")
    add("--cpus", default="", metavar="N", help="its processors (default: 2)")
    add("--disk", default="", metavar="SIZE", help="what it may write (default: 20G)")
    add("--rm", action="store_true", help="accepted: nothing is ever left of it")
    add("-p", "--publish", action="append", default=[], metavar="[IP:]HOST:GUEST[/udp]", help="a port that leads in")
    add("-v", "--volume", action="append", default=[], metavar="FOLDER:PATH[:ro]", help="show it a folder, read-only")
    add("--network", choices=("default", "none"), default="default", help="the network (default: default)")
    add("image", metavar="NAME", help="the name it was built with, or a machine's folder")
    add("command", nargs=argparse.REMAINDER, metavar="CMD", help="what to run in place of its CMD")
    return parser


def _network(options: argparse.Namespace) -> NetworkMode:
    if options.network == "none" and options.publish:
        raise UsageError("-p leads nowhere with --network none", code="usage", hint="leave one of them out")
    return NetworkMode(options.network)


def _absolute(folder: str | None) -> str | None:
    if folder is not None and not folder.startswith("/"):
        raise UsageError(f"-w {folder}: this is not an absolute path", code="usage")
    return folder


def environment_of(files: Sequence[str], given: Sequence[str]) -> Pairs:
    """--env-file and --env, as docker run reads them: a name alone has the value it has here, or is left out.

    Raises UsageError `usage`, `env-file-unreadable`.
    """
    found: dict[str, str] = {}
    for word in (*(line for file in files for line in _env_lines(file)), *given):
        name, equals, value = word.partition("=")
        if not name or any(character.isspace() for character in name):
            raise UsageError(f"{word!r} is no NAME=VALUE for the environment", code="usage")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return tuple(found.items())


def _env_lines(file: str) -> list[str]:
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(_ENV_FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"--env-file {file}: {error.strerror}", code="env-file-unreadable") from error
    if len(text) > _ENV_FILE_LIMIT:
        raise UsageError(f"--env-file {file}: it is larger than 1 MiB", code="env-file-unreadable")
    lines = (line.lstrip() for line in text.decode("utf-8", "surrogateescape").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def parse_volume(text: str) -> Volume:
    """One -v: FOLDER:PATH[:ro]. Raises UsageError (`usage`, `volume-unsupported`)."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target.startswith("/") or posixpath.normpath(target) == "/":
        hint = "write it as FOLDER:PATH, for example ./site:/srv/site"
        raise UsageError(f"-v {text}: this is not FOLDER:PATH", code="usage", hint=hint)
    if mode not in ("", "ro"):
        raise UsageError(
            f"-v {text}: {mode} is not supported: a machine sees a folder as it was at its start, and cannot change it",
            code="volume-unsupported",
            hint="leave it out, or say ro; what the machine makes can leave through a port or its output",
        )
    if not Path(source).is_dir():
        raise UsageError(
            f"-v {text}: {source} is no folder of this machine",
            code="volume-unsupported",
            hint="volumes with names, and single files, are not supported",
        )
    return Volume(Path(source), posixpath.normpath(target))


def parse_port(text: str) -> PortForward:
    """One -p: [IP:]HOST:GUEST[/tcp|/udp]. Raises UsageError `usage`."""
    import ipaddress

    place, _, protocol = text.partition("/")
    address, _, ports = place.rpartition(":")[0].rpartition(":")
    guest, host = place.rpartition(":")[2], ports
    hint = "write it as HOST:GUEST, or 127.0.0.1:HOST:GUEST, with /udp at the end for UDP"
    if protocol not in ("", "tcp", "udp") or not host:
        raise UsageError(f"-p {text}: this is not HOST:GUEST", code="usage", hint=hint)
    for port in (host, guest):
        if not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise UsageError(f"-p {text}: {port or 'nothing'} is no port from 1 to 65535", code="usage", hint=hint)
    if address:
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise UsageError(f"-p {text}: {address} is no IPv4 address", code="usage", hint=hint) from None
    return PortForward(int(guest), int(host), address or "127.0.0.1", protocol == "udp")


def _tell(event: Event) -> None:
    if isinstance(event, Note):
        print(f"mbuild: {event.message}", file=sys.stderr)
