"""`mbuild verify --attestation`: from a provenance and the options to a build request, and the report."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.attest.claimed import RepositoryContext
from engine.attest.recipe import Recipe, annotations_of
from engine.epoch import Epoch
from engine.images.reference import ArchiveReference, LayoutReference, parse_reference
from engine.pins import Lock
from engine.remote.contexts import ContextKind, NamedContext, parse_context
from engine.request import BuildRequest
from engine.verify.shown import printable
from machinefile.arguments import PROXIES
from machinefile.copies import is_git
from machinefile.errors import UntrustedDataError, UsageError
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import Pairs
from machinefile.instructions import Machinefile
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.source import Source
from mbuild.arguments import pairs
from mbuild.limits import read_shape, read_timeout
from mbuild.network import egress_policy
from mbuild.request import build_arguments, read_agents, read_machinefile
from mbuild.secrets import read_secrets

if TYPE_CHECKING:
    from engine.verify.attested import Claim

_TOLD = (
    *("target", "network", "add_host", "source_date_epoch", "normalize_modes", "lock_file", "locked", "no_lock"),
    *("no_cache", "no_cache_filter", "cache_from", "step"),
)
"""What the provenance says, or what means nothing for a build from nothing."""
_ONLY_HERE = ("key", "allow_image", "allow_unsigned")
_WORD = "--attestation"


def add_attestation_options(parser: argparse.ArgumentParser) -> None:
    """What belongs to --attestation."""
    add = parser.add_argument
    add(
        _WORD,
        default=None,
        metavar="[=FILE]",
        help="check the provenance that is attached to IMAGE, or that of FILE, and rebuild from it alone",
    )
    add(
        "--key", action="append", default=[], metavar="PUBLIC.pem", help="whose provenance is believed; may be repeated"
    )
    add(
        "--allow-image",
        action="append",
        default=[],
        metavar="IMAGE",
        help="let the build read this image of this machine (oci-layout:PATH, docker-archive:FILE); may be repeated",
    )
    add("--allow-unsigned", action="store_true", help="believe a provenance that nobody signed")


def with_attached(arguments: Sequence[str]) -> list[str]:
    """The arguments with `=` after an --attestation that names no file."""
    return [f"{word}=" if word == _WORD else word for word in arguments]


def check_options(options: argparse.Namespace, defaults: argparse.ArgumentParser) -> None:
    """Raises UsageError (`usage`) for options that mean nothing with --attestation, or nothing without it."""
    if options.attestation is None:
        given = next((f"--{name.replace('_', '-')}" for name in _ONLY_HERE if getattr(options, name)), "")
        if given:
            raise UsageError(f"{given} is for --attestation", code="usage", hint="add --attestation, or leave it out")
        return
    for name in _TOLD:
        if getattr(options, name) != defaults.get_default(name):
            raise UsageError(
                f"--{name.replace('_', '-')} and --attestation cannot be used together",
                code="usage",
                hint="what is built is what the provenance says",
            )


def attested_request(claim: Claim, options: argparse.Namespace, empty: Path) -> BuildRequest:
    """The build that a provenance tells of, with what it must not or cannot tell from the options. `empty` is a folder
    without files, for a build that takes none.

    Raises UsageError: `attestation-masked`, `attestation-context-missing`, `attestation-values`, `attestation-allow`;
    UntrustedDataError (`attestation-invalid`), MachinefileError.
    """
    recipe = claim.recipe
    contexts = _contexts(recipe, options)
    missing = sorted(recipe.allow - set(options.allow))
    if missing:
        raise UsageError(
            f"the image was built with --allow {missing[0]}, which is not allowed here",
            code="attestation-allow",
            hint=f"--allow {missing[0]} allows it, if you trust the Machinefile with that",
        )
    secrets, agents = read_secrets(options.secret), read_agents(options)
    _check_given("--secret", "id=", recipe.secrets, [one for one, _ in secrets.values])
    _check_given("--ssh", "", recipe.ssh, [agent.id for agent in agents])
    return BuildRequest(
        machinefile=_machinefile(recipe, options.file),
        context=_main_context(recipe, options, empty),
        ignore=IgnoreRules.parse("\n".join(recipe.ignore)),
        options=_build_options(recipe, options, contexts),
        outputs=(recipe.output,) if recipe.output is not None else (),
        inline_cache=recipe.inline_cache,
        annotations=annotations_of(recipe.annotations),
        contexts=contexts,
        jobs=options.jobs,
        egress=egress_policy(options),
        ssh=agents,
        secrets=secrets,
        step_timeout=read_timeout(options.step_timeout),
        platforms=(recipe.platform,),
        lock=Lock("the provenance", recipe.took.pins, _local_images(options)),
        locked=True,
        epoch=Epoch(recipe.epoch) if recipe.epoch is not None else None,
        git_modes=recipe.git_modes,
        keep_times=recipe.keep_times,
    )


def attestation_value(claim: Claim) -> dict[str, object]:
    """The form that other programs read."""
    recipe = claim.recipe
    return {
        "signed_by": claim.signed_by or None,
        "subject": claim.subject,
        "predicate_type": claim.predicate_type,
        "builder": recipe.builder,
        "mbuild": recipe.mbuild,
        "platform": str(recipe.platform),
        "target": recipe.target,
        "contexts": [name or "context" for name, _ in recipe.took.folders],
    }


def attestation_lines(claim: Claim) -> Iterator[str]:
    """What was checked, line by line."""
    recipe = claim.recipe
    signed = f"good, of the key {claim.signed_by}" if claim.signed_by else "unsigned: anybody may have written it"
    yield f"signature: {signed}"
    yield f"subject: {claim.subject}"
    yield (
        f"provenance: the stage {printable(recipe.target)} for {recipe.platform}, built by {printable(recipe.builder)} "
        f"with mbuild {printable(recipe.mbuild)}"
    )
    for name, _ in recipe.took.folders:
        yield f"context: {printable(name) or 'the build context'} is what the image was made from"


def _local_images(options: argparse.Namespace) -> frozenset[str]:
    """What may be read here of what only the provenance names. Raises UsageError (`usage`, `reference-invalid`)."""
    found = [parse_reference(word) for word in options.allow_image]
    for word, reference in zip(options.allow_image, found, strict=True):
        if not isinstance(reference, LayoutReference | ArchiveReference):
            raise UsageError(
                f"--allow-image {word}: this is no image of this machine",
                code="usage",
                hint="name an oci-layout:PATH or docker-archive:FILE as the provenance does; others need no leave",
            )
    return frozenset(map(str, found))


def _machinefile(recipe: Recipe, given: str) -> Machinefile:
    """The text of the provenance; where something is masked in it, the file that -f names, if it is the same."""
    if not given and not recipe.is_whole:
        raise UsageError(
            "something is masked in the Machinefile that the provenance holds",
            code="attestation-masked",
            hint="name the file itself with -f; it must have the digest that the provenance says",
        )
    if not given:
        return parse(Source("Machinefile", recipe.machinefile))
    read = read_machinefile(Path(given))
    if hashlib.sha256(read.source.text.encode("utf-8", "surrogateescape")).hexdigest() != recipe.machinefile_digest:
        raise UsageError(
            f"{given} is not the Machinefile that the image was built from",
            code="attestation-masked",
            hint="" if not recipe.is_whole else "leave -f out: the provenance holds the text",
        )
    return read


def _main_context(recipe: Recipe, options: argparse.Namespace, empty: Path) -> Path:
    if options.context is not None:
        return Path(options.context)
    if "" in dict(recipe.took.folders):
        raise UsageError(
            "the image was made from files of a build context, and none is given",
            code="attestation-context-missing",
            hint="name the folder after the image: mbuild verify --attestation ... IMAGE CONTEXT",
        )
    return empty


def _contexts(recipe: Recipe, options: argparse.Namespace) -> tuple[NamedContext, ...]:
    """The folders that were given, and what the provenance has of images and repositories."""
    given = {one.name: one for one in map(parse_context, options.build_context)}
    folders = [name for name, _ in recipe.took.folders if name]
    for name in folders:
        if name not in given:
            raise UsageError(
                f"the image was made from files of the context {name!r}, which is not given",
                code="attestation-context-missing",
                hint=f"--build-context {name}=FOLDER",
            )
    for name, context in given.items():
        if name not in folders or context.kind is not ContextKind.FOLDER:
            raise UsageError(
                f"--build-context {name}: by the provenance no folder of that name was used",
                code="usage",
                hint="images and repositories are in the provenance; leave them out",
            )
    found = [given[name] for name in folders]
    found += [NamedContext(one.name, ContextKind.IMAGE, one.reference) for one in recipe.took.images]
    found += map(_repository, recipe.took.repositories)
    if len({one.name for one in found}) < len(found):
        raise UntrustedDataError("the provenance says of a context that it was two things", code="attestation-invalid")
    return tuple(found)


def _repository(told: RepositoryContext) -> NamedContext:
    """Raises UntrustedDataError `attestation-invalid` for an address or a name that cannot be."""
    reason = ""
    try:
        if is_git(told.address):  # of others it would be looked whether they are folders
            context = parse_context(f"{told.name}={told.address}")
            if (context.name, context.kind) == (told.name, ContextKind.REPOSITORY):
                return context
    except UsageError as error:
        reason = f": {error.message}"
    raise UntrustedDataError(f"the context {told.name!r} is no repository{reason}", code="attestation-invalid")


def _build_options(recipe: Recipe, options: argparse.Namespace, contexts: tuple[NamedContext, ...]) -> BuildOptions:
    arguments = dict(build_arguments(options.build_arg))
    proxies = {name for name in arguments if name.upper() in PROXIES}
    hidden = [name for name in recipe.hidden_args if name.upper() not in PROXIES]
    _check_given("--build-arg", "", hidden, arguments)
    values = {name: value for name, value in arguments.items() if name in (*hidden, *proxies)}
    _check_told("--build-arg", dict(recipe.build_args), {n: v for n, v in arguments.items() if n not in values})
    labels = dict(pairs(options.label, "--label"))
    _check_given("--label", "", recipe.hidden_labels, labels)
    named = {name: value for name, value in labels.items() if name in recipe.hidden_labels}
    _check_told("--label", dict(recipe.labels), {n: v for n, v in labels.items() if n not in named})
    return BuildOptions(
        target=recipe.target or None,
        build_args=_joined(recipe.build_args, values),
        platform=recipe.platform,
        build_platform=recipe.build_platform,
        labels=_joined(recipe.labels, named),
        network=recipe.network,
        clock=recipe.clock,
        hosts=recipe.hosts,
        shape=read_shape(options) or recipe.shape,
        entitlements=recipe.allow,
        contexts=frozenset(one.name for one in contexts),
        image_contexts=frozenset(one.name for one in contexts if one.kind is ContextKind.IMAGE),
    )


def _joined(told: Pairs, given: Mapping[str, str]) -> Pairs:
    return tuple({**dict(told), **given}.items())


def _check_given(option: str, prefix: str, wanted: Sequence[str], given: Iterable[str]) -> None:
    missing = [name for name in wanted if name not in set(given)]
    if missing:
        raise UsageError(
            f"the build had values that its provenance does not tell: {', '.join(map(printable, missing[:8]))}",
            code="attestation-values",
            hint=f"give each with {option} {prefix}{printable(missing[0])}...",
        )


def _check_told(option: str, told: Mapping[str, str], given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if told.get(name) != value:
            raise UsageError(
                f"{option} {name}: the image was built without it, or with another value",
                code="usage",
                hint="what is built is what the provenance says; leave it out",
            )
