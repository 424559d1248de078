"""`mbuild doctor`: what this machine has of what mbuild needs, and the one command that mends what is missing."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from cache.store import default_folder
from engine.vm.doctor import Check, checks
from machinefile.errors import HostError, MbuildError
from mbuild.arguments import Parser, add_format_option, add_store_option
from mbuild.session import open_store

_ENOUGH = 5 << 30
"""Bytes that a store should have room for: a base, its disk, a template and a few steps."""


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Look at everything; 0 when nothing is missing, else 3."""
    parser = Parser(prog="mbuild doctor", description="See whether this machine has all that mbuild needs.")
    add_store_option(parser)
    add_format_option(parser)
    parser.add_argument("--quick", action="store_true", help="do not boot a microVM to find out about KVM")
    options = parser.parse_args(arguments)
    root = Path(options.cache_dir) if options.cache_dir else default_folder()
    found = (*checks(root / "vm", probe=not options.quick), _store(root), _space(root))
    if options.format == "json":
        rows = [{"name": one.name, "ok": one.ok, "detail": one.detail, "mend": one.mend} for one in found]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(map(_line, found)))
    return 0 if all(one.ok for one in found) else HostError.exit_code


def _line(check: Check) -> str:
    line = f"{'ok  ' if check.ok else 'MISS'}  {check.name:<12} {check.detail}"
    return line if check.ok or not check.mend else f"{line}\n      {'':<12} {check.mend}"


def _store(root: Path) -> Check:
    try:
        with open_store(str(root)) as store:
            return Check("store", True, str(store.root))
    except MbuildError as error:
        return Check("store", False, error.message, error.hint)


def _space(root: Path) -> Check:
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Check("disk space", False, f"{there}: {os.strerror(error.errno or 0)}")
    detail = f"{free / 1e9:.1f} GB free at {there}"
    return Check("disk space", free >= _ENOUGH, detail, "" if free >= _ENOUGH else "free some, or use --cache-dir")
