"""What a machine says about itself: machine.json in its folder, and the configuration of its artifact."""

from __future__ import annotations

import re
from pathlib import Path

from engine.images.descriptor import Descriptor
from engine.images.jsonvalue import JsonObject, dump
from engine.layers.limits import VARIABLE, LayerLimits
from engine.vm.accelerator import Accelerator
from engine.vm.execution import Identity
from engine.vm.frozen import CHANGES, ENTRIES, Frozen, MachineId
from engine.vm.guestdisks import LEAD
from machinefile.imageconfig import Pairs
from machinefile.steps import MachineShape
from machinefile.values import dataclass

VERSION = 1
"""Raise it when a machine made before can no longer be read."""
MAX_BYTES = 1 << 20
_INVALID = "machine-invalid"
_MOST_MEMORY = 1 << 42
_MOST_DISK = 1 << 44
_MOST_CPUS = 256
_MOST_LAYERS = 250
_SECTOR = 512
_MIB = 1 << 20
_MOST_BYTES = {"cmdline": 64 << 10, "kernel": 512 << 20, "initrd": 512 << 20, "state": 512 << 20}
"""Of parts whose size nothing else says."""
_SHORTER = 16 * _MIB
"""Bytes that a disk may lack of what was asked for: mke2fs leaves out a last group that is too small for its tables."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a machine's memory and devices fit: nothing else can run it on."""

    architecture: str
    """Of the processor, as Go writes it."""
    accelerator: str
    cpu: str
    """The model that the guest sees."""
    qemu: str
    """QEMU's version."""
    hardware: int
    """The version of mbuild's QEMU command line."""

    def difference(self, here: Situation) -> str:
        """In words, what is other here; empty where nothing is."""
        words = {
            "architecture": "a processor of the architecture",
            "accelerator": "the accelerator",
            "cpu": "the processor",
            "qemu": "QEMU",
            "hardware": "virtual hardware of version",
        }
        for name, what in words.items():
            theirs, ours = getattr(self, name), getattr(here, name)
            if theirs != ours:
                return f"it was made for {what} {theirs}, and this is {ours}"
        return ""


@dataclass(frozen=True, slots=True)
class Program:
    """What runs in it, for starting it again from its disk."""

    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    environment: Pairs
    identity: Identity
    working_dir: str


@dataclass(frozen=True, slots=True)
class Part:
    """One of its files."""

    name: str
    size: int
    """Bytes, holes among them."""
    digest: str
    """Of its content as sparse.py writes it."""


@dataclass(frozen=True, slots=True)
class MachineManifest:
    """All there is to know of a machine but its parts' bytes."""

    situation: Situation
    shape: MachineShape
    program: Program
    ready: str
    """What was waited for: SNAPSHOT's --ready."""
    ports: tuple[str, ...]
    """Those that the image exposes: `8080/tcp`."""
    image: Descriptor
    """The manifest of the image that it was made of."""
    kernel: str
    """The version of the guest's kernel."""
    agent: str
    """The digest of the guest's agent."""
    layers: tuple[int, ...]
    """Bytes of each layer in the part `layers`, lowest first."""
    tag: int
    machine_id: MachineId
    parts: tuple[Part, ...]
    created: str = ""
    """RFC 3339."""

    def frozen(self, folder: Path) -> Frozen:
        """The machine as the hypervisor takes it, its parts in `folder`."""
        accelerator = Accelerator(self.situation.accelerator)
        return Frozen(folder, self.shape, accelerator, self.layers, self.tag, self.machine_id)

    def to_json(self) -> bytes:
        """The bytes of machine.json."""
        program, identity = self.program, self.program.identity
        return dump(
            {
                "version": VERSION,
                "created": self.created,
                "situation": {
                    "architecture": self.situation.architecture,
                    "accelerator": self.situation.accelerator,
                    "cpu": self.situation.cpu,
                    "qemu": self.situation.qemu,
                    "hardware": self.situation.hardware,
                },
                "shape": {"cpus": self.shape.cpus, "memory": self.shape.memory, "disk": self.shape.disk},
                "program": {
                    "entrypoint": list(program.entrypoint),
                    "cmd": list(program.cmd),
                    "environment": [f"{name}={value}" for name, value in program.environment],
                    "uid": identity.uid,
                    "gid": identity.gid,
                    "groups": [str(group) for group in identity.groups],
                    "workingDir": program.working_dir,
                },
                "ready": self.ready,
                "ports": list(self.ports),
                "image": self.image.to_value(),
                "kernel": self.kernel,
                "agent": self.agent,
                "layers": [str(length) for length in self.layers],
                "tag": self.tag,
                "machineId": self.machine_id.value,
                "parts": [{"name": part.name, "size": part.size, "digest": part.digest} for part in self.parts],
            }
        )


def parse_machine(data: bytes, where: str) -> MachineManifest:
    """Read a manifest; `where` names it in messages.

    Raises UntrustedDataError (`machine-invalid`, `machine-version`, `layer-too-large`), UsageError
    (`bad-environment`).
    """
    fields = JsonObject.parse(data, where, _INVALID, MAX_BYTES)
    version = fields.integer("version")
    if version != VERSION:
        error = fields.wrong("version", f"is {version}; this mbuild knows {VERSION}")
        error.code, error.hint = "machine-version", "make the machine again from its Machinefile"
        raise error
    situation, shape, program = fields.child("situation"), fields.child("shape"), fields.child("program")
    if situation.text("accelerator") not in [one.value for one in Accelerator]:
        raise situation.wrong("accelerator", f"is not known: {situation.text('accelerator')[:80]!r}")
    manifest = MachineManifest(
        situation=Situation(
            architecture=situation.text("architecture"),
            accelerator=situation.text("accelerator"),
            cpu=situation.text("cpu"),
            qemu=situation.text("qemu"),
            hardware=situation.integer("hardware"),
        ),
        shape=MachineShape(
            cpus=_bounded(shape, "cpus", 1, _MOST_CPUS),
            memory=_bounded(shape, "memory", 1 << 20, _MOST_MEMORY),
            disk=_bounded(shape, "disk", 1 << 20, _MOST_DISK),
        ),
        program=_program(program),
        ready=fields.text("ready"),
        ports=fields.texts("ports"),
        image=Descriptor.from_json(fields.child("image")),
        kernel=fields.text("kernel"),
        agent=fields.text("agent"),
        layers=_numbers(fields, "layers", _MOST_DISK),
        tag=_bounded(fields, "tag", 1, (1 << 16) - 1),
        machine_id=_machine_id(fields),
        parts=tuple(_part(part) for part in fields.children("parts")),
        created=fields.text("created"),
    )
    _check_parts(manifest, fields)
    return manifest


def _program(fields: JsonObject) -> Program:
    pairs = (entry.partition("=") for entry in fields.texts("environment"))
    most = (1 << 32) - 2
    identity = Identity(
        _bounded(fields, "uid", 0, most), _bounded(fields, "gid", 0, most), _numbers(fields, "groups", most)
    )
    folder = fields.text("workingDir")
    if not folder.startswith("/"):
        raise fields.wrong("workingDir", "is not absolute")
    return Program(
        fields.texts("entrypoint"),
        fields.texts("cmd"),
        tuple((name, value) for name, _, value in pairs),
        identity,
        folder,
    )


def _machine_id(fields: JsonObject) -> MachineId:
    try:
        return MachineId(fields.text("machineId"))
    except ValueError:
        raise fields.wrong("machineId", "is not known") from None


def _part(fields: JsonObject) -> Part:
    name = fields.text("name")
    if name not in ENTRIES:
        raise fields.wrong("name", f"is no part of a machine: {name[:80]!r}")
    return Part(name, _bounded(fields, "size", 0, _MOST_DISK), fields.digest("digest"))


def _check_parts(manifest: MachineManifest, fields: JsonObject) -> None:
    names = [part.name for part in manifest.parts]
    wanted = manifest.frozen(Path()).parts()
    if sorted(names) != sorted(wanted):
        raise fields.wrong("parts", f"are {', '.join(names)}, not {', '.join(wanted)}")
    if len(manifest.layers) > _MOST_LAYERS or any(length % _SECTOR for length in manifest.layers):
        raise fields.wrong("layers", "are no layers")
    if not all(manifest.layers):
        raise fields.wrong("layers", "are empty")
    sizes = {part.name: part.size for part in manifest.parts}
    if sizes["ram"] != manifest.shape.memory:
        raise fields.wrong("parts", "have another amount of memory than the machine")
    if manifest.shape.memory % _MIB:
        raise fields.wrong("shape", f"has {manifest.shape.memory} bytes of memory, no whole number of MiB")
    asked = manifest.shape.disk - manifest.shape.disk % _MIB
    disk = sizes["disk"] - CHANGES
    if disk % _MIB or not max(_MIB, asked - _SHORTER) <= disk <= asked:
        raise fields.wrong("parts", "have another disk than the machine")
    for name, most in _MOST_BYTES.items():
        if sizes[name] > most:
            raise fields.wrong("parts", f"have {sizes[name]} bytes of {name}; at most {most} are taken")
    _check_layers(manifest, fields, sizes.get("layers", LEAD))


def _check_layers(manifest: MachineManifest, fields: JsonObject, size: int) -> None:
    whole, most = sum(manifest.layers), LayerLimits.from_environment().max_bytes
    if whole > most:
        error = fields.wrong("layers", f"have {whole} bytes; at most {most} are taken")
        error.code, error.hint = "layer-too-large", f"if you trust it, raise {VARIABLE}"
        raise error
    if size != LEAD + whole:
        raise fields.wrong("parts", f"have {size} bytes of layers, and the layers have {whole}")


def _bounded(fields: JsonObject, name: str, least: int, most: int) -> int:
    value = fields.integer(name)
    if not least <= value <= most:
        raise fields.wrong(name, f"is {value}, not between {least} and {most}")
    return value


def _numbers(fields: JsonObject, name: str, most: int) -> tuple[int, ...]:
    texts = fields.texts(name)
    if any(not re.fullmatch("[0-9]{1,15}", text, re.ASCII) or int(text) > most for text in texts):
        raise fields.wrong(name, "are no numbers")
    return tuple(int(text) for text in texts)
