"""What collection takes and what it leaves, over made-up stores."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cache.collection.choose import choose, left_over, reclaimable
from cache.collection.item import Holdings, Item, Reference, Sort, Standing
from cache.collection.policy import Filters, Policy, parse_age, parse_filters
from cache.index import Kind
from machinefile.errors import UsageError

NOW = 1_000_000.0
NEVER = NOW


def layer(name: str, size: int = 10, used: float = 0.0) -> Item:
    return Item(Sort.LAYER, name, size=size, used=used, tied=f"blob {name}")


def step(key: str, *layers: str, used: float = 0.0) -> Item:
    keeps = frozenset(f"blob {name}" for name in layers)
    return Item(Sort.STEP, key, used=used, standing=Standing.CACHED, keeps=keeps)


def image(name: str, *layers: str) -> Item:
    return Item(Sort.IMAGE, name, name, keeps=frozenset(f"blob {layer}" for layer in layers))


def taken(*items: Item, policy: Policy | None = None, guard: float = NEVER) -> set[str]:
    return {item.id for item in choose(Holdings(items, (), guard), policy or Policy(), NOW)}


EVERYTHING = Policy(everything=True)


def test_what_nothing_needs_goes_and_results_stay() -> None:
    assert taken(layer("a"), layer("b"), layer("c"), step("s", "a"), image("i", "b")) == {"c"}


def test_with_all_results_go_and_what_an_image_needs_stays() -> None:
    items = (layer("a"), layer("b"), step("s", "a", "b"), image("i", "b"))
    assert taken(*items, policy=EVERYTHING) == {"s", "a"}


def test_what_was_used_since_the_oldest_process_began_stays_with_all_that_it_needs() -> None:
    items = (layer("a"), layer("b", used=10), step("s", "a", used=10), step("t", "b"))
    assert taken(*items, policy=EVERYTHING, guard=10) == {"t"}


def test_what_was_not_used_for_longest_goes_until_the_rest_fits() -> None:
    items = (layer("a"), layer("b"), layer("c"), step("s", "a", used=3), step("t", "b", used=1), step("u", "c", used=2))
    assert taken(*items, policy=Policy(keep_storage=30)) == set()
    assert taken(*items, policy=Policy(keep_storage=20)) == {"t", "b"}
    assert taken(*items, policy=Policy(keep_storage=19)) == {"t", "b", "u", "c"}


def test_of_results_used_together_the_later_goes_first() -> None:
    items = (layer("a"), layer("b"), step("early", "a"), step("late", "a", "b"))
    assert taken(*items, policy=Policy(keep_storage=10)) == {"late", "b"}


def test_what_was_used_within_the_time_to_keep_stays_whatever_the_size() -> None:
    items = (layer("a", used=NOW - 5), step("s", "a", used=NOW - 5))
    assert taken(*items, policy=Policy(keep_storage=0, keep_duration=10)) == set()
    assert taken(*items, policy=Policy(keep_storage=0, keep_duration=4)) == {"s", "a"}


def test_filters_say_what_is_meant_and_what_only_that_needs_goes_along() -> None:
    items = (layer("a"), layer("b"), step("s1", "a"), step("s2", "b"), image("i", "b"))

    def filtered(**filters: object) -> set[str]:
        return taken(*items, policy=Policy(everything=True, filters=Filters(**filters)))  # type: ignore[arg-type]

    assert filtered(ids=("s1",)) == {"s1", "a"}
    assert filtered(sorts=frozenset([Sort.STEP])) == {"s1", "s2", "a"}
    assert filtered(sorts=frozenset([Sort.DISK])) == set()
    assert filtered(images=("i",)) == {"s2"}
    assert filtered(unused=NOW + 1) == set()


def test_a_reference_goes_with_the_first_thing_it_speaks_of() -> None:
    both = Reference((Kind.CONTENT, "k"), frozenset(["blob a", "blob b"]))
    nothing = Reference((Kind.CONTENT, "n"), frozenset())
    disk = Reference((Kind.DISK, "d"), frozenset(["disk d"]))
    there = [layer("a"), layer("b"), Item(Sort.DISK, "d")]
    assert left_over([both, nothing, disk], there) == ()
    assert left_over([both, nothing, disk], there[1:]) == (both,)
    assert left_over([both, nothing, disk], there[:2]) == (disk,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("until=24h", Filters(unused=86400)),
        ("unused-for=7d", Filters(unused=7 * 86400)),
        ("type=step", Filters(sorts=frozenset([Sort.STEP]))),
        ("type=exec.cachemount", Filters(sorts=frozenset([Sort.MOUNT]))),
        ("id=12ab", Filters(ids=("12ab",))),
        ("image=app", Filters(images=("app",))),
    ],
)
def test_filters_are_read(text: str, expected: Filters) -> None:
    assert parse_filters([text]) == expected


@pytest.mark.parametrize("text", ["until", "until=", "untill=24h", "type=stop", "until=-1h", "until=x", "mad=true"])
def test_a_filter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_filters([text])
    assert caught.value.code == "usage"
    assert caught.value.hint


@pytest.mark.parametrize(("text", "seconds"), [("90m", 5400), ("0", 0), ("1.5s", 1.5), ("2d", 172800)])
def test_ages_are_read(text: str, seconds: float) -> None:
    assert parse_age(text, "--keep-duration") == seconds


_names = some.sampled_from([f"l{number}" for number in range(8)])
_times = some.integers(0, 20).map(float)


@some.composite
def stores(draw: some.DrawFn) -> Holdings:
    """Images and results over layers, each layer with a disk, some used by who runs."""
    used = {f"l{number}": draw(_times) for number in range(8)}
    items = [layer(name, draw(some.integers(0, 50)), at) for name, at in used.items()]
    for name in draw(some.sets(_names)):
        items.append(
            Item(
                Sort.DISK,
                name,
                size=draw(some.integers(0, 50)),
                used=draw(_times),
                standing=Standing.CACHED,
                tied=f"blob {name}",
            )
        )
    for number in range(draw(some.integers(0, 3))):
        items.append(image(f"i{number}", *draw(some.sets(_names, max_size=4))))
    for number in range(draw(some.integers(0, 6))):
        items.append(step(f"s{number}", *draw(some.lists(_names, max_size=4, unique=True)), used=draw(_times)))
    return Holdings(tuple(draw(some.permutations(items))), (), draw(some.integers(1, 25)))


policies = some.builds(
    Policy,
    everything=some.booleans(),
    keep_storage=some.none() | some.integers(0, 400),
    keep_duration=some.just(0.0),
    filters=some.builds(Filters, sorts=some.sets(some.sampled_from([Sort.STEP, Sort.DISK, Sort.LAYER])).map(frozenset)),
)


@given(stores(), policies)
def test_whatever_goes_the_rest_is_whole(holdings: Holdings, policy: Policy) -> None:
    going = choose(holdings, policy, NOW)
    left = [item for item in holdings.items if item not in going]
    there = {item.tied for item in left if item.sort is Sort.LAYER}
    for item in left:
        assert item.keeps <= there, "what stays has lost a layer"
    for item in going:
        assert item.sort is not Sort.IMAGE
        assert item.used < holdings.guard, "somebody may be using it"
    size = sum(item.size for item in left)
    if policy.keep_storage is not None and size > policy.keep_storage and policy.filters == Filters():
        again = choose(replace(holdings, items=tuple(left)), Policy(everything=True), NOW)
        assert sum(item.size for item in again) == 0, "there was more to take"
    if policy.keep_storage is not None and holdings.size <= policy.keep_storage:
        assert going == ()
    assert set(going) <= set(reclaimable(holdings, NOW))
