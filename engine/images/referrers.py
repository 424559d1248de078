"""Lists what is said about an image where its registry does not do so by itself.

A registry that knows referrers lists each manifest under its subject. For one that does not, clients keep that list as
an index under the tag `sha256-HEX`. Source: OCI distribution spec 1.1, "Referrers Tag Schema".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from engine.images.descriptor import Descriptor
from engine.images.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_index
from engine.images.push import put_manifest
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.session import push_scope
from machinefile.errors import TransferError

_MOST = 1000
"""Referrers of one image."""


def list_referrers(
    client: RegistryClient, reference: Reference, documents: Iterable[tuple[Descriptor, Manifest]]
) -> None:
    """See to it that manifests which were pushed are found by their subjects.

    Two who do so at once for one image may lose one another's line, as the specification says. Raises TransferError,
    UntrustedDataError.
    """
    for found, manifest in documents:
        subject = manifest.subject
        if subject is None or _lists_by_itself(client, reference, subject.digest):
            continue
        line = Descriptor(
            manifest.media_type,
            found.digest,
            found.size,
            annotations=manifest.annotations,
            artifact_type=manifest.artifact_type or manifest.config.media_type,
        )
        tagged = replace(reference, tag=subject.digest.replace(":", "-"), digest="")
        listed = _listed(client, tagged)
        if all(one.digest != line.digest for one in listed):
            index = Index((*listed, line)[-_MOST:])
            put_manifest(client, tagged, index.to_json(), index.media_type, tagged.tag)


def referrers_of(client: RegistryClient, reference: Reference, subject: str) -> tuple[Descriptor, ...]:
    """The manifests that the registry says are about the one with that digest. Raises TransferError,
    UntrustedDataError."""
    url = client.session.url(reference, f"referrers/{subject}")
    what = f"the referrers of {subject}"

    def ask() -> bytes | None:
        with client.session.exchange(reference, "GET", url) as response:
            if response.status_code != 200:
                return None
            return client.session.transport.read(response, MAX_MANIFEST_BYTES, what)

    listed = client.session.attempts().insist(ask)
    if listed is not None:
        return parse_index(listed, what).manifests[:_MOST]
    tagged = replace(reference, tag=subject.replace(":", "-"), digest="")
    data_of_tag = client.own_manifest(tagged)
    return parse_index(data_of_tag, f"the list {tagged.short}").manifests[:_MOST] if data_of_tag is not None else ()


def _listed(client: RegistryClient, tagged: Reference) -> tuple[Descriptor, ...]:
    data = client.own_manifest(tagged, scope=push_scope(tagged.repository))
    return parse_index(data, f"the list {tagged.short}").manifests if data is not None else ()


def _lists_by_itself(client: RegistryClient, reference: Reference, subject: str) -> bool:
    """Whether the registry answers when it is asked for referrers: 404 means that it does not know the question."""
    url = client.session.url(reference, f"referrers/{subject}")

    def ask() -> bool:
        with client.session.exchange(reference, "GET", url, scope=push_scope(reference.repository)) as response:
            if response.status_code in (200, 404):
                return response.status_code == 200
            failure = client.session.transport.failure(response, f"the referrers of {subject}")
            if isinstance(failure, TransferError) and response.status_code in (400, 405, 501):
                return False
            raise failure

    return client.session.attempts().insist(ask)
