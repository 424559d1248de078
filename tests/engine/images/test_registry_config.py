"""registries.toml: what it may say, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from engine.images.policy import RegistrySettings, Trust
from engine.images.registry_config import Mirror, RegistryEntry, config_file, load, parse
from machinefile.errors import UsageError

PATH = Path("/etc/mbuild/registries.toml")

GOOD = """
[registry."docker.io"]
mirrors = ["mirror.example", "cache.example:5000/hub/more/"]

[registry."cache.example:5000"]
plain-http = true

[registry."own.example"]
ca = "own.pem"
client-cert = "me.pem"
client-key = "/keys/me.key"

[registry."localhost:5000"]
plain-http = false
ca = ["/a.pem", "b.pem"]
insecure-skip-verify = true
"""


def test_everything_that_may_be_said() -> None:
    assert parse(GOOD.encode(), PATH) == (
        RegistryEntry("docker.io", (Mirror("mirror.example"), Mirror("cache.example:5000", "hub/more"))),
        RegistryEntry("cache.example:5000", plain_http=True),
        RegistryEntry(
            "own.example",
            ca=(Path("/etc/mbuild/own.pem"),),
            identity=(Path("/etc/mbuild/me.pem"), Path("/keys/me.key")),
        ),
        RegistryEntry("localhost:5000", (), False, (Path("/a.pem"), Path("/etc/mbuild/b.pem")), skip_verify=True),
    )


def test_nothing_need_be_said() -> None:
    assert parse(b"", PATH) == ()
    assert parse(b'[registry."a.example"]', PATH) == (RegistryEntry("a.example"),)


@pytest.mark.parametrize("name", ["index.docker.io", "registry-1.docker.io", "docker.io"])
def test_the_default_registry_has_several_names(name: str) -> None:
    (entry,) = parse(f'[registry."{name}"]\nmirrors = ["m.example"]'.encode(), PATH)
    settings = RegistrySettings(entries=(entry,))
    assert entry.registry == "docker.io"
    assert settings.mirrors("docker.io") == settings.mirrors("registry-1.docker.io") == (Mirror("m.example"),)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("a = 1\nb = ?", "line 2", ""),
        ("\xff", "utf-8", ""),
        ("mirrors = []", "'mirrors'", '[registry."HOST"]'),
        ("registry = 1", "not a table", '[registry."HOST"]'),
        ('registry."a.example" = 1', "a.example", "quote"),
        ('[registry."a.example"]\nmirror = []', "'mirror'", "mirrors"),
        ('[registry."a.example"]\nspeed = 1', "'speed'", "plain-http"),
        ('[registry.a.example]\nmirrors = ["b.example"]', "'example'", '[registry."a.example"]'),
        ('[registry."a.example/team"]', "a.example/team", "HOST"),
        ('[registry."team"]', "team", "HOST"),
        ('[registry.""]', '""', "HOST"),
        ('[registry."https://a.example"]', "https://a.example", "HOST"),
        ('[registry."a.example"]\nmirrors = "b.example"', "mirrors is not a list", "mirrors = ["),
        ('[registry."a.example"]\nmirrors = [1]', "mirrors is not a list", ""),
        ('[registry."a.example"]\nmirrors = ["http://b.example/"]', "an address", "write b.example;"),
        ('[registry."a.example"]\nmirrors = ["team"]', "'team'", "HOST[:PORT]"),
        ('[registry."a.example"]\nmirrors = ["b.example/x:1"]', "b.example/x:1", "HOST[:PORT]"),
        ('[registry."a.example"]\nmirrors = ["b.example/UPPER"]', "UPPER", "HOST[:PORT]"),
        ('[registry."a.example"]\nmirrors = ["b.example/../c"]', "..", "HOST[:PORT]"),
        (f'[registry."a.example"]\nmirrors = {["b.example"] * 17}', "more than 16", ""),
        ('[registry."a.example"]\nplain-http = "yes"', "plain-http is neither", ""),
        ('[registry."a.example"]\ninsecure-skip-verify = 1', "insecure-skip-verify is neither", ""),
        ('[registry."a.example"]\nca = 1', "ca is not", ""),
        ('[registry."a.example"]\nplain-http = true\nca = "x"', "TLS too", "one or the other"),
        (
            '[registry."a.example"]\nplain-http = true\nclient-cert = "x"\nclient-key = "y"',
            "TLS too",
            "one or the other",
        ),
        ('[registry."a.example"]\nclient-cert = "x"', "client-cert and client-key together", ""),
        ('[registry."a.example"]\nclient-key = "x"', "client-cert and client-key together", ""),
        ('[registry."a.example"]\nclient-cert = "x"\nclient-key = 1', "client-cert and client-key together", ""),
        ('[registry."a.example"]\nclient-cert = "x"\nclient-key = ""', "client-cert and client-key together", ""),
        ('[registry."docker.io"]\n[registry."index.docker.io"]', "two sections", "together"),
        ("#" * (2 << 20), "longer", ""),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text.encode("latin-1"), PATH)
    assert caught.value.code == "registry-config-invalid"
    assert str(PATH) in caught.value.message
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_where_the_file_is_looked_for(tmp_path: Path) -> None:
    home = {"HOME": "/home/ada"}
    assert config_file(home) == Path("/home/ada/.config/mbuild/registries.toml")
    assert config_file({**home, "XDG_CONFIG_HOME": "/x"}) == Path("/x/mbuild/registries.toml")
    assert config_file({**home, "MBUILD_REGISTRIES_CONFIG": "/y.toml"}) == Path("/y.toml")
    assert config_file({}) is None


def test_the_file_that_nobody_named_may_be_missing(tmp_path: Path) -> None:
    assert load({}) == ()
    assert load({"HOME": str(tmp_path)}) == ()
    assert load({"XDG_CONFIG_HOME": "/dev/null"}) == ()


@pytest.mark.parametrize("name", ["missing.toml", ""])
def test_the_file_that_was_named_must_be_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load({"MBUILD_REGISTRIES_CONFIG": str(tmp_path / name)})
    assert caught.value.code == "registry-config-invalid"


def test_the_environment_wins_over_the_file_and_the_file_over_the_rule_for_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "registries.toml"
    sections = ((name, "false") for name in ("localhost:5000", "127.0.0.1:1", "a.example"))
    file.write_text("".join(f'[registry."{name}"]\nplain-http = {value}\n' for name, value in sections))
    settings = RegistrySettings.from_environment(
        {"MBUILD_REGISTRIES_CONFIG": str(file), "MBUILD_INSECURE_REGISTRIES": "a.example,127.0.0.1:1"}
    )
    assert not settings.is_plain("localhost:5000")
    assert settings.is_plain("localhost:5001")
    assert settings.is_plain("a.example")
    assert settings.is_plain("127.0.0.1:1")


def test_whose_certificates_count(tmp_path: Path) -> None:
    for name in ("docker.io", "a.example:5000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").touch()
        (tmp_path / name / "client.key").touch()
    entries = (RegistryEntry("a.example:5000", ca=(Path("/own.pem"),)), RegistryEntry("b.example", skip_verify=True))
    settings = RegistrySettings(entries=entries, certificate_folders=(tmp_path, tmp_path / "missing"))
    assert settings.trust("a.example:5000") == Trust((Path("/own.pem"), tmp_path / "a.example:5000" / "ca.crt"))
    assert settings.trust("registry-1.docker.io") == Trust((tmp_path / "docker.io" / "ca.crt",))
    assert settings.trust("b.example") == Trust((), verify=False)
    assert settings.trust("a.example") == Trust()


def test_the_port_of_tls_may_be_written_out() -> None:
    settings = RegistrySettings(entries=(RegistryEntry("a.example:443", skip_verify=True),))
    assert settings.trust("a.example") == Trust((), verify=False)


TOML = st.recursive(
    st.one_of(st.booleans().map(lambda value: str(value).lower()), st.integers().map(str), st.text().map(json.dumps)),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=6,
)
NAMES = ["mirrors", "plain-http", "ca", "client-cert", "client-key", "insecure-skip-verify"]
KEYS = st.one_of(st.sampled_from(NAMES), st.text().map(json.dumps))


@given(st.text(), st.lists(st.tuples(KEYS, TOML), max_size=4))
def test_whatever_is_written_is_read_or_refused_with_the_files_name(name: str, fields: list[tuple[str, str]]) -> None:
    lines = [f"[registry.{json.dumps(name)}]", *(f"{key} = {value}" for key, value in fields)]
    failure = None
    try:
        assert len(parse("\n".join(lines).encode("utf-8", "surrogatepass"), PATH)) == 1
    except UsageError as error:
        failure = error
    assert failure is None or (failure.code == "registry-config-invalid" and str(PATH) in failure.message)
