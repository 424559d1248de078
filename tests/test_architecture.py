"""The house: which package may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("grammar", "machinefile", "cache", "engine", "mbuild")
"""Each may import those before it."""
ALONE = ("images", "layers", "vm")
"""Folders of the engine that know nothing of one another, but for what an entry of a layer is."""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way_only(package: str) -> None:
    allowed = ORDER[: ORDER.index(package) + 1]
    for path in modules(package):
        for name in imports(path):
            top = name.partition(".")[0]
            assert top not in ORDER or top in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_grammar_holds_no_python() -> None:
    assert modules("grammar") == []
    assert list((ROOT / "grammar").glob("*.lark"))


@pytest.mark.parametrize("folder", ALONE)
def test_the_rooms_of_the_engine_do_not_know_one_another(folder: str) -> None:
    others = [f"engine.{other}" for other in ALONE if other != folder]
    others += ["engine.steps", "engine.output", "engine.machines"]
    for path in modules(f"engine/{folder}"):
        for name in imports(path) - {"engine.layers.entry"}:
            assert not name.startswith(tuple(others)), f"{path.relative_to(ROOT)} imports {name}"


def test_the_language_reads_no_network_and_starts_nothing() -> None:
    for path in modules("machinefile"):
        used = {name.partition(".")[0] for name in imports(path)}
        assert not used & {"httpx", "socket", "subprocess", "urllib", "tempfile"}, path


@pytest.mark.parametrize("package", ORDER[1:-1])
def test_the_core_never_prints_and_never_exits(package: str) -> None:
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "exit"), f"{path}:{node.lineno}"
