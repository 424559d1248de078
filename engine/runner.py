"""Starting an image of the store in a microVM."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path

from cache.results import Layer
from cache.store import Store
from engine.bases import Bases
from engine.context import Context
from engine.debug import DEFAULT_PATH
from engine.images import mediatype
from engine.images.config import ImageConfiguration, parse_configuration
from engine.images.descriptor import Descriptor
from engine.images.selection import acceptable, select
from engine.images.source import ImageSource
from engine.imagestore import find
from engine.layerstore import LayerStore
from engine.platforms import runs_here
from engine.secrets import Secrets
from engine.steps.mounts import MountMaker
from engine.steps.run import identity_of, with_home, with_terminal
from engine.vm.execution import Execution, Output, Sandbox
from engine.vm.mounts import BindMount, GuestMount
from engine.vm.portforward import PortForward
from engine.vm.session import Session
from machinefile.errors import TransferError, UsageError
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import Pairs
from machinefile.platform import native
from machinefile.steps import FromContext, MachineShape, Mount, MountType, NetworkMode
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of the store, ready to be started."""

    configuration: ImageConfiguration
    layers: tuple[Layer, ...]


def find_image(store: Store, name: str) -> StoredImage:
    """The image that the store keeps under a name; of an index the one for this machine.

    Raises UsageError (`image-unknown`, `image-foreign`), StoreError.
    """
    named = find(store, name)
    root = Descriptor(named.media_type, named.digest, named.size)
    try:
        _, manifest, _ = select(root, native(), lambda descriptor: store.blobs.read(descriptor.digest), name)
    except TransferError as error:
        raise _foreign(error.message) from error
    configuration = parse_configuration(store.blobs.read(manifest.config.digest))
    platform = configuration.platform
    if platform is not None and platform not in acceptable(native()) and not runs_here(platform):
        raise _foreign(f"{name} is an image for {platform}, and this machine is {native()}")
    layers = tuple(
        Layer(diff_id, layer.digest, layer.size, layer.media_type or mediatype.OCI_LAYER_GZIP)
        for layer, diff_id in zip(manifest.layers, configuration.diff_ids, strict=True)
    )
    return StoredImage(configuration, layers)


def _foreign(message: str) -> UsageError:
    return UsageError(
        message,
        code="image-foreign",
        hint=f"build it for this machine too: --platform=...,{native()}; an emulator is not there yet",
    )


DEFAULT_HOSTNAME = "mbuild"


@dataclass(frozen=True, slots=True)
class Volume:
    """A folder of this machine that the guest gets to see as it is now, and cannot change."""

    folder: Path
    target: str
    """Absolute, in the guest."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """How an image is to be started; what is not said is as the image has it."""

    command: tuple[str, ...] = ()
    """In place of CMD."""
    entrypoint: str | None = None
    """In place of ENTRYPOINT; the image's CMD is then left out too."""
    environment: Pairs = ()
    user: str | None = None
    working_dir: str | None = None
    hostname: str = ""
    """Empty for `mbuild`, or for a machine that is restored for one at random."""
    shape: MachineShape = field(default_factory=MachineShape)
    network: NetworkMode = NetworkMode.DEFAULT
    ports: tuple[PortForward, ...] = ()
    volumes: tuple[Volume, ...] = ()
    session: Session | None = None


def run_image(
    image: StoredImage,
    request: RunRequest,
    store: Store,
    source: ImageSource,
    sandbox: Sandbox,
    output: Output,
    cancelled: threading.Event,
) -> int:
    """Start the image as `docker run` does and give the exit code.

    Raises UsageError (`command-missing`), StepError (`user-unknown`), HostError, InterruptedBuildError.
    """
    config = image.configuration.config
    layers = LayerStore(store, Bases(store, source, lambda event: None, cancelled))
    account = layers.view(image.layers).users.account(config.user if request.user is None else request.user)
    environment = {"PATH": DEFAULT_PATH, **dict(config.env), **dict(request.environment)}
    pairs = with_home(tuple(sorted(environment.items())), account)
    execution = Execution(
        disks=layers.disks(image.layers),
        argv=argv_of(config.entrypoint or (), config.cmd or (), request),
        environment=with_terminal(pairs) if request.session and request.session.size else pairs,
        identity=identity_of(account),
        working_dir=request.working_dir or config.working_dir or "/",
        shape=request.shape,
        network=request.network,
        hostname=request.hostname or DEFAULT_HOSTNAME,
        capture=False,
        session=request.session,
        ports=request.ports,
        mounts=mounts_of(request.volumes, store, layers),
    )
    with sandbox.execute(execution, output, cancelled) as result:
        return result.code


def mounts_of(volumes: Sequence[Volume], store: Store, layers: LayerStore) -> tuple[GuestMount, ...]:
    """The folders as disks of their own. Raises UsageError (`context-missing`), HostError, StoreError."""
    contexts = {str(number): Context(volume.folder, IgnoreRules.parse("")) for number, volume in enumerate(volumes)}
    maker = MountMaker(store, layers, lambda step: (), contexts, Secrets(), lambda line: None)
    mounts: list[GuestMount] = []
    for name, volume in zip(contexts, volumes, strict=True):
        files = maker.files_of(Mount(MountType.BIND, volume.target, FromContext(name)))
        mounts.append(BindMount(volume.target, layers.disks(files.layers), f"/{files.path}"))
    return tuple(mounts)


def argv_of(entrypoint: Sequence[str], cmd: Sequence[str], request: RunRequest) -> tuple[str, ...]:
    """What is started. Raises UsageError `command-missing`."""
    if request.entrypoint is None:
        argv = (*entrypoint, *(request.command or cmd))
    else:
        argv = (*([request.entrypoint] if request.entrypoint else []), *request.command)
    if not argv:
        raise UsageError(
            "the image has no ENTRYPOINT and no CMD",
            code="command-missing",
            hint="say what to run: mbuild run NAME CMD",
        )
    return argv
