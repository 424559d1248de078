"""The wheel: what pip and pipx install."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from engine.attest.version import VERSION

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_all_that_mbuild_needs(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(argv, check=True, timeout=600, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"machinefile-{VERSION}-")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        agents = [name for name in names if name.startswith("engine/vm/agent/mbuild-agent-")]
        assert agents
        assert all(packed.read(name).startswith(b"\x7fELF") for name in agents)
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "mbuild = mbuild.__main__:run" in packed.read(entry_points).decode()
    for package in ("grammar", "machinefile", "cache", "engine", "mbuild"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".lark", ".json"):
                assert str(path.relative_to(ROOT)) in names
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)
