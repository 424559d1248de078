"""The scenarios: what is built, what must come of it, and which part of the time counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from benchmark import specs
from benchmark.job import Job, Outcome, Output
from benchmark.place import Place

FILES = 2000
BLOB = 20 << 20
PLANNED = 1000


class Result(Enum):
    """What the image must be, beside those of the turns before."""

    SAME = "same"
    NEW = "new"


class Phase(Enum):
    """The part of the time that counts."""

    WHOLE = "whole"
    TO_BEGIN = "to the RUN's first word"
    FROM_WRITTEN = "from the RUN's last word"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One build, done the same way by each builder in turn."""

    name: str
    title: str
    job: Callable[[Place, int], Job]
    """For a turn: a number that no other measured or warming run has."""
    result: Result
    run: int = 0
    """Steps that mbuild must run, no more and no fewer."""
    restores: int = 0
    """MicroVMs that it must start."""
    phase: Phase = Phase.WHOLE
    cold: bool = False
    """Whether the store is emptied first."""
    prepare: Callable[[Place, int], Job] | None = None
    """What each builder does once, before; without it, the job itself."""
    long: bool = False
    """Whether a round of all builders takes much of a minute."""
    profiled: int = 0
    """How many more builds tell what mbuild's time goes into."""

    def check(self, outcome: Outcome, earlier: tuple[str, ...], *, reproducible: bool) -> str:
        """What is wrong, or nothing. A run that did less, or more, than it should measures something else."""
        if outcome.run is not None and (outcome.run, outcome.restores) != (self.run, self.restores):
            return f"{outcome.run} steps and {outcome.restores} microVMs ran, not {self.run} and {self.restores}"
        if self.result is Result.NEW:
            return "the image is one of before" if outcome.digest and outcome.digest in earlier else ""
        if self.cold and self.run and not reproducible:
            return ""
        return "the image is another than before" if earlier and outcome.digest != earlier[-1] else ""


def _two_stages(output: Output, *, pinned: bool = False) -> Callable[[Place, int], Job]:
    def job(place: Place, turn: int) -> Job:
        context = place.context("two-stages", FILES, BLOB)
        base = place.pinned if pinned else place.base
        return place.job(context, specs.TWO_STAGES.format(base=base), output)

    return job


def _changed(files: int) -> Callable[[Place, int], Job]:
    def job(place: Place, turn: int) -> Job:
        context = place.context(f"changed-{files}", files)
        (context / "src" / "0" / "7.txt").write_text(f"changed {turn}\n")
        return place.job(context, specs.COPIED.format(base=place.base))

    return job


def _text(make: Callable[[str, int], str], *, large: bool = False) -> Callable[[Place, int], Job]:
    def job(place: Place, turn: int) -> Job:
        return place.job(place.context("empty"), make(place.base if large else place.busybox, turn))

    return job


def _cache(*, send: bool) -> Callable[[Place, int], Job]:
    def job(place: Place, turn: int) -> Job:
        context = place.context("two-stages", FILES, BLOB)
        cache = f"{place.registry.address}/cache:1"
        text = specs.TWO_STAGES.format(base=place.base)
        if send:
            return place.job(context, text, Output.PUSH, send=cache)
        return place.job(context, text, cache=cache)

    return job


def _nothing(base: str, turn: int) -> str:
    return specs.NOTHING.format(base=base)


SCENARIOS = (
    Scenario("cached", "everything cached, kept under a name", _two_stages(Output.NAME), Result.SAME),
    Scenario(
        "cached-pinned",
        "the same, base named by its digest",
        _two_stages(Output.NAME, pinned=True),
        Result.SAME,
    ),
    Scenario("cached-nothing", "everything cached, nothing out", _two_stages(Output.NOTHING), Result.SAME),
    Scenario("cached-tar", "everything cached, OCI tar out", _two_stages(Output.TAR), Result.SAME),
    Scenario("cached-folder", "everything cached, OCI folder out", _two_stages(Output.FOLDER), Result.SAME),
    Scenario("cached-push", "everything cached, pushed", _two_stages(Output.PUSH), Result.SAME),
    Scenario("changed-2000", "one file of 2,000 changed", _changed(2000), Result.NEW, run=1),
    Scenario("changed-100000", "one file of 100,000 changed", _changed(100_000), Result.NEW, run=1, long=True),
    Scenario(
        "cold",
        "cold, up to the first RUN's first word",
        _text(lambda base, turn: specs.COLD.format(base=base), large=True),
        Result.SAME,
        run=1,
        restores=1,
        phase=Phase.TO_BEGIN,
        cold=True,
    ),
    Scenario("nothing", "nothing to run", _text(_nothing), Result.SAME),
    Scenario(
        "run-1",
        "one trivial RUN",
        _text(lambda base, turn: specs.trivial_runs(base, 1, turn)),
        Result.NEW,
        run=1,
        restores=1,
        profiled=5,
    ),
    Scenario(
        "run-20",
        "20 trivial RUNs in a row",
        _text(lambda base, turn: specs.trivial_runs(base, 20, turn)),
        Result.NEW,
        run=20,
        restores=20,
        long=True,
    ),
    Scenario(
        "stages-8",
        "8 parallel stages",
        _text(lambda base, turn: specs.parallel_stages(base, 8, turn)),
        Result.NEW,
        run=16,
        restores=8,
        long=True,
    ),
    Scenario(
        "write-1g",
        "a step wrote 1 GiB, and another follows: from its last word to the end",
        _text(lambda base, turn: specs.BIG_FILE.format(base=base, turn=turn)),
        Result.NEW,
        run=2,
        restores=2,
        long=True,
        phase=Phase.FROM_WRITTEN,
        profiled=2,
    ),
    Scenario(
        "write-50000",
        "a step wrote 50,000 files, and another follows: from its last word to the end",
        _text(lambda base, turn: specs.SMALL_FILES.format(base=base, turn=turn)),
        Result.NEW,
        run=2,
        restores=2,
        long=True,
        phase=Phase.FROM_WRITTEN,
        profiled=2,
    ),
    Scenario(
        "import",
        "everything in a remote cache, empty store",
        _cache(send=False),
        Result.SAME,
        cold=True,
        prepare=_cache(send=True),
    ),
)
"""In the order of the table. Sums of steps that mbuild runs count COPY; each RUN takes one microVM."""
