"""The options of the commands, with docker build's names and meanings where it has them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from engine.images.registry_flags import AUTHORITY, CONFIG, MIRROR, PLAIN_HTTP, RegistryFlags
from machinefile.clocks import Clock
from machinefile.errors import UsageError
from machinefile.steps import NetworkMode
from mbuild.network import add_network_options

_ANY_WIDTH = 80


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError (`usage`) and suggests the nearest option."""

    def __init__(self, **options: Any) -> None:
        """`options` as of argparse's."""
        # It makes a formatter for each option that it is given, which asks how wide the terminal is.
        super().__init__(formatter_class=partial(argparse.HelpFormatter, width=_ANY_WIDTH), **options)

    def format_help(self) -> str:
        """As of argparse's, for the terminal as wide as it is."""
        self.formatter_class = argparse.HelpFormatter
        return super().format_help()

    def format_usage(self) -> str:
        """As of argparse's, for the terminal as wide as it is."""
        self.formatter_class = argparse.HelpFormatter
        return super().format_usage()

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UsageError(f"{self.prog}: {message}", code="usage", hint=f"see {self.prog} --help")


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Everything that says what is built: shared by build and plan."""
    add = parser.add_argument
    _add_source_options(parser)
    add_reproducing_options(parser)
    add("--label", action="append", default=[], metavar="NAME=VALUE", help="put a label on the image")
    add(
        "--platform",
        action="append",
        default=[],
        metavar="OS/ARCH[,OS/ARCH...]",
        help="what the image is to run on; several make an index (default: DOCKER_DEFAULT_PLATFORM, then this machine)",
    )
    add(
        "--network",
        choices=[mode.value for mode in NetworkMode],
        default=NetworkMode.DEFAULT.value,
        help="the network of each RUN that names none itself (default: default)",
    )
    add(
        "--jobs",
        "-j",
        type=_count,
        default=0,
        metavar="N",
        help="how many steps run at once (default: as many as there are cores, at least 2)",
    )
    add_network_options(parser)
    add(
        "--ssh",
        action="append",
        default=[],
        metavar="default|ID[=SOCKET|KEY[,KEY]]",
        help="an ssh-agent, or keys, that RUN --mount=type=ssh may sign with",
    )
    _add_cache_options(parser)
    add_lock_options(parser)
    add_step_options(parser)
    add_store_option(parser)
    add_registry_options(parser)


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    """The Machinefile, and what it is given."""
    add = parser.add_argument
    add("context", nargs="?", default=".", help="the folder whose files COPY may take (default: this one)")
    add(
        "-f",
        "--file",
        default="",
        metavar="FILE",
        help="the Machinefile (default: Machinefile, then Dockerfile); - reads standard input",
    )
    add("--target", default="", metavar="STAGE", help="the stage to build (default: the last)")
    add(
        "--build-arg",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="give an ARG a value; without one, that of the environment",
    )
    add(
        "--build-context",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a folder, a git repository, docker-image://NAME or oci-layout://PATH:TAG that the file may name",
    )


def _add_cache_options(parser: argparse.ArgumentParser) -> None:
    """What is looked up, and where."""
    add = parser.add_argument
    add("--no-cache", action="store_true", help="run every step, whatever the store holds")
    add(
        "--no-cache-filter",
        action="append",
        default=[],
        metavar="STAGE[,STAGE...]",
        help="run every step of these stages, whatever the store holds; may be repeated",
    )
    add(
        "--cache-from",
        action="append",
        default=[],
        metavar="type=registry,ref=NAME",
        help="look for the results of steps there too: a registry, a folder (type=local,src=), an object store (s3://)",
    )
    add("--pull", action="store_true", help="ask the registry for every base (always done: a name is looked up anew)")


def add_lock_options(parser: argparse.ArgumentParser) -> None:
    """What to do with a lock file."""
    add = parser.add_argument
    add(
        "--lock-file",
        default="",
        metavar="FILE",
        help="the lock file (default: the Machinefile's name and .lock, beside it)",
    )
    add("--locked", action="store_true", help="refuse to build without a lock file, or what it has no pin for")
    add("--no-lock", action="store_true", help="ignore the lock file")


def add_reproducing_options(parser: argparse.ArgumentParser) -> None:
    """What an image shows of times and modes."""
    add = parser.add_argument
    add(
        "--source-date-epoch",
        default=None,
        metavar="N|context|git",
        help="the time of the image and of its own layers: seconds since 1970, the newest file of the context, the "
        "commit that the context is at (default: SOURCE_DATE_EPOCH as build argument, then of the environment)",
    )
    add(
        "--timestamps",
        choices=("normal", "keep"),
        default="normal",
        help="normal: one time for all that is in layers; keep: the times that files have and steps were made at",
    )
    add(
        "--normalize-modes",
        action="store_true",
        help="give files of the context the modes that git knows, 644 and 755, so that no umask matters",
    )
    add(
        "--clock",
        choices=[clock.value for clock in Clock],
        default=Clock.REAL.value,
        help="the clock of each RUN that names none itself: epoch starts at SOURCE_DATE_EPOCH, frozen stands there "
        "(default: real)",
    )


def add_step_options(parser: argparse.ArgumentParser) -> None:
    """What the steps are given: secrets, a machine's size, time."""
    add = parser.add_argument
    add(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID[,src=PATH|,env=NAME][,version=WORD]",
        help="a secret that RUN --mount=type=secret may use: a file, or a variable of the environment; with another "
        "version the steps that use it run again",
    )
    add(
        "--allow",
        action="append",
        default=[],
        choices=("security.insecure", "network.host"),
        help="let RUN steps have what they ask for: security.insecure is all capabilities in their microVM, "
        "network.host this host's loopback interface at host.mbuild.internal",
    )
    add("--cpus", default="", metavar="N", help="processors of a step whose stage has no MACHINE cpus=")
    add("--memory", "-m", default="", metavar="SIZE", help="memory of a step whose stage has no MACHINE memory=")
    add("--disk", default="", metavar="SIZE", help="disk of a step whose stage has no MACHINE disk=")
    add("--step-timeout", default="", metavar="DURATION", help="end a RUN that takes longer, for example 90s or 10m")


def add_store_option(parser: argparse.ArgumentParser) -> None:
    """--cache-dir."""
    parser.add_argument(
        "--cache-dir", default="", metavar="DIR", help="the store (default: MBUILD_CACHE_DIR, then ~/.cache/mbuild)"
    )


def add_registry_options(parser: argparse.ArgumentParser) -> None:
    """What to know about registries: for every command that may ask one."""
    for option, metavar, text in (
        (MIRROR, "REGISTRY=HOST[:PORT][/PREFIX]", "pull from there first (REGISTRY: docker.io if it is left out)"),
        (PLAIN_HTTP, "HOST[:PORT]", "speak to this registry without TLS"),
        (AUTHORITY, "HOST[:PORT]=FILE", "trust the certificates in FILE for this registry"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=metavar, help=f"{text}; may be repeated")
    parser.add_argument(
        CONFIG, default="", metavar="FILE", help="the file about registries (default: ~/.config/mbuild/registries.toml)"
    )


def registry_flags(options: argparse.Namespace) -> RegistryFlags:
    """What was said with them. Raises UsageError (`usage`)."""
    return RegistryFlags.parse(
        options.registry_mirror, options.plain_http, options.registry_ca, options.registries_config
    )


def add_format_option(parser: argparse.ArgumentParser) -> None:
    """--format."""
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def _count(text: str) -> int:
    """A number from 1 on, as argparse's `type`."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1024")
    return int(text)


def pairs(values: Sequence[str], option: str) -> tuple[tuple[str, str], ...]:
    """NAME=VALUE options; a later one for the same name wins. Raises UsageError (`usage`)."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {value}: this is not NAME=VALUE", code="usage")
        found[name] = rest
    return tuple(found.items())
