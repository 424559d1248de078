"""What is different between two builds: from the image down to bytes, with a guess at the cause."""

from __future__ import annotations

from enum import Enum

from machinefile.values import dataclass


class Aspect(Enum):
    """What of a file may differ."""

    PRESENCE = "only in one"
    TYPE = "type"
    MODE = "mode"
    OWNER = "owner"
    SIZE = "size"
    CONTENT = "content"
    TIME = "time"
    XATTR = "attribute"
    LINK = "link"
    DEVICE = "device"
    OPAQUE = "opaque"
    ORDER = "order"
    """Its place among the files of the layer's tar."""
    HEADER = "header"
    """Only how the tar writes it: nothing that an index of the layer knows."""


class Cause(Enum):
    """Why builds differ, as far as one can tell from what differs."""

    TIMESTAMP = "timestamp"
    BUILD_PATH = "build path"
    RANDOM = "random"
    ORDERING = "ordering"
    PID = "pid"
    NETWORK = "network"
    HOSTNAME = "hostname"


@dataclass(frozen=True, slots=True)
class Guess:
    """A cause that what differs speaks for."""

    cause: Cause
    why: str
    """What was seen."""
    mend: str
    """What usually helps."""


@dataclass(frozen=True, slots=True)
class Change:
    """One aspect of a file."""

    aspect: Aspect
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class FileDifference:
    """A path of a layer that is not the same in both."""

    path: str
    """As in Entry: clean and relative, the root is empty."""
    changes: tuple[Change, ...]
    inner: str = ""
    """For an archive or a compressed file where in it: `data.tar/etc/motd`."""
    diff: tuple[str, ...] = ()
    """A few lines of a unified diff, or of both sides in hex."""
    guess: Guess | None = None


@dataclass(frozen=True, slots=True)
class StepDifference:
    """A step that did not come to the same layer."""

    id: str
    """As `mbuild plan` prints it; `layer N` for a layer of an image whose step is not known."""
    instruction: str
    line: int
    """Of the Machinefile; 0 where there is none."""
    first: str
    """The diff id of its layer, or for FROM the digest of the image; empty where there is none."""
    second: str
    files: tuple[FileDifference, ...] = ()
    more: int = 0
    """Files that differ beside those."""
    note: str = ""
    """What is to be said of the step itself."""

    @property
    def guess(self) -> Guess | None:
        """The first guess that its files led to."""
        return next((file.guess for file in self.files if file.guess is not None), None)


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """Something of an image beside its files."""

    field: str
    """`config.labels`, `created`, `annotations`, `compression`..."""
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of verifying."""

    subject: str
    """What was verified, in words."""
    sides: tuple[str, str]
    """What the first and the second are, in words."""
    first: str
    """The image's digest, or of a single step the diff id of its layer, empty if it made none."""
    second: str
    step: StepDifference | None = None
    """The first step that differs."""
    later: tuple[str, ...] = ()
    """The ids of the other steps that differ."""
    fields: tuple[FieldDifference, ...] = ()

    @property
    def reproducible(self) -> bool:
        """Whether both are the same, bit for bit."""
        return self.first == self.second

    @property
    def same_files(self) -> bool:
        """Whether what differs is not in any layer's content."""
        return self.step is None
