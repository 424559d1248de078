"""The parts a microVM is put together from: command line, kernel, first file system, disks, folders."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import lzma
import os
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard

from engine import process
from engine.vm import disks, verdict
from engine.vm.accelerator import Accelerator, demanded
from engine.vm.disks import Extent, copy_sparse, make_disks, scratch_image, vmdk_descriptor
from engine.vm.execution import SPARE_LAYERS
from engine.vm.guestdisks import LEAD, SLOT, SLOTS, SLOTS_END, Place, Region, add_layers
from engine.vm.initramfs import build_initramfs
from engine.vm.kernel import MODULES, GuestKernel, find_kernel, module_bytes, module_name
from engine.vm.protocol import Op, command
from engine.vm.qemu import Qemu, QemuMachine
from engine.vm.qemu_argv import DISK_SIZE, MachineSpec, kernel_cmdline, qemu_argv
from engine.vm.runfolder import run_folder, sweep
from machinefile.errors import HostError, UsageError

SPEC = MachineSpec(
    qemu="/usr/bin/qemu", accelerator=Accelerator.TCG, cpus=2, memory=1 << 30, ram="/store, mine/ram", share=False,
    kernel="/k", initrd="/i", cmdline="quiet", qmp_fd=5, agent_fd=6, incoming=True, layers="layers.vmdk",
    writable="writable.vmdk", restrict=True,
)  # fmt: skip

ARGV = """
/usr/bin/qemu
-nodefaults
-no-user-config
-no-reboot
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-M microvm,memory-backend=ram,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,rtc=off,pit=off,pic=off
-accel tcg,thread=multi
-cpu Nehalem,-spec-ctrl
-smp 2
-m 1024M
-object {"qom-type": "memory-backend-file", "id": "ram", "size": 1073741824, "mem-path": "/store, mine/ram", "share": false}
-chardev file,id=serial,path=serial.log
-serial chardev:serial
-chardev socket,id=qmp,fd=5
-mon chardev=qmp,mode=control
-device virtio-serial-device,max_ports=2
-chardev socket,id=agent,fd=6
-device virtserialport,chardev=agent,name=mbuild.agent
-netdev user,id=net,ipv6=off,restrict=on
-device virtio-net-device,netdev=net,mac=52:54:00:6d:62:01
-blockdev {"driver": "vmdk", "node-name": "writable", "read-only": false, "cache": {"direct": false, "no-flush": true}, "file": {"driver": "file", "filename": "writable.vmdk"}}
-device virtio-blk-device,drive=writable,werror=report,rerror=report
-blockdev {"driver": "vmdk", "node-name": "layers", "read-only": true, "cache": {"direct": false, "no-flush": true}, "file": {"driver": "file", "filename": "layers.vmdk"}}
-device virtio-blk-device,drive=layers,werror=report,rerror=report
-incoming defer
"""  # noqa: E501 - one option a line, as it is


def test_the_command_line_of_a_restored_machine() -> None:
    assert " ".join(qemu_argv(SPEC)).split() == ARGV.split()


def test_a_machine_that_nobody_looks_for_comes_back_quietly() -> None:
    quiet = qemu_argv(dataclasses.replace(SPEC, quiet=True))
    assert [word for word in quiet if word not in ARGV.split() and word in quiet[-4:]] == [
        "-global",
        "migration.announce-rounds=0",
    ]


def test_a_booting_machine_has_the_same_devices_with_nothing_in_them() -> None:
    restored = qemu_argv(SPEC)
    booting = qemu_argv(dataclasses.replace(SPEC, incoming=False, layers=None, writable=None))
    assert [word for word in booting if "-device" in word] == [word for word in restored if "-device" in word]
    disks_of = [json.loads(word) for word in booting if '"node-name"' in word]
    assert [(disk["driver"], disk["read-only"]) for disk in disks_of] == [("null-co", False), ("null-co", True)]
    assert all(disk["read-zeroes"] for disk in disks_of), "what the guest looks for on them it must not find by chance"
    assert "-incoming" not in booting
    assert booting[booting.index("-kernel") + 1] == "/k"
    assert "-kernel" not in restored, "it has booted"


def test_under_kvm_the_guest_keeps_its_timers_and_the_hosts_processor() -> None:
    argv = qemu_argv(dataclasses.replace(SPEC, accelerator=Accelerator.KVM))
    assert not any("pit=off" in word for word in argv)
    assert argv[argv.index("-cpu") + 1] == "host"
    assert "tsc" not in kernel_cmdline(Accelerator.KVM, 0)


def test_under_tcg_the_kernel_is_told_the_rate_of_its_counter() -> None:
    assert "tsc_early_khz=2596000 lpj=10384000" in kernel_cmdline(Accelerator.TCG, 2_596_000)


@pytest.mark.parametrize("text", ["kvm", " TCG "])
def test_the_accelerator_can_be_demanded(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MBUILD_ACCEL", text)
    assert demanded() is Accelerator(text.strip().lower())


def test_an_unknown_accelerator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBUILD_ACCEL", "xen")
    with pytest.raises(UsageError) as caught:
        demanded()
    assert caught.value.code == "accelerator-unknown"


def make_kernel(root: Path, version: str, suffix: str = ".ko", builtin: tuple[str, ...] = ()) -> None:
    """A kernel's files, in the shape of the distribution's package."""
    (root / "boot").mkdir(parents=True, exist_ok=True)
    (root / "boot" / f"vmlinuz-{version}").write_bytes(b"kernel")
    folder = root / "lib/modules" / version / "kernel/drivers"
    folder.mkdir(parents=True)
    for name in MODULES:
        if name not in builtin:
            (folder / f"{name}{suffix}").write_bytes(name.encode())
    lines = "".join(f"kernel/drivers/{name}.ko\n" for name in builtin)
    (root / "lib/modules" / version / "modules.builtin").write_text(lines)


def test_the_newest_kernel_is_taken_with_its_modules_in_order(tmp_path: Path) -> None:
    for version in ("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64", "5.10.0-1-cloud-amd64"):
        make_kernel(tmp_path, version)
    kernel = find_kernel((tmp_path / "nothing", tmp_path))
    assert kernel.version == "6.1.0-10-cloud-amd64"
    assert tuple(module_name(path) for path in kernel.modules) == MODULES


def test_modules_that_are_built_in_are_not_looked_for(tmp_path: Path) -> None:
    make_kernel(tmp_path, "7.0-cloud", builtin=("virtio", "virtio_ring"))
    names = [module_name(path) for path in find_kernel((tmp_path,)).modules]
    assert names == [name for name in MODULES if name not in ("virtio", "virtio_ring")]


def test_a_kernel_without_its_modules_is_passed_over(tmp_path: Path) -> None:
    make_kernel(tmp_path, "6.1-cloud")
    next((tmp_path / "lib").rglob("virtio_blk.ko")).unlink()
    with pytest.raises(HostError) as caught:
        find_kernel((tmp_path,))
    assert caught.value.code == "kernel-missing"
    assert caught.value.hint == "run: sudo apt-get install linux-image-cloud-amd64"


def test_packed_modules_are_unpacked(tmp_path: Path) -> None:
    for suffix, packed in ((".xz", lzma.compress(b"mod")), (".zst", zstandard.compress(b"mod")), ("", b"mod")):
        path = tmp_path / f"virtio.ko{suffix}"
        path.write_bytes(packed)
        assert module_bytes(path) == b"mod"


def test_the_first_file_system_is_a_cpio_archive(tmp_path: Path) -> None:
    make_kernel(tmp_path / "k", "6.1-cloud")
    archive = build_initramfs(find_kernel((tmp_path / "k",)), b"agent")
    listed = subprocess.run(["/bin/busybox", "cpio", "-t"], input=archive, capture_output=True, timeout=20, check=True)
    names = listed.stdout.decode().split()
    assert names[:5] == ["dev", "dev/console", "boot-modules", "modules", "init"]
    assert "boot-modules/3.ko" in names
    assert "modules/virtio_blk.ko" in names


def test_files_are_glued_to_a_disk() -> None:
    text = vmdk_descriptor([Extent("lead", 4096), Extent("0", 8192)])
    assert 'RW 8 FLAT "lead" 0\nRW 16 FLAT "0" 0\n' in text
    assert 'createType="twoGbMaxExtentFlat"' in text


def test_each_layer_has_a_slot_of_the_disk(tmp_path: Path) -> None:
    layers = []
    for number, size in enumerate((4096, 12288)):
        layers.append(tmp_path / f"layer {number}")
        layers[-1].write_bytes(b"x" * size)
    scratch = tmp_path / "empty"
    scratch.write_bytes(b"s" * 1024)
    folder = tmp_path / "vm"
    folder.mkdir()
    made = make_disks(folder, layers, scratch)
    assert made.map.layers == (Place(Region(LEAD, 4096), 1), Place(Region(LEAD + SLOT, 12288), 2))
    assert f'RW 8 FLAT "lead" 0\nRW {SLOT // 512} FLAT "0" 0\n' in (folder / "layers.vmdk").read_text()
    assert 'RW 2 FLAT "scratch" 0\nRW 2147483648 FLAT "changes" 0\n' in (folder / "writable.vmdk").read_text()
    assert (folder / "1").read_bytes() == b"x" * 12288
    assert (folder / "scratch").read_bytes() == b"s" * 1024
    assert os.stat(made.changes).st_blocks == 0


def test_what_fits_in_no_slot_lies_behind_them() -> None:
    parts = [Extent("a", 512), Extent("large", SLOT + 512), *(Extent(f"{n}", 512) for n in range(SLOTS))]
    places, extents = disks.arrange(parts)
    assert [place.partition for place in places[:3]] == [1, SLOTS + 1, 2]
    assert places[1].region == Region(SLOTS_END, SLOT + 512)
    assert places[-1] == Place(Region(SLOTS_END + SLOT + 512, 512), SLOTS + 2)
    assert [extent.name for extent in extents[:3]] == ["lead", "a", "0"]
    assert sum(extent.length for extent in extents[:-2]) == SLOTS_END
    few, with_gaps = disks.arrange(parts[:2])
    assert few == places[:2]
    assert [extent.name for extent in with_gaps] == ["lead", "a", *["lead"] * (SLOTS - 1), "large"]


def test_no_disk_has_more_partitions_than_there_can_be() -> None:
    parts = [Extent(f"{n}", SLOT + 512 if n % 50 == 0 else 512) for n in range(disks.LAYER_LIMIT + SPARE_LAYERS)]
    places, _ = disks.arrange(parts)
    assert sorted(place.partition for place in places) == list(range(1, len(parts) + 1))
    assert len(parts) <= 255


def test_only_what_lies_in_no_slot_is_cut_off_its_disk() -> None:
    behind = Place(Region(SLOTS_END, 512), SLOTS + 1)
    row = add_layers([Place(Region(LEAD + SLOT, 512), 2), behind], 3)
    assert [(frame.op, frame.values[:4]) for frame in row] == [
        (Op.MOUNT, ("", "/dev/vdb2", "/l/4", "squashfs")),
        (Op.PARTITION, ("/dev/vdb", SLOTS + 1, SLOTS_END, 512)),
        (Op.MOUNT, ("", f"/dev/vdb{SLOTS + 1}", "/l/5", "squashfs")),
    ]
    assert add_layers([behind], SLOTS)[1] == command(Op.MKDIR, "", f"/l/{SLOTS + 1}", 0o755)


@pytest.mark.parametrize(("content", "code"), [(None, "layer-missing"), (b"x" * 100, "layer-cut")])
def test_a_layer_that_is_not_whole_is_refused(tmp_path: Path, content: bytes | None, code: str) -> None:
    layer = tmp_path / "layer"
    if content is not None:
        layer.write_bytes(content)
    with pytest.raises(HostError) as caught:
        make_disks(tmp_path, [layer], layer)
    assert caught.value.code == code


def test_too_many_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        make_disks(tmp_path, [tmp_path] * (disks.LAYER_LIMIT + 1), tmp_path)
    assert caught.value.code == "layers-too-many"


def test_no_disk_is_larger_than_the_guest_takes_it_for(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(DISK_SIZE // 2)
    with pytest.raises(HostError) as caught:
        make_disks(tmp_path, (), large, caches=(large,))
    assert caught.value.code == "disks-too-large"


def test_the_scratch_disk_is_made_once_and_is_small(tmp_path: Path) -> None:
    first = scratch_image(tmp_path, 1 << 30)
    stamp = first.stat().st_mtime_ns
    assert scratch_image(tmp_path, (1 << 30) + 5) == first
    assert first.stat().st_mtime_ns == stamp
    assert first.stat().st_size == 1 << 30
    assert first.stat().st_blocks * 512 < 4 << 20
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_steps_side_by_side_may_make_the_scratch_disk_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: scratch_image(tmp_path, 64 << 20), range(4)))
    assert [path.name for path in tmp_path.iterdir()] == [made[0].name]


def test_a_sparse_copy_is_the_same_and_stays_sparse(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        file.truncate(50 << 20)
        for at in (0, 10 << 20, (50 << 20) - 4096):
            file.seek(at)
            file.write(b"data" * 1024)
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 1 << 20


def test_a_run_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with run_folder(tmp_path / "run") as folder:
        (folder / "file").write_bytes(b"x")
        assert sweep(tmp_path / "run") == 0
    assert not folder.exists()


def test_only_folders_without_an_owner_are_swept(tmp_path: Path) -> None:
    for name in ("owned", "dead", "young", "old"):
        (tmp_path / name).mkdir()
    for name in ("owned", "dead"):
        (tmp_path / name / "lock").write_bytes(b"")
    os.utime(tmp_path / "old", (0, 0))
    with (tmp_path / "owned/lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"owned", "young"}


def test_nobody_sweeps_a_folder_before_its_lock_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock
    swept: list[int] = []
    sweeper = threading.Thread(target=lambda: swept.append(sweep(tmp_path)))

    def late(file: Any, how: int) -> None:
        if threading.current_thread() is not sweeper and getattr(file, "name", "").__str__().endswith("/lock"):
            sweeper.start()
            sweeper.join(0.3)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with run_folder(tmp_path) as folder:
        sweeper.join(10)
        assert (swept, folder.is_dir()) == ([0], True)


def test_no_memory_of_a_program_is_dumped() -> None:
    said = process.run(["cat", "/proc/self/limits"], timeout=10).decode()
    (line,) = [line for line in said.splitlines() if line.startswith("Max core file size")]
    assert line.split()[4:6] in (["0", "0"], ["1", "1"])


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"boot": 1}', b"\xff"])
def test_a_verdict_that_cannot_be_read_is_none(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "accelerator.json").write_bytes(record)
    kernel = GuestKernel("6.1", tmp_path, ())
    assert verdict.remembered(tmp_path, Qemu("/qemu", "7.2"), kernel) is None


def test_a_verdict_holds_for_one_qemu_and_kernel(tmp_path: Path) -> None:
    kernel, qemu = GuestKernel("6.1", tmp_path, ()), Qemu("/qemu", "7.2")
    known = verdict.Verdict(Accelerator.TCG, "no kvm")
    verdict._remember(tmp_path, qemu, kernel, known)
    assert verdict.remembered(tmp_path, qemu, kernel) == known
    assert verdict.remembered(tmp_path, Qemu("/qemu", "10.0"), kernel) is None
    assert verdict.remembered(tmp_path, qemu, dataclasses.replace(kernel, version="6.2")) is None


def test_a_panic_is_seen_however_much_the_kernel_says_after_it(tmp_path: Path) -> None:
    (tmp_path / "serial.log").write_text("boot\n" * 10 + "Kernel panic - not syncing: x\n" + "a trace\n" * 2000)
    here, there = socket.socketpair()
    with here, there, subprocess.Popen(["true"]) as child:
        autopsy = QemuMachine(child, here, there, tmp_path).autopsy()
    assert autopsy.panicked
    assert autopsy.console.startswith("Kernel panic - not syncing: x")
    assert len(autopsy.console) < 5000
