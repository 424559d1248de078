"""The words of the language: every instruction, how its arguments are written, and the flags it takes."""

from __future__ import annotations

from enum import Enum

from machinefile.values import dataclass


class Rule(Enum):
    """The rule of grammar/machinefile.lark that an instruction's text begins at."""

    TEXT = "text"
    WORDS = "words"
    SETTINGS = "settings"
    NAMES = "names"
    HEALTH = "health"


class FlagKind(Enum):
    """What a flag's value may be."""

    TEXT = "text"
    """`--name=value`, once."""
    LIST = "list"
    """`--name=value`, any number of times."""
    SWITCH = "switch"
    """`--name`, `--name=true` or `--name=false`, once."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One instruction's shape."""

    rule: Rule
    flags: tuple[tuple[str, FlagKind], ...] = ()
    exec_form: bool = False
    """A JSON array may stand in place of the arguments."""
    heredocs: bool = False
    single: bool = False
    """The whole rest of the line is one word."""

    def flag_kind(self, name: str) -> FlagKind | None:
        """What the flag takes; None for a flag it doesn't know."""
        return dict(self.flags).get(name)


def _flags(text: str = "", switches: str = "", lists: str = "") -> tuple[tuple[str, FlagKind], ...]:
    return (
        *((name, FlagKind.TEXT) for name in text.split()),
        *((name, FlagKind.SWITCH) for name in switches.split()),
        *((name, FlagKind.LIST) for name in lists.split()),
    )


_ADD_FLAGS = _flags(text="chown chmod checksum", switches="link keep-git-dir unpack", lists="exclude")
_COPY_FLAGS = _flags(text="from chown chmod", switches="link parents", lists="exclude")
_RUN_FLAGS = _flags(text="network security ttl clock", lists="mount device")
_HEALTH_FLAGS = _flags(text="interval timeout start-period start-interval retries")

INSTRUCTIONS: dict[str, Vocabulary] = {
    "ADD": Vocabulary(Rule.WORDS, _ADD_FLAGS, exec_form=True, heredocs=True),
    "ARG": Vocabulary(Rule.NAMES),
    "CMD": Vocabulary(Rule.TEXT, exec_form=True),
    "COPY": Vocabulary(Rule.WORDS, _COPY_FLAGS, exec_form=True, heredocs=True),
    "ENTRYPOINT": Vocabulary(Rule.TEXT, exec_form=True),
    "ENV": Vocabulary(Rule.SETTINGS),
    "EXPOSE": Vocabulary(Rule.WORDS),
    "FROM": Vocabulary(Rule.WORDS, _flags(text="platform")),
    "HEALTHCHECK": Vocabulary(Rule.HEALTH, _HEALTH_FLAGS, exec_form=True),
    "LABEL": Vocabulary(Rule.SETTINGS),
    "MACHINE": Vocabulary(Rule.WORDS),
    "MAINTAINER": Vocabulary(Rule.TEXT, single=True),
    "ONBUILD": Vocabulary(Rule.TEXT),
    "RUN": Vocabulary(Rule.TEXT, _RUN_FLAGS, exec_form=True, heredocs=True),
    "SHELL": Vocabulary(Rule.TEXT, exec_form=True),
    "SNAPSHOT": Vocabulary(Rule.WORDS, _flags(text="ready timeout")),
    "STOPSIGNAL": Vocabulary(Rule.TEXT, single=True),
    "USER": Vocabulary(Rule.TEXT, single=True),
    "VOLUME": Vocabulary(Rule.WORDS, exec_form=True),
    "WORKDIR": Vocabulary(Rule.TEXT, single=True),
}
