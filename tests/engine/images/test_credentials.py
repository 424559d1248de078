"""Where passwords are found."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from engine.images.credentials import Credentials, CredentialStore
from machinefile.errors import HostError, UsageError


def packed(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def store(file: Path, value: object) -> CredentialStore:
    file.write_text(json.dumps(value))
    return CredentialStore((file,))


def test_an_entry_is_found_by_its_registry(file: Path) -> None:
    found = store(file, {"auths": {"localhost:5000": {"auth": packed("ada", "a:b")}}})
    assert found.lookup("localhost:5000") == Credentials("ada", "a:b")
    assert found.lookup("localhost:5001") is None


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "https://registry-1.docker.io/v2/"]
)
def test_the_default_registry_goes_by_many_names(file: Path, key: str) -> None:
    assert store(file, {"auths": {key: {"auth": packed("u", "p")}}}).lookup("docker.io") == Credentials("u", "p")


def test_addresses_as_keys_are_understood(file: Path) -> None:
    found = store(file, {"auths": {"https://example.org/v2/": {"username": "u", "password": "p"}}})
    assert found.lookup("example.org") == Credentials("u", "p")


def test_the_longest_matching_entry_wins(file: Path) -> None:
    auths = {"h:1": {"auth": packed("all", "1")}, "h:1/team": {"auth": packed("team", "2")}}
    found = store(file, {"auths": auths})
    assert found.lookup("h:1", "team/tool") == Credentials("team", "2")
    assert found.lookup("h:1", "teamwork") == Credentials("all", "1")


def test_an_identity_token_is_read(file: Path) -> None:
    found = store(file, {"auths": {"h": {"auth": packed("u", ""), "identitytoken": "t"}}})
    assert found.lookup("h") == Credentials("u", "", "t")


def test_passwords_do_not_show(file: Path) -> None:
    assert "secret" not in repr(Credentials("ada", "secret", "secret"))


def test_without_files_there_are_no_credentials(tmp_path: Path) -> None:
    assert CredentialStore((tmp_path / "none", tmp_path / "config.json" / "none")).lookup("h") is None


def test_an_empty_entry_counts_for_nothing(file: Path) -> None:
    assert store(file, {"auths": {"h": {}}}).lookup("h") is None


def test_the_first_file_that_knows_decides(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_text(json.dumps({"auths": {"a": {"auth": packed("one", "")}}}))
    two.write_text(json.dumps({"auths": {n: {"auth": packed("two", "")} for n in ("a", "b")}}))
    found = CredentialStore((one, two))
    assert found.lookup("a") == Credentials("one", "")
    assert found.lookup("b") == Credentials("two", "")


def test_the_environment_names_the_files(tmp_path: Path) -> None:
    auth = json.dumps({"auths": {"h": {"auth": packed("u", "p")}}})
    for place in ("d/config.json", ".docker/config.json", "run/containers/auth.json", "x/auth"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(auth)
    home = {"HOME": str(tmp_path)}
    for environ in (
        {"DOCKER_CONFIG": str(tmp_path / "d")},
        {"HOME": str(tmp_path)},
        {"XDG_RUNTIME_DIR": str(tmp_path / "run")},
        {"REGISTRY_AUTH_FILE": str(tmp_path / "x/auth")},
    ):
        assert CredentialStore.from_environment(environ).lookup("h") == Credentials("u", "p")
    assert CredentialStore.from_environment({**home, "DOCKER_CONFIG": "/nonexistent"}).lookup("h") is None


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"auths": []}',
        '{"auths": {"h": "x"}}',
        '{"auths": {"h": {"auth": "%%%"}}}',
        '{"auths": {"h": {"auth": "bm9jb2xvbg=="}}}',
        '{"credsStore": "../../bin/sh"}',
    ],
)
def test_a_broken_file_is_named(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        CredentialStore((file,)).lookup("h")
    assert caught.value.code == "auth-config-invalid"


HELPER = """#!/bin/sh
read server
case "$server" in
  good) echo '{"ServerURL": "good", "Username": "ada", "Secret": "pw"}' ;;
  token) echo '{"Username": "<token>", "Secret": "tok"}' ;;
  https://index.docker.io/v1/) echo '{"Username": "hub", "Secret": "pw"}' ;;
  odd) echo '[]' ;;
  broken) echo "the keyring is locked" >&2; exit 1 ;;
  *) echo "credentials not found in native keychain"; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    program = tmp_path / "bin" / "docker-credential-mine"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return "mine"


def test_a_helper_is_asked(file: Path, helper: str) -> None:
    found = store(file, {"credsStore": helper, "auths": {"fallback": {"auth": packed("u", "p")}}})
    assert found.lookup("good") == Credentials("ada", "pw")
    assert found.lookup("token") == Credentials(identity_token="tok")
    assert found.lookup("docker.io") == Credentials("hub", "pw")
    assert found.lookup("unheard-of") is None
    assert found.lookup("fallback") == Credentials("u", "p")


def test_a_helper_for_one_registry_is_asked_for_that_one(file: Path, helper: str) -> None:
    found = store(file, {"credHelpers": {"good": helper, "docker.io": helper}})
    assert found.lookup("good") == Credentials("ada", "pw")
    assert found.lookup("docker.io") == Credentials("hub", "pw")
    assert found.lookup("token") is None


@pytest.mark.parametrize("server", ["broken", "odd"])
def test_a_helper_that_fails_is_named(file: Path, helper: str, server: str) -> None:
    with pytest.raises(HostError) as caught:
        store(file, {"credsStore": helper}).lookup(server)
    assert caught.value.code == "credential-helper-failed"
    assert "docker-credential-mine" in caught.value.message


def test_a_helper_that_is_missing_is_named(file: Path) -> None:
    with pytest.raises(HostError, match="docker-credential-absent") as caught:
        store(file, {"credsStore": "absent"}).lookup("h")
    assert caught.value.code == "program-missing"
