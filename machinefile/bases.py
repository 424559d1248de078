"""What each stage stands on: an image, another stage, or a context of that name."""

from __future__ import annotations

from collections.abc import Mapping

from machinefile.arguments import Arguments, warn_unset
from machinefile.expansion import ExpansionError, expand
from machinefile.flags import flag_value
from machinefile.instructions import Instruction
from machinefile.options import BuildOptions
from machinefile.platform import Platform
from machinefile.report import Report
from machinefile.source import Span
from machinefile.stages import Layout, Stage, sources_of
from machinefile.steps import SCRATCH, BaseReference
from machinefile.suggest import nearest
from machinefile.values import dataclass

_NO_CONTEXT = frozenset({"scratch", "context"})


@dataclass(frozen=True, slots=True)
class Base:
    """What a stage stands on: a parent stage, or an image."""

    parent: Stage | None
    image: BaseReference | None
    replaced: bool = False
    """The stage's own name is a named context's: its instructions don't count."""
    context: str = ""
    """The named context whose files it has, for one that is no image."""


def find_bases(
    layout: Layout, arguments: Arguments, options: BuildOptions, escape: str, report: Report
) -> Mapping[int, Base]:
    """The base of every stage; one whose FROM is wrong is noted in the report and missing here."""
    found = {}
    for stage in layout.stages:
        base = _base(stage, layout, arguments, options, escape, report)
        if base is not None:
            found[stage.index] = base
    return found


def _base(
    stage: Stage, layout: Layout, arguments: Arguments, options: BuildOptions, escape: str, report: Report
) -> Base | None:
    opening = stage.opening
    word = opening.words[0]
    known = arguments.everywhere
    name = _expand(word.text, arguments, layout, escape, opening.span_of(word), report)
    platform = _platform(opening, arguments, layout, options, escape, report)
    if name is None or platform is None:
        return None
    if stage.name and context_name(stage.name, options):
        return _context_base(context_name(stage.name, options), platform, options, replaced=True)
    if not name:
        hint = did_not_set(word.text, known)
        report.problem(f"FROM {word.text} names no image", "empty-base", opening.span_of(word), hint)
        return None
    parent = layout.earlier(name, stage.index)
    if parent is not None:
        return Base(parent, None)
    context = context_name(name, options)
    if context:
        return _context_base(context, platform, options, replaced=False)
    return Base(None, BaseReference(name, platform))


def _context_base(context: str, platform: Platform, options: BuildOptions, *, replaced: bool) -> Base:
    if context in options.image_contexts:
        return Base(None, BaseReference(f"context:{context}", platform), replaced)
    return Base(None, BaseReference(SCRATCH, platform), replaced, context)


def _platform(
    opening: Instruction, arguments: Arguments, layout: Layout, options: BuildOptions, escape: str, report: Report
) -> Platform | None:
    flag = opening.flag("platform")
    if flag is None:
        return options.platform
    written = flag_value(flag)
    text = _expand(written, arguments, layout, escape, opening.span_of(flag), report)
    if text is None:
        return None
    try:
        return Platform.parse(text)
    except ValueError:
        shown = f"{written} ({text or 'empty'})" if text != written else text
        hint = did_not_set(written, arguments.everywhere) or "for example linux/amd64 or linux/arm64"
        report.problem(f"{shown} is not a platform", "bad-platform", opening.span_of(flag), hint)
        return None


def _expand(text: str, arguments: Arguments, layout: Layout, escape: str, span: Span, report: Report) -> str | None:
    try:
        expanded = expand(text, arguments.everywhere, escape)
    except ExpansionError as error:
        report.problem(error.message, error.code, span, error.hint)
        return None
    for name in expanded.unset:
        if name not in layout.declared:
            warn_unset(report, name, arguments.everywhere, span, "UndefinedArgInFrom")
    return expanded.text


def did_not_set(text: str, known: Mapping[str, str]) -> str:
    """A hint for a text that came to nothing because of a variable."""
    return "its variables need an ARG with a value before the first FROM" if "$" in text else ""


def context_name(name: str, options: BuildOptions) -> str:
    """The named context that stands in for an image or a stage of that name; empty where there is none.

    `alpine`, `alpine:latest` and `docker.io/library/alpine` are the same name, as in Docker.
    """
    if name.lower() in _NO_CONTEXT:
        return ""
    short = name.removeprefix("docker.io/").removeprefix("library/")
    for candidate in (name, name.lower(), short, short.removesuffix(":latest"), f"{short}:latest"):
        if candidate in options.contexts:
            return candidate
    return ""


def image_reference(name: str, platform: Platform) -> BaseReference:
    """An image named by COPY --from or a mount."""
    return BaseReference(name, platform)


def needed_stages(layout: Layout, bases: Mapping[int, Base], target: Stage, options: BuildOptions) -> tuple[Stage, ...]:
    """The target and all it stands on or copies from, in the order of the file; not what images' triggers name."""
    found: set[int] = set()
    waiting = [target]
    while waiting:
        stage = waiting.pop()
        if stage.index in found:
            continue
        found.add(stage.index)
        waiting.extend(stages_below(stage, layout, bases, options))
    return tuple(layout.stages[index] for index in sorted(found))


def stages_below(stage: Stage, layout: Layout, bases: Mapping[int, Base], options: BuildOptions) -> list[Stage]:
    """The stages that one needs directly."""
    base = bases.get(stage.index)
    if base is None or base.replaced:
        return []
    below = [base.parent] if base.parent is not None else []
    for instruction in stage.instructions:
        for name, _ in sources_of(instruction):
            found = layout.find(name, stage.index)
            if found is not None and not context_name(name, options):
                below.append(found)
    return below


def images_below(stage: Stage, layout: Layout, bases: Mapping[int, Base], options: BuildOptions) -> list[BaseReference]:
    """The images that a stage needs directly."""
    base = bases.get(stage.index)
    if base is None:
        return []
    images = [base.image] if base.image is not None else []
    for instruction in () if base.replaced else stage.instructions:
        for name, _ in sources_of(instruction):
            context = context_name(name, options)
            if context in options.image_contexts:
                images.append(image_reference(f"context:{context}", options.platform))
            elif layout.find(name, stage.index) is None and not context and "$" not in name:
                images.append(image_reference(name, options.platform))
    return [image for image in images if image.reference != SCRATCH]


def hint_for_image(name: str, layout: Layout) -> str:
    """What to say when an image can't be had and a stage has nearly its name."""
    found = nearest(name, [stage.name for stage in layout.stages if stage.name])
    if found is None:
        return ""
    return f"did you mean the stage {found}?" if found != name.lower() else f"the stage {found} is defined later"
