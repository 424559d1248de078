"""Answers to a registry's challenges: basic authentication and bearer tokens.

Source: the distribution project's token authentication and OAuth2 specifications.
"""

from __future__ import annotations

import threading
import time
from urllib.parse import urlencode, urlsplit

from engine.images.brief import Answer
from engine.images.challenge import Challenge, parse_challenges
from engine.images.credentials import Credentials, CredentialStore
from engine.images.jsonvalue import JsonObject
from engine.images.policy import host_of
from engine.images.retry import Attempts
from engine.images.transport import Transport
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.values import dataclass

_MAX_ANSWER = 1 << 20
_DEFAULT_LIFE = 60.0  # what the specification says of a token that does not say how long it lives
_SHARE_OF_LIFE = 0.9
_CLIENT = "mbuild"


@dataclass(frozen=True, slots=True)
class _Grant:
    header: str
    until: float
    """On the monotonic clock."""


class Authenticator:
    """Keeps what a registry accepted, by registry and scope, and asks for more when it no longer does."""

    def __init__(self, transport: Transport, credentials: CredentialStore) -> None:
        self._transport = transport
        self._store = credentials
        self._lock = threading.RLock()
        self._known: dict[tuple[str, str], Credentials | None] = {}
        self._grants: dict[tuple[str, str], _Grant] = {}

    def credentials(self, registry: str, repository: str) -> Credentials | None:
        """What the user has for a repository; a helper is asked once."""
        key = (registry, repository)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._store.lookup(registry, repository)
            return self._known[key]

    def header(self, registry: str, scope: str) -> str:
        """The Authorization header that is good now, or the empty string."""
        grant = self._grants.get((registry, scope))
        return grant.header if grant is not None and time.monotonic() < grant.until else ""

    def answer(self, registry: str, repository: str, scope: str, response: Answer, refused: str) -> str:
        """The header that answers a 401; empty when there is none that was not tried.

        `refused` is the header that the 401 was given for. Several threads that are refused at once ask for one
        token. Raises TransferError (`registry-unauthorized`, `registry-failed`).
        """
        challenges = {item.scheme: item for item in parse_challenges(_headers(response))}
        with self._lock:
            current = self.header(registry, scope)
            if current and current != refused:  # another thread was here first
                return current
            grant = self._ask(registry, repository, scope, challenges)
            if grant is None or grant.header == refused:
                self._grants.pop((registry, scope), None)
                return ""
            self._grants[registry, scope] = grant
            return grant.header

    def _ask(self, registry: str, repository: str, scope: str, offered: dict[str, Challenge]) -> _Grant | None:
        credentials = self.credentials(registry, repository)
        if "bearer" in offered:
            return self._token(registry, offered["bearer"], scope, credentials)
        if "basic" in offered and credentials is not None and credentials.username:
            return _Grant(credentials.basic, float("inf"))
        return None

    def _token(self, registry: str, challenge: Challenge, scope: str, credentials: Credentials | None) -> _Grant:
        realm = self._realm(registry, challenge)
        attempts = Attempts(self._transport.policy, self._transport.cancelled)
        wanted = _wanted(challenge.get("scope"), scope)
        return attempts.insist(lambda: self._fetch(registry, realm, challenge, wanted, credentials))

    def _fetch(
        self, registry: str, realm: str, challenge: Challenge, scope: str, credentials: Credentials | None
    ) -> _Grant:
        fields: dict[str, str | list[str]] = {"service": challenge.get("service"), "scope": scope}
        authorization, content, headers = "", None, {}
        if credentials is not None and credentials.identity_token:
            fields |= {"grant_type": "refresh_token", "client_id": _CLIENT}
            fields["refresh_token"] = credentials.identity_token
            content = urlencode(fields).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
        else:
            if credentials is not None:
                fields["account"] = credentials.username
                authorization = credentials.basic
            fields["scope"] = scope.split()  # several go as fields of their own here, as one text above
            query = urlencode({name: value for name, value in fields.items() if value}, doseq=True)
            realm += ("&" if "?" in realm else "?") + query
        with self._transport.brief(
            "GET" if content is None else "POST",
            realm,
            headers=headers,
            authorization=authorization,
            content=content,
        ) as response:
            if response.status_code in (400, 401, 403):
                raise unauthorized(registry, registry, credentials is not None, self._transport.quote(response))
            if response.status_code != 200:
                raise self._transport.failure(response, "a token")
            return _grant(self._transport.read(response, _MAX_ANSWER, "the registry's token"))

    def _realm(self, registry: str, challenge: Challenge) -> str:
        """Where tokens come from. Passwords go there, so it must be as well protected as the registry."""
        realm = challenge.get("realm")
        parts = urlsplit(realm)
        plain = self._transport.settings.is_plain
        if parts.scheme == "http" and (plain(registry) or plain(parts.netloc) or plain(host_of(parts.netloc))):
            return realm
        if parts.scheme == "https" and parts.netloc:
            return realm
        raise TransferError(
            f"{registry} sends us for a token to {realm[:200]!r}, which is not a place to trust",
            code="registry-failed",
        )


def unauthorized(registry: str, what: str, tried: bool, said: str = "") -> TransferError:
    """The error for a registry that wants to know us, or knows us and refuses."""
    if tried:
        return TransferError(
            f"{registry} refused the credentials for {what}{said}",
            code="registry-unauthorized",
            hint=f"log in to {registry} again, with an account that may do this",
        )
    return TransferError(
        f"{registry} wants a login for {what}{said}",
        code="registry-unauthorized",
        hint="check the name: registries say the same of images that do not exist; "
        f"if it is right, log in to {registry} with docker login or podman login",
    )


def _headers(response: Answer) -> list[str]:
    return response.headers.get_list("www-authenticate")


def _wanted(offered: str, needed: str) -> str:
    """What a token must allow: what the registry says, unless more is needed soon. Of a push it often hears first of
    the reading that goes before the writing."""
    allowed = {_resource(one): _actions(one) for one in needed.split()}
    covered = all(_actions(one) <= allowed.get(_resource(one), frozenset()) for one in offered.split())
    return needed if covered else offered


def _resource(scope: str) -> str:
    return scope.rpartition(":")[0]


def _actions(scope: str) -> frozenset[str]:
    return frozenset(scope.rpartition(":")[2].split(","))


def _grant(data: bytes) -> _Grant:
    fields = JsonObject.parse(data, "the registry's token", "registry-failed", _MAX_ANSWER)
    token = fields.text("token") or fields.text("access_token")
    if not token or not token.isascii() or not token.isprintable():
        raise UntrustedDataError("the registry gave no usable token", code="registry-failed")
    life = float(fields.integer("expires_in")) or _DEFAULT_LIFE
    return _Grant(f"Bearer {token}", time.monotonic() + life * _SHARE_OF_LIFE)
