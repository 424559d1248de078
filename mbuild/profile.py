"""--profile: where the time of a command goes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager


def add_profile_option(parser: argparse.ArgumentParser) -> None:
    """--profile."""
    parser.add_argument(
        "--profile", default="", metavar="FILE", help="write where the time goes into a file, as a Chrome trace"
    )


@contextmanager
def profiled(path: str) -> Iterator[None]:
    """Record what is done within, and write it to the file, however it ends; nothing without a name.

    Raises as `traced`.
    """
    if not path:
        yield
        return
    from mbuild.trace import traced

    with traced(path):
        yield
