"""A stage while its instructions are resolved, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace

from machinefile.arguments import Arguments, warn_unset
from machinefile.errors import MachinefileError
from machinefile.expansion import Expanded, ExpansionError, expand, expand_document
from machinefile.flags import flag_value
from machinefile.imageconfig import ImageConfig, Pairs
from machinefile.instructions import Flag, Instruction, Pair, Word
from machinefile.options import BuildOptions
from machinefile.report import Report
from machinefile.source import Span
from machinefile.steps import From, MachineShape, Operation, Origin, Snapshot, Step
from machinefile.values import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")

Link = Callable[[Instruction, Flag, str], Origin]
"""Finds what a COPY --from or a mount's `from` names."""


@dataclass(frozen=True, slots=True)
class StageState:
    """What a stage hands on to a stage that is built from it."""

    tip: str
    """The step whose file system it has."""
    config: ImageConfig
    environment: Pairs
    """ENV and the ARGs in scope: what words and commands see."""
    arguments: tuple[tuple[str, str | None], ...] = ()
    """The ARGs declared, in order."""
    history: tuple[str, ...] = ()
    author: str = ""
    shape: MachineShape = field(default_factory=MachineShape)
    snapshot: Snapshot | None = None


@dataclass(slots=True)
class Building:
    """The state of a stage, and what instructions do to it."""

    label: str
    options: BuildOptions
    arguments: Arguments
    escape: str
    report: Report
    link: Link
    tip: str | None = None
    config: ImageConfig = field(default_factory=ImageConfig)
    environment: dict[str, str] = field(default_factory=dict)
    declared: list[tuple[str, str | None]] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    author: str = ""
    shape: MachineShape = field(default_factory=MachineShape)
    snapshot: Snapshot | None = None
    cmd_given: bool = False
    """CMD stands in this stage: an ENTRYPOINT keeps it."""
    seen: set[str] = field(default_factory=set)
    """Words that a stage may have once and that it had."""
    place: Span | None = None
    """Where everything is reported, for instructions that don't stand in the file."""

    def span(self, instruction: Instruction, part: Word | Pair | Flag | None = None) -> Span:
        """Where to report something about an instruction, or one of its parts."""
        if self.place is not None:
            return self.place
        return instruction.span_of(part) if part is not None else instruction.span

    def expand(self, instruction: Instruction, text: str, part: Word | Pair | Flag | None = None) -> Expanded:
        """Replace the variables in a word. Raises MachinefileError where it can't be."""
        return self._expand(instruction, lambda: expand(text, self.environment, self.escape), part)

    def expand_document(self, instruction: Instruction, text: str) -> Expanded:
        """Replace the variables in a heredoc. Raises MachinefileError where they can't be."""
        return self._expand(instruction, lambda: expand_document(text, self.environment), None)

    def word(self, instruction: Instruction, word: Word) -> str:
        """An argument with its variables replaced."""
        return self.expand(instruction, word.text, word).text

    def flag(self, instruction: Instruction, name: str) -> str:
        """A flag's value with its variables replaced; empty where the flag is not given."""
        flag = instruction.flag(name)
        return self.expand(instruction, flag_value(flag), flag).text if flag is not None else ""

    def fail(
        self, instruction: Instruction, message: str, code: str, hint: str = "", part: Word | Pair | Flag | None = None
    ) -> MachinefileError:
        """An error about an instruction, to be raised."""
        return MachinefileError.one(message, code=code, span=self.span(instruction, part), hint=hint)

    def add(
        self,
        instruction: Instruction,
        operation: Operation,
        display: str,
        created_by: str,
        inputs: tuple[str, ...] = (),
    ) -> None:
        """Add a step on top of what there is."""
        identity = f"{self.label}.{len(self.steps)}"
        step = Step(
            identity, self.label, one_line(display), operation, self.tip, inputs, self.span(instruction), created_by
        )
        self.steps.append(step)
        if created_by and not isinstance(operation, From):
            self.history.append(identity)
        if step.makes_layer or self.tip is None:
            self.tip = identity

    def configure(self, **changes: object) -> None:
        """Change the image's configuration."""
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]

    def set_environment(self, name: str, value: str) -> None:
        """ENV: for the words and commands below, and for the image."""
        self.environment[name] = value
        self.configure(env=set_pair(self.config.env, name, value))

    @property
    def shell(self) -> tuple[str, ...]:
        """What runs a command in shell form."""
        return self.config.shell or DEFAULT_SHELL

    @property
    def directory(self) -> str:
        """Where relative paths begin."""
        return self.config.working_dir or "/"

    def finish(self) -> StageState:
        """What the stage hands on."""
        return StageState(
            tip=self.tip or "",
            config=self.config,
            environment=tuple(self.environment.items()),
            arguments=tuple(self.declared),
            history=tuple(self.history),
            author=self.author,
            shape=self.shape,
            snapshot=self.snapshot,
        )

    def _expand(
        self, instruction: Instruction, expansion: Callable[[], Expanded], part: Word | Pair | Flag | None
    ) -> Expanded:
        try:
            expanded = expansion()
        except ExpansionError as error:
            raise self.fail(instruction, error.message, error.code, error.hint, part) from None
        declared = {name for name, _ in self.declared}
        for name in expanded.unset:
            if name not in declared and self.place is None:
                warn_unset(self.report, name, self.environment, self.span(instruction, part))
        return expanded


def set_pair(pairs: Pairs, name: str, value: str) -> Pairs:
    """The pairs with one of them set: in its old place, or at the end."""
    if all(known != name for known, _ in pairs):
        return (*pairs, (name, value))
    return tuple((known, value if known == name else old) for known, old in pairs)


def merge_pairs(pairs: Pairs, more: Mapping[str, str]) -> Pairs:
    """The pairs with others set."""
    return tuple({**dict(pairs), **more}.items())


def one_line(text: str) -> str:
    """Text for a display: its lines and blanks joined."""
    return " ".join(text.split())
