"""The configuration of an image. Source: OCI image spec, config.md; Docker image spec v1.2 for its additions."""

from __future__ import annotations

from engine.images.jsonvalue import JsonObject, dump
from machinefile.imageconfig import Healthcheck, ImageConfig, Pairs
from machinefile.platform import Platform
from machinefile.values import dataclass

MAX_CONFIG_BYTES = 8 << 20

INLINE_CACHE = "mbuild.cache.v1"
"""The field with the keys of the image's own steps: see engine/carry/inline.py."""

_INVALID = "config-invalid"


@dataclass(frozen=True, slots=True)
class History:
    """How one layer, or one change without a layer, came to be."""

    created: str = ""
    """RFC 3339, or empty."""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class ImageConfiguration:
    """All of an image's configuration that mbuild reads or writes."""

    config: ImageConfig
    architecture: str
    os: str
    variant: str = ""
    diff_ids: tuple[str, ...] = ()
    """Digests of the layers' uncompressed tars, lowest first."""
    history: tuple[History, ...] = ()
    created: str = ""
    """RFC 3339, or empty."""
    author: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()
    inline_cache: str = ""
    """What a cache inside the image says of its layers, as text; empty where there is none."""

    @property
    def platform(self) -> Platform | None:
        """What it runs on, normalised; None where the configuration does not say so."""
        parts = [part for part in (self.os, self.architecture, self.variant) if part]
        if not self.os or not self.architecture:
            return None
        try:
            return Platform.parse("/".join(parts))
        except ValueError:
            return Platform(self.os, self.architecture, self.variant)

    def to_json(self) -> bytes:
        """The bytes that its digest is of: top-level fields sorted, those of `config` in Docker's order, what is empty
        left out, as BuildKit writes it."""
        value: dict[str, object] = {
            "architecture": self.architecture,
            "config": _config_value(self.config),
            "os": self.os,
            "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)},
        }
        optional: dict[str, object] = {
            "author": self.author,
            "created": self.created,
            "history": [_history_value(entry) for entry in self.history],
            INLINE_CACHE: self.inline_cache,
            "os.version": self.os_version,
            "os.features": list(self.os_features),
            "variant": self.variant,
        }
        value.update(_present(optional))
        return dump(dict(sorted(value.items())))


def parse_configuration(data: bytes, where: str = "the image's configuration") -> ImageConfiguration:
    """Read a configuration, whatever it leaves out. Raises UntrustedDataError (`config-invalid`)."""
    fields = JsonObject.parse(data, where, _INVALID, MAX_CONFIG_BYTES)
    rootfs = fields.child("rootfs")
    # In an index, and here, architectures come in several spellings; the child's configuration repeats the parent's.
    return ImageConfiguration(
        config=_config(fields.child("config")),
        architecture=fields.text("architecture"),
        os=fields.text("os"),
        variant=fields.text("variant"),
        diff_ids=_diff_ids(rootfs),
        history=tuple(_history(entry) for entry in fields.children("history")),
        created=fields.text("created"),
        author=fields.text("author"),
        os_version=fields.text("os.version"),
        os_features=fields.texts("os.features"),
        inline_cache=fields.text(INLINE_CACHE),
    )


def _diff_ids(rootfs: JsonObject) -> tuple[str, ...]:
    kind = rootfs.text("type")
    if kind not in ("", "layers"):
        raise rootfs.wrong("type", f"is {kind[:40]!r}, which is not known")
    listed = rootfs.texts("diff_ids")
    named = JsonObject({str(i): item for i, item in enumerate(listed)}, f"{rootfs.where}: diff_ids", _INVALID)
    return tuple(named.digest(str(i)) for i in range(len(listed)))


def _history(fields: JsonObject) -> History:
    return History(
        created=fields.text("created"),
        created_by=fields.text("created_by"),
        comment=fields.text("comment"),
        author=fields.text("author"),
        empty_layer=fields.flag("empty_layer"),
    )


def _config(fields: JsonObject) -> ImageConfig:
    return ImageConfig(
        env=_environment(fields.texts("Env")),
        user=fields.text("User"),
        working_dir=fields.text("WorkingDir"),
        entrypoint=_words(fields, "Entrypoint"),
        cmd=_words(fields, "Cmd"),
        args_escaped=fields.flag("ArgsEscaped"),
        shell=_words(fields, "Shell"),
        labels=fields.pairs("Labels"),
        exposed_ports=fields.names("ExposedPorts"),
        volumes=fields.names("Volumes"),
        stop_signal=fields.text("StopSignal"),
        healthcheck=_healthcheck(fields.child("Healthcheck")),
        on_build=fields.texts("OnBuild"),
    )


def _environment(entries: tuple[str, ...]) -> Pairs:
    """A name set twice keeps its first place and its last value."""
    values: dict[str, str] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        values[name] = value
    return tuple(values.items())


def _words(fields: JsonObject, name: str) -> tuple[str, ...] | None:
    """Docker once wrote a lone word as a string; an empty list is the same as none."""
    if isinstance(fields.fields.get(name), str):
        return (fields.text(name),) if fields.text(name) else None
    return fields.texts(name) or None


def _healthcheck(fields: JsonObject) -> Healthcheck | None:
    if not any(fields.has(name) for name in fields.fields):
        return None
    return Healthcheck(
        test=_words(fields, "Test") or (),
        interval=fields.integer("Interval"),
        timeout=fields.integer("Timeout"),
        start_period=fields.integer("StartPeriod"),
        start_interval=fields.integer("StartInterval"),
        retries=fields.integer("Retries"),
    )


def _config_value(config: ImageConfig) -> dict[str, object]:
    health = config.healthcheck
    return _present(
        {
            "User": config.user,
            "ExposedPorts": {port: {} for port in sorted(config.exposed_ports)},
            "Env": [f"{name}={value}" for name, value in config.env],
            "Entrypoint": list(config.entrypoint or ()),
            "Cmd": list(config.cmd or ()),
            "Volumes": {path: {} for path in sorted(config.volumes)},
            "WorkingDir": config.working_dir,
            "Labels": dict(sorted(config.labels)),
            "StopSignal": config.stop_signal,
            "ArgsEscaped": config.args_escaped,
            "Healthcheck": None if health is None else _healthcheck_value(health),
            "OnBuild": list(config.on_build),
            "Shell": list(config.shell or ()),
        }
    )


def _healthcheck_value(health: Healthcheck) -> dict[str, object]:
    return _present(
        {
            "Test": list(health.test),
            "Interval": health.interval,
            "Timeout": health.timeout,
            "StartPeriod": health.start_period,
            "StartInterval": health.start_interval,
            "Retries": health.retries,
        }
    )


def _history_value(entry: History) -> dict[str, object]:
    return _present(
        {
            "created": entry.created,
            "created_by": entry.created_by,
            "author": entry.author,
            "comment": entry.comment,
            "empty_layer": entry.empty_layer,
        }
    )


def _present(value: dict[str, object]) -> dict[str, object]:
    return {name: item for name, item in value.items() if item}
