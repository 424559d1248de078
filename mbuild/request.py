"""From options to a build request: reads the Machinefile and .dockerignore."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cache.spans import span
from engine.images.reference import Reference
from engine.lookup import CachePolicy
from engine.output.annotations import parse_annotations
from engine.output.spec import parse_outputs
from engine.remote.contexts import ContextKind, NamedContext, parse_context
from engine.request import BuildRequest
from machinefile.clocks import Clock
from machinefile.copies import is_git
from machinefile.errors import UsageError
from machinefile.hosts import parse_hosts
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import Pairs
from machinefile.instructions import Machinefile
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.platform import Platform, native
from machinefile.source import Source
from machinefile.steps import NetworkMode
from mbuild.arguments import pairs
from mbuild.attest import read_attestations
from mbuild.limits import read_shape, read_timeout
from mbuild.lockfiles import read_lock
from mbuild.network import configured_proxies, egress_policy
from mbuild.parses import recall
from mbuild.secrets import read_secrets
from mbuild.session import store_folder

if TYPE_CHECKING:
    from engine.carry.spec import CacheSource, CacheTarget
    from engine.epoch import Epoch
    from engine.sshagent import AgentSource

MAX_MACHINEFILE_BYTES = 16 << 20
_EPOCH = "SOURCE_DATE_EPOCH"
_DEFAULTS = ("Machinefile", "Dockerfile")


def read_request(options: argparse.Namespace) -> BuildRequest:
    """Raises UsageError (`machinefile-missing`, `context-missing`, ...) and MachinefileError."""
    with span("read", "phase"):
        return _request(options)


def _request(options: argparse.Namespace) -> BuildRequest:
    context = Path(options.context)
    if "://" in options.context or options.context == "-" or is_git(options.context):
        raise UsageError(
            f"the build context {options.context!r} must be a folder of this machine",
            code="context-unsupported",
            hint="fetch it first, then name the folder",
        )
    if not os.path.isdir(context):
        raise UsageError(
            f"the build context {context} is not a folder",
            code="context-missing",
            hint="the last argument of mbuild names the folder whose files COPY may take",
        )
    path = find_machinefile(options.file, context)
    if path is not None:
        recall(store_folder(options.cache_dir), path)
    contexts = tuple({one.name: one for one in map(parse_context, options.build_context)}.values())
    targets, inline = _cache_targets(options)
    ignore = _ignore_rules(path, context)
    epoch, build_args = _timed(options, context, ignore)
    platforms = parse_platforms(options.platform or [os.environ.get("DOCKER_DEFAULT_PLATFORM", "")])
    return BuildRequest(
        machinefile=read_machinefile(path),
        context=context,
        ignore=ignore,
        options=_build_options(options, build_args, contexts, platforms[0]),
        names=tuple(str(Reference.parse(name)) for name in getattr(options, "tag", ())),
        outputs=parse_outputs(_outputs(options), terminal=sys.stdout.isatty()),
        cache=_cache_policy(options),
        fail_on_miss=getattr(options, "fail_on_miss", False),
        cache_from=_cache_sources(options),
        cache_to=targets,
        inline_cache=inline,
        annotations=parse_annotations(getattr(options, "annotation", ())),
        contexts=contexts,
        jobs=options.jobs,
        egress=egress_policy(options),
        ssh=read_agents(options),
        secrets=read_secrets(options.secret),
        step_timeout=read_timeout(options.step_timeout),
        platforms=platforms,
        lock=read_lock(options, path),
        locked=options.locked,
        epoch=epoch,
        keep_times=options.timestamps == "keep",
        git_modes=options.normalize_modes,
        attest=read_attestations(options),
    )


def _timed(options: argparse.Namespace, context: Path, ignore: IgnoreRules) -> tuple[Epoch | None, Pairs]:
    """The time that the image is to show, and the build arguments, of which it is one."""
    given = build_arguments(options.build_arg)
    if options.source_date_epoch is None and _EPOCH not in dict(given) and _EPOCH not in os.environ:
        return None, given
    from engine.epoch import find_epoch  # which most builds have no use for

    epoch = find_epoch(options.source_date_epoch, dict(given), os.environ, context, ignore)
    return epoch, given if epoch is None else tuple({**dict(given), _EPOCH: str(epoch.seconds)}.items())


def _cache_policy(options: argparse.Namespace) -> CachePolicy:
    """--no-cache and --no-cache-filter. Raises UsageError (`usage`) for both."""
    words = tuple(word.strip() for listed in options.no_cache_filter for word in listed.split(",") if word.strip())
    if options.no_cache and words:
        raise UsageError(
            "--no-cache and --no-cache-filter cannot be used together",
            code="usage",
            hint="--no-cache runs the steps of all stages",
        )
    return CachePolicy(use=not options.no_cache, filters=words)


def read_agents(options: argparse.Namespace) -> tuple[AgentSource, ...]:
    """--ssh; a later one for the same id wins."""
    given = options.ssh
    if not given:
        return ()
    from engine.sshagent import parse_agent

    return tuple({source.id: source for source in map(parse_agent, given)}.values())


def _outputs(options: argparse.Namespace) -> list[str]:
    """-o; --push, which is short for an image that is pushed under its names; and --load, for one that is in the store
    under them."""
    outputs: list[str] = list(getattr(options, "output", ()))
    if getattr(options, "push", False):
        outputs.append("type=image,push=true")
    if getattr(options, "load", False) and options.tag:
        outputs.append("type=image")
    return outputs


def _cache_sources(options: argparse.Namespace) -> tuple[CacheSource, ...]:
    given: list[str] = getattr(options, "cache_from", [])
    if not given:
        return ()
    from engine.carry.flags import parse_sources

    return parse_sources(given)


def _cache_targets(options: argparse.Namespace) -> tuple[tuple[CacheTarget, ...], bool]:
    """Where the cache is to go, and whether the image is to have it too."""
    given: list[str] = getattr(options, "cache_to", [])
    if not given:
        return (), False
    from engine.carry.flags import parse_targets
    from engine.carry.spec import CacheType

    found = parse_targets(given)
    targets = tuple(target for target in found if target.type is not CacheType.INLINE)
    return targets, len(targets) < len(found)


def find_machinefile(given: str, context: Path) -> Path | None:
    """The file to read; None for standard input. Raises UsageError (`machinefile-missing`)."""
    if given == "-":
        return None
    candidates = [Path(given)] if given else [context / name for name in _DEFAULTS]
    for path in candidates:
        if _is_file(path):
            return path
    # As docker build has it, -f may also be meant relative to the context.
    if given and _is_file(context / given):
        return context / given
    what = given or " and no ".join(_DEFAULTS)
    raise UsageError(
        f"there is no {what}" + ("" if given else f" in {context}"),
        code="machinefile-missing",
        hint="name it with -f FILE",
    )


def _is_file(path: Path) -> bool:
    """Whether there is a file. Raises UsageError (`machinefile-unreadable`) when that cannot be found out."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", code="machinefile-unreadable") from error


def read_machinefile(path: Path | None) -> Machinefile:
    """Read and parse. Raises UsageError (`machinefile-unreadable`) and MachinefileError."""
    try:
        data = path.read_bytes() if path else sys.stdin.buffer.read(MAX_MACHINEFILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", code="machinefile-unreadable") from error
    if len(data) > MAX_MACHINEFILE_BYTES:
        raise UsageError(f"{path or '-'} is larger than 16 MiB", code="machinefile-unreadable")
    with span("parse", "phase"):
        return parse(Source(str(path or "-"), data.decode("utf-8", "surrogateescape")))


def _ignore_rules(path: Path | None, context: Path) -> IgnoreRules:
    """FILE.dockerignore beside the Machinefile wins over .dockerignore in the context."""
    candidates = [context / ".dockerignore"]
    if path:
        candidates.insert(0, path.with_name(path.name + ".dockerignore"))
    for candidate in candidates:
        if os.path.isfile(candidate):
            try:
                return IgnoreRules.parse(candidate.read_text("utf-8", "surrogateescape"))
            except OSError as error:
                raise UsageError(f"cannot read {candidate}: {error.strerror}", code="ignore-unreadable") from error
    return IgnoreRules.parse("")


def parse_platforms(lists: Sequence[str]) -> tuple[Platform, ...]:
    """Read every --platform, each a list with commas; this machine's where all are empty, or for the word `local`.

    What is named twice, or in two spellings, is there once. Raises UsageError (`usage`).
    """
    words = [word.strip() for listed in lists if listed.strip() for word in listed.split(",")]
    try:
        found = [native() if word == "local" else Platform.parse(word) for word in words]
    except ValueError as error:
        raise UsageError(
            f"--platform: {error}", code="usage", hint="write it as linux/amd64, or several as linux/amd64,linux/arm64"
        ) from error
    return tuple(dict.fromkeys(found)) or (native(),)


def _build_options(
    options: argparse.Namespace, build_args: Pairs, contexts: tuple[NamedContext, ...], platform: Platform
) -> BuildOptions:
    return BuildOptions(
        target=options.target or None,
        build_args=build_args,
        platform=platform,
        build_platform=native(),
        labels=pairs(options.label, "--label"),
        network=NetworkMode(options.network),
        clock=Clock(options.clock),
        hosts=parse_hosts(options.add_host),
        shape=read_shape(options),
        entitlements=frozenset(options.allow),
        contexts=frozenset(one.name for one in contexts),
        image_contexts=frozenset(one.name for one in contexts if one.kind is ContextKind.IMAGE),
    )


def build_arguments(values: list[str]) -> Pairs:
    """--build-arg, and the proxies of this machine. Raises UsageError (`usage`)."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not name:
            raise UsageError(f"--build-arg {value}: the name is missing", code="usage")
        if equals:
            found[name] = rest
        elif name in os.environ:
            found[name] = os.environ[name]
    given = {name.upper() for name in found}
    found.update((name, value) for name, value in configured_proxies().items() if name not in given)
    return tuple(found.items())
