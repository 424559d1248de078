"""Odd names of images, read as the Go library reads them that Docker, podman and skopeo share."""

from __future__ import annotations

import re
import subprocess
from itertools import product

import pytest

from engine.images.reference import Reference
from machinefile.errors import UsageError

DIGEST = "sha256:" + "0123456789abcdef" * 4
NOWHERE = "http://127.0.0.1:1"
"""A proxy that nobody is: the name is read, and nothing is asked for."""

PLACES = ["", "docker.io/", "index.docker.io/", "registry-1.docker.io/", "localhost/", "a.b/", "a:80/"]
NAMES = ["tool", "library/tool", "a/b/c", "a--b", "a__b", "0"]
WRONG = ["a___b", "a..b", "-a", "a-", "_a", "a/", "a//b", "a/B", "a/localhost:5/b", ".a/b", "a./b", "é"]
SUFFIXES = ["", ":1", ":A-b.c_d", f"@{DIGEST}", ":" + "t" * 128]
WRONG_SUFFIXES = [":", ":-x", ":.x", "@sha256:1", f"@{DIGEST.upper()}", f"@{DIGEST}:1", ":" + "t" * 129, ":é"]


def read_by_skopeo(name: str) -> str | None:
    """The name in full; None for one that is refused."""
    argv = ["skopeo", "--debug", "--insecure-policy", "inspect", "--raw", f"docker://{name}"]
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    environ |= {"HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE, "NO_PROXY": "-"}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60)
    said = done.stderr
    found = re.search(r'Trying to access \\?"([^"\\]+)', said)
    assert found or "arsing image name" in said or "nvalid" in said, said
    return found[1] if found else None


def read_by_us(name: str) -> str | None:
    try:
        return str(Reference.parse(name))
    except UsageError:
        return None


@pytest.mark.parametrize("place", PLACES)
def test_a_name_means_the_same_to_skopeo(place: str) -> None:
    names = [f"{place}{name}{suffix}" for name, suffix in zip(NAMES, [*SUFFIXES, ""], strict=True)]
    names.append(f"{place}{'0' * 64}@{DIGEST}")
    assert {name: read_by_us(name) for name in names} == {name: read_by_skopeo(name) for name in names}
    assert None not in map(read_by_us, names)


def test_what_skopeo_refuses_is_refused() -> None:
    names = [*WRONG, *(f"tool{suffix}" for suffix in WRONG_SUFFIXES), "0" * 64, "x" * 300, ":1", "/tool"]
    names += ["".join(parts) for parts in product(["docker.io"], ["/", "/:1", "//tool"])]
    assert {name: read_by_us(name) for name in names} == dict.fromkeys(names)
    assert {name: read_by_skopeo(name) for name in names} == dict.fromkeys(names)
