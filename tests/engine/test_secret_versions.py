"""--secret id=...,version=...: when another secret is to run steps again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from engine.plan import PlannedStep
from engine.secrets import Secrets
from machinefile.errors import UsageError
from mbuild.secrets import read_secrets

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = "FROM base\nRUN --mount=type=secret,id=token write a b\nRUN write c d\n"


def planned(workshop: Workshop, *versions: tuple[str, str], text: str = TEXT) -> list[PlannedStep]:
    """The steps with these versions of secrets; the secrets' values are their versions', upside down."""
    values = tuple((secret_id, version[::-1].encode() + b"-secret") for secret_id, version in versions)
    request = dataclasses.replace(workshop.request(text), secrets=Secrets(values, versions))
    return [one for one in workshop.driver.plan(request).steps if one.step.makes_layer]


def keys(workshop: Workshop, *versions: tuple[str, str], text: str = TEXT) -> list[str]:
    return [one.key for one in planned(workshop, *versions, text=text)]


def test_a_version_changes_the_key_of_the_steps_that_mount_the_secret(workshop: Workshop) -> None:
    text = "FROM base AS one\nRUN --mount=type=secret,id=token a\nFROM base\nRUN b\nCOPY --from=one / /\n"
    none, one, two = (keys(workshop, *versions, text=text) for versions in ([], [("token", "1")], [("token", "2")]))
    assert len({none[0], one[0], two[0]}) == 3
    assert none[1] == one[1] == two[1]


def test_without_a_version_nothing_of_a_secret_is_in_a_key(workshop: Workshop) -> None:
    request = workshop.request(TEXT)
    given = dataclasses.replace(request, secrets=Secrets((("token", b"hunter2"),)))
    found = [[one.record for one in workshop.driver.plan(asked).steps] for asked in (request, given)]
    assert found[0] == found[1]


def test_versions_of_secrets_that_are_not_mounted_count_for_nothing(workshop: Workshop) -> None:
    assert keys(workshop, ("other", "1")) == keys(workshop)


def test_a_mount_of_another_kind_with_that_id_counts_for_nothing(workshop: Workshop) -> None:
    text = "FROM base\nRUN --mount=type=cache,id=token,target=/c a\nRUN --mount=type=ssh,id=token b\n"
    assert keys(workshop, ("token", "1"), text=text) == keys(workshop, text=text)


def test_two_secrets_of_one_version_differ_and_the_order_does_not_matter(workshop: Workshop) -> None:
    text = "FROM base\nRUN --mount=type=secret,id=one --mount=type=secret,id=two a\n"
    one, two = ("one", "1"), ("two", "1")
    assert keys(workshop, one, text=text) != keys(workshop, two, text=text)
    assert keys(workshop, one, two, text=text) == keys(workshop, two, one, text=text)
    (step,) = planned(workshop, one, two, text=text)
    (versions,) = (value for name, value in step.record.fields if name == "secret_versions")
    assert isinstance(versions, tuple)
    ids, marks = zip(*versions, strict=True)  # type: ignore[arg-type]
    assert ids == ("one", "two")
    assert marks[0] != marks[1]


def test_neither_the_version_nor_the_secret_is_in_the_record(workshop: Workshop) -> None:
    (step, _) = planned(workshop, ("token", "spring-2026"))
    written = str(step.record)
    assert "token" in written
    assert "spring" not in written
    assert "6202" not in written


def test_a_version_is_the_same_on_every_machine(workshop: Workshop) -> None:
    (step, _) = planned(workshop, ("token", "1"))
    assert dict(step.record.fields)["secret_versions"] == (
        ("token", "10b8186d5c2d39f6557c0b4257c91956bc4d5cf69a06b510e9c5c65545e28b3d"),
    )


def test_a_raised_version_runs_the_step_again_and_a_changed_value_does_not(workshop: Workshop) -> None:
    request = workshop.request(TEXT)

    def run(value: bytes, version: str) -> int:
        secrets = Secrets((("token", value),), (("token", version),))
        return workshop.driver.build(dataclasses.replace(request, secrets=secrets)).run

    assert [run(b"first-value", "1"), run(b"second-value", "1"), run(b"second-value", "2")] == [2, 0, 1]
    assert run(b"first-value", "1") == 0, "the result of the first version is still there"


def test_versions_are_read_from_the_command_line() -> None:
    written = ["id=a,env=X,version=1", "id=b,env=X", "id=c,env=X,version=1", "id=c,env=X", "id=d,Version=2026-05,env=X"]
    secrets = read_secrets(written, {"X": "value"})
    assert secrets.versions == (("a", "1"), ("d", "2026-05"))
    assert secrets.get("d") == b"value"


@pytest.mark.parametrize("version", ["", "two words", "hunter2-hunter2", "v1-hunter2-hunter2", "x" * 65, "ä", "a=b"])
def test_a_version_that_is_none_is_refused_and_not_repeated(version: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_secrets([f"id=a,env=X,version={version}"], {"X": "hunter2-hunter2\n"})
    assert caught.value.code == "bad-secret"
    assert "hunter2" not in caught.value.message + caught.value.hint
