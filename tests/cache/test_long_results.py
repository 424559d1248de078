"""Results of long chains in the index: each part of them once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.chains import Chains, layers_of_part
from cache.index import Index, Kind
from cache.results import Layer, StepResult


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path / "index")
    yield made
    made.close()


def layer(number: int) -> Layer:
    digest = f"sha256:{number:064x}"
    return Layer(digest, digest, number, "application/x")


CHAIN = tuple(None if number % 5 == 0 else layer(number) for number in range(200))


def put(index: Index, name: str, result: StepResult) -> None:
    index.put(Kind.RESULT, name, Chains(index).written(result))


def read(index: Index, name: str) -> StepResult:
    return Chains(index).result(index.get(Kind.RESULT, name))


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 96, 97, 128, 200])
def test_a_result_of_any_length_is_read_as_it_was_written(index: Index, length: int) -> None:
    result = StepResult(CHAIN[:length], 1.5, 2.5, length % 2 == 0)
    put(index, "a", result)
    assert read(index, "a") == result


def test_what_is_not_long_is_written_as_ever(index: Index) -> None:
    result = StepResult(CHAIN[:64], 1.5, 2.5)
    assert Chains(index).written(result) == result.to_json()
    assert not list(index.keys(Kind.CHAIN))


def test_a_long_result_that_was_written_whole_is_read_too(index: Index) -> None:
    result = StepResult(CHAIN, 1.5, 2.5)
    index.put(Kind.RESULT, "a", result.to_json())
    assert read(index, "a") == result


def test_the_results_of_a_chain_take_room_by_its_length(index: Index, tmp_path: Path) -> None:
    chains = Chains(index)
    sizes = []
    for length in range(1, 201):
        index.put(Kind.RESULT, str(length), chains.written(StepResult(CHAIN[:length])))
        if length % 100 == 0:
            index.close()
            with sqlite3.connect(tmp_path / "index" / "cache.db") as database:
                sizes += database.execute("SELECT sum(length(value)) FROM Cache").fetchone()
    assert sizes[1] < 2.5 * sizes[0]
    assert len(list(index.keys(Kind.CHAIN))) == 6
    assert [read(index, str(length)).steps for length in range(1, 201)] == [CHAIN[:end] for end in range(1, 201)]


def test_chains_that_part_share_what_is_below(index: Index) -> None:
    one, other = StepResult(CHAIN[:100]), StepResult((*CHAIN[:50], *map(layer, range(1000, 1050))))
    put(index, "one", one)
    put(index, "other", other)
    assert (read(index, "one"), read(index, "other")) == (one, other)
    assert len(list(index.keys(Kind.CHAIN))) == 3 + 2


def test_one_whose_part_is_gone_is_no_result_and_can_be_kept_again(index: Index) -> None:
    result = StepResult(CHAIN)
    put(index, "a", result)
    index.drop(Kind.CHAIN, next(index.keys(Kind.CHAIN)))
    with pytest.raises(ValueError, match="missing"):
        read(index, "a")
    put(index, "a", result)
    assert read(index, "a") == result


def test_a_part_that_says_something_else_than_its_name_is_none(index: Index) -> None:
    result = StepResult(CHAIN)
    put(index, "a", result)
    name = next(index.keys(Kind.CHAIN))
    index.put(Kind.CHAIN, name, {"below": "", "steps": [layer(7).to_json()] * 32})
    with pytest.raises(ValueError, match="missing"):
        read(index, "a")
    put(index, "a", result)
    assert read(index, "a") == result


def test_a_part_tells_its_layers(index: Index) -> None:
    put(index, "a", StepResult(CHAIN[:65]))
    found = {one for key in index.keys(Kind.CHAIN) for one in layers_of_part(index.get(Kind.CHAIN, key))}
    assert found == {one for one in CHAIN[:64] if one is not None}
    assert layers_of_part({"steps": [1]}) == layers_of_part(None) == ()


@pytest.mark.parametrize("value", [{"chain": ["", 1]}, {"chain": ["x", []], "seconds": 0, "created": 0}, {"chain": []}])
def test_what_only_looks_like_one_is_none(index: Index, value: object) -> None:
    with pytest.raises(ValueError, match=r"not a result|missing"):
        Chains(index).result(value)
