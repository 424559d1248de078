"""Every image that mbuild writes is read by skopeo, umoci and buildah, and mbuild reads every image that they write."""

from __future__ import annotations

import io
import json
import lzma
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

TEXT = """\
FROM {base}
MAINTAINER Ada <ada@example.org>
ARG X=1 Y
ENV A=b C="d e"
COPY --chown=1000:1001 --chmod=4755 hello /srv/hello
COPY --parents hello /deep/
COPY <<one <<two /srv/
1
one
2
two
ADD hello many /srv/more/
WORKDIR sub/dir
EXPOSE 80 53/udp
VOLUME ["/w", "/z"]
USER 5:6
LABEL l=1 m="2 3"
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true x
ONBUILD RUN ls
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/sh", "a\\"b<&"]
CMD echo hi
"""
HISTORY = [
    ("MAINTAINER Ada <ada@example.org>", True),
    ("ARG X=1 Y", True),
    ("ENV A=b C=d e", True),
    ("COPY --chown=1000:1001 --chmod=4755 hello /srv/hello # buildkit", False),
    ("COPY --parents hello /deep/ # buildkit", False),
    ("COPY <<one <<two /srv/ # buildkit", False),
    ("ADD hello many /srv/more/ # buildkit", False),
    ("WORKDIR /sub/dir", False),
    ("EXPOSE [53/udp 80/tcp]", True),
    ("VOLUME [/w /z]", True),
    ("USER 5:6", True),
    ("LABEL l=1 m=2 3", True),
    ("STOPSIGNAL SIGINT", True),
    (
        "HEALTHCHECK {Test:[CMD-SHELL true x] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
        True,
    ),
    ("SHELL [/bin/sh -ec]", True),
    ('ENTRYPOINT ["/bin/sh" "a\\"b<&"]', True),
    ('CMD ["/bin/sh" "-ec" "echo hi"]', True),
]
"""The lines that BuildKit writes for it (dockerfile2llb), and whether they made no layer."""

KINDS = ["docker", "oci,tar=true", "oci,tar=false"]
COMPRESSIONS = ["gzip", "zstd", "none"]
OPTIONS = [
    f"type={kind},compression={compression}{more}"
    for kind in KINDS
    for compression in COMPRESSIONS
    for more in ("", ",annotation.org.example.team=ours")
] + ["type=docker,oci-mediatypes=false", "type=docker,compression=none,oci-mediatypes=false"]


class Tools:
    """The other programs, with storage and settings of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def run(self, *argv: object) -> str:
        """What a program prints; it must do well."""
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        words = [str(word) for word in argv]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environ, cwd=self.folder)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def skopeo(self, *argv: object) -> str:
        return self.run("skopeo", "--insecure-policy", *argv)

    def buildah(self, *argv: object) -> str:
        state = [f"--root={self.folder}/root", f"--runroot={self.folder}/run", "--storage-driver=vfs"]
        return self.run("buildah", *state, *argv)

    def pulled(self, source: str) -> str:
        """An image in buildah's storage: its id, which is its configuration's digest."""
        return self.buildah("pull", "--quiet", f"--signature-policy={self._policy}", "--tls-verify=false", source)

    def pushed(self, image: str, target: str, *options: str) -> None:
        argv = ["push", "--quiet", f"--signature-policy={self._policy}", "--tls-verify=false", *options]
        self.buildah(*argv, image, target)

    def unpacked(self, layout: str) -> Path:
        """What umoci makes of an image of a layout."""
        bundle = self.folder / f"bundle{len(list(self.folder.glob('bundle*')))}"
        self.run("umoci", "unpack", "--rootless", "--image", layout, bundle)
        return bundle / "rootfs"


@pytest.fixture
def tools(mbuild: Mbuild) -> Tools:
    """See Tools."""
    folder = mbuild.folder / "tools"
    folder.mkdir()
    return Tools(folder)


def build(mbuild: Mbuild, base: str, *specs: str, name: str = "app:1") -> dict[str, object]:
    context = mbuild.context(TEXT.format(base=base), hello="hello\n", many="many\n")
    return mbuild.build("-t", name, *(word for spec in specs for word in ("-o", spec)), context)


def source_of(option: str, path: Path) -> list[str]:
    """How skopeo and buildah name what was written with an option."""
    if option.startswith("type=oci,tar=false"):
        return [f"oci:{path}:1"]
    if option.startswith("type=oci"):
        return [f"oci-archive:{path}:1"]
    return [f"docker-archive:{path}", f"docker-archive:{path}:app:1"]


def history(configuration: Mapping[str, Any]) -> list[tuple[str, bool]]:
    return [(line["created_by"], line.get("empty_layer", False)) for line in configuration["history"]]


def test_every_output_is_read_by_the_others_with_its_history(mbuild: Mbuild, busybox: str, tools: Tools) -> None:
    paths = {option: mbuild.folder / "out" / str(number) for number, option in enumerate(OPTIONS)}
    build(mbuild, busybox, *(f"{option},dest={path}" for option, path in paths.items()))
    ids = set()
    for option, path in paths.items():
        for source in source_of(option, path):
            configuration = json.loads(tools.skopeo("inspect", "--config", source))
            assert history(configuration)[-len(HISTORY) :] == HISTORY, option
            layers = json.loads(tools.skopeo("inspect", source))["Layers"]
            assert len(layers) == sum(not empty for _, empty in history(configuration)), option
            if os.getuid() == 0:  # without root buildah needs user namespaces
                ids.add(tools.pulled(source))
        if option.startswith("type=oci"):
            raw = json.loads(tools.skopeo("inspect", "--raw", source_of(option, path)[0]))
            assert ("annotations" in raw) == ("annotation" in option)
    assert len(ids) <= 1, "compression, types and annotations do not change the image's identity"


@pytest.mark.parametrize("compression", ["gzip", "none"])  # umoci 0.4 knows no zstd
def test_umoci_unpacks_a_layout_and_tells_its_history(
    mbuild: Mbuild, busybox: str, tools: Tools, compression: str
) -> None:
    layout = mbuild.folder / "layout"
    build(mbuild, busybox, f"type=oci,dest={layout},compression={compression}")
    root = tools.unpacked(f"{layout}:1")
    assert (root / "srv/hello").read_text() == "hello\n"
    assert (root / "srv/hello").stat().st_mode & 0o7777 == 0o4755
    told = json.loads(tools.run("umoci", "stat", "--json", "--image", f"{layout}:1"))["history"]
    assert history({"history": told})[-len(HISTORY) :] == HISTORY
    assert [line["layer"] is None for line in told] == [line.get("empty_layer", False) for line in told]


@pytest.mark.registry
@pytest.mark.parametrize("options", ["", ",compression=zstd", ",compression=none", ",oci-mediatypes=false"])
def test_what_is_pushed_is_read_by_the_others(
    mbuild: Mbuild, busybox: str, tools: Tools, registry: Any, options: str
) -> None:
    name = f"{registry.address}/interchange/out{options.replace(',', '-').replace('=', '-')}:1"
    said = build(mbuild, busybox, f"type=image,push=true{options}", name=name)
    assert said["image.digest"]
    source = f"docker://{name}"
    assert json.loads(tools.skopeo("inspect", "--tls-verify=false", source))["Labels"] == {"l": "1", "m": "2 3"}
    tools.skopeo("copy", "--quiet", "--src-tls-verify=false", source, f"oci:{tools.folder}/copied:1")
    if os.getuid() == 0:
        assert tools.pulled(source)
    if "zstd" not in options:
        assert (tools.unpacked(f"{tools.folder}/copied:1") / "srv/hello").read_text() == "hello\n"


def written_by_others(tools: Tools, base: str) -> dict[str, str]:
    """How FROM names what the others made of a base: skopeo's copies, buildah's pushes, a layer of umoci's own."""
    folder = tools.folder
    layout = base.removeprefix("oci-layout:")
    found: dict[str, str] = {}
    for number, compress in enumerate(("gzip", "zstd")):
        words = ("--dest-compress", f"--dest-compress-format={compress}")
        tools.skopeo("copy", "--quiet", *words, f"oci:{layout}", f"oci:{folder}/skopeo{number}:1")
        found[f"skopeo oci {compress}"] = f"oci-layout:{folder}/skopeo{number}:1"
    tools.skopeo("copy", "--quiet", f"oci:{layout}", f"oci-archive:{folder}/skopeo-oci.tar:1")
    found["skopeo oci-archive"] = f"oci-layout:{folder}/skopeo-oci.tar:1"
    tools.skopeo("copy", "--quiet", f"oci:{layout}", f"docker-archive:{folder}/skopeo.tar:tool:1")
    found["skopeo docker-archive"] = f"docker-archive:{folder}/skopeo.tar"
    found["skopeo docker-archive by name"] = f"docker-archive:{folder}/skopeo.tar:tool:1"
    (folder / "skopeo.tar.xz").write_bytes(lzma.compress((folder / "skopeo.tar").read_bytes(), preset=0))
    found["docker-archive in xz"] = f"docker-archive:{folder}/skopeo.tar.xz"
    tools.run("cp", "-r", layout.removesuffix(":latest"), folder / "umoci")
    tools.run("umoci", "unpack", "--rootless", "--image", f"{folder}/umoci:latest", folder / "work")
    (folder / "work/rootfs/etc/from-umoci").write_text("umoci\n")
    tools.run("umoci", "repack", "--image", f"{folder}/umoci:new", folder / "work")
    tools.run("umoci", "config", "--image", f"{folder}/umoci:new", "--config.env", "U=1", "--author", "Ada")
    found["umoci"] = f"oci-layout:{folder}/umoci:new"
    if os.getuid() == 0:
        image = tools.pulled(f"oci:{layout}")
        tools.pushed(image, f"oci:{folder}/buildah:1")
        found["buildah oci"] = f"oci-layout:{folder}/buildah:1"
        tools.pushed(image, f"oci-archive:{folder}/buildah-oci.tar:1")
        found["buildah oci-archive"] = f"oci-layout:{folder}/buildah-oci.tar:1"
        tools.pushed(image, f"docker-archive:{folder}/buildah.tar:tool:1")
        found["buildah docker-archive"] = f"docker-archive:{folder}/buildah.tar:tool"  # not the tag that it has
        found["buildah docker-archive by name"] = f"docker-archive:{folder}/buildah.tar:tool:1"
    return found


def test_what_the_others_write_is_built_from(mbuild: Mbuild, busybox: str, tools: Tools) -> None:
    named = written_by_others(tools, busybox)
    absent = named.pop("buildah docker-archive", None)
    roots: dict[str, dict[str, tuple[object, ...]]] = {}
    for what, name in named.items():
        target = mbuild.folder / "root.tar"
        context = mbuild.context(f"FROM {name}\nENV Z=1\n")
        mbuild.ok("-q", "-o", f"type=tar,dest={target}", context)
        with tarfile.open(fileobj=io.BytesIO(target.read_bytes())) as tar:
            roots[what] = {entry.name: (entry.type, entry.mode, entry.size, entry.linkname) for entry in tar}
    changed = roots.pop("umoci")
    assert "etc/from-umoci" in changed
    assert all(root == roots["skopeo oci gzip"] for root in roots.values())
    assert set(changed) - {"etc/from-umoci"} == set(roots["skopeo oci gzip"])
    if absent is not None:
        failed = mbuild("-q", mbuild.context(f"FROM {absent}\n"))
        assert failed.returncode == 4
        assert "it has" in failed.stderr
