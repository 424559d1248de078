"""Verifying what is said about an image: who says it, that it is about the image, and that it can be done again."""

from __future__ import annotations

from collections.abc import Callable

from cache.store import Store
from engine.attest.attached import Attached
from engine.attest.check import CheckedStatement, find_provenance
from engine.attest.dependencies import files_digests
from engine.attest.dsse import AttestationVerifier
from engine.attest.recipe import Recipe, parse_recipe
from engine.plan import Plan
from engine.request import BuildRequest
from engine.verify.images import Image
from engine.verify.verifier import Verified, Verifier
from machinefile.errors import UsageError
from machinefile.platform import Platform
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """What was checked before anything was built."""

    signed_by: str
    """The id of the key; empty for a statement without a signature."""
    subject: str
    """The digest of the image that it is about."""
    predicate_type: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Belief:
    """Whom to believe."""

    verifier: AttestationVerifier | None
    unsigned: bool = False
    """Whether a statement that nobody signed is believed."""


def verify_attested(
    verifier: Verifier,
    name: str,
    platform: Platform,
    store: Store,
    belief: Belief,
    find: Callable[[Image], Attached],
    make: Callable[[Claim], BuildRequest],
) -> tuple[Claim, Verified]:
    """Check what `find` finds to be said about an image, then build as `make` has it from that, and compare.

    Raises as `find_image`, `find_provenance`, `parse_recipe` and a build; UsageError: `attestation-context` (a folder
    is not what the image was made from), `attestation-incomplete`.
    """
    driver, theirs = verifier.find(name, platform, store)
    digest = theirs.image.digest
    claim = _claim(find_provenance(find(theirs), belief.verifier, digest, name, unsigned=belief.unsigned), digest)
    request = make(claim)
    try:
        _check_contexts(claim.recipe, driver.plan(request), request)
        return claim, verifier.rebuilt(request, driver, theirs)
    except UsageError as error:
        if error.code != "lock-incomplete":
            raise
        hint = "the provenance is not of this build, or a secret was masked in a name"
        raise UsageError(error.message, code="attestation-incomplete", hint=hint, span=error.span) from error


def _claim(checked: CheckedStatement, digest: str) -> Claim:
    statement = checked.statement
    return Claim(checked.key_id, digest, statement.predicate_type, parse_recipe(statement.predicate))


def _check_contexts(recipe: Recipe, plan: Plan, request: BuildRequest) -> None:
    told, fetched = dict(recipe.took.folders), {one.name for one in recipe.took.repositories}
    folders = {"": str(request.context), **{one.name: one.value for one in request.contexts}}
    for name, digest in files_digests(plan, plan.graph).items():
        if name in fetched:  # its commit is pinned
            continue
        called = f"the context {name!r}" if name else "the build context"
        if name not in told:
            raise UsageError(
                f"a step takes files of {called}, of which the provenance says nothing", code="attestation-incomplete"
            )
        if told[name] != digest:
            raise UsageError(
                f"the folder {folders[name]} is not what the image was made from: what steps take of {called} "
                "is other than the provenance says",
                code="attestation-context",
                hint="check out what was built: the same files, of the same modes",
            )
