"""The change stream that a real guest writes, over real layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from vm_support import LayerBuilder, Runner

from engine.vm.execution import Execution
from machinefile.errors import HostError

pytestmark = pytest.mark.vm

FILE, FOLDER, SYMLINK, CHAR, BLOCK, FIFO, SOCKET, HARDLINK = range(1, 9)


def test_a_step_that_changes_nothing_leaves_the_root_and_the_mount_points(run: Runner) -> None:
    changes = run("true").changes
    assert {path: change.kind for path, change in changes.items()} == dict.fromkeys(("", "proc", "sys", "dev"), FOLDER)


def test_all_kinds_of_files_are_told(run: Runner) -> None:
    ran = run(
        "mkdir /d; cd /d; printf content > file; chmod 4751 file; chown 5:6 file; chmod 4751 file;"
        "ln -s 'a target' symlink; mkfifo fifo; mknod char c 7 9; mknod block b 300 70000; chmod 2775 .;"
        ": > empty; ln file again; ln file /third; ln -s x /d/lnk; ln lnk lnk2 2>/dev/null || true"
    )
    changes = ran.changes
    first = next(path for path in ("d/file", "d/again", "third") if changes[path].kind == FILE)
    links = {path for path in ("d/file", "d/again", "third") if changes[path].kind == HARDLINK}
    assert len(links) == 2
    assert {changes[path].link for path in links} == {first}
    assert changes[first].content == b"content"
    assert (changes[first].mode, changes[first].owner) == (0o4751, (5, 6))
    assert (changes["d/symlink"].kind, changes["d/symlink"].link) == (SYMLINK, "a target")
    assert changes["d/fifo"].kind == FIFO
    assert (changes["d/char"].kind, changes["d/char"].device) == (CHAR, (7, 9))
    assert (changes["d/block"].kind, changes["d/block"].device) == (BLOCK, (300, 70000))
    assert (changes["d"].kind, changes["d"].mode) == (FOLDER, 0o2775)
    assert (changes["d/empty"].kind, changes["d/empty"].content) == (FILE, b"")


def test_removals_and_replacements_are_told(run: Runner, tmp_path: Path) -> None:
    layer = LayerBuilder().folder("data").add("data/one", content=b"1").add("data/two", content=b"2")
    layer.folder("data/sub").add("data/sub/deep", content=b"3").folder("old").add("old/thing", content=b"4")
    ran = run(
        "rm /data/one; rm -r /data/sub; rm -r /old; mkdir /old; echo new > /old/other",
        [layer.write(tmp_path / "l.sqfs")],
    )
    changes = ran.changes
    for gone in ("data/one", "data/sub"):
        assert (changes[gone].kind, changes[gone].device) == (CHAR, (0, 0))
    assert "data/two" not in changes
    assert changes["old"].xattrs == {"trusted.overlay.opaque": b"y"}
    assert changes["old/other"].content == b"new\n"


def test_whiteouts_and_opaque_folders_of_layers_hide_what_is_below(run: Runner, tmp_path: Path) -> None:
    low = LayerBuilder().folder("a").add("a/x", content=b"x").add("a/y", content=b"y").folder("b").add("b/z")
    top = LayerBuilder().folder("a").whiteout("a/x").folder("b", opaque=True).add("b/new")
    layers = [low.write(tmp_path / "low.sqfs"), top.write(tmp_path / "top.sqfs")]
    assert run("ls /a; ls /b", layers).text == "y\nnew\n"


def test_extended_attributes_are_kept(run: Runner, tmp_path: Path) -> None:
    layer = LayerBuilder().add(
        "capable", content=b"x", mode=0o755, xattrs={"user.colour": "blue", "security.note": "n"}
    )
    ran = run("echo more >> /capable", [layer.write(tmp_path / "l.sqfs")])
    assert ran.changes["capable"].xattrs == {"user.colour": b"blue", "security.note": b"n"}
    assert ran.changes["capable"].content == b"xmore\n"


def test_a_copied_up_folder_is_told_only_if_something_in_it_changed(run: Runner, tmp_path: Path) -> None:
    layer = LayerBuilder().folder("p").folder("p/q").folder("p/q/r").add("p/q/r/f", content=b"1")
    layers = [layer.write(tmp_path / "l.sqfs")]
    changes = run("touch /p/q/r/new; rm /p/q/r/new; chmod 755 /p", layers).changes
    assert not {path for path in changes if path == "p" or path.startswith("p/")}
    changes = run("chmod 700 /p/q", layers).changes
    assert {path for path in changes if path == "p" or path.startswith("p/")} == {"p", "p/q"}
    assert changes["p/q"].mode == 0o700


def test_a_large_and_a_sparse_file_come_whole(run: Runner) -> None:
    ran = run(
        "yes 0123456789abcde | head -c 5000003 > /big; sync; cp /big /fresh;"
        "printf start > /holes; dd if=/dev/zero of=/holes bs=1 count=1 seek=30000000 2>/dev/null; printf end >> /holes;"
        "printf start > /few; dd if=/dev/zero of=/few bs=1 count=1 seek=200000 2>/dev/null; printf end >> /few;"
        "ln /big /twin"
    )
    big, twin = sorted((ran.changes["big"], ran.changes["twin"]), key=lambda change: change.kind)
    assert (big.kind, twin.kind) == (FILE, HARDLINK)
    assert big.pieces, "it stays on the scratch disk"
    assert ran.changes["few"].content == b"start" + b"\0" * (200001 - 5) + b"end"
    assert not ran.changes["few"].pieces
    assert big.content == ran.changes["fresh"].content == (b"0123456789abcde\n" * 400000)[:5000003]
    assert ran.changes["holes"].content == b"start" + b"\0" * (30000001 - 5) + b"end"


def test_names_of_any_bytes_and_deep_folders_are_told(run: Runner) -> None:
    ran = run(
        "touch '/with space' \"/new\nline\" '/ünïcode'; i=0; while [ $i -lt 40 ]; do"
        " mkdir sub-folder-with-a-long-name; cd sub-folder-with-a-long-name; i=$((i+1)); done; touch leaf"
    )
    assert {"with space", "new\nline", "ünïcode"} <= set(ran.changes)
    assert "sub-folder-with-a-long-name/" * 40 + "leaf" in ran.changes


def test_many_files_come_whole(run: Runner) -> None:
    ran = run("mkdir /many; cd /many; for i in $(seq 1 1500); do : > f$i; done")
    assert sum(path.startswith("many/") for path in ran.changes) == 1500


def test_a_root_of_thirty_layers(run: Runner, tmp_path: Path) -> None:
    layers = []
    for number in range(30):
        layer = LayerBuilder().folder("shared").add(f"shared/{number}", content=b"%d" % number)
        layer.add("top", content=b"layer %d" % number)
        layers.append(layer.write(tmp_path / f"{number}.sqfs"))
    ran = run("ls /shared | wc -l; cat /top; rm /shared/3", layers)
    assert ran.text == "30\nlayer 29"
    assert ran.changes["shared/3"].kind == CHAR


def test_an_empty_root_has_nothing_to_run(run: Runner) -> None:
    execution = run.execution(["/bin/sh"])
    import dataclasses
    import threading

    empty: Execution = dataclasses.replace(execution, disks=())
    said: list[bytes] = []
    with run.sandbox.execute(empty, lambda _, data: said.append(data), threading.Event()) as result:
        assert result.code == 127
    assert b"/bin/sh" in b"".join(said)


def test_a_layer_that_is_no_squashfs_is_named_as_the_reason(run: Runner, tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqfs"
    broken.write_bytes(b"\x55" * 8192)
    with pytest.raises(HostError) as caught:
        run("true", [broken])
    assert caught.value.code == "vm-setup"


def test_folders_deeper_than_can_be_told_are_an_error(run: Runner) -> None:
    deeper = "p=$(seq 900 | sed 's/.*/d/' | tr '\\n' /); for i in 1 2 3; do mkdir -p $p && cd $p; done; true"
    assert len(run(deeper.replace("1 2 3", "1 2")).changes) > 1800
    with pytest.raises(HostError) as caught:
        run(deeper)
    assert "File name too long" in caught.value.message
