"""Values with commas between them, as Docker's options and mounts have them: one line of CSV."""

from __future__ import annotations


class QuotesError(Exception):
    """The text is no line of CSV; says why."""


def split_commas(text: str) -> list[str]:
    """The values: `"` around one that has commas, `""` for one within. Raises QuotesError. Source: RFC 4180."""
    if '"' not in text and "\n" not in text and "\r" not in text and "\0" not in text:
        return text.split(",") if text else []
    import csv

    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise QuotesError(str(error)) from error
