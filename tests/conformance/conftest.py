"""The bench, and buildah at work ahead of the tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from conformance.builders import Bench
from conformance.image_reader import Image
from conformance.spec import Spec
from vm_support import template_folder

_AT_ONCE = 3

Build = Callable[[Spec], Image | str]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """See Bench."""
    made = Bench(tmp_path_factory.mktemp("conformance"))
    made.set_up(template_folder(tmp_path_factory))
    return made


@pytest.fixture(scope="session")
def buildah(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Build]:
    """Gives what buildah made of a spec. An ordinary user's tests are skipped: chroot isolation needs root."""
    root, on_ci = os.geteuid() == 0, os.environ.get("CI", "") not in ("", "false")
    if not root and not on_ci:
        pytest.skip("buildah's chroot isolation needs root")
    if not root or shutil.which("buildah") is None:
        pytest.fail("these tests need root and buildah: run scripts/setup")
    if "PYTEST_XDIST_WORKER" in os.environ:  # which tests will be this process's is not known, and others run beside it
        yield bench.buildah
        return
    wanted = [item.callspec.params["spec"] for item in request.session.items if _compares(item)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        ahead: dict[tuple[str, str], Future[Image | str]] = {
            (spec.topic, spec.name): pool.submit(bench.buildah, spec) for spec in wanted
        }
        yield lambda spec: ahead[spec.topic, spec.name].result()
        pool.shutdown(cancel_futures=True)


def _compares(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and {"spec", "buildah"} <= set(item.fixturenames)
