"""--platform as people write it, and the environment's default."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.request import BuildRequest
from machinefile.errors import UsageError
from machinefile.platform import Platform, native
from mbuild.arguments import Parser, add_build_options
from mbuild.request import parse_platforms, read_request

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([], (native(),)),
        ([""], (native(),)),
        (["linux/amd64,linux/arm64"], (AMD, ARM)),
        (["linux/arm64", "linux/amd64"], (ARM, AMD)),
        (["arm64, linux/aarch64", "linux/arm64/v8"], (ARM,)),
        (["linux/arm"], (Platform("linux", "arm", "v7"),)),
        (["local"], (native(),)),
    ],
)
def test_lists_are_read_in_order_and_each_platform_once(lists: list[str], expected: tuple[Platform, ...]) -> None:
    assert parse_platforms(lists) == expected


@pytest.mark.parametrize("text", ["linux/amd64,", ",", "a/b/c/d", "linux//amd64"])
def test_what_is_no_list_of_platforms_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_platforms([text])
    assert caught.value.code == "usage"


def requested(folder: Path, *arguments: str) -> BuildRequest:
    (folder / "Machinefile").write_text("FROM scratch\n")
    parser = Parser()
    add_build_options(parser)
    options: argparse.Namespace = parser.parse_args([*arguments, str(folder)])
    return read_request(options)


def test_the_environment_gives_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    assert list(requested(tmp_path).for_each_platform()) == [ARM]
    given = requested(tmp_path, "--platform=linux/amd64", "--platform", "linux/arm64")
    assert {platform: options.platform for platform, options in given.for_each_platform().items()} == {
        AMD: AMD,
        ARM: ARM,
    }
