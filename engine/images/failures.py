"""What goes wrong with an exchange, in our words, whichever client it was made with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from engine.images.retry import RetryableError
from machinefile.errors import TransferError

_REFUSED_IDENTITY = (
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_UNKNOWN_CA",
    "ALERT_HANDSHAKE_FAILURE",
)
"""What OpenSSL calls a server's refusals of a client certificate, in OpenSSL's words for the reason of an error."""


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Turn what httpx raises into TransferError (`registry-unreachable`, `registry-untrusted-certificate`,
    `registry-unauthorized`, `registry-failed`) or RetryableError."""
    import httpx

    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise unreachable(host, error) from error
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise broken(host, error) from error
    except httpx.HTTPError as error:
        if _is_http2(error.__cause__):  # the server ended what we were still sending
            raise broken(host, error) from error
        raise failed(f"{host} cannot be asked: {error}") from error
    except Exception as error:
        if _is_http2(error):  # httpcore lets pass what goes wrong while a body is read: a short one, for instance
            raise broken(host, error) from error
        raise


def _is_http2(error: BaseException | None) -> bool:
    """Whether the error is HTTP/2's, or stands for one. Imports nothing: without h2 there is none."""
    h2 = sys.modules.get("h2.exceptions")
    if h2 is None or error is None:
        return False
    return any(isinstance(one, h2.ProtocolError) for one in (error, *error.args))


def broken(host: str, error: Exception) -> TransferError | RetryableError:
    """What to raise for a connection that ended too early, or says nothing."""
    text = str(error) or "no answer in time"
    if any(alert in text for alert in _REFUSED_IDENTITY):
        return TransferError(
            f"{host} refuses this client's certificate, or the lack of one: {text}",
            code="registry-unauthorized",
            hint="name a certificate and its key as client-cert and client-key in registries.toml",
        )
    return RetryableError(failed(f"the connection to {host} broke: {text}"))


def unreachable(host: str, error: Exception) -> TransferError | RetryableError:
    """What to raise when there is no connection to a host."""
    text = str(error) or "no answer in time"
    if any(alert in text for alert in _REFUSED_IDENTITY):
        return broken(host, error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return TransferError(
            f"the certificate of {host} is not trusted: {text}",
            code="registry-untrusted-certificate",
            hint="put its authority's certificate into a file and name that as ca in registries.toml, "
            "with --registry-ca, or in SSL_CERT_FILE",
        )
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return TransferError(
            f"{host} does not speak TLS",
            code="registry-unreachable",
            hint="if it may be trusted in plain HTTP, say plain-http = true in registries.toml, "
            "or name it with --plain-http or in MBUILD_INSECURE_REGISTRIES",
        )
    error_told = TransferError(
        f"{host} cannot be reached: {text}",
        code="registry-unreachable",
        hint="check the name, the network and the proxy settings",
    )
    return RetryableError(error_told, connecting=True)


def failed(message: str) -> TransferError:
    """A registry's failure that has no name of its own."""
    return TransferError(message, code="registry-failed", hint="try again, or ask who runs the registry")
