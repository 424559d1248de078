"""WWW-Authenticate headers, well written and not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.images.challenge import Challenge, parse_challenges

HUB = 'Bearer realm="https://auth.example/token",service="registry",scope="repository:library/debian:pull"'


def test_a_bearer_challenge_gives_realm_service_and_scope() -> None:
    (challenge,) = parse_challenges([HUB])
    assert challenge.scheme == "bearer"
    assert challenge.get("realm") == "https://auth.example/token"
    assert challenge.get("service") == "registry"
    assert challenge.get("scope") == "repository:library/debian:pull"
    assert challenge.get("error") == ""


@pytest.mark.parametrize(
    ("headers", "schemes"),
    [
        (['Basic realm="x"', HUB], ["basic", "bearer"]),
        ([f'Basic realm="x", {HUB}'], ["basic", "bearer"]),
        (["Negotiate", "Basic"], ["negotiate", "basic"]),
        (["Negotiate abc==, Basic realm=x"], ["negotiate", "basic"]),
        ([""], []),
        ([",,,"], []),
        (["basic REALM=x"], ["basic"]),
        (['Bearer realm="never closed, service="x'], ["bearer"]),
    ],
)
def test_several_challenges_are_told_apart(headers: list[str], schemes: list[str]) -> None:
    found = [challenge.scheme for challenge in parse_challenges(headers)]
    assert [scheme for scheme in found if scheme in ("basic", "bearer", "negotiate")] == schemes


def test_quotes_escapes_and_spaces_are_read() -> None:
    (challenge,) = parse_challenges([r'Bearer realm = "a\"b\\c, d=e" ,service=plain'])
    assert challenge == Challenge("bearer", (("realm", r'a"b\c, d=e'), ("service", "plain")))


@given(st.lists(st.text(max_size=80), max_size=3))
def test_any_header_is_read_without_failing(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme


@pytest.mark.parametrize("text", ['"' * 100_000, 'a="' * 50_000, "a=" * 50_000, "a" * 100_000, "\\" * 100_000])
def test_a_header_made_to_take_long_does_not(text: str) -> None:
    began = time.monotonic()
    parse_challenges([text])
    assert time.monotonic() - began < 2
