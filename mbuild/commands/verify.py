"""`mbuild verify`: whether a build gives the same image again, and if not, why."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine.request import BuildRequest
from machinefile.errors import DifferenceError, HostError, UsageError
from mbuild.arguments import Parser, add_build_options, add_format_option, registry_flags
from mbuild.attested import (
    add_attestation_options,
    attestation_lines,
    attestation_value,
    attested_request,
    check_options,
    with_attached,
)
from mbuild.progress import ProgressMode, create
from mbuild.request import parse_platforms, read_request
from mbuild.session import open_driver, open_images, open_store
from mbuild.verification import summary, verification_lines, verification_value

if TYPE_CHECKING:
    from cache.store import Store
    from engine.driver import Driver
    from engine.secrets import Secrets
    from engine.verify.attested import Claim
    from engine.verify.images import Image
    from engine.verify.verifier import Verified, Verifier

_DIFFOSCOPE = "diffoscope"
_TIMEOUT = 3600.0


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Rebuild and compare; raises DifferenceError `not-reproducible` where there is a difference."""
    parser = Parser(
        prog="mbuild verify",
        usage="mbuild verify [OPTIONS] [CONTEXT] [IMAGE]\n       "
        "mbuild verify --attestation[=FILE] --key PUBLIC.pem [OPTIONS] IMAGE [CONTEXT]",
        description="Build from nothing, twice, the second time in other surroundings, or once to compare with IMAGE, "
        "and say which step and which files differ, and why.",
        epilog="IMAGE is a name or a digest of the store, a name in a registry, an OCI layout (its folder, or "
        "oci-layout:PATH:TAG) or docker-archive:FILE. A single word that is a folder is CONTEXT.",
    )
    add_build_options(parser)
    parser.add_argument("image", nargs="?", default="", metavar="IMAGE", help="what to compare with")
    add_format_option(parser)
    parser.add_argument("--html", default="", metavar="FILE", help="write the report as a page, too")
    parser.add_argument("--step", default="", metavar="STEP", help="run this RUN alone twice, as mbuild plan names it")
    parser.add_argument(
        "--diffoscope", action="store_true", help="hand the differing layers to diffoscope, unpacked as plain files"
    )
    parser.add_argument("--keep", default="", metavar="DIR", help="keep the stores of the builds there")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not show the builds")
    add_attestation_options(parser)
    parser.set_defaults(context=None)
    options = parser.parse_intermixed_args(with_attached(arguments))
    check_options(options, parser)
    if options.attestation is not None:
        return _attested(options, cancelled)
    options.context = "." if options.context is None else options.context
    _sort_out(options)
    if options.step and options.image:
        raise UsageError("--step and an image cannot be used together", code="usage", hint="leave one of them out")
    if options.diffoscope:
        _find_diffoscope()
    request = read_request(options)
    if options.html:
        _check_writable(Path(options.html))
    keep = _kept(options.keep, request) if options.keep else None
    with open_store(options.cache_dir) as store, _verifier(options, store, cancelled, keep) as verifier:
        verified = _verify(verifier, request, options, store)
        _report(verified, options)
        if options.diffoscope and verified.layers is not None and not verified.verification.reproducible:
            _hand_over(verified, store.folder(), request.secrets)
    return _verdict(verified)


def _verdict(verified: Verified) -> int:
    found = verified.verification
    if not found.reproducible:
        raise DifferenceError(
            f"{found.subject} is not reproducible: {summary(found)}",
            code="not-reproducible",
            hint="docs/reproducible.md has the usual causes and their mends",
        )
    return 0


def _attested(options: argparse.Namespace, cancelled: threading.Event) -> int:
    """Check what is said about an image, and build it again from that."""
    from engine.attest.attached import Attached, attached_to, from_file
    from engine.attest.dsse import AttestationVerifier
    from engine.verify.attested import Belief, verify_attested

    name = _sort_attested(options)
    platforms = parse_platforms(options.platform or [os.environ.get("DOCKER_DEFAULT_PLATFORM", "")])
    if len(platforms) > 1:
        raise UsageError("one image can be verified at a time", code="verify-platforms", hint="name one platform")
    keys = AttestationVerifier.from_files(map(Path, options.key)) if options.key else None
    if options.diffoscope:
        _find_diffoscope()
    if options.html:
        _check_writable(Path(options.html))
    mode = ProgressMode.QUIET if options.quiet else ProgressMode.PLAIN
    with (
        create(mode, sys.stderr) as display,
        open_images(options.cache_dir, display, cancelled, registry_flags(options)) as (store, source),
        _verifier(options, store, cancelled, _kept_outside(options)) as verifier,
    ):
        asked: list[BuildRequest] = []

        def find(image: Image) -> Attached:
            if options.attestation:
                return Attached((from_file(Path(options.attestation)),), ())
            return attached_to(name, image.image.digest, store, source)

        def make(claim: Claim) -> BuildRequest:
            asked.append(attested_request(claim, options, store.folder()))
            return asked[-1]

        belief = Belief(keys, options.allow_unsigned)
        claim, verified = verify_attested(verifier, name, platforms[0], store, belief, find, make)
        _report(verified, options, claim)
        if options.diffoscope and verified.layers is not None and not verified.verification.reproducible:
            _hand_over(verified, store.folder(), asked[-1].secrets)
    return _verdict(verified)


def _sort_attested(options: argparse.Namespace) -> str:
    """The image; the folder, if there is one, is `options.context` from now on. Raises UsageError (`usage`)."""
    words = [word for word in (options.context, options.image) if word]
    if len(words) == 2 and _is_folder(words[0]) and not _is_folder(words[1]):
        words.reverse()
    if not words or _is_folder(words[0]):
        said = f"{words[0]} is a folder and no OCI layout" if words else "no image is named"
        raise UsageError(f"--attestation: {said}", code="usage", hint="mbuild verify --attestation IMAGE [CONTEXT]")
    options.context = words[1] if len(words) == 2 else None
    if options.context is not None and not os.path.isdir(options.context):
        raise UsageError(
            f"the build context {options.context} is not a folder",
            code="context-missing",
            hint=f"--attestation={words[0]} is how a file is named" if os.path.isfile(words[0]) else "",
        )
    return f"oci-layout:{words[0]}" if _is_layout(words[0]) else words[0]


def _is_folder(word: str) -> bool:
    return os.path.isdir(word) and not _is_layout(word)


def _kept_outside(options: argparse.Namespace) -> Path | None:
    return _kept(options.keep) if options.keep else None


def _sort_out(options: argparse.Namespace) -> None:
    """Tell CONTEXT from IMAGE."""
    context, image = options.context, options.image
    if not image and (not os.path.isdir(context) or _is_layout(context)):
        context, image = ".", context
    elif image and not os.path.isdir(context) and os.path.isdir(image) and not _is_layout(image):
        context, image = image, context
    options.context, options.image = context, f"oci-layout:{image}" if _is_layout(image) else image


def _is_layout(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "oci-layout")) and os.path.isfile(os.path.join(folder, "index.json"))


@contextmanager
def _verifier(
    options: argparse.Namespace, store: Store, cancelled: threading.Event, keep: Path | None
) -> Iterator[Verifier]:
    from engine.verify.verifier import Verifier

    mode = ProgressMode.QUIET if options.quiet else ProgressMode.PLAIN
    flags = registry_flags(options)

    @contextmanager
    def opened(folder: Path) -> Iterator[Driver]:
        with create(mode, sys.stderr) as display, open_driver(str(folder), display, cancelled, flags) as driver:
            yield driver

    folder = keep or store.folder()
    with Verifier(opened, folder, store.vm_folder, cancelled, vary_shape=not options.cpus) as verifier:
        yield verifier


def _check_writable(page: Path) -> None:
    """Before hours are spent on what it is to tell. Raises HostError `output-failed`."""
    if page.is_dir() or not os.access(page if page.exists() else page.parent, os.W_OK):
        raise HostError(
            f"{page} cannot be written", code="output-failed", hint="--html names a file in a folder of yours"
        )


def _kept(name: str, request: BuildRequest | None = None) -> Path:
    """Raises UsageError `keep-not-empty`, `keep-in-context`, HostError `output-failed`."""
    folder = Path(name)
    inside = os.path.relpath(folder.resolve(), request.context.resolve()) if request is not None else ".."
    if request is not None and inside.partition("/")[0] != ".." and not request.ignore.ignored(inside):
        raise UsageError(
            f"--keep {name}: the folder is in the build context, and would be a part of the second build",
            code="keep-in-context",
            hint="name one elsewhere, or leave it out with .dockerignore",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"--keep {name}: the folder is not empty", code="keep-not-empty", hint="name a new one")
    except OSError as error:
        raise HostError(f"--keep {name}: {error.strerror}", code="output-failed") from error
    return folder


def _verify(verifier: Verifier, request: BuildRequest, options: argparse.Namespace, store: Store) -> Verified:
    if options.step:
        return verifier.step(request, options.step)
    if options.image:
        return verifier.against(request, options.image, store)
    return verifier.twice(request)


def _report(verified: Verified, options: argparse.Namespace, claim: Claim | None = None) -> None:
    found = verified.verification
    if options.format == "json":
        about = {"attestation": attestation_value(claim)} if claim is not None else {}
        print(json.dumps({**verification_value(found), **about}, indent=2))
    else:
        checked = attestation_lines(claim) if claim is not None else ()
        print("\n".join((*checked, *verification_lines(found))))
    if options.html:
        from mbuild.verificationpage import verification_page

        try:
            Path(options.html).write_text(verification_page(found), "utf-8")
        except OSError as error:
            raise HostError(f"{options.html} cannot be written: {error.strerror}", code="output-failed") from error


def _find_diffoscope() -> str:
    """Raises HostError `program-missing`."""
    from engine.process import find

    program = find(_DIFFOSCOPE)
    if program is None:
        raise HostError(
            "the program diffoscope is not installed",
            code="program-missing",
            hint="apt-get install diffoscope-minimal, or pip install diffoscope",
        )
    return program


def _hand_over(verified: Verified, folder: Path, secrets: Secrets) -> None:
    """Show what diffoscope says of the two layers. It ends with 1 where it found a difference."""
    from engine.process import running, spawn
    from engine.verify.unpack import unpack

    if verified.layers is None:
        raise AssertionError("there is nothing to hand over")
    names = ("first", "second")
    for name, side in zip(names, verified.layers, strict=True):
        unpack(side, folder / name, secrets)
    temporary = folder / "tmp"  # gone with the folder, however diffoscope ends
    temporary.mkdir()
    sys.stdout.flush()
    argv = [_find_diffoscope(), "--no-progress", "--exclude-directory-metadata=yes", *names]
    child = spawn(
        argv,
        cwd=folder,
        stdout=sys.stdout.fileno(),
        stderr=sys.stderr.fileno(),
        extra_environment={"TMPDIR": str(temporary)},
    )
    with running(child) as process:
        try:
            code = process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            message = f"diffoscope did not finish in {_TIMEOUT:g} s"
            raise HostError(message, code="program-timeout", hint="leave --diffoscope out") from error
        finally:
            if process.returncode is None:  # the programs that it started are in its session
                os.killpg(process.pid, signal.SIGKILL)
    if code not in (0, 1):
        raise HostError(
            f"diffoscope failed with exit code {code}", code="program-failed", hint="leave --diffoscope out"
        )
