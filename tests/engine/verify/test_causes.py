"""Each cause is told from a small example, and from nothing else."""

from __future__ import annotations

import random
import struct

import pytest

from engine.verify.causes import guess_content, guess_presence
from engine.verify.difference import Cause

_NOISE = random.Random(7)

EXAMPLES = (
    ("date", b"Sat Nov 21 17:39:32 UTC 2026\n", b"Sun Nov 22 23:40:01 UTC 2026\n", Cause.TIMESTAMP),
    ("iso", b"built=2026-11-21T17:39:32Z\n", b"built=2026-11-22T23:40:01Z\n", Cause.TIMESTAMP),
    ("epoch", b'{"time": 1795282772}', b'{"time": 1795390801}', Cause.TIMESTAMP),
    (
        "binary time",
        b"\x7fELF\0\0" + struct.pack("<I", 1795282772),
        b"\x7fELF\0\0" + struct.pack("<I", 1795390801),
        Cause.TIMESTAMP,
    ),
    ("__DATE__", b"\0\0\x01Nov 21 2026\0\xff", b"\0\0\x01Nov 22 2026\0\xff", Cause.TIMESTAMP),
    ("path", b"prefix=/tmp/build.Xa81/src\n", b"prefix=/tmp/build.Qq02/src\n", Cause.BUILD_PATH),
    ("debug path", b"\0\xffat /build/a1/main.c\0", b"\0\xffat /build/b2/main.c\0", Cause.BUILD_PATH),
    (
        "uuid",
        b"id: 0b9d6f0e-8f34-4e7e-9d0a-000000000001\n",
        b"id: 7c1d6f0e-8f34-4e7e-9d0a-00000000ab02\n",
        Cause.RANDOM,
    ),
    ("instance id", b"4b1d6f0e-8f34-4e7e-9d0a-5ce0a1b2c3d4\n", b"ffe02a9c-11b0-4d3c-8a77-0a9b8c7d6e5f\n", Cause.RANDOM),
    (
        "ssh key",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq0vHv5mTz3YxQxkq0m1bN2d5x7pQ9wRtEeUuIiOoPp root\n",
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB7ZnWc2sLh0fGkJpXyVtRdEaQuMi9oT3K5rC1yHjN4b root\n",
        Cause.RANDOM,
    ),
    (
        "private key",
        b"-----BEGIN KEY-----\nIKq0vHv5mTz3YxQxkq0m1bN2d5x7pQ9w\n-----END KEY-----\n",
        b"-----BEGIN KEY-----\nB7ZnWc2sLh0fGkJpXyVtRdEaQuMi9oT3\n-----END KEY-----\n",
        Cause.RANDOM,
    ),
    ("port", b"listening on port 41877\n", b"listening on port 35021\n", Cause.RANDOM),
    ("address", b"url=http://127.0.0.1:41877/\n", b"url=http://127.0.0.1:35021/\n", Cause.RANDOM),
    ("hex", b"key=9f86d081884c7d65\n", b"key=60303ae22b998861\n", Cause.RANDOM),
    ("noise", b"\0\xff" + _NOISE.randbytes(64), b"\0\xff" + _NOISE.randbytes(64), Cause.RANDOM),
    ("lines", b"a\nb\nc\n", b"c\na\nb\n", Cause.ORDERING),
    ("words", b"objs = a.o b.o\n", b"objs = b.o a.o\n", Cause.ORDERING),
    ("pid", b"pid=41\n", b"pid=77\n", Cause.PID),
    ("log's pid", b"cron[41]: up\n", b"cron[77]: up\n", Cause.PID),
    ("pid file", b"pid: 1041", b"pid: 988", Cause.PID),
    ("kernel's builder", b"Linux 6.1 (root@alpha) gcc\n", b"Linux 6.1 (root@beta) gcc\n", Cause.HOSTNAME),
    ("hostname", b"host: alpha\n", b"host: beta\n", Cause.HOSTNAME),
)


@pytest.mark.parametrize(
    ("first", "second", "cause"), [example[1:] for example in EXAMPLES], ids=[e[0] for e in EXAMPLES]
)
def test_a_cause_is_told_from_what_differs(first: bytes, second: bytes, cause: Cause) -> None:
    found = guess_content("srv/file", first, second)
    assert found is not None
    assert found.cause is cause
    assert found.mend


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("var/lib/apt/lists/deb_dists_main_Packages", Cause.NETWORK),
        ("var/log/dpkg.log", Cause.TIMESTAMP),
        ("var/cache/ldconfig/aux-cache", Cause.TIMESTAMP),
        ("var/lib/dpkg/status", Cause.NETWORK),
        ("lib/apk/db/installed", Cause.NETWORK),
        ("etc/machine-id", Cause.RANDOM),
        ("etc/ssh/ssh_host_ed25519_key", Cause.RANDOM),
    ],
)
def test_some_paths_say_it_all(path: str, cause: Cause) -> None:
    for found in (guess_content(path, b"x", b"y"), guess_presence(path)):
        assert found is not None
        assert found.cause is cause


def test_nothing_is_guessed_from_what_says_nothing() -> None:
    assert guess_content("srv/file", b"blue\n", b"green\n") is None
    assert guess_content("srv/file", b"same", b"same") is None
    assert guess_content("srv/file", b"2026-11-21 blue\n", b"2026-11-21 green\n") is None
    assert guess_content("srv/file", b"10:00:00 OKAY\n", b"10:00:00 FAILED\n") is None
    assert guess_content("srv/file", b"report 12 of 99\n", b"report 13 of 99\n") is None
    assert guess_content("srv/file", b"mail builders@a.org\n", b"mail builders@b.org\n") is None
    assert guess_presence("srv/file") is None
    assert guess_presence("var/lib/dpkg/info/x.list") is None


def test_each_cause_has_an_example() -> None:
    by_content = {example[3] for example in EXAMPLES}
    assert by_content | {Cause.NETWORK} == set(Cause)


def test_a_file_of_a_made_up_name_is_random() -> None:
    found = guess_presence("var/tmp/tmp.8sKq2Zx1Pp")
    assert found is not None
    assert found.cause is Cause.RANDOM
