"""What a CI job with an empty store takes when a cache in a registry on loopback has all it needs, and what a job sends
after one file has changed.

The spec is that of the `steps` benchmark on the base of 150 MB: two stages, 2,000 context files, four RUNs. The output
is a push of an image that the registry has already.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmark import specs
from benchmark.measure import BenchError
from benchmark.place import ROOT, push_base
from benchmark.registry import serving

TARGET = 2.0
"""Seconds that the warm job may take at most."""
FILES = 2000
TEXT = specs.TWO_STAGES.replace("COPY blob /blob\n", "")
"""Without the large file: it would be most of what is sent."""


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Print the times and the bytes, and give all figures."""
    with serving(folder) as registry:
        jobs = _Jobs(folder, push_base(folder, registry))
        cold, said = jobs.run()
        digest = said["image.digest"]
        warm = []
        for _ in range(rounds):
            seconds, said = jobs.run()
            if said["steps"]["run"] or said["vm.restores"] or said["image.digest"] != digest:
                raise BenchError(f"the warm job worked: {said}")
            warm.append(seconds)
        kept = jobs.stored()
        jobs.change()
        _, said = jobs.run()
        changed = said["cache"]["exported"][0]
    median = statistics.median(warm)
    verdict = "as wanted" if median <= TARGET else "MORE than wanted"
    spread = f"{min(warm):.2f} to {max(warm):.2f}; {verdict}: at most {TARGET}"
    print(f"{'CI job, cold':<30} {cold:6.2f} s")
    print(f"{'CI job, nothing to do':<30} {median:6.2f} s   ({spread})")
    print(f"{'  its store then':<30} {kept / 1e6:6.1f} MB")
    print(f"{'sent after one file changed':<30} {changed['sent'] / 1e6:6.2f} MB: {changed}")
    return {"cold": cold, "warm": warm, "stored_bytes": kept, "changed": changed}


class _Jobs:
    """Builds as CI does: each with a store that was never used."""

    def __init__(self, folder: Path, base: str) -> None:
        self._folder = folder
        self._store = folder / "store"
        self._templates = folder / "templates"
        self._templates.mkdir()
        self._name = base.rpartition("/")[0]
        self._context = folder / "context"
        specs.write_files(self._context / "src", FILES)
        (self._context / "Machinefile").write_text(TEXT.format(base=base))

    def run(self) -> tuple[float, dict[str, Any]]:
        """Seconds of the whole command, and what its metadata file says."""
        shutil.rmtree(self._store, ignore_errors=True)
        self._store.mkdir()
        (self._store / "vm").symlink_to(self._templates)
        metadata = self._folder / "metadata.json"
        cache = f"type=registry,ref={self._name}/app:cache"
        argv = [sys.executable, "-m", "mbuild", "-q", "--metadata-file", str(metadata), "-t", f"{self._name}/app:1"]
        argv += ["--push", "--cache-from", cache, "--cache-to", f"{cache},mode=max", str(self._context)]
        environment = {**os.environ, "MBUILD_CACHE_DIR": str(self._store), "PYTHONPATH": str(ROOT)}
        begun = time.monotonic()
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=600)
        seconds = time.monotonic() - begun
        if done.returncode:
            raise BenchError(f"{done.stderr}")
        return seconds, json.loads(metadata.read_text())

    def stored(self) -> int:
        """Bytes of the store of the last job."""
        return sum(path.stat().st_size for path in self._store.rglob("*") if path.is_file() and not path.is_symlink())

    def change(self) -> None:
        """One file becomes another."""
        (self._context / "src" / "0" / "7.txt").write_text("changed\n")
