"""The options of the commands that move images."""

from __future__ import annotations

import argparse

from machinefile.errors import UsageError
from machinefile.platform import Platform
from mbuild.progress import ProgressMode


def add_progress_options(parser: argparse.ArgumentParser) -> None:
    """--progress and --quiet."""
    parser.add_argument(
        "--progress",
        choices=[mode.value for mode in ProgressMode],
        default="auto",
        help="how to show what happens (default: auto)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print the image's digest and nothing else")


def add_platform_option(parser: argparse.ArgumentParser, what: str) -> None:
    """--platform; `what` says what it chooses."""
    parser.add_argument("--platform", default="", metavar="OS/ARCH", help=what)


def progress_mode(options: argparse.Namespace) -> ProgressMode:
    """How progress is shown."""
    return ProgressMode.QUIET if options.quiet else ProgressMode(options.progress)


def platform_of(options: argparse.Namespace) -> Platform | None:
    """The value of --platform, if it is there. Raises UsageError (`usage`)."""
    try:
        return Platform.parse(options.platform) if options.platform else None
    except ValueError as error:
        raise UsageError(f"--platform: {error}", code="usage", hint="write it as linux/amd64") from error
