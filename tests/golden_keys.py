"""Machinefiles with the records and keys that their steps must have: tests/golden/keys/.

A definition key is made of the keys of what is below, a content key of layers, which stand here for no bytes: each
step has one that is called after it. So nothing is built, and no release of a compressor changes a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache.results import Layer
from engine.context import Context
from engine.plan import content_identity, content_record
from engine.platforms import step_platforms
from engine.records import record_of
from engine.secrets import Secrets
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import ImageConfig
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.platform import Platform
from machinefile.resolve import resolve
from machinefile.source import Source
from machinefile.steps import BaseImage, BaseReference, BuildGraph, From, RemoteSource

FOLDER = Path(__file__).parent / "golden" / "keys"
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64", "v8")


@dataclass(frozen=True, slots=True)
class Case:
    """One Machinefile and what the command line adds to it."""

    options: BuildOptions = field(default_factory=lambda: BuildOptions(platform=AMD64, build_platform=AMD64))
    secrets: Secrets = field(default_factory=Secrets)


_OPTIONS = BuildOptions(platform=AMD64, build_platform=AMD64, contexts=frozenset({"assets"}))
CASES: Mapping[str, Case] = {
    "run": Case(
        replace(
            _OPTIONS,
            build_args=(("WORD", "given"), ("HTTP_PROXY", "http://proxy:3128")),
            hosts=(("db", "10.0.0.1"), ("host", "host-gateway")),
            entitlements=frozenset({"security.insecure"}),
        ),
        Secrets((("token", b"its value"),), (("token", "2026-05"),)),
    ),
    "copy": Case(_OPTIONS),
    "remote": Case(_OPTIONS),
    "platforms": Case(replace(_OPTIONS, platform=ARM64)),
}


def make_context(root: Path) -> None:
    """Files with modes that no umask decides."""
    for path, mode in (
        ("src/main.c", 0o644),
        ("src/other.c", 0o600),
        ("src/lib/program", 0o755),
        ("src/lib/deep/file", 0o4711),
        ("src/caf\udce9", 0o644),
        ("archive.tar", 0o644),
        ("ignored.log", 0o644),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"content of " + os.fsencode(path))
        (root / path).chmod(mode)
    (root / "src/link").symlink_to("lib/program")
    (root / "src/nowhere").symlink_to("/not/there")
    os.link(root / "src/main.c", root / "src/second-name.c")
    os.mkfifo(root / "src/pipe")
    for path, mode in (("src/pipe", 0o640), ("src", 0o755), ("src/lib", 0o750), ("src/lib/deep", 0o1777)):
        (root / path).chmod(mode)


def make_assets(root: Path) -> None:
    """Those of another context."""
    (root / "logo").write_text("a logo")
    (root / "logo").chmod(0o644)


def graph_of(name: str) -> BuildGraph:
    """A Machinefile, resolved and pinned."""
    case = CASES[name]
    text = (FOLDER / f"{name}.Machinefile").read_text()

    def lookup(base: BaseReference) -> BaseImage:
        digest = hashlib.sha256(f"{base.reference} {base.platform}".encode()).hexdigest()
        return BaseImage(f"sha256:{digest}", ImageConfig(env=(("LANG", "C"),)))

    graph = resolve(parse(Source("Machinefile", text)), case.options, lookup)
    steps = [
        replace(step, operation=replace(step.operation, pinned=f"pinned {step.operation.url}"))
        if isinstance(step.operation, RemoteSource)
        else step
        for step in graph.steps
    ]
    return case.secrets.versioned(replace(graph, steps=tuple(steps)))


def golden(name: str, folder: Path) -> str:
    """What must be in a golden file; `folder` is an empty one to work in."""
    graph = graph_of(name)
    for context in ("main", "assets"):
        (folder / context).mkdir()
    make_context(folder / "main")
    make_assets(folder / "assets")
    contexts = {
        "": Context(folder / "main", IgnoreRules.parse("*.log")),
        "assets": Context(folder / "assets", IgnoreRules()),
    }
    platforms = step_platforms(graph)
    keys: dict[str, str] = {}

    def layers_of(step_id: str) -> tuple[Layer, ...]:
        digest = "sha256:" + hashlib.sha256(step_id.encode()).hexdigest()
        return (Layer(digest, digest, 0, ""),)

    steps = {}
    for step in graph.steps:
        record = record_of(step, platforms[step.id], keys.__getitem__, contexts)
        keys[step.id] = record.key()
        about = {"instruction": step.instruction, "key": record.key(), "record": record.to_json()}
        if not isinstance(step.operation, From):
            content = record_of(step, platforms[step.id], lambda other: content_identity(layers_of(other)), contexts)
            if content != content_record(record, step, layers_of):
                raise AssertionError(f"{step.id} has two content records")
            about["content_key"] = content.key()
        steps[step.id] = about
    return json.dumps(steps, indent=1) + "\n"
