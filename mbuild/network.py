"""The options about the network that a build's steps have."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

from engine.vm.network.rules import EgressPolicy, parse_rule
from machinefile.errors import UsageError

_HOST_NETWORK = "network.host"
_MOST_BYTES = 1 << 20
_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}
"""Docker's names for the settings (docker/cli, cli/config/configfile)."""


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """--add-host, --allow-net."""
    add = parser.add_argument
    add(
        "--add-host",
        action="append",
        default=[],
        metavar="NAME:ADDRESS",
        help="a name for etc/hosts of each RUN; host-gateway as the address is this host",
    )
    add(
        "--allow-net",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="let each RUN reach this and nothing else: a name, *.name, an address or a network; may be repeated",
    )


def egress_policy(options: argparse.Namespace) -> EgressPolicy:
    """What the options allow. Raises UsageError (`bad-allow-net`)."""
    rules = tuple(parse_rule(text) for text in options.allow_net)
    return EgressPolicy(rules or None, host_network=_HOST_NETWORK in options.allow)


def configured_proxies(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The proxies of Docker's configuration, as the build arguments that docker build makes of them.

    They are `proxies.default` of $DOCKER_CONFIG/config.json, else ~/.docker/config.json. Raises UsageError
    (`docker-config-invalid`).
    """
    found = os.environ if environ is None else environ
    folder = found.get("DOCKER_CONFIG") or Path(found.get("HOME") or "/nonexistent") / ".docker"
    path = Path(folder) / "config.json"
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError:
        return {}
    if b'"proxies"' not in data:
        return {}
    try:
        fields = json.loads(data)
        settings = fields.get("proxies", {}).get("default", {})
        given = {name: settings.get(key) for key, name in _PROXIES.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise _invalid(path) from error
    if not all(value is None or isinstance(value, str) for value in given.values()):
        raise _invalid(path)
    return {name: value for name, value in given.items() if value}


def _invalid(path: Path) -> UsageError:
    return UsageError(
        f"the proxies in {path} cannot be read",
        code="docker-config-invalid",
        hint='write them as {"proxies": {"default": {"httpProxy": "http://HOST:PORT"}}}',
    )
