"""Requests about a repository, with whatever login they take."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from engine.images.auth import Authenticator, unauthorized
from engine.images.brief import Answer
from engine.images.credentials import CredentialStore
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.reference import Reference
from engine.images.retry import Attempts
from engine.images.transport import Content, Transport

if TYPE_CHECKING:
    import httpx

_A = TypeVar("_A", bound=Answer, covariant=True)


class _Send(Protocol[_A]):
    def __call__(self, *, authorization: str) -> AbstractContextManager[_A]: ...


def pull_scope(repository: str) -> str:
    """What a token must allow to read a repository."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """What a token must allow to write to a repository."""
    return f"repository:{repository}:pull,push"


class Session:
    """One user's talk with registries. Many threads may share it.

    Everything raises TransferError (`registry-unreachable`, `registry-unauthorized`, `registry-failed`),
    InterruptedBuildError once the build is cancelled, and, within this package, RetryableError.
    """

    def __init__(
        self,
        credentials: CredentialStore | None = None,
        settings: RegistrySettings | None = None,
        policy: TransferPolicy | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.policy = policy or TransferPolicy()
        self.transport = Transport(settings or RegistrySettings.from_environment(), self.policy, cancelled)
        self._auth = Authenticator(self.transport, credentials or CredentialStore.from_environment())

    def attempts(self, cancelled: threading.Event | None = None) -> Attempts:
        """The patience for one transfer, which `cancelled` ends too."""
        return Attempts(self.policy, cancelled or self.transport.cancelled)

    def url(self, reference: Reference, path: str) -> str:
        """An address about a repository: `path` is what the specification has after the repository's name."""
        return f"{self.transport.origin(reference.endpoint)}/v2/{reference.repository}/{path}"

    @contextmanager
    def exchange(
        self,
        reference: Reference,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Content = None,
        scope: str = "",
        patience: float | None = None,
        bulk: bool = False,
    ) -> Iterator[httpx.Response]:
        """One request; a token that has run out is renewed once.

        `scope` is what the token must allow, reading by default. To an address that is not the registry's own (an
        upload may be sent elsewhere) goes no login. A refusal raises TransferError (`registry-unauthorized`).
        """
        send = partial(
            self.transport.exchange, method, url, headers=headers, content=content, patience=patience, bulk=bulk
        )
        with self._asked(send, reference, url, scope) as response:
            yield response

    @contextmanager
    def brief(
        self,
        reference: Reference,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        scope: str = "",
        patience: float | None = None,
    ) -> Iterator[Answer]:
        """As `exchange`, of little to send and little to hear: see Transport.brief."""
        send = partial(self.transport.brief, method, url, headers=headers, content=content, patience=patience)
        with self._asked(send, reference, url, scope) as answer:
            yield answer

    @contextmanager
    def _asked(self, send: _Send[_A], reference: Reference, url: str, scope: str) -> Iterator[_A]:
        scope = scope or pull_scope(reference.repository)
        ours = self.transport.is_at(reference.endpoint, url)
        authorization = self._auth.header(reference.registry, scope) if ours else ""
        for last in (False, True):
            with send(authorization=authorization) as response:
                refused = response.status_code in (401, 403)
                # Who asks from elsewhere, after a redirect, gets no login, nor says where tokens come from.
                if not refused or not ours or not self.transport.is_at(reference.endpoint, str(response.url)):
                    yield response
                    return
                said = self.transport.quote(response)
            # Only now that the refusal is read to its end may its connection go to who asks for a token.
            answer = ""
            if response.status_code == 401 and not last:
                answer = self._auth.answer(reference.registry, reference.repository, scope, response, authorization)
            if not answer:
                known = self._auth.credentials(reference.registry, reference.repository) is not None
                raise unauthorized(reference.registry, reference.short, known, said)
            authorization = answer
