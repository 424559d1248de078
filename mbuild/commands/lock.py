"""`mbuild lock`: pins what a Machinefile names."""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engine.locking import Upgrade, make_lock
from engine.request import BuildRequest
from machinefile.errors import DifferenceError, UsageError
from machinefile.lockfile import Change, ImagePin, Lockfile, changes, kind_of, label_of, value_of
from mbuild.arguments import Parser, add_build_options, add_format_option, registry_flags
from mbuild.commands.plan import warn
from mbuild.lockfiles import lock_path, write_lock
from mbuild.request import find_machinefile, read_request
from mbuild.session import open_images


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Write a lock file, and print what is new in it."""
    parser = Parser(
        prog="mbuild lock",
        usage="mbuild lock [OPTIONS] [--upgrade [NAME...]] [CONTEXT]",
        description="Pin the images, files and git repositories that a Machinefile names, in a lock file beside it.",
        epilog="The last word after --upgrade is CONTEXT if it is a folder (./FOLDER); with --context it is NAME.",
    )
    add_build_options(parser)
    parser.set_defaults(context="", makes_lock=True)
    parser.add_argument(
        "--upgrade",
        nargs="*",
        default=None,
        metavar="NAME",
        help="pin anew what NAME stands for: an image, an address, a --build-context; without NAME everything",
    )
    parser.add_argument(
        "--check", "--dry-run", action="store_true", help="write nothing; exit code 5 if something would change"
    )
    parser.add_argument("--context", dest="folder", default="", metavar="DIR", help="the build context")
    add_format_option(parser)
    options = parser.parse_args(arguments)
    _sort_out(parser, options)
    path = lock_path(options, find_machinefile(options.file, Path(options.context)))
    if path is None:
        raise UsageError(
            "a Machinefile from standard input has no place for a lock file",
            code="lock-missing",
            hint="name one with --lock-file FILE",
        )
    request = _for_platforms(read_request(options), options)
    with open_images(options.cache_dir, warn, cancelled, registry_flags(options)) as (store, source):
        upgrade = Upgrade(tuple(options.upgrade)) if options.upgrade is not None else None
        new = make_lock(request, store, source, warn, cancelled, upgrade)
    old = request.lock.file if request.lock is not None else None
    found = changes(old or Lockfile(), new)
    outdated = old is None or old.render() != new.render()
    if outdated and not options.check:
        write_lock(path, new)
    _print(found, str(path), options, outdated=outdated)
    if outdated and options.check:
        raise DifferenceError(
            f"{path} is not what mbuild lock would write" if old is not None else f"there is no {path}",
            code="lock-outdated",
            hint="write it without --check",
        )
    return 0


def _sort_out(parser: Parser, options: argparse.Namespace) -> None:
    """Tell NAME from CONTEXT, and refuse what only a build can do."""
    for name in ("locked", "no_lock"):
        if getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} is for builds")
    if options.folder and options.context:
        parser.error(f"--context {options.folder} and {options.context}: name one folder")
    if options.folder:
        options.context = options.folder
    elif not options.context and options.upgrade and os.path.isdir(options.upgrade[-1]):
        _refuse_either(parser, options)
        options.context = options.upgrade.pop()
    options.context = options.context or "."


def _refuse_either(parser: Parser, options: argparse.Namespace) -> None:
    """A plain word that is a folder may be meant as the name of an image, `debian`, and there is a file here to lock:
    to take it for CONTEXT would upgrade something else than was asked for."""
    word = options.upgrade[-1]
    if "/" in word or word in (os.curdir, os.pardir):
        return
    try:
        find_machinefile(options.file, Path(os.curdir))
    except UsageError:
        return  # only in the folder can there be one
    parser.error(
        f"--upgrade {word}: there is a folder of that name too; write --context . for the NAME, ./{word} for CONTEXT"
    )


def _for_platforms(request: BuildRequest, options: argparse.Namespace) -> BuildRequest:
    """Without --platform what the lock file was made for stays what it is for."""
    if options.platform or os.environ.get("DOCKER_DEFAULT_PLATFORM") or request.lock is None:
        return request
    return replace(request, platforms=request.lock.file.platforms)


def _print(found: Sequence[Change], path: str, options: argparse.Namespace, *, outdated: bool) -> None:
    if options.format == "json":
        facts = {"file": path, "changed": outdated, "changes": [_fields(change) for change in found]}
        print(json.dumps(facts, indent=2))
        return
    for line in _lines(found):
        print("".join(char if char.isprintable() else "?" for char in line))
    if not outdated:
        print(f"{path} is up to date")
    elif not options.check:
        print(f"{path} is written")


def _lines(found: Sequence[Change]) -> Iterator[str]:
    for change in found:
        pin = change.pin
        old, new = (value_of(one) if one is not None else "" for one in (change.old, change.new))
        if old and new:
            yield f"~ {label_of(pin)}  {old} -> {new}"
        else:
            yield f"{'+' if new else '-'} {label_of(pin)}  {new or old}"


def _fields(change: Change) -> dict[str, object]:
    pin = change.pin
    return {
        "kind": kind_of(pin),
        "name": pin.name if isinstance(pin, ImagePin) else label_of(pin),
        "platform": str(pin.platform) if isinstance(pin, ImagePin) else None,
        "old": value_of(change.old) if change.old is not None else None,
        "new": value_of(change.new) if change.new is not None else None,
    }
