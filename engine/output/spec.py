"""-o: what a build writes, and where."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from machinefile.errors import UsageError


class OutputType(Enum):
    """The kinds of output that exist."""

    OCI = "oci"
    """An OCI layout: a folder, or a tar of one."""


_LATER = {"docker", "image", "registry", "local", "tar", "disk", "machine"}


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One -o."""

    type: OutputType
    destination: Path
    tar: bool = False
    """One tar file in place of a folder."""


def parse_output(text: str) -> OutputSpec:
    """Read `type=oci,dest=PATH[,tar=true|false]`. Raises UsageError (`output-invalid`, `output-unsupported`).

    As in docker build the fields are a line of CSV, so that a path with a comma can be quoted.
    """
    fields: dict[str, str] = {}
    for field in next(csv.reader([text]), []):
        name, equals, value = field.partition("=")
        if not equals:
            raise UsageError(
                f"-o {text}: {field!r} is not NAME=VALUE", code="output-invalid", hint="write -o type=oci,dest=PATH"
            )
        fields[name.strip().lower()] = value
    kind = fields.pop("type", "")
    if kind in _LATER:
        raise UsageError(
            f"-o type={kind} is not supported yet", code="output-unsupported", hint="write -o type=oci,dest=PATH"
        )
    if kind != OutputType.OCI.value:
        raise UsageError(f"-o {text}: there is no output type {kind!r}", code="output-invalid", hint="use type=oci")
    destination = fields.pop("dest", "")
    if not destination:
        raise UsageError(f"-o {text}: dest=PATH is missing", code="output-invalid")
    tar = _flag(text, fields.pop("tar", "true" if destination.endswith(".tar") else "false"))
    if fields:
        raise UsageError(
            f"-o {text}: {next(iter(fields))!r} is not known here", code="output-invalid", hint="known: type, dest, tar"
        )
    return OutputSpec(OutputType.OCI, Path(destination), tar)


def _flag(text: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise UsageError(f"-o {text}: tar is true or false", code="output-invalid")
    return value.lower() in ("true", "1")
