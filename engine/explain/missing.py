"""--fail-on-miss: refusing a build in which something would have to run."""

from __future__ import annotations

from engine.explain.words import shown
from engine.plan import Plan
from machinefile.errors import MissError

_MOST = 20
"""Steps that are listed."""


def check_misses(plan: Plan) -> None:
    """Raises MissError (`cache-miss`) with every step that is missing and needed, and why."""
    missing = plan.to_run()
    if not missing:
        return
    lines = [
        f"  {planned.step.id}  {_cut(shown(planned.step.instruction))}: {planned.reason}" for planned in missing[:_MOST]
    ]
    if len(missing) > _MOST:
        lines.append(f"  and {len(missing) - _MOST} more")
    what = "1 step has" if len(missing) == 1 else f"{len(missing)} steps have"
    raise MissError(
        "\n".join((f"{what} no result that could be used, and with --fail-on-miss none may run:", *lines)),
        code="cache-miss",
        hint="mbuild explain, with the same options, says what is different",
    )


def machine_missing() -> MissError:
    """For an image whose machine would have to be started to be frozen."""
    return MissError(
        "the machine of the image is not in the store, and with --fail-on-miss none may be started",
        code="cache-miss",
        hint="build without --fail-on-miss once: a machine is made for each image, QEMU and kind of processor",
    )


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
