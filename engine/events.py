"""What happens during a build, told to an observer. The core never prints."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from machinefile.values import dataclass


class Outcome(Enum):
    """How a step ended."""

    CACHED = "cached"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Planned:
    """The steps are known: `(id, label)` in the order of the plan; only those that make a file system."""

    steps: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step begins to run."""

    step: str
    label: str


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Bytes a step wrote; need not end at a line's end."""

    step: str
    stream: int
    """1 standard output, 2 standard error."""
    data: bytes


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step is over."""

    step: str
    label: str
    outcome: Outcome
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Reached:
    """Something that a step tried to reach over the network; whether it was there is not known."""

    name: str
    """What the address was looked up as, or the name that was looked up; may be empty."""
    address: str
    """IPv4; empty for a look-up."""
    port: int
    """0 for ICMP."""
    protocol: str
    """`tcp`, `udp`, `icmp`, or `dns` for a look-up."""
    denied: bool = False
    """Whether the policy held it back."""

    def __str__(self) -> str:
        host = self.name or self.address
        text = f"{host}:{self.port}" if self.protocol in ("tcp", "udp") else host
        return f"{text} ({self.address})" if self.name and self.address else text


@dataclass(frozen=True, slots=True)
class NetworkReached:
    """What a step reached; told before its StepEnded, and not at all when it reached for nothing."""

    step: str
    label: str
    entries: tuple[Reached, ...]
    """In the order of the first time."""
    more: int
    """Attempts that no longer fitted in."""


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """Bytes moved of a named thing: a layer pulled, a blob pushed."""

    id: str
    """Unique a transfer: a digest."""
    label: str
    done: int
    """Bytes so far."""
    total: int | None
    """Bytes in all, where known."""
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """One line the user should see: what is being prepared, where something fell back."""

    message: str


@dataclass(frozen=True, slots=True)
class WarningRaised:
    """Allowed, and probably not meant."""

    message: str
    code: str
    location: str = ""
    """`file:line:column`, or empty."""


@dataclass(frozen=True, slots=True)
class BuildEnded:
    """The build is over and went well."""

    digest: str
    names: tuple[str, ...]
    hit: int
    run: int
    seconds: float


Event = (
    Planned
    | StepStarted
    | StepOutput
    | StepEnded
    | NetworkReached
    | TransferProgress
    | Note
    | WarningRaised
    | BuildEnded
)
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that does not look."""
