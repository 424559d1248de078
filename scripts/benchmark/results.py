"""What a comparison gave, as values and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmark.measure import Sample, Spread

FAILED = "failed: "
"""Begins a name in `missing` of what should have been measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario."""

    name: str
    title: str
    spreads: Mapping[str, Spread]
    """By builder."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Where mbuild's time went, if that was looked at: medians of seconds."""

    def ratio(self, other: str) -> float | None:
        """mbuild's median over another builder's; None if one of them is missing."""
        ours, theirs = self.spreads.get("mbuild"), self.spreads.get(other)
        return ours.seconds / theirs.seconds if ours and theirs and theirs.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Results:
    """All of them, of one run."""

    peers: Mapping[str, str]
    """What each builder is called."""
    missing: Mapping[str, str]
    """Why a builder, `builder: scenario`, or `failed: scenario` was left out."""
    rounds: int
    rows: tuple[Row, ...]

    @property
    def failed(self) -> bool:
        """Whether a scenario did not do its work."""
        return any(name.startswith(FAILED) for name in self.missing)

    def spread(self, scenario: str, peer: str = "mbuild") -> Spread | None:
        """None if it was not measured."""
        return next((row.spreads.get(peer) for row in self.rows if row.name == scenario), None)

    def parts(self, scenario: str) -> Mapping[str, float]:
        """Where the time of a scenario went; empty if that was not looked at."""
        return next((row.parts for row in self.rows if row.name == scenario), {})

    def to_json(self) -> dict[str, Any]:
        """Seconds and bytes of every sample, and what follows from them."""
        return {
            "peers": dict(self.peers),
            "missing": dict(self.missing),
            "rounds": self.rounds,
            "scenarios": [
                {
                    "name": row.name,
                    "title": row.title,
                    "builders": {key: _spread_json(spread) for key, spread in row.spreads.items()},
                    "ratios": {key: row.ratio(key) for key in row.spreads if key != "mbuild"},
                    "parts": dict(row.parts),
                }
                for row in self.rows
            ],
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Results:
        """The same again; only the samples are read."""
        rows = tuple(
            Row(
                row["name"],
                row["title"],
                {
                    key: Spread(tuple(Sample(*sample) for sample in spread["samples"]))
                    for key, spread in row["builders"].items()
                },
                row.get("parts", {}),
            )
            for row in value["scenarios"]
        )
        return Results(value["peers"], value["missing"], value["rounds"], rows)


def _spread_json(spread: Spread) -> dict[str, Any]:
    return {
        "median": spread.seconds,
        "lowest": spread.lowest,
        "highest": spread.highest,
        "cpu": spread.cpu,
        "memory": spread.memory,
        "samples": [[sample.seconds, sample.cpu, sample.memory] for sample in spread.samples],
    }
