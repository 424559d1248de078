"""How long until a base of 150 MB is ready for its first RUN, and how long `buildah pull` takes for it.

Both start with nothing in their stores and pull from a registry on loopback, plain HTTP, whose files are in the page
cache. For mbuild that is a process which does what a build does up to there, with the engine's own parts: the name
resolved, the layers pulled, digests and diff ids checked, indexes and disks made. A whole build is timed beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmark.measure import BenchError
from benchmark.peer import discard
from benchmark.place import BASE, ROOT, push_base
from benchmark.registry import serving

TARGET = 0.5
"""At most this share of buildah's time."""
PREPARE = """\
import sys
from pathlib import Path
from cache.store import Store
from engine.bases import Bases
from engine.events import ignore
from engine.images.source import ImageSources
from engine.layerstore import LayerStore
from machinefile.platform import native
from machinefile.steps import BaseReference
with Store(Path(sys.argv[1])) as store, ImageSources(Path.cwd()) as source:
    bases = Bases(store, source, ignore)
    base = bases.get(BaseReference(sys.argv[2], native()))
    layers = LayerStore(store, bases)
    layers.bring(base)
    print(*layers.disks(base.layers))
"""
OURS, BUILD, THEIRS = "mbuild, pull and prepare", "mbuild, a build with a COPY", "buildah pull"


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Print the medians and their ratio, and give all figures."""
    with serving(folder) as registry:
        name = push_base(folder, registry)
        ways = {OURS: _prepare, BUILD: _build, THEIRS: _buildah}
        for way in ways.values():
            way(folder, name)  # warms the caches
        rows: dict[str, list[float]] = {label: [] for label in ways}
        for _ in range(rounds):
            for label, way in ways.items():
                rows[label].append(way(folder, name))
    return _report(rows, _driver(folder))


def _report(rows: dict[str, list[float]], driver: str) -> dict[str, object]:
    medians = {label: statistics.median(values) for label, values in rows.items()}
    for label, values in rows.items():
        shown = f"{label} ({driver})" if label == THEIRS else label
        print(f"{shown:<30} {medians[label]:6.2f} s   ({min(values):.2f} to {max(values):.2f})")
    ratio = medians[OURS] / medians[THEIRS]
    verdict = "as wanted" if ratio <= TARGET else "MORE than wanted"
    print(f"{'mbuild / buildah':<30} {ratio:6.2f}     ({verdict}: at most {TARGET})")
    print(f"{'whole build / buildah':<30} {medians[BUILD] / medians[THEIRS]:6.2f}")
    return {"seconds": rows, "ratio": ratio, "driver": driver}


def _prepare(folder: Path, name: str) -> float:
    return _mbuild(folder, [sys.executable, "-c", PREPARE, str(folder / "store"), name])


def _build(folder: Path, name: str) -> float:
    context = folder / "context"
    context.mkdir(exist_ok=True)
    (context / "x").write_text("x")
    (context / "Machinefile").write_text(f"FROM {name}\nCOPY x /x\n")
    return _mbuild(folder, [sys.executable, "-m", "mbuild", "-q", str(context)])


def _mbuild(folder: Path, argv: list[str]) -> float:
    store = folder / "store"
    shutil.rmtree(store, ignore_errors=True)
    seconds = _timed(argv, {**os.environ, "MBUILD_CACHE_DIR": str(store), "PYTHONPATH": str(ROOT)})
    sizes = [path.stat().st_size for path in (store / "disks").glob("*.squashfs")]
    if len(sizes) != 1 or sizes[0] < BASE.stat().st_size // 2:
        raise BenchError(f"the base's disk was not made: {sizes}")
    return seconds


def _buildah(folder: Path, name: str) -> float:
    if os.geteuid() == 0:
        discard(folder / "buildah")
    else:
        subprocess.run(["buildah", "unshare", "rm", "-rf", str(folder / "buildah")], check=True, timeout=120)
    return _timed([*_buildah_command(folder), "pull", "--quiet", "--tls-verify=false", name], dict(os.environ))


def _buildah_command(folder: Path) -> list[str]:
    return ["buildah", "--root", str(folder / "buildah" / "root"), "--runroot", str(folder / "buildah" / "run")]


def _driver(folder: Path) -> str:
    """The storage driver that buildah chooses by itself here: overlay, or vfs where it cannot have that."""
    done = subprocess.run([*_buildah_command(folder), "info"], capture_output=True, text=True, check=True, timeout=60)
    found = re.search(r'"GraphDriverName": "(\w+)"', done.stdout)
    return found[1] if found else "unknown driver"


def _timed(argv: list[str], environment: dict[str, str]) -> float:
    os.sync()  # what one of them leaves to be written must not hold up the other
    begun = time.monotonic()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=600)
    seconds = time.monotonic() - begun
    if done.returncode or not done.stdout.strip():
        raise BenchError(f"{argv[0]} failed: {done.stderr}")
    return seconds
