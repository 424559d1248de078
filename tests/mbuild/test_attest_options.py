"""--attest and its shorter forms."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

import pytest

from engine.attest.spec import DEFAULT_BUILDER, NO_ATTESTATIONS, AttestSpec, ProvenanceMode
from machinefile.errors import UsageError
from mbuild.attest import add_attest_options, read_attestations, with_values
from mbuild.commands.attest import main

MIN = AttestSpec(ProvenanceMode.MIN)
MAX = AttestSpec(ProvenanceMode.MAX)


def read(*words: str) -> tuple[AttestSpec, list[str]]:
    parser = argparse.ArgumentParser()
    add_attest_options(parser)
    options, rest = parser.parse_known_args(with_values(words))
    return read_attestations(options), rest


@pytest.mark.parametrize(
    ("words", "spec"),
    [
        ([], NO_ATTESTATIONS),
        (["--attest", "type=provenance"], MIN),
        (["--attest=type=provenance,mode=max,version=v1"], MAX),
        (["--attest", "type=sbom"], AttestSpec(sbom=True)),
        (["--attest", "type=sbom,disabled=true"], NO_ATTESTATIONS),
        (["--provenance"], MIN),
        (["--provenance=true"], MIN),
        (["--provenance", "mode=max"], MAX),
        (["--provenance=false"], NO_ATTESTATIONS),
        (["--attest", "type=provenance", "--provenance=0"], NO_ATTESTATIONS),
        (["--sbom", "1"], AttestSpec(sbom=True)),
        (
            ["--attest", "type=provenance,builder-id=https://ci.example"],
            AttestSpec(ProvenanceMode.MIN, "https://ci.example"),
        ),
        (["--sbom", "--attest-key", "k"], AttestSpec(None, DEFAULT_BUILDER, True, Path("k"))),
        (["--sbom=true,key=k"], None),
        (["--attest", "type=sbom,key=k"], AttestSpec(sbom=True, key=Path("k"))),
    ],
)
def test_the_words_of_docker_buildx_are_understood(words: list[str], spec: AttestSpec | None) -> None:
    if spec is None:
        with pytest.raises(UsageError):
            read(*words)
    else:
        assert read(*words) == (spec, [])


def test_an_option_that_stands_alone_does_not_take_the_context_for_its_value() -> None:
    assert read("--sbom", ".") == (AttestSpec(sbom=True), ["."])
    assert read("--provenance", "./a=b") == (MIN, ["./a=b"])


@pytest.mark.parametrize(
    "words",
    [
        ["--attest", "type=vex"],
        ["--attest", "mode=max"],
        ["--attest", "type=sbom,generator=image"],
        ["--attest", "type=sbom,mode=max"],
        ["--attest", "type=provenance,version=v0.2"],
        ["--attest", "type=provenance,mode=most"],
        ["--attest", "type=provenance,disabled=perhaps"],
        ["--attest", "type=provenance,mode=min,mode=max"],
        ["--attest", "provenance"],
        ["--attest", "type=sbom,key=a", "--attest-key", "b"],
        ["--attest-key", "a"],
    ],
)
def test_what_is_not_understood_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        read(*words)
    assert refused.value.code == "bad-attest"


def test_an_option_that_stands_alone_does_not_take_another_option_for_its_value() -> None:
    words = ("--sbom", "--provenance=mode=max", ".")
    assert read(*words) == (AttestSpec(ProvenanceMode.MAX, sbom=True), ["."])


def test_a_mode_without_a_provenance_is_refused() -> None:
    with pytest.raises(UsageError, match="--mode is for"):
        main(["--mode", "max", "app:1"], threading.Event())
