"""`mbuild inspect`: what there is to say about an image."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence

from engine.describe import Described, describe_remote, describe_stored
from engine.events import ignore
from engine.images.reference import Reference
from mbuild.arguments import Parser, add_format_option, add_registry_options, add_store_option, registry_flags
from mbuild.machines import machine_alone
from mbuild.progress.text import label
from mbuild.progress.units import size
from mbuild.session import open_images
from mbuild.transfers import add_platform_option, platform_of


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Describe an image of the store, or of a registry."""
    parser = Parser(
        prog="mbuild inspect",
        description="Describe an image: manifest, configuration, layers, history. "
        "Looks into the store, and into the image's registry where the store does not have it.",
    )
    add_store_option(parser)
    add_registry_options(parser)
    add_format_option(parser)
    add_platform_option(parser, "which of several images to describe (default: the one for this machine)")
    parser.add_argument("--remote", action="store_true", help="ask the registry, whatever the store has")
    parser.add_argument("--machine", action="store_true", help="describe the machine that was made of the image")
    parser.add_argument("name", metavar="NAME", help="the image's name, or a machine's folder")
    options = parser.parse_args(arguments)
    platform = platform_of(options)
    with open_images(options.cache_dir, ignore, cancelled, registry_flags(options)) as (store, source):
        machine = None if options.remote else machine_alone(store, options.name, wanted=options.machine)
        if machine is not None:
            print(json.dumps(json.loads(machine.manifest.to_json()), indent=2))
            return 0
        reference = Reference.parse(options.name)
        if options.remote or store.names.get(str(reference)) is None:
            found = describe_remote(source.registry(), reference, platform)
        else:
            found = describe_stored(store, options.name, platform)
    if options.format == "json":
        print(json.dumps(found.to_value(), indent=2))
        return 0
    for line in _lines(found):
        print(label(line) if not line.startswith("  ") else f"  {label(line)}")
    return 0


def _lines(found: Described) -> Iterator[str]:
    configuration = found.configuration
    config = configuration.config
    facts = (
        ("name", Reference.parse(found.name).short),
        ("index", found.index_digest),
        ("digest", found.digest),
        ("type", found.media_type),
        ("config", found.config.digest),
        ("platform", str(configuration.platform or "")),
        ("created", configuration.created),
        ("size", f"{size(found.size)} in {len(found.layers)} layers"),
        ("entrypoint", _words(config.entrypoint)),
        ("command", _words(config.cmd)),
        ("user", config.user),
        ("directory", config.working_dir),
        ("ports", " ".join(config.exposed_ports)),
        ("volumes", " ".join(config.volumes)),
    )
    yield from (f"{name}: {value}" for name, value in facts if value)
    yield from _section("environment", [f"{name}={value}" for name, value in config.env])
    yield from _section("labels", [f"{name}={value}" for name, value in config.labels])
    yield from _section("layers", [f"{layer.digest}  {size(layer.size)}" for layer, _ in found.layers])
    yield from _section("history", _history(found))
    if found.index is not None:
        entries = found.index.manifests
        yield from _section("index", [f"{entry.digest}  {entry.platform or 'no platform'}" for entry in entries])


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"{title}:"
        yield from (f"  {line}" for line in lines)


def _history(found: Described) -> list[str]:
    """Each step with the size of the layer that it made."""
    sizes = iter(layer.size for layer, _ in found.layers)
    return [
        f"{size(0 if entry.empty_layer else next(sizes, 0))}  {entry.created_by or entry.comment or '(unknown)'}"
        for entry in found.configuration.history
    ]


def _words(words: tuple[str, ...] | None) -> str:
    return json.dumps(list(words), ensure_ascii=False) if words else ""
