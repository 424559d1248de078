"""Layers that a manifest has elsewhere (`urls`): Docker's foreign layers, OCI's non-distributable ones.

Whoever wrote the manifest chose the addresses: nothing that is secret goes there, and not every address is asked.
Source: OCI image spec, descriptor.md, "urls"; Docker's `layerDescriptor.open`, for the order.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.images.descriptor import Descriptor
from engine.images.download import Verifier, download
from engine.images.policy import host_of, is_loopback
from engine.images.reference import Reference
from engine.images.session import Session
from engine.images.transport import BULK
from machinefile.errors import TransferError, UntrustedDataError

if TYPE_CHECKING:
    import httpx

_MOST = 8
"""Addresses that are tried."""


def fetch_foreign(session: Session, reference: Reference, verifier: Verifier) -> None:
    """Feed the verifier with what is left of its blob, from the first of the descriptor's addresses that has it.

    Raises TransferError (`blob-not-found` and what transfers raise), UntrustedDataError.
    """
    failure = _nowhere(verifier.descriptor, "names no address that may be asked")
    may_ask = partial(_may_ask_host, is_local=is_loopback(host_of(reference.registry)))
    for url in verifier.descriptor.urls[:_MOST]:
        if not _may_ask(url, may_ask):
            continue

        def open_at(offset: int, url: str = url) -> AbstractContextManager[httpx.Response]:
            return _response(session, verifier.descriptor, url, offset, may_ask)

        try:
            download(open_at, verifier, session.attempts(), session.policy)
            return
        except TransferError as error:
            failure = error
            if error.code == "digest-mismatch":  # the sink has the wrong bytes already
                break
    raise failure


def _may_ask(url: str, may_ask: Callable[[str], bool]) -> bool:
    """HTTP alone, and no login."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return False
    return may_ask(host)


def _may_ask_host(host: str, *, is_local: bool) -> bool:
    """An image from elsewhere has no business on this machine, or with what clouds have on link-local addresses,
    however the host is written and whatever its name leads to. A name that leads nowhere here may be the proxy's to
    look up."""
    if is_loopback(host):
        return is_local
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return all(_may_reach(ipaddress.ip_address(str(one[4][0])), is_local=is_local) for one in found)
    except socket.gaierror:
        return True
    except ValueError:  # also what is too long, or has what no name may have
        return False


def _may_reach(address: ipaddress.IPv4Address | ipaddress.IPv6Address, *, is_local: bool) -> bool:
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return is_local
    return not (address.is_unspecified or address.is_link_local or address.is_multicast)


@contextmanager
def _response(
    session: Session, descriptor: Descriptor, url: str, offset: int, may_ask: Callable[[str], bool]
) -> Iterator[httpx.Response]:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    transport = session.transport
    what = f"the layer {descriptor.digest}"
    bulk = descriptor.size > BULK
    with transport.exchange("GET", url, headers=headers, bulk=bulk, may_ask=may_ask) as answer:
        if answer.status_code in (404, 410):
            raise _nowhere(descriptor, f"is not at {answer.url.host}, where its manifest says it is")
        if answer.status_code == 416:
            raise UntrustedDataError(f"{what} is shorter than it should be", code="blob-truncated")
        if answer.status_code not in (200, 206):
            raise transport.failure(answer, what)
        yield answer


def _nowhere(descriptor: Descriptor, how: str) -> TransferError:
    return TransferError(
        f"the layer {descriptor.digest} {how}",
        code="blob-not-found",
        hint="the image keeps this layer outside of its registry: ask who made it where the layer is now",
    )
