"""A client for registries. Source: OCI distribution spec v1.1."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from engine.events import Observer, ignore
from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of, is_digest
from engine.images.download import Sink, Verifier, download, mismatch
from engine.images.foreign import fetch_foreign
from engine.images.manifest import MAX_MANIFEST_BYTES, parse_manifest
from engine.images.mirrors import Mirrors
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.reference import Reference
from engine.images.session import Session
from engine.images.transport import BULK
from machinefile.errors import TransferError, UntrustedDataError

if TYPE_CHECKING:
    import httpx


class RegistryClient:
    """Reads images from registries, or their mirrors; a context manager. Many threads may share one.

    Every method raises TransferError (`registry-unreachable`, `registry-unauthorized`, `registry-failed`,
    `image-not-found`), UntrustedDataError, and InterruptedBuildError once `cancelled` is set.
    """

    def __init__(
        self,
        *,
        observer: Observer = ignore,
        credentials: CredentialStore | None = None,
        settings: RegistrySettings | None = None,
        policy: TransferPolicy | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.session = Session(credentials, settings, policy, cancelled)
        self._observer = observer
        self._policy = self.session.policy
        self._transport = self.session.transport
        self._mirrors = Mirrors(self._transport.settings, observer)
        self._manifests: dict[str, bytes] = {}

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.__exit__(kind, error, trace)

    def resolve(self, reference: Reference) -> Descriptor:
        """What a name stands for now: the descriptor of a manifest or an index."""
        return self._mirrors.first(reference, self._resolve)

    def _resolve(self, reference: Reference) -> Descriptor:
        return self.session.attempts().insist(lambda: self._head(reference) or self._describe(reference))

    def manifest(self, reference: Reference, digest: str) -> bytes:
        """A manifest's or an index's bytes, verified. Raises UntrustedDataError (`digest-mismatch`) too."""
        known = self._manifests.get(digest)
        if known is not None:
            return known
        return self._mirrors.first(reference, partial(self._fetch_manifest, digest))

    def _fetch_manifest(self, digest: str, reference: Reference) -> bytes:
        return self.session.attempts().insist(lambda: self._manifest(reference, digest))

    def own_manifest(self, reference: Reference, *, scope: str = "") -> bytes | None:
        """What a name stands for now in the registry itself, whatever its mirrors have; None where there is nothing of
        that name. `scope` is what the token must allow, reading by default."""
        try:
            return self.session.attempts().insist(lambda: self._read_manifest(reference, reference.target, scope))
        except TransferError as error:
            if error.code == "image-not-found":
                return None
            raise

    def blob(
        self, reference: Reference, descriptor: Descriptor, sink: Sink, *, quiet: bool = False, direct: bool = False
    ) -> None:
        """Stream a blob into `sink`, each byte once and in order; it is verified when this returns. With `quiet` no
        progress is told; with `direct` no mirror is asked. A foreign layer comes from where its descriptor says, if the
        registry does not have it.

        Raises UntrustedDataError (`digest-mismatch`, `blob-truncated`, `blob-too-long`, `blob-too-large`) and
        TransferError (`blob-not-found`) too.
        """
        if descriptor.size > self._policy.largest_blob:
            raise UntrustedDataError(
                f"the blob {descriptor.digest} of {reference.short} has {descriptor.size} bytes; "
                f"at most {self._policy.largest_blob} are taken",
                code="blob-too-large",
            )

        verifier = Verifier(descriptor, reference.short, sink, ignore if quiet else self._observer)
        for place in (reference,) if direct else self._mirrors.places(reference):

            def open_at(offset: int, place: Reference = place) -> AbstractContextManager[httpx.Response]:
                headers = {"Range": f"bytes={offset}-"} if offset else {}
                return self._blob_response(place, descriptor, headers)

            try:
                download(open_at, verifier, self.session.attempts(), self._policy)
                return
            except TransferError as error:
                if place != reference:
                    self._mirrors.gave_up(place, reference, error)
                elif not descriptor.urls:
                    raise
                if error.code == "digest-mismatch":  # the sink has the wrong bytes already
                    raise
            # The next place goes on where this one stopped.
        fetch_foreign(self.session, reference, verifier)

    def _head(self, reference: Reference) -> Descriptor | None:
        """The descriptor from the headers alone; None where the registry does not give them."""
        url = self.session.url(reference, f"manifests/{reference.target}")
        with self.session.brief(reference, "HEAD", url, headers={"Accept": mediatype.ACCEPT}) as response:
            if response.status_code != 200:
                return None  # some registries know no HEAD; GET has the better error too
            digest = response.headers.get("docker-content-digest", "")
            length = response.headers.get("content-length", "")
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
        if not is_digest(digest) or not length.isascii() or not length.isdigit():
            return None
        if kind not in mediatype.INDEXES | mediatype.MANIFESTS:
            return None
        self._check_pin(reference, digest)
        return Descriptor(kind, digest, min(int(length[:19]), MAX_MANIFEST_BYTES + 1))

    def _describe(self, reference: Reference) -> Descriptor:
        data = self._manifest(reference, reference.target)
        digest = digest_of(data)
        self._check_pin(reference, digest)
        return Descriptor(parse_manifest(data, f"the manifest of {reference.short}").media_type, digest, len(data))

    def _manifest(self, reference: Reference, target: str) -> bytes:
        data = self._read_manifest(reference, target)
        self._manifests[digest_of(data)] = data
        return data

    def _read_manifest(self, reference: Reference, target: str, scope: str = "") -> bytes:
        what = f"the manifest {target} of {reference.short}" if is_digest(target) else reference.short
        accepted = {"Accept": mediatype.ACCEPT}
        with self._exchange(reference, "GET", f"manifests/{target}", accepted, scope=scope) as response:
            if response.status_code == 404:
                raise TransferError(
                    f"{what} does not exist in {reference.registry}{self._transport.quote(response)}",
                    code="image-not-found",
                    hint="check the name and the tag",
                )
            if response.status_code != 200:
                raise self._transport.failure(response, what)
            data = self._transport.read(response, MAX_MANIFEST_BYTES, what)
        actual = digest_of(data)
        if is_digest(target) and actual != target:
            raise mismatch(f"the manifest of {reference.short}", target, actual)
        return data

    def _check_pin(self, reference: Reference, actual: str) -> None:
        if reference.digest and actual != reference.digest:
            raise mismatch(f"the manifest of {reference.short}", reference.digest, actual)

    @contextmanager
    def _blob_response(
        self, reference: Reference, descriptor: Descriptor, headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        what = f"the blob {descriptor.digest} of {reference.short}"
        bulk = descriptor.size > BULK
        with self._exchange(reference, "GET", f"blobs/{descriptor.digest}", headers, bulk=bulk) as response:
            if response.status_code == 404:
                raise TransferError(
                    f"{what} is missing in {reference.registry}",
                    code="blob-not-found",
                    hint="the image is incomplete there: push it again",
                )
            if response.status_code == 416:  # it ends where we wanted to go on
                raise UntrustedDataError(f"{what} is shorter than it should be", code="blob-truncated")
            if response.status_code not in (200, 206):
                raise self._transport.failure(response, what)
            yield response

    def _exchange(
        self,
        reference: Reference,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        scope: str = "",
        bulk: bool = False,
    ) -> AbstractContextManager[httpx.Response]:
        url = self.session.url(reference, path)
        return self.session.exchange(reference, method, url, headers=headers, scope=scope, bulk=bulk)
