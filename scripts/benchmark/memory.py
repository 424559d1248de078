"""How much memory mbuild takes for one layer of many GB, whatever is done with it.

The figure is the most that mbuild and all its children held at one time, sampled from /proc; pages that they share
count for each of them.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from large_layers import write_large_layout, write_large_tar
from memory_watch import watched

from benchmark.measure import BenchError
from benchmark.place import ROOT
from benchmark.registry import serving

LIMIT = 300
"""MB."""
_COPIED = "FROM {base} AS base\nFROM scratch\nCOPY --from=base / /\n"
_BASE = "FROM {base}\nCOPY x /x\n"
_SCENARIOS = (
    ("pull and prepare", _BASE, ()),
    ("COPY --from", _COPIED, ()),
    ("ADD of a tar", "FROM scratch\nADD large.tar /\n", ()),
    ("-o oci, gzip", _COPIED, ("-o", "type=oci,dest=out,compression-level=1")),
    ("-o oci, zstd", _COPIED, ("-o", "type=oci,dest=out.tar,compression=zstd")),
    ("-o docker", _COPIED, ("-o", "type=docker,dest=out")),
    ("-o tar", _BASE, ("-o", "type=tar,dest=out")),
    ("-o local", _BASE, ("-o", "type=local,dest=out")),
    ("-o disk, squashfs", _BASE, ("-o", "type=disk,dest=out")),
    ("-o disk, ext4", _BASE, ("-o", "type=disk,dest=out,format=ext4")),
)


def measure(folder: Path, size: int) -> dict[str, object]:
    """Print a line for each scenario, and give the figures in bytes."""
    print(f"a layer of {size / 1e9:.1f} GB, half of it text, half noise")
    context = folder / "context"
    context.mkdir()
    (context / "x").write_text("x")
    write_large_layout(folder / "base", size)
    with (context / "large.tar").open("wb") as out:
        write_large_tar(out, size)
    with serving(folder) as registry:
        name = registry.copy(f"oci:{folder / 'base'}:latest", "bench:base")
        shutil.rmtree(folder / "base")
        figures = {
            label: _run(folder, label, text.format(base=name), arguments) for label, text, arguments in _SCENARIOS
        }
    worst = max(figures.values()) / 1e6
    verdict = "as wanted" if worst < LIMIT else "MORE than wanted"
    print(f"{'the most of all':<30} {worst:6.0f} MB   ({verdict}: below {LIMIT})")
    return {"size": size, "bytes": figures}


def _run(folder: Path, label: str, text: str, arguments: tuple[str, ...]) -> int:
    (folder / "context" / "Machinefile").write_text(text)
    begun = time.monotonic()
    done, memory = watched(
        [sys.executable, "-m", "mbuild", "-q", *arguments, "context"],
        cwd=folder,
        environment={**os.environ, "MBUILD_CACHE_DIR": str(folder / "store"), "PYTHONPATH": str(ROOT)},
        timeout=3600,
    )
    if done.returncode:
        raise BenchError(f"{label}: {done.stdout}")
    seconds = time.monotonic() - begun
    each = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sorted(memory.each.items()))
    print(f"{label:<30} {memory.total / 1e6:6.0f} MB   ({each}; {seconds:.0f} s)", flush=True)
    for path in folder.glob("out*"):
        if path.name != "output.txt":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return memory.total
