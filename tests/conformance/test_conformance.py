"""Every spec of specs/, built by mbuild and by buildah: the same files, and the same configuration.

Where BuildKit does otherwise than buildah, BuildKit is right: such a spec names the heading of docs/differences.md that
says so, and what the image must be.
"""

from __future__ import annotations

import pytest
from conformance.builders import Bench
from conformance.conftest import Build
from conformance.image_reader import Image, changed
from conformance.spec import Spec, load_specs

from machinefile.errors import MbuildError

SPECS = load_specs()


def _parameters(specs: list[Spec]) -> list[object]:
    marks = {True: [pytest.mark.vm], False: []}
    return [pytest.param(spec, id=f"{spec.topic}: {spec.name}", marks=marks[spec.needs_vm]) for spec in specs]


def _said(spec: Spec, image: Image, bench: Bench) -> None:
    """What a spec itself says of the image."""
    if spec.tree is not None:
        base = Image({}, {}, "") if "FROM scratch" in spec.machinefile else bench.plain
        busybox = bench.plain.tree["/bin/busybox"]
        assert changed(image, base) == {
            path: busybox if text == "@busybox@" else text for path, text in spec.tree.items()
        }
    for name, value in (spec.config or {}).items():
        assert image.config.get(name, type(value)()) == value, name


@pytest.mark.parametrize("spec", _parameters([spec for spec in SPECS if not spec.refused]))
def test_the_image_is_the_same(spec: Spec, bench: Bench, buildah: Build) -> None:
    ours = bench.mbuild(spec)
    theirs = buildah(spec)
    _said(spec, ours, bench)
    if spec.differs:
        assert isinstance(theirs, str) or theirs.essence != ours.essence, (
            "buildah does the same: no difference any more"
        )
        return
    assert isinstance(theirs, Image), theirs
    assert changed(ours, bench.plain) == changed(theirs, bench.plain)
    assert ours.essence == theirs.essence


@pytest.mark.parametrize("spec", _parameters([spec for spec in SPECS if spec.refused]))
def test_it_is_refused(spec: Spec, bench: Bench, buildah: Build) -> None:
    with pytest.raises(MbuildError) as caught:
        bench.mbuild(spec)
    assert caught.value.code == spec.refused, caught.value.message
    assert isinstance(buildah(spec), Image) == bool(spec.differs)
