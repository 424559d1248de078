"""RUN --mount."""

from __future__ import annotations

import posixpath
import re
from dataclasses import field

from machinefile.building import Building
from machinefile.commas import QuotesError, split_commas
from machinefile.errors import MachinefileError
from machinefile.flags import flag_value
from machinefile.instructions import Flag, Instruction
from machinefile.paths import clean, join
from machinefile.sizes import parse_size
from machinefile.steps import FromContext, FromNothing, Mount, MountType, Origin, Sharing
from machinefile.suggest import did_you_mean
from machinefile.values import dataclass

_NAMES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_KNOWN = tuple(
    "type from source target readonly readwrite required id sharing size mode uid gid env".split()  # noqa: SIM905
)
_SWITCHES = ("readonly", "readwrite", "required")
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_ONLY = {
    "size": (MountType.TMPFS,),
    "sharing": (MountType.CACHE,),
    "required": (MountType.SECRET, MountType.SSH),
    "env": (MountType.SECRET,),
    "mode": (MountType.CACHE, MountType.SECRET, MountType.SSH),
    "uid": (MountType.CACHE, MountType.SECRET, MountType.SSH),
    "gid": (MountType.CACHE, MountType.SECRET, MountType.SSH),
    "from": (MountType.BIND, MountType.CACHE),
}
"""Options that only some types of mount take. Source: BuildKit's validateMount."""


@dataclass(slots=True)
class _Request:
    """A --mount while it is read."""

    building: Building
    instruction: Instruction
    flag: Flag
    options: dict[str, str] = field(default_factory=dict)

    def fail(self, message: str, hint: str = "") -> MachinefileError:
        return self.building.fail(self.instruction, message, "bad-mount", hint, self.flag)

    def text(self, name: str, default: str = "") -> str:
        return self.options.get(name, default)

    def switch(self, name: str, default: bool) -> bool:
        value = self.options.get(name)
        if value is None:
            return default
        if value not in _TRUE and value not in _FALSE:
            raise self.fail(f"{name} is true or false, not {value or 'empty'}")
        return value in _TRUE

    def number(self, name: str, base: int) -> int | None:
        value = self.options.get(name)
        if value is None:
            return None
        digits = r"[0-7]{1,11}" if base == 8 else r"[0-9]{1,10}"
        if not re.fullmatch(digits, value):
            raise self.fail(f"{name} is {'an octal' if base == 8 else 'a'} number, not {value or 'empty'}")
        return int(value, base)


def resolve_mounts(building: Building, instruction: Instruction) -> tuple[Mount, ...]:
    """The mounts of a RUN. Raises MachinefileError for the first that is wrong."""
    agents = 0
    mounts = []
    for flag in instruction.flags_named("mount"):
        request = _Request(building, instruction, flag)
        kind = _read(request)
        mount = _BUILDERS[kind](request) if kind is not MountType.SSH else _ssh(request, agents)
        agents += kind is MountType.SSH
        mounts.append(mount)
    return tuple(mounts)


def _read(request: _Request) -> MountType:
    """Fill in the options; what the mount is of."""
    value = flag_value(request.flag)
    try:
        fields = split_commas(value)
    except QuotesError:
        raise request.fail("the quotes in --mount do not match") from None
    for part in fields:
        name, separator, written = part.partition("=")
        name = _NAMES.get(name.lower(), name.lower())
        if name not in _KNOWN:
            hint = did_you_mean(name, (*_KNOWN, *_NAMES), f"options are {', '.join(_KNOWN)}")
            raise request.fail(f"--mount does not know {name or 'an empty option'}", hint)
        if not separator and name not in _SWITCHES:
            raise request.fail(f"--mount needs a value for {name}", f"write {name}=VALUE")
        if name == "from" and "$" in written:
            hint = "name a stage with FROM $NAME AS stage, and mount from that"
            raise request.fail("variables don't work in a mount's from", hint)
        text = request.building.expand(request.instruction, written, request.flag).text
        request.options[name] = text if separator else "true"
    return _kind(request)


def _kind(request: _Request) -> MountType:
    text = request.text("type", "bind")
    try:
        kind = MountType(text.lower())
    except ValueError:
        known = [each.value for each in MountType]
        raise request.fail(
            f"{text or 'nothing'} is not a type of mount", did_you_mean(text, known, ", ".join(known))
        ) from None
    for name, kinds in _ONLY.items():
        if name in request.options and kind not in kinds:
            raise request.fail(f"a {kind.value} mount takes no {name}", f"{name} is for {_either(kinds)}")
    return kind


def _either(kinds: tuple[MountType, ...]) -> str:
    return " and ".join(f"type={kind.value}" for kind in kinds)


def _target(request: _Request) -> str:
    target = join(request.building.directory, request.text("target"))
    if target == "/":
        raise request.fail("a mount can't cover the root", "give it a target=, for example target=/src")
    return target


def _origin(request: _Request, default: Origin) -> Origin:
    name = request.text("from")
    return request.building.link(request.instruction, request.flag, name) if name else default


def _read_only(request: _Request, default: bool) -> bool:
    if "readwrite" in request.options:
        return not request.switch("readwrite", True)
    return request.switch("readonly", default)


def _bind(request: _Request) -> Mount:
    return Mount(
        MountType.BIND,
        _target(request),
        origin=_origin(request, FromContext()),
        source=clean(request.text("source")),
        read_only=_read_only(request, True),
    )


def _cache(request: _Request) -> Mount:
    target = _target(request)
    sharing = request.text("sharing", "shared").lower()
    known = [each.value for each in Sharing]
    if sharing not in known:
        raise request.fail(f"sharing can't be {sharing or 'empty'}", did_you_mean(sharing, known, ", ".join(known)))
    return Mount(
        MountType.CACHE,
        target,
        origin=_origin(request, FromNothing()),
        source=clean(request.text("source")),
        read_only=_read_only(request, False),
        id=request.text("id") or posixpath.normpath(request.text("target") or target),
        sharing=Sharing(sharing),
        mode=request.number("mode", 8),
        uid=request.number("uid", 10),
        gid=request.number("gid", 10),
    )


def _tmpfs(request: _Request) -> Mount:
    size = None
    if "size" in request.options:
        try:
            size = parse_size(request.text("size"))
        except ValueError:
            message = f"size is a size such as 512M, not {request.text('size') or 'empty'}"
            raise request.fail(message, "for example size=512M") from None
    return Mount(MountType.TMPFS, _target(request), read_only=_read_only(request, False), size=size)


def _secret(request: _Request) -> Mount:
    if "source" in request.options and "id" in request.options:
        raise request.fail("source and id of a secret are the same thing", "keep id=")
    variable, target = request.text("env"), request.text("target")
    identity = request.text("source") or request.text("id") or posixpath.basename(target)
    if not identity:
        raise request.fail("a secret needs an id", "for example --mount=type=secret,id=token")
    if target:
        target = join(request.building.directory, target)
    elif not variable:
        target = f"/run/secrets/{posixpath.basename(identity)}"
    return Mount(
        MountType.SECRET,
        target,
        id=identity,
        required=request.switch("required", False),
        environment=variable,
        mode=request.number("mode", 8),
        uid=request.number("uid", 10),
        gid=request.number("gid", 10),
    )


def _ssh(request: _Request, number: int) -> Mount:
    target = request.text("target")
    return Mount(
        MountType.SSH,
        join(request.building.directory, target) if target else f"/run/buildkit/ssh_agent.{number}",
        id=request.text("source") or request.text("id") or "default",
        required=request.switch("required", False),
        mode=request.number("mode", 8),
        uid=request.number("uid", 10),
        gid=request.number("gid", 10),
    )


_BUILDERS = {
    MountType.BIND: _bind,
    MountType.CACHE: _cache,
    MountType.TMPFS: _tmpfs,
    MountType.SECRET: _secret,
}
