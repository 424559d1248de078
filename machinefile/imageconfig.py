"""What an image says about how to run it: the part of its configuration that instructions read and change."""

from __future__ import annotations

from machinefile.values import dataclass

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """A HEALTHCHECK. Durations in nanoseconds, 0 where not given. Source: the Docker image spec v1.2."""

    test: tuple[str, ...]
    """`("NONE",)`, `("CMD", ...)` or `("CMD-SHELL", script)`."""
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The `config` object of an OCI image configuration. Source: OCI image spec, config.md, and Docker's additions."""

    env: Pairs = ()
    """In the order in which the names were first set."""
    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    args_escaped: bool = False
    """What Docker sets wherever a CMD was given; it means something on Windows only."""
    shell: tuple[str, ...] | None = None
    labels: Pairs = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
