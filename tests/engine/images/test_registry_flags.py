"""What the command line says about registries, and that it goes before the file."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from engine.images.policy import RegistrySettings, Trust
from engine.images.registry_config import Mirror
from engine.images.registry_flags import RegistryFlags
from machinefile.errors import UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "registries.toml"
    path.write_text(
        """
        [registry."docker.io"]
        mirrors = ["first.example", "second.example/hub"]

        [registry."a.example:5000"]
        plain-http = true

        [registry."b.example"]
        ca = "b.pem"
        insecure-skip-verify = true
        """
    )
    return path


def settings(file: Path | None, **values: object) -> RegistrySettings:
    environ = {"MBUILD_REGISTRIES_CONFIG": str(file)} if file else {}
    return RegistrySettings.from_environment(environ, RegistryFlags.parse(**values))  # type: ignore[arg-type]


def test_a_mirror_goes_before_those_of_the_file(file) -> None:
    found = settings(file, mirrors=["docker.io=m.example:5000/x/", "n.example"])
    places = (Mirror("m.example:5000", "x"), Mirror("n.example"), Mirror("first.example"))
    assert found.mirrors("docker.io") == (*places, Mirror("second.example", "hub"))


def test_a_mirror_of_the_file_may_be_put_first(file) -> None:
    found = settings(file, mirrors=["second.example/hub"])
    assert found.mirrors("docker.io") == (Mirror("second.example", "hub"), Mirror("first.example"))


def test_a_registry_without_a_section_gets_a_mirror_too(file) -> None:
    assert settings(file, mirrors=["c.example:1=m.example"]).mirrors("c.example:1") == (Mirror("m.example"),)
    assert settings(None, mirrors=["c.example:1=m.example"]).mirrors("c.example:1") == (Mirror("m.example"),)


def test_plain_http_goes_before_the_file(tmp_path) -> None:
    path = tmp_path / "registries.toml"
    path.write_text('[registry."localhost:5000"]\nplain-http = false\n[registry."a.example"]\nplain-http = false\n')
    assert not settings(path).is_plain("localhost:5000")
    found = settings(path, plain=["localhost:5000", "a.example"])
    assert found.is_plain("localhost:5000")
    assert found.is_plain("a.example")
    assert not found.is_plain("b.example")


def test_a_certificate_wants_tls_and_wants_it_checked(file) -> None:
    assert settings(file).is_plain("a.example:5000")
    found = settings(file, authorities=["a.example:5000=/a.pem", "b.example=more.pem", "localhost:1=l.pem"])
    assert not found.is_plain("a.example:5000")
    assert not found.is_plain("localhost:1")
    assert found.trust("a.example:5000") == Trust((Path("/a.pem"),))
    assert found.trust("b.example") == Trust((file.parent / "b.pem", Path("more.pem")))


def test_a_certificate_goes_before_the_environment() -> None:
    environ = {"MBUILD_INSECURE_REGISTRIES": "a.example,b.example"}
    found = RegistrySettings.from_environment(environ, RegistryFlags.parse(authorities=["a.example=/a.pem"]))
    assert not found.is_plain("a.example")
    assert found.is_plain("b.example")


def test_another_file_replaces_that_of_the_environment(file, tmp_path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[registry."docker.io"]\nmirrors = ["third.example"]\n')
    assert settings(file, config=str(other)).mirrors("docker.io") == (Mirror("third.example"),)


def test_another_file_must_be_there(file, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml") as caught:
        settings(file, config=str(tmp_path / "none.toml"))
    assert caught.value.code == "registry-config-invalid"
    assert "--registries-config" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mirrors": ["docker.io="]}, "--registry-mirror docker.io="),
        ({"mirrors": ["team=m.example"]}, "--registry-mirror team"),
        ({"mirrors": ["=m.example"]}, "--registry-mirror"),
        ({"mirrors": ["docker.io=https://m.example/"]}, "write m.example"),
        ({"mirrors": ["docker.io=http://m.example"]}, "--plain-http"),
        ({"plain": ["a.example/team"]}, "--plain-http a.example/team"),
        ({"plain": [""]}, "HOST[:PORT]"),
        ({"authorities": ["a.example"]}, "HOST[:PORT]=FILE"),
        ({"authorities": ["a.example="]}, "HOST[:PORT]=FILE"),
        ({"authorities": ["a=/x"]}, "--registry-ca a"),
        ({"authorities": ["a.example=/x"], "plain": ["a.example"]}, "a.example both"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        RegistryFlags.parse(**values)  # type: ignore[arg-type]
    assert caught.value.code == "usage"
    assert said in f"{caught.value.message} {caught.value.hint}"


@given(st.lists(st.text(), max_size=2), st.lists(st.text(), max_size=2), st.lists(st.text(), max_size=2))
def test_anything_is_read_or_refused(mirrors: list[str], plain: list[str], authorities: list[str]) -> None:
    refused = ""
    try:
        RegistryFlags.parse(mirrors, plain, authorities)
    except UsageError as error:
        refused = error.code
    assert refused in ("", "usage")
