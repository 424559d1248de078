"""`mbuild [build]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from cache.collection.schedule import is_due
from cache.spans import span
from engine.report import BuildReport
from engine.request import BuildRequest
from machinefile.errors import HostError, StepError, UsageError
from mbuild.arguments import Parser, add_build_options, registry_flags
from mbuild.attest import add_attest_options, with_values
from mbuild.egresslog import EgressRecord
from mbuild.profile import add_profile_option, profiled
from mbuild.progress import ProgressMode, create
from mbuild.request import read_request
from mbuild.session import open_driver, store_folder
from mbuild.version import ShowVersion


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Build an image."""
    parser = Parser(
        prog="mbuild",
        description="Build an image from a Machinefile, every RUN in a microVM of its own.",
        epilog="other commands: plan, explain, verify, parse, lint, lock, debug, run, images, inspect, pull, push, "
        "tag, rmi, attest, cache, doctor",
    )
    add_build_options(parser)
    _add_result_options(parser)
    _add_telling_options(parser)
    _add_looking_options(parser)
    add_attest_options(parser)
    add_profile_option(parser)
    parser.add_argument("--version", action=ShowVersion, help="say which mbuild this is, and nothing else")
    options = parser.parse_args(with_values(arguments))
    with profiled(options.profile):
        return _carry_out(options, cancelled)


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    """What becomes of the image and of the results of steps."""
    add = parser.add_argument
    add("-t", "--tag", action="append", default=[], metavar="NAME", help="keep the image in the store under this name")
    add("-o", "--output", action="append", default=[], metavar="type=oci,dest=PATH", help="write the image")
    add("--push", action="store_true", help="push the image under its names: -o type=image,push=true")
    add("--load", action="store_true", help="keep the image in the store: done without it, too")
    add(
        "--cache-to",
        action="append",
        default=[],
        metavar="type=registry,ref=NAME[,mode=max]",
        help="send the results of steps there when the build is done: a registry, a folder (type=local,dest=), an "
        "object store (s3://), the image itself (type=inline)",
    )
    add(
        "--annotation",
        action="append",
        default=[],
        metavar="[PLACE:]NAME=VALUE",
        help="put an annotation on the image's manifest; PLACE: index, manifest, manifest-descriptor, "
        "manifest[linux/arm64]",
    )


def _add_telling_options(parser: argparse.ArgumentParser) -> None:
    """What is told of the build, and where."""
    add = parser.add_argument
    add(
        "--progress",
        choices=[mode.value for mode in ProgressMode],
        default="auto",
        help="how to show what happens (default: auto)",
    )
    add("-q", "--quiet", action="store_true", help="print the image's digest and nothing else")
    add("--iidfile", default="", metavar="FILE", help="write the image's digest into a file")
    add("--metadata-file", default="", metavar="FILE", help="write facts about the build into a file, as JSON")
    add(
        "--egress-log",
        default="",
        metavar="FILE",
        help="write what the steps reached over the network into a file, as JSON lines",
    )


def _add_looking_options(parser: argparse.ArgumentParser) -> None:
    """To look at what would be done, or into what was."""
    add = parser.add_argument
    add("--check", action="store_true", help="check the Machinefile, as mbuild lint does; build nothing")
    add("--fail-on-miss", action="store_true", help="fail, and run nothing, if a step would have to run")
    add("--debug", choices=("on-error",), default="", help="when a RUN fails, open a shell where it was about to run")
    add(
        "--invoke",
        default="",
        metavar="CMD",
        help="run a command in the result; with --debug=on-error where a RUN failed",
    )


def _carry_out(options: argparse.Namespace, cancelled: threading.Event) -> int:
    if options.check:
        from mbuild.commands.lint import lint_request

        return lint_request(options, "text", cancelled)
    request = read_request(options)
    to_stdout = any(output.to_stdout for output in request.outputs)
    if options.invoke and to_stdout:
        raise UsageError("--invoke writes to standard output, as an output does", code="usage", hint="-o dest=FILE")
    report = _build(request, options, cancelled)
    # Standard output may be an output's bytes, which nothing may stand behind.
    if not to_stdout and not options.invoke and (options.quiet or not sys.stdout.isatty()):
        print(report.digest)
    if is_due(store_folder(options.cache_dir)):
        from mbuild.tidying import tidy  # once in a while

        with span("clean", "phase"):
            tidy(options.cache_dir, cancelled, quiet=options.quiet)
    if report.exports is not None and report.exports.failure is not None:
        raise report.exports.failure  # now that all else is written
    if options.invoke:
        from mbuild.commands.debug import inside, parse_invoke

        return inside(request, options, "", parse_invoke(options.invoke), cancelled, reads=False)
    return 0


def _build(request: BuildRequest, options: argparse.Namespace, cancelled: threading.Event) -> BuildReport:
    """Build, and write what was asked for into files."""
    for path in filter(None, (options.iidfile, options.metadata_file)):
        _clear(path)
    if options.egress_log:
        _write(options.egress_log, "")  # so that a folder that is not there is no surprise at the end
    mode = ProgressMode.QUIET if options.quiet else ProgressMode(options.progress)
    try:
        with create(mode, sys.stderr) as display:
            egress = EgressRecord(display)
            try:
                with open_driver(options.cache_dir, egress, cancelled, registry_flags(options)) as driver:
                    report = driver.build(request)
            finally:
                if options.egress_log:
                    _write(options.egress_log, egress.lines())
    except StepError as error:
        _offer_a_look(error, request, options, cancelled)
        raise
    if options.iidfile:
        _write(options.iidfile, report.digest)
    if options.metadata_file:
        _write(options.metadata_file, json.dumps(_metadata(report) | {"egress": egress.facts()}, indent=2) + "\n")
    return report


def _offer_a_look(
    error: StepError, request: BuildRequest, options: argparse.Namespace, cancelled: threading.Event
) -> None:
    """Say how to look inside the failed step, or do so if that was asked for."""
    from mbuild.commands.debug import can_debug, failed_step, way_in

    if not error.step or options.file == "-":
        return
    if options.debug and (options.invoke or can_debug()):
        failed_step(error, request, options, cancelled)
    look = f"look inside: {way_in(options, error.step)}"
    error.hint = f"{error.hint}\n  {look}" if error.hint else look


def _metadata(report: BuildReport) -> dict[str, object]:
    return {
        "image.digest": report.digest,
        "image.config.digest": report.config_digest or None,
        "image.attested.digest": report.attested or None,
        "image.platforms": {
            str(image.platform): {"image.digest": image.digest, "image.config.digest": image.config_digest}
            for image in report.images
        },
        "steps": {"hit": report.hit, "run": report.run, "total": report.total},
        "vm.restores": report.restores,
        "duration_s": round(report.seconds, 3),
        "cache": {
            "exported": [
                {"to": one.label, "entries": one.entries, "mounts": one.mounts, "sent": one.sent}
                for one in (report.exports.exported if report.exports is not None else ())
            ],
            "imported": report.imported,
        },
    }


def _clear(path: str) -> None:
    """Leave nothing of an earlier build, which a failed one might be taken for; find out now whether it can be written.

    Raises HostError `output-failed`.
    """
    if os.path.lexists(path) and (path.startswith("/dev/") or not (os.path.isfile(path) or os.path.isdir(path))):
        return  # a terminal, a pipe
    _write(path, "")
    if not os.path.islink(path):
        try:
            os.unlink(path)
        except OSError as error:
            raise _unwritable(path, error) from error


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: str, error: OSError) -> HostError:
    return HostError(f"{path} cannot be written: {error.strerror}", code="output-failed")
