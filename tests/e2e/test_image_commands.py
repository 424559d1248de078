"""push, pull, inspect, tag, rmi, images, against a real registry; what other tools pushed, and what they read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from push_registry import Fault, PushRegistry

pytestmark = pytest.mark.registry


def tool(folder: Path, *argv: str) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def layout_of(busybox: str) -> str:
    """The layout of the base, as skopeo names it."""
    return "oci:" + busybox.removeprefix("oci-layout:")


@pytest.fixture
def app(mbuild, busybox) -> str:
    """An image that mbuild built itself: two layers on a base."""
    files = {"app.conf": "port = 80\n"}
    text = f'FROM {busybox}\nCOPY app.conf /etc/\nENV MODE=fast\nCOPY app.conf /srv/\nLABEL note="\u001b[31mred"\n'
    mbuild.ok("-t", "app", mbuild.context(text, **files))
    return "app"


def inspected(mbuild, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mbuild.ok("inspect", "--format=json", *arguments).stdout)
    return found


def test_what_is_pushed_is_what_was_built(mbuild, app, registry, tmp_path) -> None:
    name = f"{registry.address}/commands/app:1"
    pushed = mbuild.ok("push", app, name).stdout.strip()
    kept = inspected(mbuild, app)
    raw = tool(tmp_path, "skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    manifest = json.loads(raw)
    assert pushed == kept["digest"]
    assert [layer["digest"] for layer in manifest["layers"]] == [layer["digest"] for layer in kept["layers"]]
    assert (
        tool(tmp_path, "skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{name}").strip()
        == pushed
    )
    again = mbuild.ok("push", "--progress=plain", app, name)
    assert "there already" in again.stderr
    assert "sent" not in again.stderr


def test_a_push_to_another_repository_sends_nothing(mbuild, app, registry) -> None:
    mbuild.ok("push", app, f"{registry.address}/commands/first:1")
    told = mbuild.ok("push", "--progress=plain", app, f"{registry.address}/commands/second:1").stderr
    assert "taken from elsewhere" in told
    assert "sent" not in told


def test_a_base_layer_is_not_sent_to_the_registry_it_came_from(mbuild, busybox, registry) -> None:
    base = registry.copy(layout_of(busybox), "commands/base:1")
    mbuild.ok("-t", "derived", mbuild.context(f"FROM {base}\nCOPY f /f\n", f="x"))
    told = mbuild.ok("push", "--progress=plain", "derived", f"{registry.address}/commands/derived:1").stderr
    assert "2 sent, 1 taken from elsewhere in the registry" in told


def test_a_pulled_image_comes_back_the_same(mbuild, app, registry) -> None:
    name = f"{registry.address}/commands/round:1"
    pushed = mbuild.ok("push", app, name).stdout
    mbuild.store = mbuild.folder / "second"
    assert mbuild.ok("pull", name).stdout == pushed
    (row,) = json.loads(mbuild.ok("images", "--format=json").stdout)
    assert (row["name"], row["digest"]) == (name, pushed.strip())
    found = inspected(mbuild, name)
    assert found["size"] == row["size"]
    for layer in found["layers"]:
        assert (mbuild.store / "blobs/sha256" / layer["digest"].removeprefix("sha256:")).stat().st_size == layer["size"]
    elsewhere = mbuild.ok("push", name, f"{registry.address}/commands/back:1")
    assert elsewhere.stdout == pushed


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_skopeo_pushed_is_pulled_and_pushed_on_unchanged(mbuild, busybox, registry, tmp_path, form: str) -> None:
    name = f"{registry.address}/commands/skopeo-{form}:1"
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", f"--format={form}"]
    tool(tmp_path, *argv, layout_of(busybox), f"docker://{name}")
    digest = mbuild.ok("pull", name).stdout.strip()
    onward = f"{registry.address}/commands/onward-{form}:1"
    assert mbuild.ok("push", name, onward).stdout.strip() == digest
    for one in (name, onward):
        shown = tool(tmp_path, "skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{one}")
        assert shown.strip() == digest


def test_what_buildah_pushed_is_pulled(mbuild, busybox, registry, tmp_path) -> None:
    name = f"{registry.address}/commands/buildah:1"
    state = [f"--root={tmp_path}/root", f"--runroot={tmp_path}/run", "--storage-driver=vfs"]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    if os.getuid() != 0:
        pytest.skip("buildah wants user namespaces, which an ordinary user may not have")
    argv = ["buildah", *state, "pull", "--quiet", f"--signature-policy={policy}", layout_of(busybox)]
    image = tool(tmp_path, *argv).strip()
    argv = ["buildah", *state, "push", "--quiet", f"--signature-policy={policy}", "--tls-verify=false", image]
    tool(tmp_path, *argv, f"docker://{name}")
    digest = mbuild.ok("pull", name).stdout.strip()
    shown = tool(tmp_path, "skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{name}")
    assert shown.strip() == digest
    mbuild.ok("-t", "on-it", mbuild.context(f"FROM {name}\nCOPY f /f\n", f="x"))


def test_a_platform_is_chosen(mbuild, registry, busybox) -> None:
    name = registry.copy(layout_of(busybox), "commands/one:1")
    assert inspected(mbuild, name)["platform"] == "linux/amd64"
    failed = mbuild("pull", "--platform=nonsense/x/y/z", name)
    assert failed.returncode == 2
    assert "linux/amd64" in failed.stderr


def test_inspect_asks_the_registry_for_what_the_store_lacks(mbuild, busybox, registry) -> None:
    name = registry.copy(layout_of(busybox), "commands/remote:1")
    found = inspected(mbuild, name)
    assert found["name"] == name
    assert found["configuration"]["config"]["Cmd"] == ["/bin/sh"]
    assert found["index"] is None
    assert found["layers"][0]["diff_id"] == found["configuration"]["rootfs"]["diff_ids"][0]
    assert json.loads(mbuild.ok("images", "--format=json").stdout) == [], "nothing was pulled"
    failed = mbuild("inspect", f"{registry.address}/commands/absent:1")
    assert failed.returncode == 4
    assert "does not exist" in failed.stderr


def test_inspect_with_remote_does_not_look_into_the_store(mbuild, app, registry) -> None:
    name = f"{registry.address}/commands/only-here:1"
    mbuild.ok("tag", app, name)
    assert inspected(mbuild, name)["digest"] == inspected(mbuild, app)["digest"]
    assert mbuild("inspect", "--remote", name).returncode == 4


def test_inspect_for_people_shows_history_and_no_escape_sequences(mbuild, app) -> None:
    shown = mbuild.ok("inspect", app).stdout
    assert "COPY app.conf /etc/" in shown
    assert "MODE=fast" in shown
    assert "in 3 layers" in shown
    assert "\x1b" not in shown


def test_names_are_given_and_taken(mbuild, app) -> None:
    mbuild.ok("tag", app, "app:2")
    mbuild.ok("tag", "app:2", "registry.example/team/app")
    listed = mbuild.ok("images").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["app:2", "app:latest", "registry.example/team/app:latest"]
    assert len({line.split()[1] for line in listed}) == 1
    assert mbuild.ok("rmi", "app:2", app, "app:2").stdout == "untagged app:2\nuntagged app:latest\n"
    assert [row["name"] for row in json.loads(mbuild.ok("images", "--format=json").stdout)] == [
        "registry.example/team/app:latest"
    ]


def test_rmi_forgets_all_or_nothing(mbuild, app) -> None:
    failed = mbuild("rmi", app, "ap")
    assert failed.returncode == 2
    assert "no image 'ap'" in failed.stderr
    assert "did you mean app:latest?" in failed.stderr
    assert len(json.loads(mbuild.ok("images", "--format=json").stdout)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["push", "absent"], "no image 'absent'"),
        (["push", "app", "UPPER"], "lower case"),
        (["push"], "NAME"),
        (["tag", "absent", "x"], "no image 'absent'"),
        (["tag", "app", f"x@sha256:{'0' * 64}"], "digest"),
        (["rmi"], "NAME"),
        (["pull", "UPPER"], "lower case"),
        (["pull", "oci-layout:/x"], "name of an image"),
        (["inspect", "a b"], "name of an image"),
    ],
)
def test_words_that_cannot_be(mbuild, app, words: list[str], said: str) -> None:
    failed = mbuild(*words)
    assert failed.returncode == 2
    assert said in failed.stderr


def test_a_configuration_file_says_how_to_speak_to_a_registry(mbuild, app, start_registry, certificate) -> None:
    secure = start_registry(certificate=certificate)
    name = f"{secure.address}/app:1"
    refused = mbuild("push", app, name)
    assert refused.returncode == 4
    file = mbuild.folder / ".config/mbuild/registries.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'[registry."{secure.address}"]\nplain-http = false\nca = "{certificate[1]}"\n')
    digest = mbuild.ok("push", app, name).stdout
    mbuild.store = mbuild.folder / "second"
    assert mbuild.ok("pull", name).stdout == digest
    file.write_text('[registry."x.example"]\nmirror = []\n')
    failed = mbuild("pull", name)
    assert failed.returncode == 2
    assert "did you mean mirrors?" in failed.stderr


def test_a_mirror_is_pulled_from(mbuild, app, registry, start_registry) -> None:
    mirror = start_registry()
    digest = mbuild.ok("push", app, f"{mirror.address}/hub/team/app:1").stdout
    mbuild.environment["MBUILD_REGISTRIES_CONFIG"] = str(mbuild.folder / "registries.toml")
    text = f'[registry."nowhere.invalid"]\nmirrors = ["127.0.0.1:9", "{mirror.address}/hub"]\n'
    (mbuild.folder / "registries.toml").write_text(text)
    mbuild.store = mbuild.folder / "second"
    assert mbuild.ok("pull", "nowhere.invalid/team/app:1").stdout == digest
    assert "nowhere.invalid/team/app:1" in mbuild.ok("images").stdout
    mbuild.ok("-t", "x", mbuild.context("FROM nowhere.invalid/team/app:1\nCOPY f /f\n", f="x"))


@pytest.fixture
def slow_registry():  # type: ignore[no-untyped-def]
    running = PushRegistry()
    yield running
    running.stop()


def test_an_interrupted_push_ends_at_once(mbuild, app, slow_registry) -> None:
    def hang(request: Any) -> Fault | None:
        if request.method == "POST":
            time.sleep(20)
        return None

    slow_registry.trouble = hang
    argv = mbuild.argv("push", app, f"{slow_registry.address}/app:1")
    push = subprocess.Popen(argv, env=mbuild.environ(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not slow_registry.asked("POST") and time.monotonic() < deadline:
        time.sleep(0.05)
    push.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = push.communicate(timeout=30)
    assert push.returncode == 130, errors
    assert time.monotonic() - began < 5
    assert "Traceback" not in errors
    assert mbuild.left_over() == []


def test_an_image_of_the_store_whose_blob_is_gone_is_told(mbuild, app, registry) -> None:
    layer = inspected(mbuild, app)["layers"][0]["digest"]
    (mbuild.store / "blobs/sha256" / layer.removeprefix("sha256:")).unlink()
    failed = mbuild("push", app, f"{registry.address}/commands/gone:1")
    assert failed.returncode == 3
    assert layer in failed.stderr
