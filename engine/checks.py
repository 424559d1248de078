"""What can be seen to fail before anything is looked up, or before anything runs."""

from __future__ import annotations

from engine.events import Observer, WarningRaised
from engine.output.kinds import OutputSpec, OutputType
from engine.plan import Plan
from engine.request import BuildRequest
from engine.secrets import SHORTEST
from machinefile.errors import UsageError


def check_request(request: BuildRequest, *, can_push: bool) -> None:
    """Refuse what can be seen to fail before anything is looked up. Raises UsageError, and HostError for a destination
    that cannot be written."""
    platforms = tuple(request.for_each_platform())
    request.annotations.check(platforms)
    if request.inline_cache and request.restamps:
        raise UsageError(
            "an image with the time of SOURCE_DATE_EPOCH cannot be a cache: its layers are not those that steps "
            "stand on",
            code="cache-unsupported",
            hint="send the cache elsewhere: --cache-to type=registry,ref=NAME, or type=local,dest=PATH",
        )
    if request.attest.key is not None:
        from engine.attest.dsse import AttestationSigner

        AttestationSigner.from_file(request.attest.key)
    if not request.outputs:
        return
    from engine.output.files import check_attested, check_destinations, check_platforms

    if request.attest.wanted:
        check_attested(request.outputs)
    check_platforms(request.outputs, platforms)
    check_destinations(request.outputs)
    _check_names(request.outputs, request.names)
    _check_machines(request.outputs)
    if not can_push and any(output.push for output in request.outputs):
        raise UsageError("there is nothing here to push with", code="output-unsupported")


def check_secrets(request: BuildRequest, plan: Plan, observer: Observer) -> None:
    """Refuse secrets that are missing, and those that the image would show; warn of such as are too short to be found.

    Raises UsageError, MachinefileError.
    """
    secrets = request.secrets
    secrets.check_given(planned.step for planned in plan.to_run())
    places = (request.annotations, *(output.annotations for output in request.outputs))
    annotations = tuple((one.key, one.value) for place in places for one in place.entries)
    for graph in plan.graphs:
        secrets.check_graph(graph, annotations)
    for secret_id in secrets.too_short:
        message = f"the secret {secret_id!r} is shorter than {SHORTEST} bytes: it is not looked for in the result"
        observer(WarningRaised(message, "secret-short"))


def _check_names(outputs: tuple[OutputSpec, ...], names: tuple[str, ...]) -> None:
    if not names and any(output.type is OutputType.IMAGE and not output.names for output in outputs):
        raise UsageError(
            "-o type=image, as --push, is for an image with a name, and it has none",
            code="output-nameless",
            hint="name it with -t NAME or name=NAME",
        )


def _check_machines(outputs: tuple[OutputSpec, ...]) -> None:
    for output in outputs:
        if output.type is OutputType.MACHINE:
            from engine.machines.library import check_destination

            check_destination(output.destination)
