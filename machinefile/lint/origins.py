"""Rules about FROM: the image it names, the platform it asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from machinefile.arguments import Arguments, global_arguments
from machinefile.expansion import ExpansionError, expand
from machinefile.flags import flag_value
from machinefile.instructions import Flag
from machinefile.lint.references import may_name_image
from machinefile.lint.rule import Hit
from machinefile.lint.subject import Subject
from machinefile.platform import Platform
from machinefile.report import Report
from machinefile.stages import Stage

_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)")
_TARGET = "TARGETPLATFORM"


def undefined_arg_in_from(subject: Subject) -> Iterator[Hit]:
    """UndefinedArgInFrom."""
    for warning in subject.warnings:
        if warning.code == "UndefinedArgInFrom" and warning.span is not None:
            yield Hit(warning.message, warning.span, warning.hint)


def invalid_default_arg_in_from(subject: Subject) -> Iterator[Hit]:
    """InvalidDefaultArgInFrom: what the name comes to when no --build-arg is given."""
    known = _arguments(subject, given=False)
    for stage in subject.layout.stages:
        word = stage.opening.words[0]
        if known is None or "$" not in word.text:
            continue
        try:
            name = expand(word.text, known.everywhere, subject.machinefile.escape).text
        except ExpansionError:
            continue
        if subject.layout.earlier(name, stage.index) is None and not may_name_image(name):
            shown = f"{name}, which names no image" if name else "nothing"
            message = f"without --build-arg {word.text} comes to {shown}"
            yield Hit(message, stage.opening.span_of(word))


def _platform_flags(subject: Subject) -> Iterator[tuple[Stage, Flag, str]]:
    for stage in subject.layout.stages:
        flag = stage.opening.flag("platform")
        if flag is not None:
            yield stage, flag, flag_value(flag)


def redundant_target_platform(subject: Subject) -> Iterator[Hit]:
    """RedundantTargetPlatform: TARGETPLATFORM alone, and nothing put around it."""
    known = _arguments(subject, given=True)
    for stage, flag, value in _platform_flags(subject):
        if known is None or set(_VARIABLE.findall(value)) != {_TARGET}:
            continue
        try:
            platform = expand(value, known.everywhere, subject.machinefile.escape).text
        except ExpansionError:
            continue
        if platform == known.everywhere[_TARGET]:
            message = f"--platform={value} is what a stage is built for anyway"
            yield Hit(message, stage.opening.span_of(flag), "leave the flag out")


def from_platform_flag_const_disallowed(subject: Subject) -> Iterator[Hit]:
    """FromPlatformFlagConstDisallowed: a stage whose name says the platform, or a part of it, may fix it."""
    for stage, flag, value in _platform_flags(subject):
        if "$" in value:
            continue
        try:
            platform = Platform.parse(value)
        except ValueError:
            continue
        if platform.os not in stage.name and platform.architecture not in stage.name:
            yield Hit(f"--platform={value} builds this stage for one platform only", stage.opening.span_of(flag))


def invalid_base_image_platform(subject: Subject) -> Iterator[Hit]:
    """InvalidBaseImagePlatform, of the bases that were looked up."""
    for use in subject.uses:
        image, opening = use.base.image, use.stage.opening
        if use.instruction is not opening or image is None or use.base.replaced:
            continue
        found = subject.platforms.get(image)
        wanted = image.platform
        if found is not None and (found.os, found.architecture) != (wanted.os, wanted.architecture):
            message = f"{image.reference} runs on {found}, and {wanted} is built here"
            yield Hit(message, opening.span_of(opening.words[0]))


def _arguments(subject: Subject, *, given: bool) -> Arguments | None:
    """The scope of FROM, with --build-arg or without; None where an ARG of it can't be read."""
    options = subject.options if given else replace(subject.options, build_args=())
    report = Report()
    found = global_arguments(subject.machinefile, subject.layout, options, report)
    return None if report.problems else found
