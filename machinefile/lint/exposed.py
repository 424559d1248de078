"""Rules about EXPOSE."""

from __future__ import annotations

from collections.abc import Iterator

from machinefile.lint.rule import Hit
from machinefile.lint.subject import Subject
from machinefile.source import Span


def _ports(subject: Subject) -> Iterator[tuple[str, Span]]:
    for use in subject.uses:
        if use.instruction.name == "EXPOSE":
            for word, texts in use.arguments:
                for text in texts:
                    yield text, use.instruction.span_of(word)


def expose_proto_casing(subject: Subject) -> Iterator[Hit]:
    """ExposeProtoCasing."""
    for text, span in _ports(subject):
        _, slash, protocol = text.partition("/")
        if slash and protocol != protocol.lower():
            message = f"the protocol {protocol} should be lower case"
            yield Hit(message, span, f"write {protocol.lower()}")


def expose_invalid_format(subject: Subject) -> Iterator[Hit]:
    """ExposeInvalidFormat."""
    for text, span in _ports(subject):
        before, _, port = text.rpartition(":")
        if before.strip(":"):
            message = f"EXPOSE {text} names an address or a port of the host, which it cannot publish"
            yield Hit(message, span, f"write {port}")
