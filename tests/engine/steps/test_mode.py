"""--chmod, against chmod(1) itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.steps.mode import apply_mode


@pytest.mark.parametrize(
    ("text", "mode", "directory", "expected"),
    [
        ("", 0o640, False, 0o640),
        ("755", 0o600, False, 0o755),
        ("0644", 0o777, False, 0o644),
        ("4755", 0o600, False, 0o4755),
        ("u+x", 0o644, False, 0o744),
        ("+x", 0o644, False, 0o755),
        ("a-w", 0o666, False, 0o444),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, False, 0o755),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("g=u", 0o740, False, 0o770),
        ("u+s,g+s", 0o755, False, 0o6755),
        ("+t", 0o755, True, 0o1755),
        ("go=", 0o777, False, 0o700),
    ],
)
def test_modes_are_applied(text: str, mode: int, directory: bool, expected: int) -> None:
    assert apply_mode(text, mode, directory=directory) == expected


@pytest.mark.parametrize("text", ["rwx", "888", "u+z", "u", ",", "u+x,", "x", "77777777"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a file mode"):
        apply_mode(text, 0o644, directory=False)


clauses = st.tuples(
    st.text("ugoa", min_size=1, max_size=3),
    st.sampled_from("+-="),
    st.text("rwxX", max_size=3) | st.sampled_from("ugo"),
).map("".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(clauses, min_size=1, max_size=3).map(",".join), st.integers(0, 0o777))
def test_symbolic_modes_mean_what_they_mean_to_chmod(
    tmp_path_factory: pytest.TempPathFactory, text: str, mode: int
) -> None:
    path: Path = tmp_path_factory.mktemp("mode") / "file"
    path.write_text("")
    path.chmod(mode)
    subprocess.run(["chmod", "--", text, path], check=True, stdin=subprocess.DEVNULL)
    assert apply_mode(text, mode, directory=False) == path.stat().st_mode & 0o7777
