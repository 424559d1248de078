"""Configurations of images: what comes in, however sparse, and what goes out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.images.config import History, ImageConfiguration, parse_configuration
from machinefile.errors import UntrustedDataError
from machinefile.imageconfig import Healthcheck, ImageConfig
from machinefile.platform import Platform

DIFF = "sha256:" + "a" * 64

FULL = ImageConfiguration(
    ImageConfig(
        env=(("PATH", "/bin:/usr/bin"), ("EMPTY", ""), ("EQUALS", "a=b")),
        user="1000:1000",
        working_dir="/srv",
        entrypoint=("/bin/init", "--flag"),
        cmd=("serve",),
        shell=("/bin/bash", "-c"),
        labels=(("a", "1"), ("b", "ü")),
        exposed_ports=("53/udp", "80/tcp"),
        volumes=("/data",),
        stop_signal="SIGINT",
        healthcheck=Healthcheck(("CMD", "true"), 30_000_000_000, 1, 2, 3, 4),
        on_build=("RUN make",),
    ),
    "arm64",
    "linux",
    "v8",
    diff_ids=(DIFF,),
    history=(History("2020-01-01T00:00:00Z", "RUN a && b", "buildkit"), History(created_by="CMD", empty_layer=True)),
    created="2020-01-01T00:00:00Z",
    author="Ada",
)


def test_a_configuration_written_and_read_is_the_same() -> None:
    assert parse_configuration(FULL.to_json()) == FULL


def test_it_is_written_as_docker_writes_it() -> None:
    value = json.loads(FULL.to_json())
    assert list(value) == sorted(value)
    assert value["config"]["Env"] == ["PATH=/bin:/usr/bin", "EMPTY=", "EQUALS=a=b"]
    assert value["config"]["ExposedPorts"] == {"53/udp": {}, "80/tcp": {}}
    assert value["config"]["Volumes"] == {"/data": {}}
    assert value["config"]["Healthcheck"]["Interval"] == 30_000_000_000
    assert value["config"]["OnBuild"] == ["RUN make"]
    assert value["rootfs"] == {"type": "layers", "diff_ids": [DIFF]}
    assert value["history"][1] == {"created_by": "CMD", "empty_layer": True}


def test_what_is_empty_is_left_out() -> None:
    data = ImageConfiguration(ImageConfig(), "amd64", "linux").to_json()
    assert data == b'{"architecture":"amd64","config":{},"os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"config": null, "history": null, "rootfs": null}',
        '{"config": {"Env": null, "Cmd": null, "Labels": null, "Healthcheck": null, "ExposedPorts": null}}',
        '{"config": {"Entrypoint": [], "Cmd": []}, "rootfs": {"type": "layers", "diff_ids": null}}',
    ],
)
def test_what_is_missing_or_null_is_empty(text: str) -> None:
    assert parse_configuration(text.encode()) == ImageConfiguration(ImageConfig(), "", "")


def test_oddities_of_old_tools_are_understood() -> None:
    text = '{"config": {"Cmd": "run", "ExposedPorts": ["80/tcp"], "Env": ["A=1", "B", "A=2"], "Unknown": [{}]}}'
    config = parse_configuration(text.encode()).config
    assert config.cmd == ("run",)
    assert config.exposed_ports == ("80/tcp",)
    assert config.env == (("A", "2"), ("B", ""))


def test_half_a_surrogate_pair_does_not_break_what_is_written_later() -> None:
    parsed = parse_configuration(b'{"config": {"Labels": {"a\\ud800": "\\udfff"}}}')
    assert parsed.config.labels == (("a\ufffd", "\ufffd"),)
    assert parse_configuration(parsed.to_json()) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        "null",
        '{"a":',
        "\xff\xfe",
        '{"config": []}',
        '{"config": {"Env": "A=1"}}',
        '{"config": {"Env": [1]}}',
        '{"config": {"User": 0}}',
        '{"config": {"Labels": {"a": 1}}}',
        '{"config": {"Healthcheck": {"Retries": 1.5}}}',
        '{"config": {"Healthcheck": {"Retries": true}}}',
        '{"config": {"Healthcheck": {"Retries": 99999999999999999999}}}',
        '{"rootfs": {"diff_ids": ["sha256:../../etc/passwd"]}}',
        '{"rootfs": {"diff_ids": [null]}}',
        '{"rootfs": {"type": "magic"}}',
        '{"history": {}}',
        '{"history": [{"empty_layer": "yes"}]}',
        '{"architecture": {}}',
        '{"a": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_what_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        parse_configuration(text.encode("latin-1"))
    assert caught.value.code == "config-invalid"


def test_a_configuration_without_end_is_refused() -> None:
    with pytest.raises(UntrustedDataError) as caught:
        parse_configuration(b" " * (9 << 20))
    assert caught.value.code == "config-invalid"


def test_it_knows_its_platform() -> None:
    assert FULL.platform == Platform("linux", "arm64")
    assert ImageConfiguration(ImageConfig(), "", "linux").platform is None
    assert ImageConfiguration(ImageConfig(), "a/b/c", "linux").platform == Platform("linux", "a/b/c")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["config", "rootfs", "history", "os", "created"])


@given(st.dictionaries(fields, json_values))
def test_any_json_is_read_or_refused(value: dict[str, object]) -> None:
    try:
        parsed = parse_configuration(json.dumps(value).encode())
    except UntrustedDataError:
        return
    assert parse_configuration(parsed.to_json()) == parsed


words = st.lists(st.text(max_size=6), max_size=3).map(tuple)
env_names = st.text(min_size=1, max_size=5).filter(lambda name: "=" not in name)


@given(st.dictionaries(env_names, st.text(max_size=6)), words, words)
def test_any_configuration_survives_the_round(
    env: dict[str, str], cmd: tuple[str, ...], build: tuple[str, ...]
) -> None:
    config = ImageConfig(env=tuple(env.items()), cmd=cmd or None, on_build=build)
    written = ImageConfiguration(config, "amd64", "linux")
    assert parse_configuration(written.to_json()) == written
