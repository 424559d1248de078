"""Records and keys stay what they were: a change that nobody meant would empty every cache, or misread it."""

from __future__ import annotations

import json
from pathlib import Path

import golden_keys
import pytest

from machinefile.steps import Run

UPDATE = ".venv/bin/python scripts/golden-keys --update"


@pytest.mark.parametrize("name", golden_keys.CASES)
def test_records_and_keys_are_those_of_the_golden_files(name: str, tmp_path: Path) -> None:
    expected, actual = golden_keys.FOLDER / f"{name}.json", golden_keys.FOLDER / f"{name}.json.actual"
    found = golden_keys.golden(name, tmp_path)
    if not expected.exists() or found != expected.read_text():
        actual.write_text(found)
        pytest.fail(
            f"compare {expected} and {actual.name} beside it. If steps have other results now, raise "
            f"cache.keys.VERSION. If the change is meant: {UPDATE}"
        )


def test_every_operation_is_in_a_golden_file() -> None:
    found = {
        about["record"]["operation"]
        for path in golden_keys.FOLDER.glob("*.json")
        for about in json.loads(path.read_text()).values()
    }
    assert found == {"from", "run", "copy", "remote", "workdir", "metadata"}


def test_no_two_steps_have_a_key_in_common() -> None:
    keys = [
        (about[kind], path.stem, step)
        for path in golden_keys.FOLDER.glob("*.json")
        for step, about in json.loads(path.read_text()).items()
        for kind in ("key", "content_key")
        if kind in about and about["record"]["operation"] not in ("from", "metadata")
    ]
    assert len({key for key, _, _ in keys}) == len(keys)


def test_the_golden_files_hold_nothing_that_must_not_be_in_a_record() -> None:
    written = (golden_keys.FOLDER / "run.json").read_text()
    records = json.dumps([about["record"] for about in json.loads(written).values()])
    for word in ("its value", "2026-05", "proxy", "ttl", "a comment"):
        assert word not in records, word
    assert any(isinstance(step.operation, Run) and step.operation.ttl for step in golden_keys.graph_of("run").steps)
