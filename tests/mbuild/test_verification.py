"""What is printed of a verification."""

from __future__ import annotations

import json

from engine.verify.difference import (
    Aspect,
    Cause,
    Change,
    FieldDifference,
    FileDifference,
    Guess,
    StepDifference,
    Verification,
)
from mbuild.verification import verification_lines, verification_value
from mbuild.verificationpage import verification_page

_FILE = FileDifference(
    "etc/<b>\x1b[31m",
    (Change(Aspect.SIZE, "1", "2"), Change(Aspect.CONTENT, "", "")),
    diff=("-<script>1\x1b", "+2"),
    guess=Guess(Cause.PID, "a <pid>", "mend & be well"),
)
_STEP = StepDifference("0.2", "RUN x > /y", 3, "sha256:1", "sha256:2", (_FILE,) * 30, 5)
_FOUND = Verification(
    "the build", ("one", "other"), "sha256:a", "sha256:b", _STEP, ("0.3",), (FieldDifference("created", "1", "2"),)
)


def test_the_text_names_step_file_cause_and_mend() -> None:
    text = "\n".join(verification_lines(_FOUND))
    assert "first step that differs: 0.2, line 3: RUN x > /y" in text
    assert "size 1 -> 2, content" in text
    assert "cause: pid: a <pid>" in text
    assert "and 15 more files" in text
    assert "differing after it: 0.3" in text
    assert "\x1b" not in text


def test_the_page_is_escaped_and_whole() -> None:
    page = verification_page(_FOUND)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert page.rstrip().endswith("</html>")
    assert "http" not in page.replace("http-equiv", "")


def test_json_says_it_all() -> None:
    value = json.loads(json.dumps(verification_value(_FOUND)))
    assert value["cause"] == {"cause": "pid", "why": "a <pid>", "mend": "mend & be well"}
    assert value["step"]["files"][0]["changes"][0] == {"aspect": "size", "first": "1", "second": "2"}


def test_what_is_reproducible_is_said_in_one_line() -> None:
    found = Verification("the build", ("one", "other"), "sha256:a", "sha256:a")
    assert list(verification_lines(found)) == ["reproducible: sha256:a"]
    assert "not reproducible" not in verification_page(found)
