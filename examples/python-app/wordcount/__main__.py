"""Prints each word given and how often it was given, the most frequent first."""

import sys

from tabulate import tabulate


def count(words: list[str]) -> list[tuple[int, str]]:
    """Numbers and words, the most frequent first, equals in the order of the alphabet."""
    return sorted(((words.count(word), word) for word in set(words)), key=lambda pair: (-pair[0], pair[1]))


print(tabulate(count(sys.argv[1:]), tablefmt="plain"))
