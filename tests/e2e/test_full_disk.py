"""A store on a file system that is really full."""

from __future__ import annotations

import shlex
import subprocess

import pytest

APART = ("unshare", "--map-root-user", "--mount")
SCRIPT = """
set -e
mount -t tmpfs -o size=90m none {store}
fill() {{
    dd if=/dev/zero of={store}/fill.$1 bs=64k 2> /dev/null || true
    dd if=/dev/zero of={store}/fill.$1.rest bs=1k 2> /dev/null || true
    df --output=avail {store} | tail -n 1
}}
{mbuild} -t app {context}
fill 1
{mbuild} --no-cache {context} && exit 9
{mbuild} cache du
fill 2
{mbuild} rmi app
fill 3
{mbuild} cache prune --all
{mbuild} {small}
"""


def test_a_store_on_a_full_disk_can_be_cleaned_and_used_again(mbuild) -> None:
    store = mbuild.folder / "full"
    store.mkdir()
    probe = [*APART, "mount", "-t", "tmpfs", "none", str(store)]
    try:
        may = subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode == 0
    except FileNotFoundError:
        may = False
    if not may:
        pytest.skip("no file system can be mounted here, not even in a namespace")
    context = mbuild.context("FROM scratch\nCOPY a /a\nWORKDIR /srv\n", a="x" * 5_000_000)
    small = mbuild.context("FROM scratch\nCOPY a /a\n", "small", a="x")
    words = shlex.join(mbuild.argv())
    script = SCRIPT.format(store=shlex.quote(str(store)), mbuild=words, context=context, small=small)
    done = subprocess.run(
        [*APART, "sh", "-c", script],
        env={**mbuild.environ(), "MBUILD_CACHE_DIR": str(store), "MBUILD_KEEP_STORAGE": "0"},
        cwd=mbuild.folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.strip() for line in done.stdout.splitlines()].count("0") == 3, "it was full"
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "freed 5" in done.stdout
