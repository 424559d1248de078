"""Provenances that anybody may have written."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attest.provenance import BUILD_TYPE
from engine.attest.recipe import parse_recipe
from machinefile.clocks import Clock
from machinefile.errors import UntrustedDataError, UsageError

SHA = "a" * 64
COMMIT = "b" * 40


def predicate() -> dict[str, Any]:
    """One with everything in it."""
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "machinefile": "FROM base\n",
                "machinefileDigest": {"sha256": "86a6a2b04b4a7e4b3c1b3d4d5f4e5c9b9d5f9b4c9d2d2a5d4b7a0d8b8c7f6e5d"},
                "ignore": ["/a", "!/a/b"],
                "target": "0",
                "platform": "linux/amd64",
                "buildArguments": {"A": "b"},
                "hiddenBuildArguments": ["T"],
                "labels": {"l": "m"},
                "hiddenLabels": ["h"],
                "options": {
                    "network": "none",
                    "clock": "frozen",
                    "timestamps": "keep",
                    "sourceDateEpoch": 5,
                    "normalizeModes": True,
                    "hosts": ["h:10.0.0.1", "six:::1"],
                    "allow": ["network.host"],
                    "buildContexts": ["g"],
                    "secrets": ["s"],
                    "ssh": ["default"],
                    "annotations": {"k": "v"},
                    "inlineCache": True,
                    "shape": {"cpus": 2, "memory": 1 << 30, "disk": 1 << 30},
                    "output": {
                        "compression": "zstd",
                        "level": 3,
                        "forceCompression": True,
                        "ociMediaTypes": True,
                        "annotations": {},
                    },
                },
            },
            "internalParameters": {"keyVersion": 1, "buildPlatform": "linux/arm64"},
            "resolvedDependencies": [
                {
                    "uri": "pkg:docker/base@latest",
                    "digest": {"sha256": SHA},
                    "annotations": {"reference": "base", "platform": "linux/amd64"},
                },
                {
                    "uri": "pkg:docker/x@1",
                    "digest": {"sha256": SHA},
                    "annotations": {
                        "reference": "context:i",
                        "platform": "linux/amd64",
                        "context": "i",
                        "image": "docker.io/library/x:1",
                    },
                },
                {"uri": "https://host/file", "digest": {"sha256": SHA}},
                {
                    "uri": "git+https://host/r.git@v1",
                    "digest": {"gitCommit": COMMIT},
                    "annotations": {"repository": "https://host/r.git", "ref": "v1", "name": "refs/tags/v1", "tag": ""},
                },
                {
                    "uri": "git+https://host/g.git",
                    "digest": {"gitCommit": COMMIT},
                    "annotations": {
                        "repository": "https://host/g.git",
                        "ref": "",
                        "context": "g",
                        "address": "https://host/g.git",
                    },
                },
                {"name": "context", "digest": {"mbuildFilesV1": SHA}, "annotations": {"context": ""}},
            ],
        },
        "runDetails": {"builder": {"id": "me", "version": {"mbuild": "1"}}, "metadata": {"invocationId": "x"}},
    }


def test_every_field_is_read() -> None:
    recipe = parse_recipe(predicate())
    assert (recipe.clock, recipe.keep_times) == (Clock.FROZEN, True)
    assert (recipe.epoch, recipe.hosts) == (5, (("h", "10.0.0.1"), ("six", "::1")))
    assert recipe.output is not None
    assert recipe.output.compression.identity.startswith("zstd-3-")
    assert recipe.took.folders == (("", SHA),)
    assert [one.reference for one in recipe.took.images] == [f"docker.io/library/x:1@sha256:{SHA}"]
    assert [one.address for one in recipe.took.repositories] == ["https://host/g.git"]
    assert [(pin.name, pin.digest) for pin in recipe.took.pins.images] == [("base:latest", f"sha256:{SHA}")]
    assert [pin.url for pin in recipe.took.pins.files] == ["https://host/file"]
    assert [(pin.ref, pin.name) for pin in recipe.took.pins.repositories] == [("v1", "refs/tags/v1"), ("", "")]
    assert not recipe.is_whole


@pytest.mark.parametrize("place", ["externalParameters", "internalParameters", "options", "shape", "output"])
def test_what_is_not_known_is_refused_and_what_is_missing_too(place: str) -> None:
    def at(value: dict[str, Any]) -> dict[str, Any]:
        definition = value["buildDefinition"]
        options = definition["externalParameters"]["options"]
        found: dict[str, Any] = {**definition, "options": options, **options}[place]
        return found

    more = predicate()
    at(more)["news"] = None
    with pytest.raises(UsageError, match="'news'") as caught:
        parse_recipe(more)
    assert caught.value.code == "attestation-unknown"
    for name in at(predicate()):
        less = predicate()
        del at(less)[name]
        if name == "output":
            assert parse_recipe(less).output is None
            continue
        with pytest.raises(UsageError) as caught:
            parse_recipe(less)
        assert caught.value.code == "attestation-incomplete"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("externalParameters.machinefile", "x" * ((16 << 20) + 1)),
        ("externalParameters.platform", "a/b/c/d"),
        ("externalParameters.machinefileDigest", {"sha256": "x"}),
        ("externalParameters.labels", {"a": 1}),
        ("externalParameters.options.network", "all"),
        ("externalParameters.options.sourceDateEpoch", -1),
        ("externalParameters.options.allow", ["everything"]),
        ("externalParameters.options.hosts", ["h:nowhere"]),
        ("externalParameters.options.shape.cpus", 1 << 40),
        ("externalParameters.options.shape.memory", 1),
        ("externalParameters.options.output.level", 99),
        ("resolvedDependencies", [{"uri": "https://h/f", "digest": {"md5": "x"}}]),
        ("resolvedDependencies", [{}] * 10_001),
        ("resolvedDependencies", [{"uri": "https://h/f", "digest": {"sha256": c * 64}} for c in "ab"]),
        ("resolvedDependencies", [{"digest": {"gitCommit": "b"}, "annotations": {"repository": "r"}}]),
        (
            "resolvedDependencies",
            [{"digest": {"gitCommit": COMMIT}, "annotations": {"repository": "r", "name": "refs/heads/../../../x"}}],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 80 else "value",
)
def test_values_that_cannot_be_are_refused(path: str, value: object) -> None:
    changed = predicate()
    *above, last = path.split(".")
    place = changed["buildDefinition"]
    for name in above:
        place = place[name]
    place[last] = value
    with pytest.raises(UntrustedDataError) as caught:
        parse_recipe(changed)
    assert caught.value.code == "attestation-invalid"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([SHA, COMMIT, "base", "a:b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: object, above: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    items: list[tuple[object, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [above, *(path for key, inner in items for path in _paths(inner, (*above, key)))]


PATHS = [path for path in _paths(predicate()) if path]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), JSON), min_size=1, max_size=3))
def test_any_change_is_read_or_refused(changes: list[tuple[tuple[Any, ...], object]]) -> None:
    changed = predicate()
    for path, value in changes:
        place: Any = changed
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    try:
        recipe = parse_recipe(json.loads(json.dumps(changed)))
    except (UsageError, UntrustedDataError):
        return
    assert all(len(digest) == 64 for _, digest in recipe.took.folders)
    assert recipe.shape is None or 1 <= recipe.shape.cpus <= 255
