"""Repositories of a build that is done again from its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attested_support import Bench

from engine.remote.contexts import parse_context

if TYPE_CHECKING:
    from conftest import GitServer, Workshop


def test_repositories_are_taken_as_they_were(git_server: GitServer, workshop: Workshop, tmp_path: Path) -> None:
    bench, added, named = Bench(workshop, tmp_path / "verify"), git_server.repository(), git_server.repository("n.git")
    added.write("a", "1")
    commit = added.commit()
    added.tag("v1", "first")
    named.write("b", "1")
    named.commit()
    text = f"""FROM base
ADD {added.url}#main /plain
ADD --keep-git-dir {added.url}#v1 /kept
ADD --keep-git-dir --checksum={commit} {added.url}?tag=v1 /exact
ADD --checksum={commit} {added.url}#main /checked
COPY --from=n b /
"""
    context = parse_context(f"n={named.url}?branch=main")
    digest = bench.build(text, contexts=(context,), options={"contexts": frozenset({"n"})})
    assert bench.verify()[1].verification.second == digest
    for work in (added, named):
        work.write("b", "2")
        work.commit()
    assert bench.verify()[1].verification.second == digest, "branches that were moved count as they were"
