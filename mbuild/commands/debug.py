"""`mbuild debug`: a shell in a microVM with a step's file system; also what --debug and --invoke of a build do."""

from __future__ import annotations

import argparse
import shlex
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from engine.debug import enter, result_spot, spot_of
from engine.request import BuildRequest
from machinefile.clocks import Clock
from machinefile.errors import StepError, UsageError
from mbuild.arguments import Parser, add_build_options, registry_flags
from mbuild.progress import ProgressMode, create
from mbuild.request import read_request
from mbuild.session import open_driver
from mbuild.terminal import is_terminal, make_session, pass_on


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Open a shell at a step; gives its exit code."""
    parser = Parser(
        prog="mbuild debug",
        description="Open a shell in a microVM with a step's file system, environment and mounts, before the step ran.",
        epilog="What is changed there is thrown away. After -- stands a command to run in place of the shell.",
        usage="mbuild debug [OPTIONS] STEP [CONTEXT] [-- CMD...]",
    )
    parser.add_argument("step", metavar="STEP", help="an id as mbuild plan prints it, a line's number, or a stage")
    add_build_options(parser)
    parser.add_argument("--after", action="store_true", help="show what the step left, not what it found")
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    options = parser.parse_intermixed_args(words[:at])
    if options.file == "-":
        raise UsageError("-f - takes standard input, which the shell reads", code="usage", hint="name a file")
    request = read_request(options)
    return inside(request, options, options.step, tuple(words[at + 1 :]), cancelled, after=options.after)


def inside(
    request: BuildRequest,
    options: argparse.Namespace,
    step: str,
    command: tuple[str, ...],
    cancelled: threading.Event,
    *,
    after: bool = False,
    reads: bool = True,
) -> int:
    """Run a command, or a shell, at a step, or with an empty `step` in the result. `reads`: whether it gets our
    standard input, and a terminal if we have one."""
    terminal = reads and is_terminal(0) and is_terminal(1)
    session = make_session(interactive=reads, terminal=terminal, cancelled=cancelled)
    with (
        create(ProgressMode.PLAIN, sys.stderr) as display,
        open_driver(options.cache_dir, display, cancelled, registry_flags(options)) as driver,
        driver.look_inside(
            request, lambda plan: spot_of(plan, step, after=after) if step else result_spot(plan)
        ) as found,
    ):
        return enter(found, command, session, pass_on, cancelled)


def failed_step(
    error: StepError, request: BuildRequest, options: argparse.Namespace, cancelled: threading.Event
) -> None:
    """--debug=on-error: show what failed and open a shell where it was about to run, or run what --invoke says."""
    from mbuild.report import render

    print(render(error), file=sys.stderr)
    command = parse_invoke(options.invoke)
    if not command:
        print(f"mbuild: a shell where {error.step} was about to run; leave it with exit", file=sys.stderr)
    inside(request, options, error.step, command, cancelled, reads=not command)


def can_debug() -> bool:
    """Whether there is somebody to talk to."""
    return is_terminal(0) and is_terminal(1)


def parse_invoke(text: str) -> tuple[str, ...]:
    """--invoke: a command in a shell's words. Raises UsageError `usage`."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--invoke {text}: the quotes do not match", code="usage") from error


def way_in(options: argparse.Namespace, step: str) -> str:
    """The command that opens a shell where a step is about to run, in the user's own words."""
    words = ["mbuild", "debug"]
    for option in ("file", "target", "source_date_epoch", "cache_dir", "lock_file"):
        if value := getattr(options, option):
            words += [f"--{option.replace('_', '-')}", value]
    for option in ("platform", "build_arg", "build_context", "ssh"):
        for value in getattr(options, option):
            words += [f"--{option.replace('_', '-')}", value]
    words += ["--no-lock"] if options.no_lock else []
    words += ["--timestamps", options.timestamps] if options.timestamps != "normal" else []
    if options.normalize_modes:
        words.append("--normalize-modes")
    words += ["--clock", options.clock] if options.clock != Clock.REAL.value else []
    words.append(step)
    if Path(options.context) != Path("."):
        words.append(options.context)
    return shlex.join(words)
