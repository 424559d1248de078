"""Making the machine of an image: SNAPSHOT and -o type=machine."""

from __future__ import annotations

import hashlib
import os
import threading
import time

from cache.store import Store
from engine.debug import DEFAULT_PATH
from engine.events import Note, Observer, Outcome, StepEnded, StepOutput, StepStarted
from engine.images.descriptor import Descriptor
from engine.layers.entry import EntryType
from engine.layerstore import LayerStore
from engine.machines.fit import situation_of
from engine.machines.library import MANIFEST, Library, Machine
from engine.machines.manifest import VERSION, MachineManifest, Part, Program, parse_machine
from engine.machines.ready import LastLines, waiter
from engine.machines.sparse import digest_of_runs
from engine.output.image import BuiltImage, rfc3339
from engine.steps.run import identity_of, with_home
from engine.vm.agent import agent_path
from engine.vm.execution import Execution, GuestFile
from engine.vm.freezer import Freezer
from engine.vm.frozen import MACHINE_ID, Frozen, disk_errors
from engine.vm.qemu import QemuHypervisor
from machinefile.errors import InterruptedBuildError, MbuildError, StepError
from machinefile.imageconfig import ImageConfig
from machinefile.steps import MachineShape, Snapshot
from machinefile.values import dataclass

_STEP = "snapshot"
"""The step's id in events."""
_HOSTNAME = "mbuild"


@dataclass(frozen=True, slots=True)
class MachineMaker:
    """Makes machines of the images of a store, and keeps them there."""

    store: Store
    hypervisor: QemuHypervisor
    observer: Observer
    cancelled: threading.Event

    def make(
        self, image: BuiltImage, config: ImageConfig, snapshot: Snapshot, shape: MachineShape, layers: LayerStore
    ) -> Machine:
        """The machine of an image, made unless the store has it.

        Raises StepError (`machine-no-command`, `machine-entrypoint-ended`, `machine-not-ready`,
        `machine-no-healthcheck`, `user-unknown`), UntrustedDataError (`layer-too-large`), HostError,
        InterruptedBuildError.
        """
        label = f"SNAPSHOT --ready={snapshot.ready}" if snapshot.ready else "SNAPSHOT"
        key = self._key(image, snapshot, shape)
        library = Library(self.store)

        def waiting() -> None:
            self.observer(Note(f"waiting for another mbuild that makes {label}"))

        with self.store.lock(f"machine {key}", cancelled=self.cancelled, waiting=waiting):
            machine = library.get(key)
            if machine is not None:
                self.observer(StepEnded(_STEP, label, Outcome.CACHED))
            else:
                machine = self._told(label, key, library, image, config, snapshot, shape, layers)
            library.remember(image.digest, key)
        return machine

    def has(self, image: BuiltImage, snapshot: Snapshot, shape: MachineShape) -> bool:
        """Whether the store has the machine of an image. Makes no template. Raises HostError, InterruptedBuildError."""
        library = Library(self.store)
        # Without any machine of it, what this host can do need not be found out.
        return library.of(image.digest) is not None and library.get(self._key(image, snapshot, shape)) is not None

    def _key(self, image: BuiltImage, snapshot: Snapshot, shape: MachineShape) -> str:
        # The template's own key holds QEMU, kernel, agent, accelerator and what the hardware is.
        template = self.hypervisor.template_key(shape, self.cancelled)
        cpu = situation_of(self.hypervisor, self.cancelled).cpu
        parts = ("machine", str(VERSION), image.digest, snapshot.ready, str(shape.disk), template, cpu)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def _told(
        self,
        label: str,
        key: str,
        library: Library,
        image: BuiltImage,
        config: ImageConfig,
        snapshot: Snapshot,
        shape: MachineShape,
        layers: LayerStore,
    ) -> Machine:
        self.observer(StepStarted(_STEP, label))
        begun = time.monotonic()
        try:
            execution, program = self._execution(image, config, shape, layers)
            with library.making(key) as folder:
                said = LastLines(lambda stream, data: self.observer(StepOutput(_STEP, stream, data)))
                freezer = Freezer(self.hypervisor, self.store.vm_folder)
                frozen = freezer.freeze(execution, waiter(snapshot, config, said), folder, said, self.cancelled)
                manifest = self._describe(frozen, image, config, program, snapshot)
                data = manifest.to_json()
                parse_machine(data, "the machine")  # one that nobody would read is not kept
                with disk_errors(folder):
                    (folder / MANIFEST).write_bytes(data)
        except MbuildError as error:
            outcome = Outcome.CANCELLED if isinstance(error, InterruptedBuildError) else Outcome.FAILED
            self.observer(StepEnded(_STEP, label, outcome, time.monotonic() - begun, error.message))
            raise
        self.observer(StepEnded(_STEP, label, Outcome.DONE, time.monotonic() - begun))
        return Machine(library.path(key), manifest)

    def _execution(
        self, image: BuiltImage, config: ImageConfig, shape: MachineShape, layers: LayerStore
    ) -> tuple[Execution, Program]:
        argv = (*(config.entrypoint or ()), *(config.cmd or ()))
        if not argv:
            raise StepError(
                "a machine holds the program that its image starts, and the image has no ENTRYPOINT and no CMD",
                code="machine-no-command",
                hint="add CMD or ENTRYPOINT",
            )
        account = layers.view(image.layers).users.account(config.user)
        environment = dict(config.env)
        environment.setdefault("PATH", DEFAULT_PATH)
        program = Program(
            config.entrypoint or (),
            config.cmd or (),
            with_home(tuple(sorted(environment.items())), account),
            identity_of(account),
            config.working_dir or "/",
        )
        execution = Execution(
            disks=layers.disks(image.layers),
            argv=argv,
            environment=program.environment,
            identity=program.identity,
            working_dir=program.working_dir,
            shape=shape,
            hostname=_HOSTNAME,
            files=_laid_over(layers, image),
            capture=False,
        )
        return execution, program

    def _describe(
        self, frozen: Frozen, image: BuiltImage, config: ImageConfig, program: Program, snapshot: Snapshot
    ) -> MachineManifest:
        paths = [(name, frozen.folder / name) for name in frozen.parts()]
        return MachineManifest(
            situation=situation_of(self.hypervisor, self.cancelled),
            shape=frozen.shape,
            program=program,
            ready=snapshot.ready,
            ports=config.exposed_ports,
            image=Descriptor(image.manifest.media_type, image.digest, image.size),
            kernel=self.hypervisor.kernel.version,
            agent=f"sha256:{hashlib.sha256(agent_path().read_bytes()).hexdigest()}",
            layers=frozen.layers,
            tag=frozen.tag,
            machine_id=frozen.machine_id,
            parts=tuple(Part(name, path.stat().st_size, digest_of_runs(path)) for name, path in paths),
            created=rfc3339(time.time()),
        )


def _laid_over(layers: LayerStore, image: BuiltImage) -> tuple[GuestFile, ...]:
    """A machine id of its own over that of the image, if it has one: each copy writes it anew, and quickly."""
    found = layers.view(image.layers).lookup(MACHINE_ID.lstrip("/"))
    if found is None or found.entry.type is not EntryType.FILE:
        return ()
    return (GuestFile(MACHINE_ID, f"{os.urandom(16).hex()}\n".encode(), 0o444),)
