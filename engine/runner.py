"""Starting an image of the store in a microVM."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from cache.results import Layer
from cache.store import Store
from engine.bases import Bases
from engine.images import mediatype
from engine.images.config import ImageConfiguration, parse_configuration
from engine.images.descriptor import Descriptor
from engine.images.selection import acceptable, select
from engine.images.source import ImageSource
from engine.imagestore import find
from engine.layerstore import LayerStore
from engine.platforms import runs_here
from engine.steps.run import identity_of, with_home
from engine.vm.execution import Execution, Output, Sandbox
from machinefile.errors import TransferError, UsageError
from machinefile.platform import native

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


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


def run_image(
    image: StoredImage,
    command: tuple[str, ...],
    store: Store,
    source: ImageSource,
    sandbox: Sandbox,
    output: Output,
    cancelled: threading.Event,
) -> int:
    """Start the image as `docker run` does, `command` in place of its CMD, and give the exit code.

    Raises UsageError (`command-missing`), StepError (`user-unknown`), HostError, InterruptedBuildError.
    """
    config = image.configuration.config
    argv = (*(config.entrypoint or ()), *(command or config.cmd or ()))
    if not argv:
        raise UsageError(
            "the image has no ENTRYPOINT and no CMD",
            code="command-missing",
            hint="say what to run: mbuild run NAME CMD",
        )
    layers = LayerStore(store, Bases(store, source, lambda event: None, cancelled))
    account = layers.view(image.layers).users.account(config.user)
    environment = dict(config.env)
    environment.setdefault("PATH", DEFAULT_PATH)
    execution = Execution(
        disks=layers.disks(image.layers),
        argv=argv,
        environment=with_home(tuple(sorted(environment.items())), account),
        identity=identity_of(account),
        working_dir=config.working_dir or "/",
        capture=False,
    )
    with sandbox.execute(execution, output, cancelled) as result:
        return result.code
