"""`mbuild [build]`."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from engine.driver import BuildReport
from machinefile.errors import HostError
from mbuild.arguments import Parser, add_build_options, registry_flags
from mbuild.progress import ProgressMode, create
from mbuild.request import read_request
from mbuild.session import open_driver


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Build an image."""
    parser = Parser(
        prog="mbuild",
        description="Build an image from a Machinefile, every RUN in a microVM of its own.",
        epilog="other commands: plan, parse, lint, run, images, inspect, pull, push, tag, rmi, doctor",
    )
    add_build_options(parser)
    parser.add_argument(
        "-t", "--tag", action="append", default=[], metavar="NAME", help="keep the image in the store under this name"
    )
    parser.add_argument(
        "-o", "--output", action="append", default=[], metavar="type=oci,dest=PATH", help="write the image"
    )
    parser.add_argument(
        "--progress",
        choices=[mode.value for mode in ProgressMode],
        default="auto",
        help="how to show what happens (default: auto)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print the image's digest and nothing else")
    parser.add_argument("--iidfile", default="", metavar="FILE", help="write the image's digest into a file")
    parser.add_argument(
        "--metadata-file", default="", metavar="FILE", help="write facts about the build into a file, as JSON"
    )
    parser.add_argument("--push", action="store_true", help="push the image under its names: -o type=image,push=true")
    parser.add_argument(
        "--annotation",
        action="append",
        default=[],
        metavar="[PLACE:]NAME=VALUE",
        help="put an annotation on the image's manifest; PLACE: index, manifest, manifest-descriptor, "
        "manifest[linux/arm64]",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the Machinefile, as mbuild lint does; build nothing"
    )
    options = parser.parse_args(arguments)
    if options.check:
        from mbuild.commands.lint import lint_request

        return lint_request(options, "text", cancelled)
    request = read_request(options)
    mode = ProgressMode.QUIET if options.quiet else ProgressMode(options.progress)
    flags = registry_flags(options)
    with create(mode, sys.stderr) as display, open_driver(options.cache_dir, display, cancelled, flags) as driver:
        report = driver.build(request)
    if options.iidfile:
        _write(options.iidfile, report.digest)
    if options.metadata_file:
        _write(options.metadata_file, json.dumps(_metadata(report), indent=2) + "\n")
    # Standard output may be an output's bytes, which nothing may stand behind.
    if not any(output.to_stdout for output in request.outputs) and (options.quiet or not sys.stdout.isatty()):
        print(report.digest)
    return 0


def _metadata(report: BuildReport) -> dict[str, object]:
    return {
        "image.digest": report.digest,
        "image.config.digest": report.config_digest or None,
        "image.platforms": {
            str(image.platform): {"image.digest": image.digest, "image.config.digest": image.config_digest}
            for image in report.images
        },
        "steps": {"hit": report.hit, "run": report.run, "total": report.total},
        "vm.restores": report.restores,
        "duration_s": round(report.seconds, 3),
    }


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", code="output-failed") from error
