"""The secrets of a build, and the search for them in what it makes.

Looked for are the bytes of each secret as given, and without one line's end: nothing that was made of them (base64,
a hash, a compressed archive). A secret of fewer than SHORTEST bytes is not looked for: it would be found everywhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from engine.layers.names import encode
from machinefile.errors import MachinefileError, Problem, StepError
from machinefile.imageconfig import Pairs
from machinefile.steps import BuildGraph, Mount, MountType, Run, Step
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.layers.compression import Source
    from engine.layers.tarwrite import Item

MAX_BYTES = 500 << 10
"""Of one secret. Source: BuildKit's secretsprovider."""
SHORTEST = 6
_MASK = b"***"


@dataclass(frozen=True, repr=False)
class Secrets:
    """What --secret gave: values by id. Never shown, never stored."""

    values: tuple[tuple[str, bytes], ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    """`version=` by id, of those that have one."""

    def get(self, secret_id: str) -> bytes | None:
        """The value of a secret, None for one that was not given."""
        return dict(self.values).get(secret_id)

    def versioned(self, graph: BuildGraph) -> BuildGraph:
        """The graph with the versions of secrets in the steps that mount them: they are in those steps' keys."""
        marks = {secret_id: _mark(secret_id, version) for secret_id, version in self.versions}

        def marked(mount: Mount) -> Mount:
            known = mount.type is MountType.SECRET and mount.id in marks
            return dataclasses.replace(mount, version=marks[mount.id]) if known else mount

        def with_versions(step: Step) -> Step:
            if not isinstance(step.operation, Run):
                return step
            run = dataclasses.replace(step.operation, mounts=tuple(map(marked, step.operation.mounts)))
            return dataclasses.replace(step, operation=run)

        return dataclasses.replace(graph, steps=tuple(map(with_versions, graph.steps))) if marks else graph

    @cached_property
    def needles(self) -> tuple[tuple[str, bytes], ...]:
        """What is looked for, with the id it belongs to. What is found as given is found without its line's end too."""
        found: dict[bytes, str] = {}
        for secret_id, value in self.values:
            needle = value.removesuffix(b"\n").removesuffix(b"\r")
            if len(needle) >= SHORTEST:
                found.setdefault(needle, secret_id)
        return tuple((secret_id, needle) for needle, secret_id in found.items())

    @property
    def too_short(self) -> tuple[str, ...]:
        """The ids of those that are not looked for."""
        looked_for = {value for _, value in self.needles}
        stripped = ((secret_id, value.removesuffix(b"\n").removesuffix(b"\r")) for secret_id, value in self.values)
        return tuple(secret_id for secret_id, value in stripped if value and value not in looked_for)

    def masked(self, text: str) -> str:
        """Text with the secrets in it masked."""
        masker = Masker(self)
        data = text.encode("utf-8", "surrogateescape")
        return (masker.feed(data) + masker.finish()).decode("utf-8", "surrogateescape")

    def masked_name(self, name: str) -> str:
        """A host's name with the secrets in it masked, in whatever case: names are looked up in lower case."""
        data = name.encode("utf-8", "surrogateescape")
        for _, needle in self.needles:
            data = re.sub(re.escape(needle), lambda _: _MASK, data, flags=re.IGNORECASE)
        return data.decode("utf-8", "surrogateescape")

    def guard(self, item: Item) -> Item:
        """An entry of a new layer: its name, link and attributes are searched now, its content as it is read.

        Raises StepError (`secret-leaked`), then or later.
        """
        if not self.needles:
            return item
        entry = item.entry
        parts = [encode(entry.path), encode(entry.link)]
        parts += [part for name, value in entry.xattrs for part in (encode(name), value)]
        for part in parts:
            self._check(part, f"the name or the attributes of the file /{entry.path}")
        opener = item.open
        if opener is None:
            return item
        from engine.layers.tarwrite import Item

        return Item(entry, lambda: _GuardedSource(opener(), self, entry.path))

    def check_graph(self, graph: BuildGraph, annotations: Pairs) -> None:
        """Search all that becomes the image's configuration, history and annotations.

        Raises StepError (`secret-leaked`).
        """
        for text in _strings((dataclasses.asdict(graph.config), graph.author, annotations)):
            self._check(encode(text), "the image's configuration or annotations")
        for step in graph.steps:
            place = f" (line {step.span.line})" if step.span is not None else ""
            for text in (step.created_by, step.instruction):
                self._check(encode(text), f"an instruction{place}, and so in the image's history")

    def check_given(self, steps: Iterable[Step]) -> None:
        """Raises MachinefileError (`secret-missing`) for every secret that is required and was not given."""
        given = {secret_id for secret_id, _ in self.values}
        problems = [
            Problem(
                f"the secret {mount.id!r} is required and was not given",
                "secret-missing",
                step.span,
                f"give it with --secret id={mount.id},src=FILE or --secret id={mount.id},env=VARIABLE",
            )
            for step in steps
            if isinstance(step.operation, Run)
            for mount in step.operation.mounts
            if mount.type is MountType.SECRET and mount.required and mount.id not in given
        ]
        if problems:
            raise MachinefileError(problems)

    def _check(self, data: bytes, place: str) -> None:
        for secret_id, needle in self.needles:
            if needle in data:
                raise leaked(secret_id, self.masked(place))


def _mark(secret_id: str, version: str) -> str:
    """What stands for a version in a record, the same on every machine: an HMAC, so that the word itself is not there.
    Who knows what words to expect can try them: a version must be nothing secret."""
    import hmac

    return hmac.new(encode(f"mbuild secret {secret_id}"), encode(version), "sha256").hexdigest()


def leaked(secret_id: str, place: str) -> StepError:
    """The error for a secret that was found where it must not be."""
    return StepError(
        f"the secret {secret_id!r} is in {place}",
        code="secret-leaked",
        hint="nothing of it was kept; use the secret where it is mounted, and write it nowhere else",
    )


class Finder:
    """Looks for secrets in bytes that come in pieces."""

    def __init__(self, secrets: Secrets) -> None:
        self._needles = secrets.needles
        self._overlap = max((len(needle) for _, needle in self._needles), default=1) - 1
        self._tail = b""

    def feed(self, data: bytes) -> str | None:
        """The id of a secret that ends in `data`, if there is one."""
        whole = self._tail + data
        self._tail = whole[-self._overlap :] if self._overlap else b""
        return next((secret_id for secret_id, needle in self._needles if needle in whole), None)


class _GuardedSource:
    """A file's content on its way into a layer."""

    def __init__(self, source: Source, secrets: Secrets, path: str) -> None:
        self._source = source
        self._secrets = secrets
        self._finder = Finder(secrets)
        self._path = path

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes. Raises StepError (`secret-leaked`)."""
        data = self._source.read(size)
        secret_id = self._finder.feed(data)
        if secret_id is not None:
            raise leaked(secret_id, self._secrets.masked(f"the file /{self._path} of the step's layer"))
        return data

    def close(self) -> None:
        """Close what is read from."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class Masker:
    """Replaces secrets in a stream by `***`, however the stream is cut; what may be a secret's beginning waits."""

    def __init__(self, secrets: Secrets) -> None:
        self._needles = tuple(needle for _, needle in secrets.needles)
        self._ids = {needle: secret_id for secret_id, needle in secrets.needles}
        self._held = b""
        self._covered = 0
        """How many bytes at the start of what is held belong to a secret that was masked already."""
        self.found: str | None = None
        """The id of the first secret found."""

    def feed(self, data: bytes) -> bytes:
        """What can be shown by now."""
        if not self._needles:
            return data
        whole = self._held + data
        return self._show(whole, self._waits_from(whole))

    def finish(self) -> bytes:
        """What was held back."""
        return self._show(self._held, len(self._held))

    def _show(self, whole: bytes, end: int) -> bytes:
        shown: list[bytes] = []
        at = self._covered
        for start, stop in self._matches(whole):
            if start >= end:
                break
            if start >= at:
                shown += [whole[at:start], _MASK]
            at = max(at, stop)
        if at < end:
            shown.append(whole[at:end])
        self._held = whole[end:]
        self._covered = max(at - end, 0)
        return b"".join(shown)

    def _matches(self, whole: bytes) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for needle in self._needles:
            at = whole.find(needle)
            while at >= 0:
                found.append((at, at + len(needle)))
                self.found = self.found or self._ids[needle]
                at = whole.find(needle, at + 1)
        return sorted(found)

    def _waits_from(self, whole: bytes) -> int:
        """Where the longest end of `whole` begins that a secret may begin with."""
        first = len(whole)
        for needle in self._needles:
            at = whole.find(needle[:1], max(0, len(whole) - len(needle) + 1))
            while 0 <= at < first:
                if needle.startswith(whole[at:]):
                    first = at
                    break
                at = whole.find(needle[:1], at + 1)
        return first


class MaskedOutput:
    """A step's two streams on their way to an observer, masked. A context manager: leaving it shows what waits."""

    def __init__(self, secrets: Secrets, output: Callable[[int, bytes], None]) -> None:
        self._output = output
        self._maskers = {1: Masker(secrets), 2: Masker(secrets)}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, stream: int, data: bytes) -> None:
        """Bytes of a stream, as they come."""
        self._pass_on(stream, self._maskers[stream].feed(data))

    def close(self) -> None:
        """Show what waits; nothing more comes."""
        for stream, masker in self._maskers.items():
            self._pass_on(stream, masker.finish())

    def check(self) -> None:
        """Raises StepError (`secret-leaked`) when a secret came by."""
        for masker in self._maskers.values():
            if masker.found is not None:
                raise leaked(masker.found, "the step's output")

    def _pass_on(self, stream: int, data: bytes) -> None:
        if data:
            self._output(stream, data)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
