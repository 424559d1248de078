"""Values with commas between them."""

from __future__ import annotations

import csv

from hypothesis import example, given
from hypothesis import strategies as st

from machinefile.commas import QuotesError, split_commas


@given(st.text(alphabet='a,=" \n\r\0\\;', max_size=12))
@example("")
@example(",")
@example('a,"b,c",d')
@example('a"b')
def test_it_reads_what_the_standard_librarys_reader_reads(text: str) -> None:
    try:
        expected: list[str] | None = next(csv.reader([text], strict=True), [])
    except csv.Error:
        expected = None
    try:
        found: list[str] | None = split_commas(text)
    except QuotesError:
        found = None
    assert found == expected
