"""Where an image came from: SLSA provenance, version 1. Source: https://slsa.dev/spec/v1.0/provenance.

    buildDefinition
        externalParameters      what the user asked for
        internalParameters      what mbuild chose by itself
        resolvedDependencies    bases, remote files, git commits, each with its digest
    runDetails
        builder, metadata       who built it
        byproducts              the steps: their keys, and whether each was run (mode max)

Equal builds say the same: no times, no random ids, nothing of the machine but versions. What differs between a build
that ran its steps and one that found them (the steps' results, the versions of what ran them) is in mode max alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping

from cache.index import Kind
from cache.keys import VERSION as KEY_VERSION
from cache.store import Store
from engine.attest.dependencies import dependencies, without_annotations
from engine.attest.facts import BuildFacts
from engine.attest.spec import ProvenanceMode
from engine.attest.statement import Predicate, canonical
from engine.output.compress import DEFAULT
from engine.output.kinds import OutputSpec
from engine.plan import Plan
from engine.remote.weburl import without_password
from engine.request import BuildRequest
from engine.secrets import Secrets
from machinefile.arguments import PROXIES
from machinefile.imageconfig import Pairs
from machinefile.lint.stages import sounds_secret
from machinefile.platform import Platform
from machinefile.steps import BuildGraph
from machinefile.values import dataclass

BUILD_TYPE = "https://pypi.org/project/machinefile/#mbuild-build-v1"
"""docs/attestations.md says what the parameters of such builds mean."""

_LARGEST_KEPT = 1 << 20
_USUAL_FORM: Mapping[str, object] = {
    "compression": DEFAULT.compressor.value,
    "level": DEFAULT.level,
    "forceCompression": False,
    "ociMediaTypes": True,
    "annotations": {},
}
_ONLY_MAX = ("machinefile", "ignore", "buildArguments", "hiddenBuildArguments", "labels", "hiddenLabels", "options")


def provenance_of(request: BuildRequest, plan: Plan, graph: BuildGraph, facts: BuildFacts) -> Predicate:
    """What is to be said of the image of one of the plan's graphs, in mode max."""
    arguments = _Arguments.of(request)
    definition = _definition(request, plan, graph, arguments, facts)
    return {
        "buildDefinition": definition,
        "runDetails": {
            "builder": {"id": request.attest.builder_id, "version": dict(facts.versions())},
            "metadata": {"invocationId": _identity(definition)},
            "byproducts": list(_steps(plan, graph, facts.ran, arguments.veil)),
        },
    }


def reduced(predicate: Predicate, mode: ProvenanceMode) -> Predicate:
    """What a provenance of mode max says in another mode."""
    if mode is ProvenanceMode.MAX:
        return predicate
    definition = {**_part(predicate, "buildDefinition")}
    external = _part(definition, "externalParameters")
    definition["externalParameters"] = {name: value for name, value in external.items() if name not in _ONLY_MAX}
    definition["resolvedDependencies"] = without_annotations(definition.get("resolvedDependencies"))
    builder = _part(_part(predicate, "runDetails"), "builder")
    versions = {name: value for name, value in _part(builder, "version").items() if name == "mbuild"}
    return {
        "buildDefinition": definition,
        "runDetails": {
            "builder": {**builder, "version": versions},
            "metadata": {"invocationId": _identity(definition)},
        },
    }


def written_as(predicate: Predicate, output: OutputSpec, platform: Platform | None) -> Predicate:
    """What a provenance of mode max says of an image in the form that an output gave it."""
    form: dict[str, object] = {
        "compression": output.compression.compressor.value,
        "level": output.compression.level,
        "forceCompression": output.force_compression,
        "ociMediaTypes": output.oci_media_types,
        "annotations": dict(output.annotations.of_manifest(platform)),
    }
    if form == _USUAL_FORM:
        return predicate
    definition = {**_part(predicate, "buildDefinition")}
    external = {**_part(definition, "externalParameters")}
    external["options"] = {**_part(external, "options"), "output": form}
    definition["externalParameters"] = external
    details = {**_part(predicate, "runDetails")}
    details["metadata"] = {**_part(details, "metadata"), "invocationId": _identity(definition)}
    return {**predicate, "buildDefinition": definition, "runDetails": details}


def keep_provenance(
    store: Store, digest: str, request: BuildRequest, plan: Plan, graph: BuildGraph, facts: BuildFacts
) -> None:
    """Remember where the image with that manifest came from, so that it can be attested later. What an equal build that
    ran steps left stays after one that found them all. One of an exorbitant Machinefile is not kept. Raises StoreError,
    HostError."""
    if not facts.ran and (kept := kept_provenance(store, digest)) is not None:
        details = _part(kept, "runDetails")
        asked = _identity(_definition(request, plan, graph, _Arguments.of(request), facts))
        if (_part(details, "metadata").get("invocationId"), _part(details, "builder").get("id")) == (
            asked,
            request.attest.builder_id,
        ):
            return
    predicate = provenance_of(request, plan, graph, facts)
    if len(canonical(predicate)) <= _LARGEST_KEPT:
        store.index.put(Kind.PROVENANCE, digest, predicate)


def kept_provenance(store: Store, digest: str) -> Predicate | None:
    """What was remembered, in mode max."""
    found = store.index.get(Kind.PROVENANCE, digest)
    if not isinstance(found, dict):
        return None
    predicate: Predicate = {str(name): value for name, value in found.items()}
    builder = _part(_part(predicate, "runDetails"), "builder")
    return predicate if builder.get("id") and _part(predicate, "buildDefinition") else None


def _part(value: Predicate, name: str) -> Predicate:
    """A field that is an object."""
    found = value.get(name)
    return {str(key): one for key, one in found.items()} if isinstance(found, Mapping) else {}


@dataclass(frozen=True, slots=True)
class _Arguments:
    """The build arguments of a build."""

    told: Pairs
    hidden: tuple[str, ...]
    """The names of those whose values are not told."""
    veil: Secrets
    """The secrets and those values: instructions and addresses have them in the place of variables."""

    @classmethod
    def of(cls, request: BuildRequest) -> _Arguments:
        given, secrets = request.options.build_args, request.secrets
        told, hidden = _split(given, secrets)
        values = tuple((name, value.encode("utf-8", "surrogateescape")) for name, value in given if name in hidden)
        return cls(told, hidden, Secrets((*secrets.values, *values)) if values else secrets)


def _definition(
    request: BuildRequest, plan: Plan, graph: BuildGraph, arguments: _Arguments, facts: BuildFacts
) -> dict[str, object]:
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": _external(request, graph, _asked(plan, graph), arguments),
        "internalParameters": {"keyVersion": KEY_VERSION, "buildPlatform": str(request.options.build_platform)},
        "resolvedDependencies": list(dependencies(request, plan, graph, facts, arguments.veil)),
    }


def _asked(plan: Plan, graph: BuildGraph) -> Platform:
    """The platform that was asked for; the graph's own is that of its base, which FROM --platform may have chosen."""
    return next(one for one, other in zip(plan.platforms, plan.graphs, strict=True) if other is graph)


def _external(request: BuildRequest, graph: BuildGraph, platform: Platform, arguments: _Arguments) -> dict[str, object]:
    options, source = request.options, request.machinefile.source
    text = source.text.encode("utf-8", "surrogateescape")
    masked = arguments.veil.masked
    shape = options.shape
    annotations = request.annotations.of_manifest(platform)  # one that asks for the image's time has none yet
    return {
        "machinefile": masked(without_password(source.text)).encode("utf-8", "replace").decode(),
        "machinefileDigest": {"sha256": hashlib.sha256(text).hexdigest()},
        "ignore": [masked(pattern) for pattern in request.ignore.patterns()],
        "target": graph.target,
        "platform": str(platform),
        "buildArguments": {name: masked(value) for name, value in sorted(arguments.told)},
        "hiddenBuildArguments": sorted(arguments.hidden),
        "labels": {name: value for name, value in sorted(options.labels) if masked(value) == value},
        "hiddenLabels": sorted(name for name, value in options.labels if masked(value) != value),
        "options": {
            "network": options.network.value,
            "sourceDateEpoch": request.epoch.seconds if request.epoch is not None else None,
            "timestamps": "keep" if request.keep_times else "normal",
            "normalizeModes": request.git_modes,
            "clock": options.clock.value,
            "hosts": [f"{name}:{address}" for name, address in options.hosts],
            "allow": sorted(options.entitlements),
            "buildContexts": sorted(options.contexts),
            "secrets": sorted(secret_id for secret_id, _ in request.secrets.values),
            "ssh": sorted(agent.id for agent in request.ssh),
            "annotations": dict(annotations),
            "inlineCache": request.inline_cache,
            "shape": {"cpus": shape.cpus, "memory": shape.memory, "disk": shape.disk} if shape is not None else None,
        },
    }


def _split(arguments: Pairs, secrets: Secrets) -> tuple[Pairs, tuple[str, ...]]:
    """The build arguments that may be told, and the names of the others: those that are called as a secret is, that
    sound secret, that hold one, and proxies, whose addresses have passwords in them."""
    ids = {secret_id.lower() for secret_id, _ in secrets.values}
    values = {value.strip() for _, value in secrets.values} - {b""}

    def is_hidden(name: str, value: str) -> bool:
        data = value.encode("utf-8", "surrogateescape")
        return (
            name.lower() in ids
            or sounds_secret(name)
            or name.upper() in PROXIES
            or data.strip() in values
            or secrets.masked(value) != value
            or without_password(value) != value
        )

    hidden = tuple(name for name, value in arguments if is_hidden(name, value))
    return tuple((name, value) for name, value in arguments if name not in hidden), hidden


def _steps(plan: Plan, graph: BuildGraph, ran: Collection[str], veil: Secrets) -> Iterator[dict[str, object]]:
    for step in graph.steps:
        if step.makes_layer:
            result = "run" if step.id in ran else "hit"
            shown = veil.masked(without_password(step.instruction))
            yield {
                "name": step.id,
                "digest": {"sha256": plan.step(step.id).key.removeprefix("sha256:")},
                "annotations": {"kind": "step", "instruction": shown, "result": result},
            }


def _identity(definition: Mapping[str, object]) -> str:
    """The same for builds that were asked for the same; a random id would make each attestation another one."""
    return "sha256:" + hashlib.sha256(canonical(definition)).hexdigest()
