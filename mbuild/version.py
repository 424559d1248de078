"""--version."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class ShowVersion(argparse.Action):
    """As argparse's `version`, but looks for it only when it is asked."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        """As of argparse's actions."""
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Called by argparse: prints it and exits."""
        from engine.attest.version import VERSION

        print(f"{parser.prog} {VERSION}")
        parser.exit()
