"""Dataclasses whose methods are written when they are needed."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable
from dataclasses import field
from functools import cached_property
from typing import Any, Generic, TypeVar

import pytest

import cache
import engine
import machinefile
import mbuild
from machinefile.values import dataclass

T = TypeVar("T")


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


def test_every_class_of_the_project_takes_what_the_standard_library_says_that_it_takes() -> None:
    found = 0
    for package in (machinefile, cache, engine, mbuild):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if module.name.endswith("__main__"):
                continue
            for one in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(one) and one.__module__ == module.name and dataclasses.is_dataclass(one):
                    made: Callable[..., object] = one
                    with pytest.raises(TypeError):
                        made(no_such_argument=1)  # writes what takes them
                    fields = [field for field in dataclasses.fields(one) if field.init]
                    assert _taken(one) == [(field.name, _has_default(field)) for field in fields], one
                    found += 1
    assert found > 200


def _taken(one: type) -> list[tuple[str, bool]]:
    parameters = inspect.signature(one).parameters.values()
    return [(parameter.name, parameter.default is not parameter.empty) for parameter in parameters]


def _has_default(one: dataclasses.Field[object]) -> bool:
    return one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING


MANY = 20
"""More objects than are filled field by field."""
Makes = Any
"""One `dataclass` or the other."""


def _none(decorate: Makes) -> Any:
    @decorate(frozen=True, slots=True)
    class Empty:
        """Nothing in it."""

    made: Any = Empty
    return made()


def _one(decorate: Makes) -> Any:
    @decorate(frozen=True, slots=True)
    class One:
        """A field."""

        self_: float = 1.5

    made: Any = One
    return made()


def _many(decorate: Makes) -> Any:
    @decorate(frozen=True, slots=True)
    class Many:
        """Fields of all kinds."""

        given: int
        plain: str = "x"
        made: tuple[int, ...] = field(default_factory=lambda: (1, 2))
        shown_not: int = field(default=3, repr=False)
        compared_not: list[int] = field(default_factory=list, compare=False)

    made: Any = Many
    return made(1)


def _above(decorate: Makes) -> Any:
    @decorate(frozen=True, slots=True)
    class Below:
        """With a default that another takes over."""

        a: int
        b: int = 2

        def __str__(self) -> str:
            return "below"

    @decorate(frozen=True, slots=True)
    class Above(Below):
        """One more, in the place that it had."""

        b: int = 5
        c: tuple[int, ...] = ()

        def __repr__(self) -> str:
            return "above"

    made: Any = Above
    return made(1, c=(3,))


def _open(decorate: Makes) -> Any:
    @decorate(frozen=True)
    class Open:
        """Without slots, for what is worked out once."""

        a: int
        b: str = field(default="x", repr=False)
        c: tuple[int, ...] = field(default_factory=tuple)
        d: int = 4

        @cached_property
        def twice(self) -> int:
            return 2 * self.a

    made: Any = Open
    assert made(1).twice == 2
    return made(1)


def _bare(decorate: Makes) -> Any:
    @decorate()
    class Bare:
        """Without any option."""

        a: int
        b: list[int] = field(default_factory=list)

    made: Any = Bare
    return made(1)


def _below_open(decorate: Makes) -> Any:
    @decorate(frozen=True)
    class Below:
        """Without slots."""

        a: int = 1

    @decorate(frozen=True, slots=True)
    class Above(Below):
        """With a slot."""

        b: int = 2

    made: Any = Above
    return made(3)


def _ordered(decorate: Makes) -> Any:
    @decorate(frozen=True, slots=True, order=True)
    class Sorted:
        """To be sorted."""

        a: int = 1
        b: int = 2

    made: Any = Sorted
    return made()


def _mutable(decorate: Makes) -> Any:
    @decorate(slots=True)
    class Changed:
        """Has no hash."""

        a: int = 1
        b: int = field(init=True, default=4)

    made: Any = Changed
    return made()


def _set_up(decorate: Makes) -> Any:
    @decorate(slots=True)
    class SetUp:
        """Not all of it is given, so it is not a plain one."""

        a: int = 1
        b: int = field(init=False, default=4)
        c: int = field(default=0, kw_only=True)

    made: Any = SetUp
    return made(3, c=1)


def _generic(decorate: Makes) -> Any:
    @decorate(frozen=True, slots=True)
    class Held(Generic[T]):
        """Of any type."""

        held: T

    made: Any = Held
    return made(1)


MAKERS = (
    *(_none, _one, _many, _above, _open, _bare),
    *(_below_open, _ordered, _mutable, _set_up, _generic),
)


@pytest.mark.parametrize("make", MAKERS)
def test_it_is_as_one_of_the_standard_library_whatever_is_asked_first(make: Callable[[Makes], Any]) -> None:
    def change(one: Any) -> object:
        return _refused(lambda: setattr(one, "a", 7))

    def remove(one: Any) -> object:
        return _refused(lambda: delattr(copy.copy(one), "a"))

    asked: list[Callable[[Any], object]] = [
        repr,
        str,
        hash,
        lambda one: one == copy.copy(one),
        lambda one: (one == 1, one != 1, one == one),
        dataclasses.replace,
        dataclasses.asdict,
        lambda one: [(field.name, field.type, field.default) for field in dataclasses.fields(one)],
        lambda one: one < copy.copy(one),
        lambda one: [(name, getattr(type(one), name, 0)) for name in "bcd" if "__dict__" in dir(one)],
        change,
        remove,
        lambda one: type(one).__match_args__,
        lambda one: (
            getattr(type(one), "__slots__", 0),
            type(one).__qualname__,
            type(one).__doc__,
            type(one).__module__,
        ),
        lambda one: (copy.deepcopy(one) == one, hasattr(one, "__dict__"), _taken(type(one))),
    ]

    def among_many(decorate: Makes) -> Any:
        made = make(decorate)
        for _ in range(MANY):  # whatever takes the arguments is there after these
            _answer(dataclasses.replace, made)
        return made

    def answers(decorate: Makes, first: Callable[[Any], object]) -> list[object]:
        one = among_many(decorate)
        return [_answer(first, one), *(_answer(each, one) for each in asked)]

    for first in asked:
        assert answers(dataclass, first) == answers(dataclasses.dataclass, first)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((), {}),
        ((1,), {}),
        ((1, 2), {}),
        ((1, 2, [3]), {}),
        ((1, 2, [3], 4), {}),
        ((), {"b": 2}),
        ((), {"b": 2, "a": 1}),
        ((1,), {"b": 3}),
        ((1,), {"a": 3}),
        ((1,), {"x": 1}),
    ],
)
def test_the_first_objects_take_what_all_others_take(given: tuple[Any, ...], named: dict[str, Any]) -> None:
    def answers(decorate: Makes) -> list[object]:
        @decorate
        class Plain:
            """Neither frozen nor with slots."""

            a: int
            b: int = 3
            c: list[int] = field(default_factory=lambda: [7])

        @decorate(frozen=True, slots=True)
        class Frozen:
            """Both, and with more to do."""

            a: int
            b: int = 4
            sums: list[int] = field(default_factory=list)

            def __post_init__(self) -> None:
                self.sums.append(self.a + self.b)

        def contents(made: Any) -> list[object]:
            one = made(*copy.deepcopy(given), **named)
            return [getattr(one, each.name) for each in dataclasses.fields(one)]

        return [[_answer(contents, made) for _ in range(MANY)] for made in (Plain, Frozen)]

    assert answers(dataclass) == answers(dataclasses.dataclass)


def _refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except (TypeError, AttributeError):  # which one, of what is no field, differs from version to version
        return True
    return False


def _answer(ask: Callable[[Any], object], one: Any) -> object:
    try:
        found = ask(one)
    except (TypeError, AttributeError) as error:
        return f"{type(error).__name__}"
    return str(found)


@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), ((1, 2), {}), ((1,), {"a": 1}), ((1,), {"z": 1}), ((), {"b": 1})],
)
def test_arguments_that_are_wrong_are_refused_in_the_same_words(given: tuple[int, ...], named: dict[str, int]) -> None:
    def refusal(decorate: Makes) -> str:
        @decorate(frozen=True, slots=True)
        class Taking:
            """One argument."""

            a: int

        with pytest.raises(TypeError) as caught:
            Taking(*given, **named)
        return str(caught.value)

    assert refusal(dataclass) == refusal(dataclasses.dataclass)


@pytest.mark.parametrize("wrong", ["list[int] = []", "int = 1; b: int"])
def test_a_class_that_cannot_be_is_refused_at_once(wrong: str) -> None:
    text = f"from __future__ import annotations\n@dataclass(slots=True)\nclass Wrong:\n    a: {wrong}\n"
    with pytest.raises((ValueError, TypeError)):
        exec(text, {"dataclass": dataclass, "__name__": __name__})


def test_a_class_that_stands_on_one_and_is_none_itself_sees_the_methods_below() -> None:
    @dataclass(frozen=True, slots=True)
    class Shown:
        """Has methods."""

        a: int = 1

    class Other(Shown):
        """Has them too, and its own."""

        def __repr__(self) -> str:
            return "other " + super().__repr__()

    assert repr(Other()).startswith("other ")
    assert "(a=1)" in repr(Other())
    assert Other() != Shown()
    assert Other(2) == Other(2)


def test_what_was_pickled_comes_back_before_there_is_another_object() -> None:
    @dataclass(frozen=True, slots=True)
    class Kept:
        """For later."""

        a: int
        b: int

    one: Any = Kept.__new__(Kept)
    one.__setstate__([1, 2])  # as pickle does
    assert one == Kept(1, 2)


def test_who_was_interrupted_while_a_class_was_finished_may_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, slots=True)
    class Halved:
        """Half done."""

        a: int
        b: list[int] = field(default_factory=list)

    def interrupted(cls: type, **options: bool) -> type:
        real(**options)(cls)
        raise KeyboardInterrupt

    one = Halved(1)
    real: Any = dataclasses.dataclass
    with monkeypatch.context() as patched:
        patched.setattr(dataclasses, "dataclass", lambda **options: lambda cls: interrupted(cls, **options))
        with pytest.raises(KeyboardInterrupt):
            repr(one)
    assert repr(one).endswith("Halved(a=1, b=[])")
    assert dataclasses.replace(one, a=2) == Halved(2)
