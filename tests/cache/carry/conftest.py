"""An S3 server on loopback."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server that speaks the real protocol, for the whole run."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_options(s3_endpoint: str) -> dict[str, str]:
    return {"endpoint_url": s3_endpoint, "key": "somebody", "secret": "anything"}


@pytest.fixture
def make_bucket(s3_options: dict[str, str]) -> Callable[[], str]:
    """Makes a bucket; gives its name."""
    import s3fs

    def make() -> str:
        name = f"bucket-{uuid.uuid4().hex}"
        s3fs.S3FileSystem(**s3_options, skip_instance_cache=True).mkdir(name)
        return name

    return make
