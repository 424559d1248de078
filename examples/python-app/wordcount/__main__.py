"""Prints each word given and how often it was given, the most frequent first."""

import sys


def count(words: list[str]) -> list[tuple[str, int]]:
    """Words and their numbers, the most frequent first, equals in the order of the alphabet."""
    return sorted(((word, words.count(word)) for word in set(words)), key=lambda pair: (-pair[1], pair[0]))


for word, number in count(sys.argv[1:]):
    print(f"{number} {word}")
