"""Memory stays as it is however large a layer is. The same with 3 GB: `scripts/bench memory`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from large_layers import write_large_layout, write_large_tar
from memory_watch import Memory, watched

ROOT = Path(__file__).parents[2]
SIZE = 360_000_000
"""Bytes of the layer; its largest file has three quarters of them, about 150 MB when compressed."""
LIMIT = 200_000_000
"""Less than anything of that size held once. It is 50 MB, 150 where zstd compresses."""


def build(folder: Path, text: str, *arguments: str) -> Memory:
    context = folder / "context"
    context.mkdir(exist_ok=True)
    (context / "Machinefile").write_text(text)
    environment = {**os.environ, "MBUILD_CACHE_DIR": str(folder / "store"), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "mbuild", "--progress=plain", *arguments, "context"]
    done, memory = watched(argv, cwd=folder, environment=environment, timeout=300)
    assert done.returncode == 0, done.stdout
    return memory


def test_a_large_base_is_prepared_copied_from_and_written_out(tmp_path: Path) -> None:
    write_large_layout(tmp_path / "base", SIZE)
    base = f"FROM oci-layout:{tmp_path / 'base'}:latest AS base\n"
    outputs = ("type=oci,dest=image,compression=zstd", "type=tar,dest=root.tar", "type=disk,dest=root.squashfs")
    arguments = [word for output in outputs for word in ("-o", output)]
    memory = build(tmp_path, f"{base}FROM scratch\nCOPY --from=base / /\n", *arguments)
    assert (tmp_path / "root.tar").stat().st_size > SIZE * 0.9
    assert "tar2sqfs" in memory.each
    assert 20_000_000 < memory.total < LIMIT, memory


def test_a_large_tar_is_added_and_written_out(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    with (tmp_path / "context" / "large.tar").open("wb") as out:
        write_large_tar(out, SIZE)
    memory = build(tmp_path, "FROM scratch\nADD large.tar /\n", "-o", "root")
    assert (tmp_path / "root" / "big").stat().st_size == SIZE * 3 // 4
    assert 20_000_000 < memory.total < LIMIT, memory
