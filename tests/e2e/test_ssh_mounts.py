"""RUN --mount=type=ssh with a real ssh-agent: a step may use the keys, and never has them."""

from __future__ import annotations

import base64
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_processes import processes

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = [pytest.mark.vm, pytest.mark.registry]

ASK = r"""#!/usr/bin/perl
# Sends an agent one message of a single byte, its type, and prints its answer in hex.
socket(my $s, 1, 1, 0) or die; connect($s, pack("S a*", 1, $ENV{SSH_AUTH_SOCK})) or die "connect: $!";
syswrite($s, pack("NC", 1, $ARGV[0])); sysread($s, my $head, 4); my $left = unpack("N", $head); my $all = "";
while ($left > length $all) { sysread($s, my $more, $left - length $all) or die; $all .= $more }
print unpack("H*", $all), "\n";
"""


def make_key(path: Path, passphrase: str = "") -> str:
    """A new key; gives the public one's bytes in hex."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", path], check=True, timeout=30
    )
    return base64.b64decode(path.with_suffix(".pub").read_text().split()[1]).hex()


def _agents_left() -> list[int]:
    """Agents that mbuild started, and that are no running mbuild's: other tests may be at it beside this one."""
    running, left = dict(processes()), []
    for pid, argv in running.items():
        if argv[:4] == ["ssh-agent", "-D", "-a", "agent"]:
            with suppress(OSError):  # it has ended meanwhile
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if "mbuild" not in running.get(parent, []):
                    left.append(pid)
    return left


def test_a_step_may_use_a_key_and_never_has_it(mbuild: Mbuild, debian: str) -> None:
    key = mbuild.folder / "key"
    public = make_key(key)
    text = f"""\
FROM {debian}
COPY ask /ask
RUN --mount=type=ssh,uid=7,mode=0640 stat -c '%F %a %u' $SSH_AUTH_SOCK > /stat && perl /ask 11 > /list && \
    echo $SSH_AUTH_SOCK > /sock && perl /ask 19 > /clear && perl /ask 11 > /again
RUN --mount=type=ssh,id=other test ! -e /run/buildkit/ssh_agent.0 && test ! -e /run/buildkit
"""
    context = mbuild.context(text, ask=ASK)
    mbuild.build("-t", "ssh", "--ssh", f"default={key}", context)
    shown = mbuild.ok("run", "ssh", "cat", "/stat", "/sock", "/list", "/clear", "/again").stdout.splitlines()
    assert shown[:2] == ["socket 640 7", "/run/buildkit/ssh_agent.0"]
    assert shown[2].startswith("0c00000001")
    assert public in shown[2]
    assert shown[3] == "05", "a step must not take keys out of the agent"
    assert shown[4] == shown[2]
    secret = "".join(key.read_text().splitlines()[2:-2]).encode()[:40]
    for path in mbuild.store.rglob("*"):
        if path.is_file() and "vm" not in path.relative_to(mbuild.store).parts[:1]:
            assert secret not in path.read_bytes(), path
    assert _agents_left() == []


def test_an_agent_of_the_user_is_used_and_lives_on(mbuild: Mbuild, debian: str, tmp_path: Path) -> None:
    public = make_key(tmp_path / "key")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "s"], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "s").exists():
            assert agent.poll() is None
        mbuild.environment["SSH_AUTH_SOCK"] = str(tmp_path / "s")
        subprocess.run(["ssh-add", "-q", tmp_path / "key"], check=True, env=mbuild.environ(), timeout=30)
        text = f"FROM {debian}\nCOPY ask /ask\nRUN --mount=type=ssh,required,target=/a perl /ask 11 | grep {public}\n"
        context = mbuild.context(text, ask=ASK)
        refused = mbuild("-q", context)
        assert refused.returncode == 2
        assert "--ssh default" in refused.stderr
        mbuild.ok("-q", "--ssh", "default", context)
        assert agent.poll() is None
    finally:
        agent.kill()
        agent.wait()


def test_an_encrypted_key_is_refused_with_the_reason(mbuild: Mbuild, busybox: str) -> None:
    make_key(mbuild.folder / "key", "a passphrase")
    context = mbuild.context(f"FROM {busybox}\nRUN --mount=type=ssh true\n")
    refused = mbuild("-q", "--ssh", f"default={mbuild.folder / 'key'}", context)
    assert refused.returncode == 2
    assert "is encrypted" in refused.stderr
