"""The options of mbuild run, read."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.runner import Volume
from engine.vm.portforward import PortForward
from machinefile.errors import UsageError
from mbuild.commands.run import environment_of, parse_port, parse_volume
from mbuild.limits import read_shape


@pytest.mark.parametrize(
    ("text", "port", "option"),
    [
        ("8080:80", PortForward(80, 8080), "hostfwd=tcp:127.0.0.1:8080-:80"),
        ("0.0.0.0:8080:80/tcp", PortForward(80, 8080, "0.0.0.0"), "hostfwd=tcp:0.0.0.0:8080-:80"),
        ("5353:53/udp", PortForward(53, 5353, udp=True), "hostfwd=udp:127.0.0.1:5353-:53"),
    ],
)
def test_a_port_is_read_and_given_to_qemu(text: str, port: PortForward, option: str) -> None:
    assert parse_port(text) == port
    assert port.option == option


def test_a_volume_is_a_folder_and_read_only(tmp_path: Path) -> None:
    assert parse_volume(f"{tmp_path}:/srv/../site") == Volume(tmp_path, "/site")
    assert parse_volume(f"{tmp_path}:/site:ro") == Volume(tmp_path, "/site")
    (tmp_path / "file").touch()
    for text in ("x", f"{tmp_path}:site", f"{tmp_path}:/", ":/x"):
        with pytest.raises(UsageError):
            parse_volume(text)
    for text in (f"{tmp_path}:/site:rw", "name:/site", f"{tmp_path}/file:/f"):
        with pytest.raises(UsageError) as caught:
            parse_volume(text)
        assert caught.value.code == "volume-unsupported"


@pytest.mark.parametrize(
    "text",
    ["80", ":80", "a:80", "1:70000", "0:1", "1:2/sctp", "x:1:2", "1.2.3:1:2", "::1:1:2", "1:2,hostfwd=tcp::3-:4"],
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_port(text)


def test_variables_come_from_files_then_options_then_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "env"
    file.write_text("# note\n\nA=1\n  B=x = y\nHERE\nGONE\n")
    monkeypatch.setenv("HERE", "there")
    monkeypatch.delenv("GONE", raising=False)
    assert environment_of([str(file)], ["A=2"]) == (("A", "2"), ("B", "x = y"), ("HERE", "there"))
    with pytest.raises(UsageError):
        environment_of([], ["A B=1"])
    with pytest.raises(UsageError):
        environment_of([str(tmp_path / "none")], [])


def test_memory_is_a_whole_number_of_mebibytes() -> None:
    shape = read_shape(argparse.Namespace(memory="1.3G", disk="", cpus=""))
    assert shape is not None
    assert shape.memory == 1331 << 20
