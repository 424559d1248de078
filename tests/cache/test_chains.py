"""Reading the results of a chain of steps."""

from __future__ import annotations

import json

import pytest

from cache.results import KnownSteps, Layer, StepResult


def layer(number: int) -> Layer:
    digest = f"sha256:{number:064x}"
    return Layer(digest, digest, number, "application/x")


def text_of(result: StepResult) -> bytes:
    return json.dumps(result.to_json(), separators=(",", ":"), sort_keys=True).encode()


CHAIN = tuple(None if number % 3 == 0 else layer(number) for number in range(40))


def test_each_is_what_it_is_alone_in_whatever_order_they_are_read() -> None:
    known = KnownSteps()
    lengths = [*range(40), 3, 39, 0, 17, 40, 1]
    for length in lengths:
        result = StepResult(CHAIN[:length], 1.5, 2.5, length % 2 == 0)
        assert StepResult.read(text_of(result), known) == result


def test_a_chain_that_parts_from_another_keeps_its_own_layers() -> None:
    known = KnownSteps()
    one, other = StepResult((layer(1), layer(2))), StepResult((layer(1), layer(22), None))
    longer = StepResult((layer(1), layer(2), layer(3)))
    for result in (one, other, longer, other, one, StepResult((None,)), StepResult((None, None))):
        assert StepResult.read(text_of(result), known) == result


def test_only_what_is_new_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    known = KnownSteps()
    read: list[object] = []
    original = Layer.from_json

    def counted(value: object) -> Layer:
        read.append(value)
        return original(value)

    monkeypatch.setattr(Layer, "from_json", counted)
    for length in range(1, 41):
        StepResult.read(text_of(StepResult(CHAIN[:length])), known)
    assert len(read) == sum(one is not None for one in CHAIN)


def test_another_order_of_the_fields_is_read_too() -> None:
    result = StepResult((layer(1), None), 1.0, 2.0)
    content = json.dumps({"steps": [layer(1).to_json(), None], "seconds": 1.0, "created": 2.0}).encode()
    assert StepResult.read(content, KnownSteps()) == result


@pytest.mark.parametrize(
    "content",
    [
        b'{"created":1,"seconds":1,"steps":[],"steps":[null]',
        b'{"created":1,"seconds":1,"steps":[1]}',
        b'{"created":1,"seconds":1,"steps":[null,]}',
        b'{"created":1,"seconds":-1,"steps":[null]}',
        b'{"seconds":1,"steps":[null]}',
        b'{"created":1,"seconds":1,"steps":[null],[null]}',
        b"[]",
        b"",
    ],
)
def test_what_is_no_result_is_refused(content: bytes) -> None:
    known = KnownSteps()
    StepResult.read(text_of(StepResult((None,))), known)
    with pytest.raises(ValueError, match=r".*"):
        StepResult.read(content, known)
