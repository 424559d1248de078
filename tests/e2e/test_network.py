"""The network of steps through the whole of mbuild: options in, log and errors out. Everything is on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from local_server import LocalServer, QuietHandler

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = pytest.mark.vm


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a web server on this machine's loopback interface, which is also a proxy."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            body = f"you asked for {self.path}\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with LocalServer(Handler) as server:
        yield server.port


def test_names_rules_and_the_log(mbuild: Mbuild, busybox: str, web: int) -> None:
    text = f"FROM {busybox}\nRUN wget -q -O /got http://web.test:{web}/x && cat /got\n"
    context = mbuild.context(text)
    host = ("--add-host", "web.test:host-gateway")
    log = mbuild.folder / "egress"
    denied = mbuild("--progress=plain", "--egress-log", log, *host, "--allow-net", f"web.test:{web + 1}", context)
    assert denied.returncode == 1
    assert f"denied web.test:{web} (10.0.2.2)" in denied.stderr
    assert "--allow-net" in denied.stderr
    assert [json.loads(line)["denied"] for line in log.read_text().splitlines()] == [True]

    allowed = mbuild.build(*host, "--allow-net", f"web.test:{web}", "--egress-log", log, context)
    entry = {"name": "web.test", "address": "10.0.2.2", "port": web, "protocol": "tcp", "denied": False}
    assert [fact["reached"] for fact in allowed["egress"]] == [[entry]]  # type: ignore[attr-defined]
    assert json.loads(log.read_text()).items() >= entry.items()

    # What may be reached is in no key; the names that are given are.
    assert mbuild.build(*host, context)["steps"] == {"hit": 1, "run": 0, "total": 1}
    assert mbuild("--add-host", "web.test:198.51.100.7", "--allow-net", "a.test", context).returncode == 1


def test_a_proxy_on_this_machine_from_dockers_configuration(mbuild: Mbuild, busybox: str, web: int) -> None:
    config = mbuild.folder / "docker"
    config.mkdir()
    proxies = {"default": {"httpProxy": f"http://127.0.0.1:{web}"}}
    (config / "config.json").write_text(json.dumps({"proxies": proxies}))
    mbuild.environment["DOCKER_CONFIG"] = str(config)
    text = f"FROM {busybox}\nRUN wget -q -O - http://far.test/y | grep 'far.test/y' && ! nc -w 5 10.0.2.2 1\n"
    context = mbuild.context(text)
    assert mbuild.build("-t", "proxied", context)["steps"] == {"hit": 0, "run": 1, "total": 1}
    shown = mbuild.ok("inspect", "--format=json", "proxied").stdout
    assert str(web) not in shown
    del mbuild.environment["DOCKER_CONFIG"]
    assert mbuild.build(context)["steps"] == {"hit": 1, "run": 0, "total": 1}


def test_the_hosts_network_has_to_be_allowed(mbuild: Mbuild, busybox: str, web: int) -> None:
    script = f"wget -q -O - http://host.mbuild.internal:{web}/z"
    context = mbuild.context(f"FROM {busybox}\nRUN --network=host {script}\nRUN ! {script}\n")
    assert mbuild(context).returncode == 2
    assert mbuild.build("--allow", "network.host", context)["vm.restores"] == 2
