"""What -o writes, by the command itself, as root and as an ordinary user, read by other programs."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from open_folders import open_to_all
from output_support import run, skopeo, tell

if TYPE_CHECKING:
    from conftest import Mbuild

TEXT = 'FROM {base}\nCOPY --chown=1000:1001 --chmod=4755 hello /srv/hello\nCMD ["/srv/hello"]\n'


def context(mbuild: Mbuild, base: str) -> Path:
    return mbuild.context(TEXT.format(base=base), hello="hello\n")


def test_one_build_writes_every_output(mbuild: Mbuild, busybox: str) -> None:
    out = mbuild.folder / "out"
    specs = [
        f"type=oci,dest={out}/layout",
        f"type=oci,dest={out}/layout.tar,compression=zstd,force-compression=true",
        f"type=docker,dest={out}/docker.tar",
        f"type=tar,dest={out}/root.tar",
        f"type=disk,dest={out}/root.squashfs",
        f"type=disk,dest={out}/root.ext4,format=ext4",
        f"type=local,dest={out}/root",
        "type=image,name=kept:1",
    ]
    arguments = [word for spec in specs for word in ("-o", spec)]
    said = mbuild.build("-t", "app:1", *arguments, context(mbuild, busybox))
    assert json.loads(skopeo("inspect", f"oci:{out}/layout:1"))["Digest"] == said["image.digest"]
    for source in (f"oci-archive:{out}/layout.tar:1", f"docker-archive:{out}/docker.tar:app:1"):
        assert json.loads(skopeo("inspect", "--config", source))["config"]["Cmd"] == ["/srv/hello"]
    told = tell((out / "root.tar").read_bytes())
    assert told["srv/hello"][:4] == (tarfile.REGTYPE, 0o4755, 1000, 1001)
    assert tell(run("sqfs2tar", out / "root.squashfs")) == told
    run("e2fsck", "-fn", out / "root.ext4")
    assert (out / "root/srv/hello").read_text() == "hello\n"
    assert (out / "root/srv/hello").stat().st_mode & 0o7777 == 0o755
    assert {entry["name"] for entry in json.loads(mbuild.ok("images", "--format", "json").stdout)} >= {
        "docker.io/library/app:1",
        "docker.io/library/kept:1",
    }
    assert mbuild.left_over() == []


def test_buildah_reads_every_kind_of_image(mbuild: Mbuild, busybox: str) -> None:
    if os.getuid() != 0:
        pytest.skip("buildah without root needs user namespaces")
    out = mbuild.folder
    specs = [
        f"type=oci,dest={out}/layout",
        f"type=oci,dest={out}/z.tar,compression=zstd",
        f"type=docker,dest={out}/d.tar",
    ]
    mbuild.ok("-t", "app:1", *(word for spec in specs for word in ("-o", spec)), context(mbuild, busybox))
    (out / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    buildah = [
        "buildah",
        "--root",
        out / "root",
        "--runroot",
        out / "run",
        "--storage-driver",
        "vfs",
        "pull",
        "--quiet",
    ]
    buildah += ["--signature-policy", out / "policy.json"]
    sources = (f"oci:{out}/layout:1", f"oci-archive:{out}/z.tar:1", f"docker-archive:{out}/d.tar")
    assert len({run(*buildah, source) for source in sources}) == 1, "all have one configuration"


def test_a_path_alone_is_a_folder_of_files(mbuild: Mbuild, busybox: str) -> None:
    mbuild.ok("-q", "-o", "files", context(mbuild, busybox))
    assert (mbuild.folder / "files/srv/hello").read_text() == "hello\n"


def test_an_ordinary_user_writes_them_too_and_the_bytes_are_the_same(mbuild: Mbuild, busybox: str) -> None:
    if os.getuid() != 0:
        pytest.skip("the other tests ran as an ordinary user already")
    place = context(mbuild, busybox)
    kinds = ["docker", "tar", "disk", "disk,format=ext4"]
    for name in ("root", "user"):
        (mbuild.folder / name).mkdir(mode=0o777)
        (mbuild.folder / name).chmod(0o777)
    mbuild.ok(*_outputs(mbuild.folder / "root", kinds), place)
    open_to_all(mbuild.folder)
    mbuild.store = mbuild.folder / "user" / "store"
    mbuild.prefix = (
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    )
    umask = os.umask(0o077)
    try:
        mbuild.ok(*_outputs(mbuild.folder / "user", kinds), "-o", f"{mbuild.folder}/user/files", place)
    finally:
        os.umask(umask)
    for number in range(len(kinds)):
        one, other = (mbuild.folder / name / str(number) for name in ("root", "user"))
        assert one.read_bytes() == other.read_bytes(), kinds[number]
    found = (mbuild.folder / "user/files/srv/hello").stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (65534, 0o755)


def _outputs(folder: Path, kinds: list[str]) -> list[str]:
    return [word for number, kind in enumerate(kinds) for word in ("-o", f"type={kind},dest={folder}/{number}")]


def test_an_unknown_word_is_refused_before_anything_is_built(mbuild: Mbuild, busybox: str) -> None:
    done = mbuild("-o", "type=docker,dest=x,compresion=zstd", context(mbuild, busybox))
    assert done.returncode == 2
    assert "did you mean compression" in done.stderr
    assert not (mbuild.folder / "x").exists()


def test_a_full_disk_is_named_and_leaves_nothing(mbuild: Mbuild, busybox: str) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            'ulimit -f 100; exec "$@"',
            "-",
            *mbuild.argv("-o", "type=tar,dest=x", context(mbuild, busybox)),
        ],
        env=mbuild.environ(),
        cwd=mbuild.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not (mbuild.folder / "x").exists()
