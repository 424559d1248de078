"""--attest, --provenance and --sbom, as docker buildx reads them, and --attest-key.

Source: buildx's parser (util/buildflags/attests.go) and its documentation of the three options.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine.attest.spec import NO_ATTESTATIONS, AttestSpec, ProvenanceMode
from machinefile.commas import QuotesError, split_commas
from machinefile.errors import UsageError
from machinefile.suggest import did_you_mean

_SWITCHES = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_FIELDS = {
    "provenance": ("type", "disabled", "mode", "version", "builder-id", "key"),
    "sbom": ("type", "disabled", "key"),
}
_ELSEWHERE = {
    "generator": "mbuild reads the packages itself",
    "inline-only": "an attestation of mbuild is never only in the cache",
    "reproducible": "every attestation of mbuild is",
}
_SHORT = ("--provenance", "--sbom")


def add_attest_options(parser: argparse.ArgumentParser) -> None:
    """The options of a build."""
    add = parser.add_argument
    add(
        "--attest",
        action="append",
        default=[],
        metavar="type=provenance[,mode=max]|type=sbom",
        help="attach what is to be said about the image: where it came from, or what is in it",
    )
    add(
        "--provenance",
        action="append",
        default=[],
        metavar="true|false|mode=max",
        help="short for --attest type=provenance",
    )
    add("--sbom", action="append", default=[], metavar="true|false", help="short for --attest type=sbom")
    add_key_option(parser)


def add_key_option(parser: argparse.ArgumentParser) -> None:
    """--attest-key."""
    parser.add_argument(
        "--attest-key", default="", metavar="FILE", help="sign attestations with this private key: Ed25519 or P-256"
    )


def with_values(arguments: Sequence[str]) -> list[str]:
    """The arguments with `=true` for --provenance and --sbom that stand alone. What follows one that has no `=` is its
    value only if it can be one: `mbuild --sbom .` builds this folder."""
    found: list[str] = []
    for number, word in enumerate(arguments):
        after = arguments[number + 1] if number + 1 < len(arguments) else ""
        value = after.lower() in _SWITCHES or ("=" in after.partition("/")[0] and not after.startswith("-"))
        alone = word in _SHORT and not value
        found.append(f"{word}=true" if alone else word)
    return found


def read_attestations(options: argparse.Namespace) -> AttestSpec:
    """What was asked for; a later word for the same type wins. Raises UsageError (`bad-attest`)."""
    given = [("--attest", text) for text in getattr(options, "attest", ())]
    for name in ("provenance", "sbom"):
        given += [(f"--{name}", _long(name, text)) for text in getattr(options, name, ())]
    spec = NO_ATTESTATIONS
    keys = {options.attest_key} if getattr(options, "attest_key", "") else set()
    for flag, text in given:
        fields = _fields(flag, text)
        if key := fields.get("key", ""):
            keys.add(key)
        spec = _with(spec, flag, fields)
    if len(keys) > 1:
        raise _bad("--attest", f"two keys are named: {' and '.join(sorted(keys))}", "sign everything with one key")
    if keys and not spec.wanted:
        raise _bad("--attest-key", "there is nothing to sign", "add --attest type=provenance, or type=sbom")
    return replace(spec, key=Path(keys.pop())) if keys else spec


def _long(name: str, text: str) -> str:
    """A shorter option's value as --attest has it."""
    switch = _SWITCHES.get(text.lower())
    if switch is not None:
        return f"type={name}" if switch else f"type={name},disabled=true"
    return f"type={name},{text}"


def _fields(flag: str, text: str) -> Mapping[str, str]:
    try:
        words = split_commas(text)
    except QuotesError as error:
        raise _bad(flag, f"{text}: its quotes do not match") from error
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise _bad(flag, f"{word!r} is not NAME=VALUE", "write --attest type=provenance,mode=max")
        name = name.strip().lower()
        if name in found:
            raise _bad(flag, f"{name} is given twice")
        found[name] = value
    return found


def _with(spec: AttestSpec, flag: str, fields: Mapping[str, str]) -> AttestSpec:
    kind = fields.get("type", "")
    if kind not in _FIELDS:
        what = f"there is no attestation {kind!r}" if kind else "type is missing"
        raise _bad(flag, what, did_you_mean(kind, _FIELDS) or "types: provenance, sbom")
    for name in fields:
        if name in _ELSEWHERE:
            raise _bad(flag, f"{name} is not supported: {_ELSEWHERE[name]}", "leave it out")
        if name not in _FIELDS[kind]:
            hint = did_you_mean(name, _FIELDS[kind]) or f"known for {kind}: {', '.join(_FIELDS[kind][1:])}"
            raise _bad(flag, f"{name!r} is not known for type={kind}", hint)
    disabled = _SWITCHES.get(fields.get("disabled", "false").lower())
    if disabled is None:
        raise _bad(flag, f"disabled is true or false, not {fields['disabled']!r}")
    if kind == "sbom":
        return replace(spec, sbom=not disabled)
    if fields.get("version", "v1") != "v1":
        raise _bad(flag, f"version={fields['version']} is not supported", "mbuild writes SLSA provenance v1")
    modes = [mode.value for mode in ProvenanceMode]
    mode = fields.get("mode", ProvenanceMode.MIN.value)
    if mode not in modes:
        raise _bad(flag, f"there is no mode {mode!r}", f"modes: {', '.join(modes)}")
    builder = fields.get("builder-id", "") or spec.builder_id
    return replace(spec, provenance=None if disabled else ProvenanceMode(mode), builder_id=builder)


def _bad(flag: str, why: str, hint: str = "") -> UsageError:
    return UsageError(f"{flag}: {why}", code="bad-attest", hint=hint)
