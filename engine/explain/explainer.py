"""Finding out why the steps of a plan miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cache.index import Kind
from cache.keys import Value
from cache.records import KeptRecord
from cache.results import StepResult
from cache.store import Store
from engine.explain.differences import Difference, StepDifference, compare
from engine.explain.explanation import Below, Cause, Explanation, Link, Nearest
from engine.explain.files import FilesDifference
from engine.explain.nearest import MOST_RECORDS, Likeness
from engine.explain.past import Past, Trace
from engine.explain.sources import RecordSource, StoreRecords
from engine.explain.words import short
from engine.lookup import Results
from engine.plan import EVICTED, NEVER_BUILT, NOT_PULLED, Plan, PlannedStep, waits_for
from machinefile.steps import Copy, From, Metadata

_DEEP = 1000
"""Steps that are walked down in search of a former one."""


class Explainer:
    """Compares the steps of one plan with what was built before."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        results: Results,
        past: Past,
        sources: Sequence[RecordSource] = (),
        most: int = MOST_RECORDS,
    ) -> None:
        """`sources` knows records besides the store; `most` is how many records are searched for a similar one."""
        self._plan = plan
        self._store = store
        self._results = results
        self._past = past
        self._sources: tuple[RecordSource, ...] = (StoreRecords(store), *sources)
        self._likeness = Likeness(self._sources, most)
        self._traces = past.aligned(plan)
        self._found: dict[str, Explanation] = {}
        self._records: dict[str, tuple[KeptRecord, RecordSource] | None] = {}

    def explain(self, step_ids: Sequence[str]) -> tuple[Explanation, ...]:
        """Why those steps hit or miss. Raises KeyError."""
        wanted = self._with_missing_below(step_ids)
        for planned in self._plan.steps:  # each after what it needs: what is said of a step builds on that
            if planned.step.id in wanted and planned.step.id not in self._found:
                self._found[planned.step.id] = self._explain(planned)
        return tuple(self._found[step_id] for step_id in step_ids)

    def reasoned(self) -> Plan:
        """The plan with the reason of each miss in a few words, and with how long the steps took when they last ran.
        Only where a change begins is anything compared."""
        return replace(self._plan, steps=tuple(map(self._reasoned, self._plan.steps)))

    def _reasoned(self, planned: PlannedStep) -> PlannedStep:
        if planned.result is not None:
            return replace(planned, seconds=planned.result.seconds)
        if not planned.step.makes_layer:
            return planned
        traces = self._traces.get(planned.step.id, ())
        seconds = traces[0].seconds if traces else None
        if planned.reason != NEVER_BUILT:
            return replace(planned, seconds=seconds)
        found = self._explain(planned)
        if seconds is None and found.nearest is not None:
            seconds = found.nearest.seconds
        return replace(planned, seconds=seconds, reason=short(found) or planned.reason)

    def _with_missing_below(self, step_ids: Sequence[str]) -> set[str]:
        wanted: set[str] = set()
        todo = list(step_ids)
        while todo:
            step_id = todo.pop()
            if step_id not in wanted:
                wanted.add(step_id)
                if not self._plan.by_id[step_id].hit:
                    todo += self._needed(self._plan.by_id[step_id])
        return wanted

    def _needed(self, planned: PlannedStep) -> list[str]:
        return [other for other in (planned.step.parent, *planned.step.inputs) if other is not None]

    def _to_build(self, step_id: str) -> bool:
        planned = self._plan.by_id[step_id]
        return not planned.hit and not isinstance(planned.step.operation, From)

    def _explain(self, planned: PlannedStep) -> Explanation:
        if planned.hit:
            return Explanation(planned, Cause.HIT, nearest=_itself(planned, planned.result))
        refused = bool(self._results.refused(planned.step))
        traces = self._traces.get(planned.step.id, ())
        same = next((trace for trace in traces if trace.key == planned.key), None)
        made = self._results.was_made(planned.key)
        if planned.reason == EVICTED or (planned.reason == NEVER_BUILT and same is not None):
            result = self._lost_result(planned.key)
            nearest = _itself(planned, result, same)
            return Explanation(
                planned, Cause.EVICTED, nearest=nearest, roots=(planned.step.id,), lost=self._lost(result)
            )
        differences: tuple[Difference, ...] = ()
        if made or same is not None or isinstance(planned.step.operation, Metadata):
            nearest = _itself(planned, self._lost_result(planned.key), same)
        else:
            nearest, differences = self._former(planned, traces)
        below = tuple(self._below(planned, differences))
        own = tuple(one for one in differences if not isinstance(one, StepDifference))
        cause = self._cause(planned, own, below, nearest, refused=refused)
        roots = self._roots(below) or ((planned.step.id,) if cause is not Cause.NOT_PULLED else ())
        return Explanation(planned, cause, own, below, nearest, roots)

    def _cause(
        self,
        planned: PlannedStep,
        own: tuple[Difference, ...],
        below: tuple[Below, ...],
        nearest: Nearest | None,
        *,
        refused: bool,
    ) -> Cause:
        if planned.reason == NOT_PULLED:
            return Cause.NOT_PULLED
        if refused:
            return Cause.REFUSED
        follows = any(one.link is Link.TO_BUILD for one in below)
        waits = follows and any(planned.reason == waits_for(needed) for needed in self._needed(planned))
        if not waits and planned.reason != NEVER_BUILT and not isinstance(planned.step.operation, Metadata):
            return Cause.OTHER
        if own or any(one.link is not Link.TO_BUILD for one in below):
            return Cause.CHANGED
        if follows:
            return Cause.FOLLOWS
        return Cause.NEVER_BUILT if nearest is None else Cause.CHANGED

    def _roots(self, below: tuple[Below, ...]) -> tuple[str, ...]:
        """The lowest steps that are to be built anyhow, in the order of the plan."""
        found: dict[str, None] = {}
        for one in below:
            if one.link is Link.TO_BUILD and one.step in self._found:
                found.update(dict.fromkeys(self._found[one.step].roots))
        return tuple(found)

    def _lost_result(self, key: str) -> StepResult | None:
        try:
            return self._store.chains.result(self._store.index.get(Kind.RESULT, key))
        except ValueError:
            return None

    def _lost(self, result: StepResult | None) -> tuple[str, ...]:
        layers = result.layers if result is not None else ()
        return tuple(layer.digest for layer in layers if not self._store.blobs.has(layer.digest, layer.size))

    def _record(self, key: str) -> tuple[KeptRecord, RecordSource] | None:
        if key in self._records:
            return self._records[key]
        for source in self._sources:
            record = source.record(key)
            if record is not None:
                if not record.large:
                    self._records[key] = (record, source)
                return record, source
        self._records[key] = None
        return None

    def _former(self, planned: PlannedStep, traces: Sequence[Trace]) -> tuple[Nearest | None, tuple[Difference, ...]]:
        """What a step was before, and all that is different now."""
        best: tuple[float, Nearest, tuple[Difference, ...]] | None = None
        for trace in traces:
            known = self._record(trace.key)
            if known is None or known[0].operation != planned.record.operation:
                continue
            record, source = known
            differences = compare(record, planned.record, _places(planned))
            nearest = Nearest(trace.key, trace.instruction, trace.seconds, trace.created, source.label)
            if best is None or _weight(differences) < best[0]:
                best = (_weight(differences), nearest, differences)
            if record.large:
                break  # reading one takes long, and the newest is most likely the one meant
        if best is not None:
            return best[1], best[2]
        return self._similar(planned)

    def _similar(self, planned: PlannedStep) -> tuple[Nearest | None, tuple[Difference, ...]]:
        """The most similar step that was ever built, if one is alike."""
        found = None
        if planned.step.makes_layer:
            found = self._likeness.find(planned.record.operation, dict(planned.record.fields))
        record = found and found[1].record(found[0])
        if not found or record is None:
            return None, ()
        key, source = found
        result = self._lost_result(key)
        nearest = Nearest(
            key,
            self._instruction(key, record),
            result.seconds if result is not None else None,
            result.created if result is not None else None,
            source.label,
            same_place=False,
        )
        return nearest, compare(record, planned.record, _places(planned))

    def _below(self, planned: PlannedStep, differences: Sequence[Difference]) -> Iterator[Below]:
        links = {one.number: one for one in differences if isinstance(one, StepDifference)}
        slots = [(-1, planned.step.parent), *enumerate(planned.step.inputs)]
        for number, needed in slots:
            link = links.pop(number, None)
            if needed is None:
                continue
            if self._to_build(needed):
                yield Below(Link.TO_BUILD, needed, number < 0, self._plan.by_id[needed].step.instruction)
            elif link is not None:
                yield self._changed(needed, link.old, is_parent=number < 0)
        for number, link in links.items():
            known = self._record(link.old) if link.old else None
            yield Below(Link.CHANGED, "", number < 0, was=self._instruction(link.old or "", known and known[0]))

    def _changed(self, step_id: str, old_key: str | None, *, is_parent: bool) -> Below:
        """What a step that is there has to do with the one that was in its place: walks down to where they part."""
        for _ in range(_DEEP):
            now = self._plan.by_id[step_id]
            about = partial(Below, step=step_id, is_parent=is_parent, now=now.step.instruction)
            known = self._record(old_key) if old_key else None
            if known is None or old_key is None:
                return about(Link.UNKNOWN if old_key else Link.CHANGED)
            old = known[0]
            was = self._instruction(old_key, old)
            if old.operation == now.record.operation == "from":
                digests = (str(old.fields.get("digest", "")), str(dict(now.record.fields).get("digest", "")))
                return about(Link.BASE, was=was, old=digests[0], new=digests[1])
            if added := self._added(now, old_key):
                return about(Link.ADDED, steps=added)
            if removed := self._removed(now.key, old_key):
                return about(Link.REMOVED, steps=removed)
            differences = compare(old, now.record, _places(now))
            own = tuple(one for one in differences if not isinstance(one, StepDifference))
            lower = next((one for one in differences if isinstance(one, StepDifference)), None)
            slots = (now.step.parent, *now.step.inputs)
            if own or lower is None or lower.number + 1 >= len(slots) or slots[lower.number + 1] is None:
                return about(Link.CHANGED, was=was, differences=own)
            step_id, old_key = slots[lower.number + 1] or "", lower.old
        return Below(Link.UNKNOWN, step_id, is_parent)

    def _added(self, now: PlannedStep, old_key: str) -> tuple[str, ...]:
        """The steps from the one that was below up to this one, lowest first; none when it is not there any more."""
        found: list[str] = []
        step_id: str | None = now.step.id
        while step_id is not None and len(found) < _DEEP:
            planned = self._plan.by_id[step_id]
            if planned.key == old_key:
                return tuple(reversed(found))
            found.append(step_id)
            step_id = planned.step.parent
        return ()

    def _removed(self, key: str, old_key: str) -> tuple[str, ...]:
        """What stood between a step that is still there and the one that was below, lowest first."""
        found: list[str] = []
        current: Value = old_key
        while isinstance(current, str) and len(found) < _DEEP:
            if current == key:
                return tuple(reversed(found))
            known = self._record(current)
            if known is None:
                return ()
            found.append(self._instruction(current, known[0]) or known[0].operation)
            current = known[0].fields.get("parent")
        return ()

    def _instruction(self, key: str, record: KeptRecord | None) -> str:
        return self._past.instruction(key) or (record.instruction if record is not None else "")


def _itself(planned: PlannedStep, result: StepResult | None, trace: Trace | None = None) -> Nearest | None:
    """A step's own earlier build."""
    made: StepResult | Trace | None = result or trace
    if made is None:
        return None
    return Nearest(planned.key, planned.step.instruction, made.seconds, made.created)


def _places(planned: PlannedStep) -> Mapping[str, str]:
    """The folders of what a COPY names, by the names that the files have in its record."""
    operation = planned.step.operation
    if not isinstance(operation, Copy) or operation.parents:
        return {}
    found: dict[str, set[str]] = {}
    for source in operation.sources:
        folder, _, name = source.strip("/").rpartition("/")
        if not any(char in source for char in "*?["):
            found.setdefault(name, set()).add(folder)
    return {name: folders.pop() for name, folders in found.items() if len(folders) == 1}


def _weight(differences: Sequence[Difference]) -> float:
    """How much is different."""
    weight = 0.0
    for one in differences:
        match one:
            case StepDifference():
                weight += 0.5
            case FilesDifference():
                weight += len(one.files) + one.more
            case _:
                weight += 1
    return weight
