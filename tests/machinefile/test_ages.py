"""Ages as --ttl takes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinefile.durations import format_age, parse_age, parse_duration

HOUR = 3600 * 10**9


@pytest.mark.parametrize(
    ("text", "age", "written"),
    [
        ("7d", 168 * HOUR, "7d"),
        ("2w", 336 * HOUR, "14d"),
        ("1d12h", 36 * HOUR, "1d12h"),
        ("36h", 36 * HOUR, "1d12h"),
        ("1.5d", 36 * HOUR, "1d12h"),
        ("90s", HOUR // 40, "1m30s"),
        ("1500ms", 1_500_000_000, "1.5s"),
        ("0", 0, "0s"),
        ("0d", 0, "0s"),
    ],
)
def test_ages_have_days_and_weeks(text: str, age: int, written: str) -> None:
    assert parse_age(text) == age
    assert format_age(age) == written


@pytest.mark.parametrize("text", ["", "d", "7", "7 d", "-7d", "7y", "1d-1h", "99999999w", "7D"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_age(text)


@pytest.mark.parametrize("text", ["7d", "1w"])
def test_durations_have_none_as_in_go(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.integers(0, 2**62))
def test_what_is_written_is_read_as_the_same(age: int) -> None:
    assert parse_age(format_age(age)) == age
