"""Dataclasses whose methods are written when they are needed."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pkgutil
import threading
from dataclasses import field

import pytest

import cache
import engine
import machinefile
import mbuild
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """A place."""

    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list, compare=False)

    @property
    def sum(self) -> int:
        """Of both."""
        return self.x + self.y


@dataclass(frozen=True, slots=True)
class Far(Point):
    """A place in space."""

    z: int = 3


@dataclass(frozen=True, slots=True, order=True)
class Ordered:
    """Something to be sorted."""

    rank: int


@dataclass(slots=True)
class Checked:
    """Something that looks at itself."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("negative")


@dataclass(frozen=True, slots=True, repr=False)
class Hidden:
    """A secret."""

    value: str


@dataclass(frozen=True, slots=True)
class Matched:
    """For patterns."""

    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Shared:
    """For threads."""

    value: int


@dataclass(frozen=True, slots=True)
class Asked:
    """For questions about its fields."""

    value: int = 1


def test_objects_are_made_compared_hashed_and_shown_as_ever() -> None:
    assert (Point(1), Point(x=1, y=2, tags=["a"]).tags) == (Point(1, 2), ["a"])
    assert len({Point(1), Point(1), Point(2)}) == 2
    assert repr(Point(1)).endswith("Point(x=1, y=2, tags=[])")
    assert Point(1).sum == 3
    assert dataclasses.replace(Point(1), y=5) == Point(1, 5)
    assert copy.deepcopy(Point(4)) == Point(4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Point(1).x = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]
    assert not hasattr(Point(1), "__dict__")


def test_a_class_may_stand_on_another_of_which_there_is_no_object() -> None:
    @dataclass(frozen=True, slots=True)
    class Below:
        """The lower one."""

        a: int

    @dataclass(frozen=True, slots=True)
    class Above(Below):
        """The upper one."""

        b: int

    assert (Above(1, 2).a, Above(1, 2).b) == (1, 2)
    assert Far(1, 2, [], 4) == Far(1, 2, [], 4)
    assert isinstance(Far(1), Point)


def test_options_and_post_init_count() -> None:
    assert sorted([Ordered(2), Ordered(1)])[0].rank == 1
    assert "secret" not in repr(Hidden("secret"))
    with pytest.raises(ValueError, match="negative"):
        Checked(-1)


def test_patterns_match_by_position() -> None:
    match Matched(1, 2):
        case Matched(left, right):
            assert (left, right) == (1, 2)
        case _:
            pytest.fail("it should match")


def test_fields_can_be_asked_for_before_there_is_an_object() -> None:
    assert [one.name for one in dataclasses.fields(Asked)] == ["value"]
    assert dataclasses.is_dataclass(Asked)
    assert Asked() == Asked(1)


def test_threads_may_make_the_first_objects_at_once() -> None:
    begin, made = threading.Barrier(8), []

    def work() -> None:
        begin.wait(10)
        made.append(Shared(7))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert made == [Shared(7)] * 8


def test_every_class_of_the_project_can_be_finished() -> None:
    found = 0
    for package in (machinefile, cache, engine, mbuild):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if module.name.endswith("__main__"):
                continue
            for one in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(one) and one.__module__ == module.name and dataclasses.is_dataclass(one):
                    names = [field.name for field in dataclasses.fields(one) if field.init]
                    assert list(inspect.signature(one).parameters) == names, one
                    found += 1
    assert found > 200
