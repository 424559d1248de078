"""Builds without QEMU and without a registry: the fakes that ship with the engine, put together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from layer_support import changes_of, file_item, obey, tar_of

from cache.store import Store
from engine.driver import Driver
from engine.events import Event
from engine.images.config import ImageConfiguration, parse_configuration
from engine.images.fake import FakeImageSource
from engine.images.manifest import Manifest, parse_manifest
from engine.layers.compression import decompress
from engine.layers.entry import Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.tarread import LayerReader
from engine.layers.tarwrite import Item
from engine.lookup import CachePolicy
from engine.output.spec import OutputSpec
from engine.plan import Plan
from engine.report import BuildReport
from engine.request import BuildRequest
from engine.vm.fake import FakeSandbox
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import ImageConfig
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.source import Source

__all__ = ["FakeImageSource", "FakeSandbox", "Workshop", "changes_of", "file_item", "obey", "tar_of"]

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\n"


@dataclass
class Workshop:
    """A store, a fake registry with the image `base`, a fake sandbox, and a context."""

    folder: Path
    store: Store
    source: FakeImageSource
    sandbox: FakeSandbox
    events: list[Event] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def context(self) -> Path:
        """The build context."""
        return self.folder / "context"

    def write(self, path: str, content: str = "") -> None:
        """Put a file into the context."""
        (self.context / path).parent.mkdir(parents=True, exist_ok=True)
        (self.context / path).write_text(content or path)

    def request(
        self,
        text: str,
        *,
        names: tuple[str, ...] = (),
        outputs: tuple[OutputSpec, ...] = (),
        ignore: str = "",
        use_cache: bool = True,
        jobs: int = 0,
        **options: object,
    ) -> BuildRequest:
        """A request for a Machinefile's text."""
        return BuildRequest(
            parse(Source("Machinefile", text)),
            self.context,
            IgnoreRules.parse(ignore),
            BuildOptions(**options),  # type: ignore[arg-type]
            names,
            outputs,
            CachePolicy(use=use_cache),
            jobs=jobs,
        )

    @property
    def driver(self) -> Driver:
        """A fresh driver over the same store."""
        return Driver(self.store, self.source, lambda: self.sandbox, self.events.append, self.cancelled)

    def plan(self, text: str, **options: object) -> Plan:
        """Plan it."""
        return self.driver.plan(self.request(text, **options))  # type: ignore[arg-type]

    def build(self, text: str, **options: object) -> BuildReport:
        """Build it."""
        return self.driver.build(self.request(text, **options))  # type: ignore[arg-type]

    def image(self, digest: str) -> tuple[Manifest, ImageConfiguration]:
        """An image of the store."""
        manifest = parse_manifest(self.store.blobs.read(digest))
        assert isinstance(manifest, Manifest)
        return manifest, parse_configuration(self.store.blobs.read(manifest.config.digest))

    def layers(self, digest: str) -> list[dict[str, tuple[Entry, bytes]]]:
        """What is in each of an image's layers: path to entry and content."""
        found = []
        for descriptor in self.image(digest)[0].layers:
            with self.store.blobs.open(descriptor.digest) as blob:
                reader = LayerReader(decompress(blob, LayerLimits()), LayerLimits())
                found.append({member.entry.path: (member.entry, member.content.read()) for member in reader})
        return found

    def files(self, digest: str) -> dict[str, bytes]:
        """The files of an image, layers put together."""
        return {
            path: content
            for layer in self.layers(digest)
            for path, (entry, content) in layer.items()
            if entry.type is EntryType.FILE
        }


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """See Workshop."""
    source = FakeImageSource()
    base = tar_of(
        Item(Entry("etc", EntryType.DIRECTORY, 0o755)),
        file_item("etc/passwd", PASSWD),
        file_item("etc/group", b"root:x:0:\nada:x:1001:\nwheel:x:10:ada\n"),
        Item(Entry("bin", EntryType.DIRECTORY, 0o755)),
        file_item("bin/sh", b"a shell", 0o755),
    )
    config = ImageConfig(env=(("PATH", "/bin"), ("LANG", "C")), cmd=("/bin/sh",))
    source.add("base", [base], config)
    (tmp_path / "context").mkdir()
    with Store(tmp_path / "store") as store:
        yield Workshop(tmp_path, store, source, FakeSandbox(obey))
