"""A step that runs again and comes to the same bytes: no microVM starts for what stands on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = pytest.mark.vm


def test_a_changed_comment_runs_the_step_that_strips_it_and_no_other(mbuild: Mbuild, busybox: str) -> None:
    text = f"""\
FROM {busybox} AS build
COPY program /program
RUN grep -v '^#' /program > /out
FROM {busybox}
COPY --from=build /out /out
RUN wc -l < /out > /lines
"""
    first = mbuild.build(mbuild.context(text, program="# one comment\nwork\n"))
    assert first["vm.restores"] == 2
    again = mbuild.build(mbuild.context(text, program="# another comment\nwork\n"))
    assert again["vm.restores"] == 1
    assert again["image.digest"] == first["image.digest"]
