"""Everything that a build took from elsewhere, each with its digest: SLSA's resolvedDependencies.

    an image              uri or name; annotations: reference (as FROM has it), platform, of a --build-context its name
    a file, a repository  uri; annotations: of a repository what its address was found to mean
    a folder              name; its digest is that of the files which steps took (FILES_DIGEST); annotations: context

Annotations are in mode max alone, and so are folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cache.keys import Value, canonical
from engine.attest.facts import BuildFacts
from engine.attest.statement import image_purl
from engine.bases import Base
from engine.images.reference import Reference, parse_reference
from engine.plan import Plan
from engine.records import FILES_OF_MOUNT
from engine.remote.contexts import ContextKind, NamedContext
from engine.remote.giturl import GitUrl, is_commit, parse_git_url
from engine.remote.remotes import keeps_git_dir, repository_of
from engine.remote.weburl import without_password
from engine.request import BuildRequest
from engine.secrets import Secrets
from machinefile.copies import is_git
from machinefile.steps import BuildGraph, Copy, From, FromContext, RemoteSource, Run

if TYPE_CHECKING:
    from engine.remote.repository import Found

FILES_DIGEST = "mbuildFilesV1"
"""The kind of digest that is over files of a folder; docs/attestations.md says how it is made."""
_MAIN = "context"
_NAMED = "context:"
"""How a resolved Machinefile names an image that --build-context gave."""
Dependency = dict[str, object]


def dependencies(
    request: BuildRequest, plan: Plan, graph: BuildGraph, facts: BuildFacts, veil: Secrets
) -> Iterator[Dependency]:
    """Those of one of a plan's graphs, in the order of the steps, each once; then the contexts."""
    seen: set[str] = set()
    for step in graph.steps:
        found: Dependency | None = None
        if isinstance(step.operation, From):
            found = _base(step.operation, plan.bases[step.id], veil)
        elif isinstance(step.operation, RemoteSource):
            found = remote_dependency(step.operation, veil, facts)
        if found is not None and (mark := json.dumps(found)) not in seen:
            seen.add(mark)
            yield found
    named = {one.name: one for one in request.contexts}
    for name, digest in files_digests(plan, graph).items():
        context = named.get(name)
        if context is not None and context.kind is ContextKind.REPOSITORY:
            yield _repository_context(context, facts, veil)
        else:
            annotations = {"context": name}
            yield {"name": name or _MAIN, "digest": {FILES_DIGEST: digest}, "annotations": annotations}


def without_annotations(listed: object) -> list[object]:
    """What mode min says of dependencies."""
    found: list[object] = []
    for one in listed if isinstance(listed, list) else ():
        digest = one.get("digest") if isinstance(one, Mapping) else None
        if isinstance(digest, Mapping) and FILES_DIGEST not in digest:
            found.append({name: value for name, value in one.items() if name != "annotations"})
    return found


def files_digests(plan: Plan, graph: BuildGraph) -> Mapping[str, str]:
    """What steps took of each context, by its name (empty for the main one), as hexadecimal sha256.

    It is over what their keys have of it: paths, types, modes and contents, and nothing that no step takes.
    """
    found: dict[str, set[bytes]] = {}

    def take(name: str, files: Value) -> None:
        found.setdefault(name, set()).add(canonical(files))

    for step in graph.steps:
        fields = dict(plan.step(step.id).record.fields)
        match step.operation:
            case Copy(origin=FromContext(name)):
                take(name, fields["files"])
            case Run(mounts=mounts):
                listed = fields["mounts"]
                for mount, value in zip(mounts, listed if isinstance(listed, tuple) else (), strict=True):
                    if isinstance(mount.origin, FromContext) and isinstance(value, tuple):
                        take(mount.origin.name, value[FILES_OF_MOUNT])
    return {name: hashlib.sha256(b"".join(sorted(found[name]))).hexdigest() for name in sorted(found)}


def _base(operation: From, base: Base, veil: Secrets) -> Dependency | None:
    if base.image is None:
        return None
    written, platform = operation.base.reference, operation.base.platform
    digest = {"sha256": base.digest.removeprefix("sha256:")}
    annotations = {"reference": veil.masked(written), "platform": str(platform)}
    if written.startswith(_NAMED):
        annotations |= {"context": written.removeprefix(_NAMED), "image": veil.masked(base.image.reference)}
    reference = parse_reference(base.image.reference)
    if isinstance(reference, Reference):
        return {"uri": image_purl(str(reference), platform), "digest": digest, "annotations": annotations}
    # Where this machine has it is its own affair.
    return {"name": veil.masked(written), "digest": digest, "annotations": annotations}


def remote_dependency(operation: RemoteSource, veil: Secrets, facts: BuildFacts | None = None) -> Dependency:
    """What ADD takes from afar, as it was pinned, without the passwords of its address."""
    if is_git(operation.url):
        url = repository_of(operation)
        return _repository(url, operation.pinned, _meaning(operation, url, facts), veil)
    algorithm, _, value = operation.pinned.partition(":")
    return {"uri": veil.masked(without_password(operation.url)), "digest": {algorithm: value}}


def _meaning(operation: RemoteSource, url: GitUrl, facts: BuildFacts | None) -> Found | None:
    """What a name was found to be. With a checksum that counts for the .git alone, and may be known to nobody."""
    from engine.remote.repository import Found

    if facts is None or is_commit(url.ref):
        return None
    if is_commit(url.checksum) and not keeps_git_dir(operation, url):
        return Found(operation.pinned)
    return facts.commits(url)


def _repository_context(context: NamedContext, facts: BuildFacts, veil: Secrets) -> Dependency:
    url = parse_git_url(context.value)
    found = facts.commits(url)
    commit = found.commit if found is not None else ""
    address = {"context": context.name, "address": veil.masked(without_password(context.value))}
    said = _repository(url, commit, None if is_commit(url.ref) else found, veil)
    annotations = said["annotations"]
    return {**said, "annotations": {**(annotations if isinstance(annotations, dict) else {}), **address}}


def _repository(url: GitUrl, commit: str, found: Found | None, veil: Secrets) -> Dependency:
    ref = f"@{url.ref}" if url.ref else ""
    shown = url.shown if "://" in url.shown else f"ssh://{url.shown.replace(':', '/', 1)}"
    annotations = {"repository": veil.masked(url.shown), "ref": veil.masked(url.ref)}
    if found is not None:
        annotations |= {"name": veil.masked(found.ref), "tag": found.tag}
    return {
        "uri": veil.masked(f"git+{shown}{ref}"),
        "digest": {"gitCommit": commit},
        "annotations": annotations,
    }
