"""RUN --mount through the whole of mbuild, in real microVMs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_processes import wait_until

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = pytest.mark.vm


def _output(mbuild: Mbuild, *arguments: object) -> str:
    """What a build that does well prints, its log included."""
    return mbuild.ok("--progress=plain", *arguments).stderr


def test_binds_from_the_context_a_stage_and_an_image(mbuild: Mbuild, busybox: str) -> None:
    text = f"""\
FROM {busybox} AS other
RUN mkdir /out && echo made > /out/f && ln -s out /link
FROM {busybox}
WORKDIR /work
RUN --mount=target=. ls && cat sub/f ../work/link && ! touch x
RUN --mount=source=sub,target=/s,rw echo new > /s/f && cat /s/f && ls /s
RUN --mount=source=sub/f,target=/etc/one cat /etc/one
RUN --mount=from=other,source=link/f,target=/mnt/deep/f --mount=from=other,target=/o cat /mnt/deep/f /o/link/f
RUN --mount=from={busybox},source=/bin,target=/bin2 /bin2/echo from the image
RUN test ! -e /mnt && test ! -e /s && test ! -e /etc/one && ls -A /work
"""
    context = mbuild.context(text)
    (context / "sub").mkdir()
    (context / "sub/f").write_text("of the context\n")
    (context / "sub/left-out").write_text("x")
    (context / "link").symlink_to("sub/f")
    (context / ".dockerignore").write_text("**/left-out\n")
    log = _output(mbuild, "-t", "one", context)
    assert log.count("of the context") == 3
    assert "left-out" not in log
    assert log.count(" made\n") == 2
    assert "from the image" in log
    assert mbuild.build(context)["steps"]["run"] == 0  # type: ignore[index]
    (context / "sub/f").write_text("changed\n")
    assert mbuild.build(context)["steps"]["run"] == 3  # type: ignore[index]
    assert mbuild.left_over() == []


def test_a_cache_is_kept_between_builds_stages_and_failures(mbuild: Mbuild, busybox: str) -> None:
    mount = "--mount=type=cache,target=/c"
    text = f"FROM {busybox} AS a\nRUN {mount} echo one >> /c/f\nFROM {busybox}\nCOPY --from=a /etc /x\n"
    text += f"RUN {mount} cat /c/f\n"
    assert " one\n" in _output(mbuild, mbuild.context(text))
    failing = f"FROM {busybox}\nRUN {mount} echo two >> /c/f; false\n"
    assert mbuild(mbuild.context(failing)).returncode == 1
    look = f"FROM {busybox}\nRUN --mount=type=cache,id=/c,target=/d,ro echo $(cat /d/f) && ! touch /d/x\n"
    assert " one two\n" in _output(mbuild, mbuild.context(look))
    other = f"FROM {busybox}\nRUN --mount=type=cache,id=other,target=/c test ! -e /c/f\n"
    _output(mbuild, "--no-cache", mbuild.context(other))
    told = [json.loads(about.read_text())["id"] for about in (mbuild.store / "mounts").glob("*/about.json")]
    assert sorted(told) == ["/c", "other"]


def test_a_new_cache_begins_with_the_files_of_a_stage(mbuild: Mbuild, busybox: str) -> None:
    text = f"""\
FROM {busybox} AS seed
RUN mkdir -p /a/b && echo seeded > /a/b/f && chown -R 5:6 /a/b
FROM {busybox}
RUN --mount=type=cache,id=x,from=seed,source=/a/b,target=/c cat /c/f; stat -c %u:%g /c; echo more > /c/g
RUN --mount=type=cache,id=x,from=seed,source=/a/b,target=/c cat /c/f /c/g
"""
    log = _output(mbuild, mbuild.context(text))
    assert log.count(" seeded\n") == 2
    assert " 5:6\n" in log
    assert " more\n" in log


def _side_by_side(mbuild: Mbuild, texts: list[str], started: Callable[[int], bool]) -> list[str]:
    """Builds in processes of their own, each begun when the one before is; their logs."""
    logs, running = [], []
    try:
        for number, text in enumerate(texts):
            log = mbuild.folder / f"log{number}"
            logs.append(log)
            argv = mbuild.argv("--progress=plain", mbuild.context(text, f"context{number}"))
            with log.open("wb") as out:
                running.append(
                    subprocess.Popen(
                        argv, env=mbuild.environ(), cwd=mbuild.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
                    )
                )
            assert wait_until(lambda log=log, number=number: started(number) or b" ready\n" in log.read_bytes()), (
                log.read_text()
            )  # type: ignore[misc]
        for process, log in zip(running, logs, strict=True):
            assert process.wait(120) == 0, log.read_text()
    finally:
        for process in running:
            process.kill()
            process.wait(60)
    return [log.read_text() for log in logs]


def test_steps_that_share_a_cache_at_once_both_have_their_files_in_it(mbuild: Mbuild, busybox: str) -> None:
    mount = "--mount=type=cache,target=/c"
    texts = [
        f"FROM {busybox}\nRUN {mount} echo ready; echo {n} > /c/{n}; mkdir /c/d; echo {n} > /c/d/{n}; sleep 4\n"
        for n in "ab"
    ]
    _side_by_side(mbuild, texts, lambda number: False)
    log = _output(mbuild, mbuild.context(f"FROM {busybox}\nRUN {mount} echo $(cd /c; find | sort)\n"))
    assert " . ./a ./b ./d ./d/a ./d/b\n" in log


def test_a_locked_cache_is_for_one_step_at_a_time(mbuild: Mbuild, busybox: str) -> None:
    texts = [
        f"FROM {busybox}\nRUN --mount=type=cache,id=c,target=/c,sharing={kind} "
        f"echo ready; ls /c; sleep {n}; touch /c/{n}\n"
        for n, kind in ((3, "locked"), (2, "shared"))
    ]

    def waits(number: int) -> bool:
        return number == 1 and "waiting for the cache c" in (mbuild.folder / "log1").read_text()

    logs = _side_by_side(mbuild, texts, waits)
    assert "waiting for the cache c" in logs[1]
    assert " 3\n" in logs[1], "what the first wrote is there"


def test_private_caches_used_at_once_are_apart(mbuild: Mbuild, busybox: str) -> None:
    texts = [
        f"FROM {busybox}\nRUN --mount=type=cache,id=c,target=/c,sharing=private "
        f"test ! -e /c/f; echo ready; touch /c/f; sleep 3; {n}\n"
        for n in ("true", ": 2")
    ]
    _side_by_side(mbuild, texts, lambda number: False)
    again = f"FROM {busybox}\nRUN --mount=type=cache,id=c,target=/c,sharing=private test -e /c/f\n"
    _output(mbuild, mbuild.context(again))
    assert len(list((mbuild.store / "mounts").glob("*/[01]/disk"))) == 2


def test_a_build_that_is_killed_leaves_its_caches_whole(mbuild: Mbuild, busybox: str) -> None:
    mount = "--mount=type=cache,target=/c,sharing=locked"
    _output(mbuild, mbuild.context(f"FROM {busybox}\nRUN {mount} echo kept > /c/f\n"))
    context = mbuild.context(f"FROM {busybox}\nRUN {mount} echo lost > /c/f; sync; echo ready; sleep 1000\n")
    log = mbuild.folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            mbuild.argv("--progress=plain", context),
            env=mbuild.environ(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        assert wait_until(lambda: b" ready\n" in log.read_bytes() or process.poll() is not None, 120), log.read_text()
    finally:
        process.kill()
        process.wait(60)
    assert " kept\n" in _output(mbuild, mbuild.context(f"FROM {busybox}\nRUN {mount} cat /c/f\n"))
    assert mbuild.left_over() == []
    assert not list((mbuild.store / "vm/run").iterdir())


SECRET = "correct-horse-battery-staple"
OTHER = "tr0ub4dor&3-and-more"


def _places(mbuild: Mbuild) -> list[Path]:
    """All files below the store that hold one of the secrets, half-done ones and the templates' too."""
    found = []
    for folder, _, names in os.walk(mbuild.store, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and _holds(path):
                found.append(path)
    return found


def _holds(path: Path) -> bool:
    try:
        file = path.open("rb")
    except FileNotFoundError:  # its machine has ended meanwhile
        return False
    with file:
        tail, at = b"", 0
        while True:
            try:  # disks are mostly holes
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return False
            tail = tail if start == at else b""
            chunk = os.pread(file.fileno(), 1 << 20, start)
            if any(secret.encode() in tail + chunk for secret in (SECRET, OTHER)):
                return True
            if not chunk:
                return False
            tail, at = chunk[-100:], start + len(chunk)


def test_secrets_are_seen_by_their_step_and_are_nowhere_in_the_store(mbuild: Mbuild, busybox: str) -> None:
    (mbuild.folder / "token").write_text(SECRET + "\n")
    mbuild.environment["OTHER"] = OTHER
    text = f"""\
FROM {busybox}
MACHINE cpus=1 memory=256M
RUN --mount=type=secret,id=token,required --mount=type=secret,id=OTHER,env=VALUE,mode=0444,uid=1 \\
    test "$(wc -c < /run/secrets/token)" = {len(SECRET) + 1} && test "${{#VALUE}}" = {len(OTHER)} && \\
    cp /run/secrets/token /dev/shm/x && rm /dev/shm/x && echo done > /ok && test ! -e /run/secrets/OTHER
RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent
RUN test ! -e /run && echo done > /also
CMD ["sleep", "1000"]
SNAPSHOT
"""
    seen: list[Path] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.extend(path for path in _run_files(mbuild) if _holds(path))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        given = ("--secret", f"id=token,src={mbuild.folder / 'token'}", "--secret", "id=OTHER")
        log = _output(
            mbuild, *given, "-t", "secret", "-o", f"type=oci,dest={mbuild.folder / 'out'}", mbuild.context(text)
        )
    finally:
        stop.set()
        watcher.join()
    assert SECRET not in log
    assert any((mbuild.store / "machines").rglob("ram")), "the snapshot is among what is searched"
    assert _holds(mbuild.folder / "token"), "it would be found"
    assert _places(mbuild) == seen == []
    # Another value is no reason to run a step again, and what is cached needs none.
    (mbuild.folder / "token").write_text("something else")
    assert mbuild.build(*given, mbuild.context(text))["steps"]["run"] == 0  # type: ignore[index]
    assert mbuild.build(mbuild.context(text))["steps"]["run"] == 0  # type: ignore[index]


def _run_files(mbuild: Mbuild) -> list[Path]:
    """The files of running machines."""
    found = []
    for folder, _, names in os.walk(mbuild.store / "vm/run", followlinks=True):
        found += [Path(folder, name) for name in names if Path(folder, name).is_file()]
    return found


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("cat /run/secrets/token | tr -d a-b > /x; cp /run/secrets/token /d/leak", "/d/leak"),
        ('ln -s "$(cat /run/secrets/token)" /d/link', "/d/link"),
        ('touch "/d/$(cat /run/secrets/token)"', "/d/***"),
        ("cat /run/secrets/token", "the step's output"),
        ("head -c 9 /run/secrets/token >&2; sleep 1; tail -c +10 /run/secrets/token >&2", "the step's output"),
    ],
)
def test_a_secret_that_leaks_fails_the_build_and_is_kept_nowhere(
    mbuild: Mbuild, busybox: str, command: str, place: str
) -> None:
    (mbuild.folder / "token").write_text(SECRET + "\n")
    text = f"FROM {busybox}\nRUN mkdir /d\nRUN --mount=type=secret,id=token {command}\n"
    done = mbuild("--progress=plain", "--secret", f"id=token,src={mbuild.folder / 'token'}", mbuild.context(text))
    assert done.returncode == 1
    assert f"the secret 'token' is in {place}" in done.stderr or f"file {place}" in done.stderr
    assert SECRET not in done.stderr
    assert "***" in done.stderr or "output" not in place
    assert _places(mbuild) == []


def test_a_copied_file_and_an_instruction_with_a_secret_fail_the_build_too(mbuild: Mbuild, busybox: str) -> None:
    mbuild.environment["TOKEN"] = SECRET
    copied = mbuild("--secret", "id=TOKEN", mbuild.context(f"FROM {busybox}\nCOPY f /f\n", f=f"x{SECRET}x"))
    assert copied.returncode == 1
    assert "file /f" in copied.stderr
    text = f"FROM {busybox}\nARG T\nRUN true\n"
    told = mbuild("--secret", "id=TOKEN", "--build-arg", f"T={SECRET}", mbuild.context(text))
    assert told.returncode == 1
    assert "history" in told.stderr
    assert SECRET not in copied.stderr + told.stderr
    assert _places(mbuild) == []


def test_limits_are_told_each_in_its_own_words(mbuild: Mbuild, busybox: str) -> None:
    for command, options, words in (
        ("sleep 100", ("--step-timeout", "2s"), "took longer than 2s"),
        ("x=x; while :; do x=$x$x; done", ("--memory", "512m"), "ran out of memory"),
        ("dd if=/dev/zero of=/fill bs=1M", ("--memory", "512m", "--disk", "64m"), "filled its disk"),
    ):
        done = mbuild(*options, mbuild.context(f"FROM {busybox}\nRUN {command}\n"))
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr


def test_an_insecure_step_is_root_of_its_own_machine_when_that_is_allowed(mbuild: Mbuild, busybox: str) -> None:
    script = "mkdir /m; mount -t tmpfs x /m && touch /m/f && umount /m && rmdir /m && ls /m"
    text = f"FROM {busybox}\nRUN --security=insecure {script} || echo 1 > /proc/sys/kernel/panic\n"
    refused = mbuild(mbuild.context(text))
    assert refused.returncode == 2
    assert "--allow security.insecure" in refused.stderr
    _output(mbuild, "--allow", "security.insecure", mbuild.context(text))
    assert mbuild(mbuild.context(text.replace("--security=insecure", ""))).returncode == 1
