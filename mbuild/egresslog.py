"""What the steps of a build reached, kept for a file."""

from __future__ import annotations

import json
from collections.abc import Callable

from engine.events import Event, NetworkReached, Reached


class EgressRecord:
    """An observer that passes everything on and keeps what steps reached."""

    def __init__(self, observer: Callable[[Event], None]) -> None:
        self._observer = observer
        self._told: list[NetworkReached] = []

    def __call__(self, event: Event) -> None:
        """Take an event; from any thread."""
        if isinstance(event, NetworkReached):
            self._told.append(event)
        self._observer(event)

    def facts(self) -> list[dict[str, object]]:
        """An object a step, for JSON; cached steps reached for nothing."""
        return [
            {
                "step": event.step,
                "label": event.label,
                "reached": [_fact(entry) for entry in event.entries],
                "more": event.more,
            }
            for event in self._told
        ]

    def lines(self) -> str:
        """JSON lines: one for each thing that a step reached for, and one where its log was full."""
        lines: list[dict[str, object]] = []
        for event in self._told:
            head: dict[str, object] = {"step": event.step, "label": event.label}
            lines += [head | _fact(entry) for entry in event.entries]
            if event.more:
                lines.append(head | {"more": event.more})
        return "".join(json.dumps(line) + "\n" for line in lines)


def _fact(entry: Reached) -> dict[str, object]:
    return {
        "name": entry.name,
        "address": entry.address,
        "port": entry.port,
        "protocol": entry.protocol,
        "denied": entry.denied,
    }
