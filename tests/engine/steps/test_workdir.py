"""WORKDIR: who owns what it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Workshop


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("ada", (1000, 1001)),
        ("ada:wheel", (1000, 10)),
        ("5:6", (5, 6)),
        # as with --chown, a number is both, whatever etc/passwd says of it
        ("1000", (1000, 1000)),
        ("7", (7, 7)),
        ("stranger", (0, 0)),
    ],
)
def test_it_belongs_to_the_user_in_force(workshop: Workshop, user: str, owner: tuple[int, int]) -> None:
    layer = workshop.layers(workshop.build(f"FROM base\nUSER {user}\nWORKDIR /a/b\n").digest)[-1]
    assert {path: (entry.uid, entry.gid) for path, (entry, _) in layer.items()} == {"a": owner, "a/b": owner}
