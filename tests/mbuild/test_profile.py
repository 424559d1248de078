"""--profile: the file is there however a command ends, and says what took the time."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest
from trace_support import read_trace

from cache import spans
from cache.spans import span
from machinefile.errors import HostError
from mbuild.__main__ import main
from mbuild.profile import profiled
from mbuild.trace import process_began


def test_without_a_name_nothing_is_recorded_or_written() -> None:
    with profiled(""):
        assert span("a", "test") is span("b", "test")


def test_threads_have_names_and_what_threads_share_has_numbers(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def work() -> None:
        with span("work", "test", number=1):
            both.wait(30)

    with profiled(str(tmp_path / "trace")):
        threads = [threading.Thread(target=work, name="steps") for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    events, names = read_trace(tmp_path / "trace")
    assert sorted(names.values()) == ["mbuild", "steps", "steps 2"]
    assert [event.name for event in events] == ["start-up", "work", "work"]
    assert events[0].begun == 0
    assert events[1].args == {"number": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), HostError("no", code="host-failed")])
def test_a_command_that_fails_leaves_its_trace(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), profiled(str(tmp_path / "trace")), span("all", "test"):
        raise error
    events, _ = read_trace(tmp_path / "trace")
    assert events[-1].args["failed"] in ("KeyboardInterrupt", "host-failed")
    assert os.listdir(tmp_path) == ["trace"]


def test_a_file_of_an_earlier_command_does_not_stay(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("old")
    with profiled(str(trace)):
        assert not trace.exists()
    assert stat.S_IMODE(trace.stat().st_mode) & 0o111 == 0
    read_trace(trace)


def test_a_link_stays_one_and_a_device_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("trace")
    for path in (tmp_path / "link", Path("/dev/null")):
        with profiled(str(path)):
            pass
    assert (tmp_path / "link").is_symlink()
    read_trace(tmp_path / "trace")
    assert Path("/dev/null").is_char_device()


def test_a_pipe_gets_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader:
        with os.fdopen(writing), profiled(f"/dev/fd/{writing}"):
            pass
        (tmp_path / "trace").write_text(reader.read())
    assert [event.name for event in read_trace(tmp_path / "trace")[0]] == ["start-up"]


def test_what_did_not_fit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spans, "MOST", 2)
    with profiled(str(tmp_path / "trace")):
        for _ in range(4):
            with span("a", "test"):
                pass
    events, _ = read_trace(tmp_path / "trace")
    assert len(events) == 2
    assert json.loads((tmp_path / "trace").read_text())["otherData"] == {"dropped": 3}
    assert "not 3 more" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_shows_before_the_build(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Machinefile").write_text("FROM scratch\nCOPY absent /\n")
    for path in (tmp_path / "absent/file", tmp_path):
        assert main(["--cache-dir", str(tmp_path / "store"), "--profile", str(path), str(tmp_path)]) == 3
        assert f"{path} cannot be written" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_a_trace_that_cannot_be_written_at_the_end_fails_a_command_that_went_well(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(HostError) as caught, profiled(str(folder / "trace")):
        folder.rmdir()
    assert caught.value.code == "output-failed"


def test_what_failed_before_matters_more_than_a_trace_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def fail() -> None:
        folder.rmdir()
        raise HostError("no", code="host-failed")

    with pytest.raises(HostError) as caught, profiled(str(folder / "trace")):
        fail()
    assert caught.value.code == "host-failed"
    assert "cannot be written" in capsys.readouterr().err


def test_a_process_began_before_now() -> None:
    assert process_began() <= time.monotonic()
    assert process_began() > time.monotonic() - 7 * 24 * 3600
