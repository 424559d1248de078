"""One microVM template for all tests of this folder, and commands run from it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from vm_support import Runner, busybox_layer, make_sandbox, template_folder

from engine.vm.sandbox import QemuSandbox


@pytest.fixture(scope="session")
def vm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where templates are kept: $MBUILD_TEST_VM_DIR, or a folder of this run."""
    return template_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def sandbox(vm_dir: Path) -> QemuSandbox:
    """Runs commands in real microVMs."""
    return make_sandbox(vm_dir)


@pytest.fixture(scope="session")
def base_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with busybox in it."""
    return busybox_layer(tmp_path_factory.mktemp("base") / "base.sqfs")


@pytest.fixture
def run(sandbox: QemuSandbox, base_layer: Path) -> Runner:
    """Runs a shell script in a microVM."""
    return Runner(sandbox, base_layer)
