"""What is known of a build before a step of it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cache.store import Store
from engine.bases import Bases
from engine.context import BuildContext
from engine.joining import join_plans
from engine.lookup import Results
from engine.plan import Plan, make_plan
from engine.platforms import for_each
from engine.remote.remotes import Remotes
from machinefile.platform import Platform
from machinefile.steps import BuildGraph, From
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.carry.carried import CarriedResults


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan, and where what it speaks of can be had."""

    graphs: tuple[tuple[Platform, BuildGraph], ...]
    """What the plan was made from."""
    plan: Plan
    bases: Bases
    contexts: Mapping[str, BuildContext]
    remotes: Remotes
    carried: CarriedResults
    results: Results

    def replanned(self, store: Store) -> Prepared:
        """With a plan of what can be used now."""
        return replace(self, plan=plan_all(self.graphs, self.bases, self.contexts, store, self.results))


def plan_all(
    graphs: Sequence[tuple[Platform, BuildGraph]],
    bases: Bases,
    contexts: Mapping[str, BuildContext],
    store: Store,
    results: Results,
) -> Plan:
    """One plan for all platforms. Raises as `make_plan`."""

    def one(given: tuple[Platform, BuildGraph]) -> tuple[Platform, Plan]:
        platform, graph = given
        roots = {step.id: bases.get(step.operation.base) for step in graph.steps if isinstance(step.operation, From)}
        return platform, make_plan(graph, roots, contexts, store, results)

    return join_plans(for_each(graphs, one))
