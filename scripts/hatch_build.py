"""Compiles the guest agent when mbuild is packaged or installed from its sources.

The compiler is the one in the `ziglang` package, a build requirement: it cross-compiles and brings its C library,
so that no compiler need be installed. MBUILD_AGENT_MACHINES names the guests to compile for, separated by commas;
without it that is this machine's kind alone.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINES = ("x86_64", "aarch64")
SOURCES = Path("engine/vm/agent")
OPTIONS = ("-static", "-Os", "-s", "-std=c11", "-Wall", "-Wextra", "-Werror")


def wanted_machines() -> tuple[str, ...]:
    """The guests to compile for."""
    named = os.environ.get("MBUILD_AGENT_MACHINES", "")
    if named:
        return tuple(word.strip() for word in named.split(",") if word.strip())
    return (platform.machine(),) if platform.machine() in MACHINES else ()


def compile_agent(root: Path, machine: str) -> Path:
    """The agent for a machine, relative to `root`; compiled unless it is newer than its sources."""
    target = SOURCES / f"mbuild-agent-{machine}"
    sources = sorted((root / SOURCES).glob("*.c"))
    made_of = [*sources, *(root / SOURCES).glob("*.h"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in made_of)
    if (root / target).is_file() and (root / target).stat().st_mtime > newest:
        return target
    new = root / SOURCES / f".{target.name}.{os.getpid()}"
    argv = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl", *OPTIONS]
    try:
        subprocess.run([*argv, "-o", str(new), *map(str, sources)], check=True, stdin=subprocess.DEVNULL)
        new.replace(root / target)
    finally:
        new.unlink(missing_ok=True)
    return target


class AgentBuildHook(BuildHookInterface[Any]):
    """Adds the compiled agents to wheels and editable installs; a source distribution has the sources alone."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if self.target_name != "wheel":
            return
        for machine in wanted_machines():
            agent = compile_agent(Path(self.root), machine)
            build_data["artifacts"].append(f"/{agent.as_posix()}")


if __name__ == "__main__":
    for name in sys.argv[1:] or wanted_machines():
        print(compile_agent(Path(__file__).resolve().parent.parent, name))
