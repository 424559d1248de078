"""plan, explain, --fail-on-miss and --no-cache-filter as somebody types them; nothing here starts a microVM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Mbuild

TEXT = """\
FROM scratch AS lib
COPY src /lib/
FROM scratch
ARG WHERE=/app
COPY --from=lib /lib $WHERE/
WORKDIR /srv
"""


def test_a_change_is_planned_explained_refused_and_built(mbuild: Mbuild) -> None:
    context = mbuild.context(TEXT)
    (context / "src").mkdir()
    (context / "src" / "app.py").write_text("1")
    refused = mbuild("--fail-on-miss", context)
    assert refused.returncode == 1
    assert "lib.1  COPY src /lib/: never built with these inputs" in refused.stderr
    mbuild.ok("-q", context)
    mbuild.ok("-q", "--fail-on-miss", context)
    assert mbuild.ok("explain", context).stdout == "every step that is needed has a result: nothing would run\n"

    (context / "src" / "app.py").write_text("2")
    plan = mbuild.ok("plan", context).stdout
    assert "(src/app.py changed)" in plan
    assert plan.splitlines()[-1].startswith("3 of 3 steps to run; last time they took ")
    steps = json.loads(mbuild.ok("plan", "--format=json", context).stdout)["steps"]
    fields = ["id", "stage", "line", "instruction", "key", "parents", "hit", "reason", "seconds"]
    assert all(list(step) == fields for step in steps)
    assert [step["seconds"] is not None for step in steps] == [False, True, False, False, True, True]

    told = mbuild.ok("explain", context).stdout
    assert told.startswith(
        "lib.1  MISS  COPY src /lib/, line 2\n    src/app.py changed (6b86b273ff34 -> d4735e3a265e)\n"
    )
    assert "1.2  MISS  COPY --from=lib /lib /app/, line 5\n    unchanged itself\n" in told
    found = json.loads(mbuild.ok("explain", "--format=json", "lib", "--context", context).stdout)
    assert [step["id"] for step in found["steps"]] == ["lib.1"]
    assert found["steps"][0]["cause"] == "changed"
    assert found["steps"][0]["differences"][0]["files"][0]["path"] == "src/app.py"
    refused = mbuild("--fail-on-miss", "--build-arg=WHERE=/opt", context)
    assert "lib.1  COPY src /lib/: src/app.py changed" in refused.stderr
    assert "mbuild explain" in refused.stderr


def test_a_stage_is_run_again(mbuild: Mbuild) -> None:
    context = mbuild.context(TEXT, **{"app.py": "1"})
    (context / "src").mkdir()
    mbuild.ok("-q", context)
    plan = mbuild.ok("plan", "--no-cache-filter=LIB,nope", context)
    assert "(--no-cache-filter lib)" in plan.stdout
    assert "--no-cache-filter nope: there is no such stage" in plan.stderr
    assert mbuild.build("--no-cache-filter=lib", context)["steps"] == {"hit": 2, "run": 1, "total": 3}
    both = mbuild("--no-cache", "--no-cache-filter=lib", context)
    assert both.returncode == 2
    assert "cannot be used together" in both.stderr


def test_steps_and_contexts_are_told_apart(mbuild: Mbuild) -> None:
    context = mbuild.context(TEXT)
    (context / "src").mkdir()
    (mbuild.folder / "lib").mkdir()
    assert mbuild.ok("explain", "lib", "--context", context).stdout.startswith("lib.1  MISS")
    assert "there is no Machinefile" in mbuild("explain", "lib").stderr, "one word that is a folder is the context"
    assert mbuild("explain", "lib", context, "--context", context).returncode == 2
    unknown = mbuild("explain", "nowhere", context)
    assert (unknown.returncode, "has no step 'nowhere'" in unknown.stderr) == (2, True)


def test_a_plan_imports_nothing_that_runs_steps_or_talks_to_registries(mbuild: Mbuild) -> None:
    context = mbuild.context(TEXT)
    (context / "src").mkdir()
    code = "import sys; from mbuild.__main__ import main; main(['plan', sys.argv[1]]); print(*sys.modules)"
    argv = [sys.executable, "-c", code, os.fspath(context)]
    done = subprocess.run(argv, env=mbuild.environ(), capture_output=True, text=True, timeout=60, check=True)
    modules = set(done.stdout.splitlines()[-1].split())
    assert "engine.explain.explainer" in modules
    heavy = {"httpx", "networkx", "cryptography", "fsspec", "rich", "engine.build", "engine.vm.execution"}
    assert not modules & (heavy | {"engine.vm.sandbox", "engine.vm.qemu", "engine.steps.run"})
