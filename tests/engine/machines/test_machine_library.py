"""Machines in folders: what is read, what is refused, and what is written over."""

from __future__ import annotations

import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from cache.store import Store
from engine.images.descriptor import Descriptor
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.machines import make as making
from engine.machines import transfer
from engine.machines.library import MANIFEST, Library, Machine, check_destination, read_machine, write_out
from engine.machines.make import MachineMaker
from engine.machines.manifest import MachineManifest, Part, Program, Situation, parse_machine
from engine.machines.sparse import digest_of_runs
from engine.output.spec import parse_outputs
from engine.vm.disks import LEAD
from engine.vm.execution import Identity
from engine.vm.frozen import CHANGES, Frozen, MachineId
from engine.vm.qemu import QemuHypervisor
from machinefile.errors import HostError, MbuildError, MissError, UntrustedDataError, UsageError
from machinefile.steps import MachineShape, Snapshot
from mbuild.machines import find_machine

if TYPE_CHECKING:
    from conftest import Workshop

MIB = 1 << 20
LAYERS = (512, 1024)
SIZES = {
    "ram": 64 * MIB,
    "state": 10,
    "kernel": 20,
    "initrd": 30,
    "cmdline": 40,
    "disk": 32 * MIB + CHANGES,
    "layers": LEAD + sum(LAYERS),
}
DIGEST = "sha256:" + "0" * 64


def described(parts: tuple[Part, ...]) -> MachineManifest:
    return MachineManifest(
        situation=Situation("amd64", "tcg", "max", "8.2.0", 1),
        shape=MachineShape(1, 64 * MIB, 32 * MIB),
        program=Program((), ("/serve",), (), Identity(0, 0, ()), "/"),
        ready="",
        ports=(),
        image=Descriptor("application/vnd.oci.image.manifest.v1+json", DIGEST, 100),
        kernel="6.1",
        agent=DIGEST,
        layers=LAYERS,
        tag=1,
        machine_id=MachineId.NONE,
        parts=parts,
        created="2024-01-01T00:00:00Z",
    )


def put(folder: Path, fill: bytes = b"x") -> Machine:
    """A machine in a folder, as far as files go."""
    folder.mkdir(parents=True)
    for name, size in SIZES.items():
        with (folder / name).open("wb") as file:
            file.write(fill)
            file.truncate(size)
    manifest = described(tuple(Part(name, size, digest_of_runs(folder / name)) for name, size in SIZES.items()))
    (folder / MANIFEST).write_bytes(manifest.to_json())
    return Machine(folder, manifest)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def test_a_folder_named_relatively_is_made_absolute(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    found = find_machine(store, "./out")
    assert found is not None
    for machine in (found, read_machine(Path("out")), Library(store).open(Path("out"))):
        assert machine.folder == tmp_path / "out"
        spec = machine.frozen.spec("qemu", tmp_path / "disk", share=False)
        assert spec.layers is not None
        assert all(Path(path).is_absolute() for path in (spec.ram, spec.kernel, spec.initrd, spec.layers))


def test_a_name_too_long_for_a_file_is_no_machine(store: Store) -> None:
    assert find_machine(store, "a" * 5000) is None
    assert find_machine(store, "./" + "a" * 5000) is None


def test_to_ask_for_a_machine_uses_it_and_to_look_whether_it_is_there_does_not(store: Store) -> None:
    library = Library(store)
    assert not library.has("sha256:image")
    library.remember("sha256:image", "key")
    assert not library.has("sha256:image")
    put(library.path("key"))
    assert library.has("sha256:image")
    assert store.uses.times() == {}
    assert library.of("sha256:image") is not None
    assert list(store.uses.times()) == ["machines+key"]


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    fields = json.loads(described(tuple(Part(name, size, DIGEST) for name, size in SIZES.items())).to_json())
    change(fields)
    return json.dumps(fields).encode()


def resized(name: str, size: int) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        (part,) = (part for part in fields["parts"] if part["name"] == name)
        part["size"] = size

    return change


def odd_memory(fields: dict[str, Any]) -> None:
    fields["shape"]["memory"] = SIZES["ram"] + 4096
    resized("ram", SIZES["ram"] + 4096)(fields)


def large_layers(fields: dict[str, Any]) -> None:
    fields["layers"] = [str(8 << 30)] * 2 + ["512"]
    resized("layers", LEAD + (16 << 30) + 512)(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (resized("layers", SIZES["layers"] + 512), "bytes of layers"),
        (resized("layers", LEAD), "bytes of layers"),
        (resized("disk", SIZES["disk"] + MIB), "another disk"),
        (resized("disk", SIZES["disk"] - 17 * MIB), "another disk"),
        (resized("disk", SIZES["disk"] - 512), "another disk"),
        (resized("disk", 0), "another disk"),
        (resized("cmdline", (64 << 10) + 1), "bytes of cmdline;"),
        (resized("kernel", (512 << 20) + 1), "bytes of kernel;"),
        (resized("initrd", (512 << 20) + 1), "bytes of initrd;"),
        (resized("state", (512 << 20) + 1), "bytes of state;"),
        (resized("ram", SIZES["ram"] + MIB), "another amount of memory"),
        (odd_memory, "no whole number of MiB"),
        (large_layers, "bytes; at most"),
        (lambda fields: fields.update(layers=["0", str(sum(LAYERS))]), "are empty"),
    ],
)
def test_parts_of_other_sizes_than_the_machine_has_are_refused(
    change: Callable[[dict[str, Any]], None], words: str
) -> None:
    parse_machine(changed(lambda fields: None), "it")
    with pytest.raises(UntrustedDataError, match=words):
        parse_machine(changed(change), "it")


def test_a_disk_may_lack_a_group_that_mke2fs_left_out() -> None:
    parse_machine(changed(resized("disk", SIZES["disk"] - MIB)), "it")


def test_large_layers_are_taken_when_the_user_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBUILD_MAX_LAYER_BYTES", "17G")
    assert sum(parse_machine(changed(large_layers), "it").layers) == (16 << 30) + 512


def test_a_restored_machine_needs_no_command_line(tmp_path: Path) -> None:
    machine = put(tmp_path / "machine")
    (tmp_path / "machine" / "cmdline").write_bytes(b"\xff" * 40)
    assert machine.frozen.spec("qemu", tmp_path / "disk", share=False).cmdline == ""


@contextmanager
def short_files() -> Iterator[None]:
    """No file may be longer than 4 KiB (EFBIG), and so not for a moment longer than needed: a log may be one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_part_that_does_not_fit_is_an_error_that_says_so(tmp_path: Path) -> None:
    fetch = transfer._fetch
    with pytest.raises(HostError, match="File too large"), short_files():
        fetch(
            cast("RegistryClient", None),
            Reference.parse("here/it"),
            Part("ram", MIB, DIGEST),
            Descriptor(transfer.PART_TYPE, DIGEST, 1),
            tmp_path,
            threading.Event(),
        )


def test_layers_that_cannot_be_read_are_an_error_that_says_so(tmp_path: Path) -> None:
    machine = put(tmp_path / "machine")
    os.truncate(tmp_path / "machine" / "layers", LEAD + 100)
    with pytest.raises(HostError, match="shorter") as caught:
        machine.frozen.unpack_layers(tmp_path)
    assert caught.value.code == "machine-unwritable"


def test_a_push_that_cannot_read_a_part_is_an_error_that_says_so(store: Store, tmp_path: Path) -> None:
    machine = put(tmp_path / "machine")
    (tmp_path / "machine" / "state").unlink()
    with pytest.raises(HostError, match="No such file"):
        transfer.push_machine(
            store, cast("RegistryClient", None), machine, Reference.parse("here/it"), lambda event: None
        )


def test_a_missing_part_and_a_link_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "machine")
    state = tmp_path / "machine" / "state"
    state.rename(tmp_path / "state")
    with pytest.raises(UntrustedDataError, match="cannot be read"):
        read_machine(tmp_path / "machine")
    state.symlink_to(tmp_path / "state")
    with pytest.raises(UntrustedDataError, match="is no file"):
        read_machine(tmp_path / "machine")


def test_only_a_whole_machine_with_nothing_beside_it_is_replaced(tmp_path: Path) -> None:
    machine, out = put(tmp_path / "machine"), tmp_path / "out"
    write_out(machine, out)
    write_out(put(tmp_path / "second", b"y"), out)
    assert (out / "state").read_bytes()[:1] == b"y"
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="thesis") as caught:
        write_out(machine, out)
    assert caught.value.code == "output-in-the-way"
    assert (out / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [None, "{}", "about a vending machine"])
def test_a_folder_with_another_machine_json_is_left_alone(tmp_path: Path, content: str | None) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / (MANIFEST if content else "file")).write_text(content or "mine")
    with pytest.raises(UsageError, match="holds no machine"):
        check_destination(other)
    assert len(os.listdir(other)) == 1


def test_what_may_be_written_to(tmp_path: Path) -> None:
    check_destination(tmp_path / "new" / "one")
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(UsageError):
            check_destination(tmp_path / name)


def test_the_old_machine_stays_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, out = put(tmp_path / "machine", b"y"), tmp_path / "out"
    put(out)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(MbuildError, match="Input/output") as caught:
        write_out(machine, out)
    assert caught.value.code == "machine-unwritable"
    assert sorted(os.listdir(tmp_path)) == ["machine", "out"], "nothing is left beside"
    assert (out / "state").read_bytes()[:1] == b"x"
    read_machine(out)


def test_a_machine_without_layers_has_no_such_part(tmp_path: Path) -> None:
    parts = tuple(Part(name, size, DIGEST) for name, size in SIZES.items() if name != "layers")
    manifest = replace(described(parts), layers=())
    assert isinstance(parse_machine(manifest.to_json(), "it").frozen(tmp_path), Frozen)


class IdleHypervisor:
    """Knows what its templates are called, and is to boot none."""

    def template_key(self, shape: MachineShape, cancelled: threading.Event) -> str:
        return f"template of {shape.memory}"


@pytest.mark.parametrize("by_output", [False, True])
def test_fail_on_miss_starts_no_machine_and_takes_one_that_is_there(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_output: bool
) -> None:
    hypervisor = cast(QemuHypervisor, IdleHypervisor())
    monkeypatch.setattr(making, "situation_of", lambda *_: described(()).situation)
    maker = MachineMaker(workshop.store, hypervisor, workshop.events.append, workshop.cancelled)
    driver = workshop.driver
    driver.machines = lambda: maker
    text = "FROM base\nRUN write a b\nCMD run\n"
    digest = workshop.build(text).digest
    outputs = parse_outputs([f"type=machine,dest={tmp_path / 'out'}"]) if by_output else ()
    request = workshop.request(text if by_output else text + "SNAPSHOT\n", names=("docker.io/library/x:latest",))
    request = replace(request, fail_on_miss=True, outputs=outputs)
    with pytest.raises(MissError, match="machine") as caught:
        driver.build(request)
    assert caught.value.code == "cache-miss"
    assert not workshop.store.names.all()
    image, shape = SimpleNamespace(digest=digest), driver.plan(request).graph.shape
    other, key = (maker._key(cast(Any, image), Snapshot(), replace(shape, memory=size)) for size in (1, shape.memory))
    library = Library(workshop.store)
    put(library.path(other))
    library.remember(digest, other)
    with pytest.raises(MissError):
        driver.build(request)
    put(library.path(key))
    assert driver.build(request).run == 0
    assert [image.name for image in workshop.store.names.all()] == list(request.names)
