"""--add-host, as docker build and buildx write it."""

from __future__ import annotations

import pytest

from machinefile.errors import UsageError
from machinefile.hosts import parse_hosts


@pytest.mark.parametrize(
    ("value", "pair"),
    [
        ("db:10.1.2.3", ("db", "10.1.2.3")),
        ("db=10.1.2.3", ("db", "10.1.2.3")),
        ("db.a_b:host-gateway", ("db.a_b", "host-gateway")),
        ("six:::1", ("six", "::1")),
        ("six:[2001:DB8::1]", ("six", "2001:db8::1")),
        ("six=[::1]", ("six", "::1")),
        ("six=fe80::1", ("six", "fe80::1")),
    ],
)
def test_forms(value: str, pair: tuple[str, str]) -> None:
    assert parse_hosts([value, value]) == (pair,)


def test_a_name_may_have_several_addresses_in_their_order() -> None:
    assert parse_hosts(["a:2.2.2.2", "a:1.1.1.1"]) == (("a", "2.2.2.2"), ("a", "1.1.1.1"))


@pytest.mark.parametrize(
    "value", ["", "db", "db:", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3", "a:x\n1.2.3.4 b", "a=gateway"]
)
def test_what_is_none(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_hosts([value])
    assert caught.value.code == "bad-host"
