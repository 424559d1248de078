"""Proxies as a step sees them."""

from __future__ import annotations

import pytest

from engine.steps.proxies import for_guest


@pytest.mark.parametrize(
    ("given", "seen", "ports"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", ()),
        ("http://127.0.0.1:3128", "http://10.0.2.2:3128", (3128,)),
        ("http://u:p@localhost:8080/x", "http://u:p@10.0.2.2:8080/x", (8080,)),
        ("http://[::1]:9/", "http://10.0.2.2:9/", (9,)),
        ("socks5://127.1.2.3", "socks5://10.0.2.2", (1080,)),
        ("http://localhost", "http://10.0.2.2", (80,)),
        ("LOCALHOST:81", "10.0.2.2:81", (81,)),
        ("http://host.mbuild.internal:5", "http://10.0.2.2:5", (5,)),
        ("http://[fd00::1]:9/", "http://[fd00::1]:9/", ()),
        ("", "", ()),
    ],
)
def test_a_proxy_on_the_hosts_loopback_is_at_the_gateway(given: str, seen: str, ports: tuple[int, ...]) -> None:
    assert for_guest((("HTTP_PROXY", given),)) == ((("HTTP_PROXY", seen),), frozenset(ports))


def test_exceptions_stay_as_they_are() -> None:
    exceptions = (("NO_PROXY", "localhost"), ("no_proxy", "127.0.0.1"))
    assert for_guest(exceptions) == (exceptions, frozenset())
