"""`mbuild lint` and `mbuild --check`: formats, exit codes, what is asked of registries."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from engine.images import mediatype
from engine.images.config import ImageConfiguration
from engine.images.layout_writer import LayoutWriter
from engine.images.manifest import Manifest
from machinefile.imageconfig import ImageConfig
from machinefile.lint.registry import RULES
from machinefile.platform import Platform
from mbuild.__main__ import main

CLEAN = "FROM scratch\nCOPY a /\n"
UNTIDY = "FROM scratch as base\nCOPY $x /\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; the store is elsewhere and must stay untouched."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MBUILD_CACHE_DIR", str(tmp_path / "store"))
    return folder


def lint(text: str, *options: str, command: str = "lint") -> int:
    Path("Dockerfile").write_text(text)
    return main([command, *options])


def test_a_tidy_file_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(CLEAN) == 0
    assert capsys.readouterr() == ("no warnings\n", "")


def test_findings_are_shown_with_their_line_and_a_caret(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(UNTIDY) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert out == (
        "Dockerfile:1:14: warning: FromAsCasing: as is not written in the same case as FROM\n"
        "    1 | FROM scratch as base\n"
        "                     ^^\n"
        "  write AS\n"
        "Dockerfile:2:6: warning: UndefinedVar: the variable x is not set: nothing is put in its place\n"
        "    2 | COPY $x /\n"
        "             ^^\n"
        "  declare it with ARG x or ENV x=...\n"
        "2 warnings\n"
    )


def test_json_gives_one_object_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(UNTIDY, "--format", "json") == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first == {
        "rule": "FromAsCasing",
        "description": "AS should be written in the same case as its FROM",
        "message": "as is not written in the same case as FROM",
        "hint": "write AS",
        "file": "Dockerfile",
        "line": 1,
        "column": 14,
        "end_line": 1,
        "end_column": 16,
    }
    assert (second["rule"], second["line"]) == ("UndefinedVar", 2)
    assert lint(CLEAN, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_sarif_has_the_rules_and_a_region_for_each_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(UNTIDY, "--format", "sarif") == 1
    log = json.loads(capsys.readouterr().out)
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    assert run["columnKind"] == "unicodeCodePoints"
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "mbuild"
    assert [rule["id"] for rule in rules] == [rule.name for rule in RULES]
    assert all(rule["shortDescription"]["text"] and rule["help"]["text"] for rule in rules)
    off = [rule["id"] for rule in rules if not rule["defaultConfiguration"]["enabled"]]
    assert off == ["CopyIgnoredFile", "InvalidDefinitionDescription"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] == "warning"
    assert run["results"][0]["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "Dockerfile"},
                "region": {"startLine": 1, "startColumn": 14, "endLine": 1, "endColumn": 16},
            }
        }
    ]
    assert run["results"][1]["message"]["text"].startswith("the variable x is not set")


def test_sarif_tells_mistakes_too_and_error_makes_findings_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("# check=error=true\nFROM scratch as a\nEXPOSE no\n", "--format", "sarif") == 2
    out, err = capsys.readouterr()
    (run,) = json.loads(out)["runs"]
    assert [(result["ruleId"], result["level"]) for result in run["results"]] == [
        ("FromAsCasing", "error"),
        ("bad-port", "error"),
    ]
    assert "Dockerfile:3:8: EXPOSE no" in err
    assert lint("NOSUCH\n", "--format", "sarif") == 2
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["results"][0]["ruleId"] == "unknown-instruction"


def test_sarif_names_files_as_uris(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    def uri(name: str) -> str:
        assert main(["lint", "--format", "sarif", "-f", name]) == 1
        (run,) = json.loads(capsys.readouterr().out)["runs"]
        return str(run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])

    Path("a b%.Dockerfile").write_text(UNTIDY)
    assert uri("a b%.Dockerfile") == "a%20b%25.Dockerfile"
    assert uri(str(project / "a b%.Dockerfile")) == f"file://{project}/a%20b%25.Dockerfile"


def test_a_wrong_file_ends_with_2_and_every_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("FROM scratch AS Bad\nEXPOSE no\nUSER ${X\n") == 2
    out, err = capsys.readouterr()
    assert "StageNameCasing" in out
    assert "Dockerfile:2:8: EXPOSE no: no is not a port" in err
    assert "Dockerfile:3:6: ${X lacks its }" in err
    assert lint("RUNN x\nFROM scratch\n") == 2
    out, err = capsys.readouterr()
    assert (out, "did you mean RUN?" in err) == ("", True)


def test_no_file_and_a_wrong_directive_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint"]) == 2
    assert "there is no Machinefile" in capsys.readouterr().err
    assert lint("# check=nonsense=1\nFROM scratch\n") == 2
    assert "Dockerfile:1:9: the directive check does not know nonsense=1" in capsys.readouterr().err


def test_standard_input_is_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(UNTIDY.encode())))
    assert main(["lint", "-f", "-", "--format", "sarif"]) == 1
    assert '"uri": "stdin"' in capsys.readouterr().out


def test_check_lints_and_does_not_build(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert lint(UNTIDY, "--check", ".", command="build") == 1
    assert "2 warnings" in capsys.readouterr().out
    assert main(["--check", "-t", "x", "."]) == 1
    assert lint(CLEAN, "--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", command="build") == 0
    assert lint("NOSUCH", "--check", command="build") == 2
    assert not (tmp_path / "store").exists()


def test_notes_go_to_standard_error_and_change_no_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint("# check=skip=FromAsCazing\nFROM scratch\n") == 0
    out, err = capsys.readouterr()
    assert out == "no warnings\n"
    assert err == "mbuild: Dockerfile:1:9: there is no check FromAsCazing: did you mean FromAsCasing?\n"


def test_dockerignore_is_read_for_the_rule_about_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".dockerignore").write_text("*.log\ndata\n!data/keep\n")
    text = "# check=experimental=CopyIgnoredFile\nFROM scratch\nCOPY a.log data/x data/keep data /\n"
    assert lint(text, "--format", "json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [(finding["rule"], finding["column"]) for finding in found] == [
        ("CopyIgnoredFile", 6),
        ("CopyIgnoredFile", 12),
    ]


def test_an_image_out_of_reach_is_told_once_and_the_rest_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    text = "FROM 127.0.0.1:1/a as x\nFROM 127.0.0.1:1/b\n"
    assert lint(text) == 1
    out, err = capsys.readouterr()
    assert "FromAsCasing" in out
    assert err.count("could not be looked up, so less is checked") == 1
    assert lint(text, "--offline") == 1
    assert capsys.readouterr().err == ""


def test_bytes_that_are_no_text_do_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    Path("Dockerfile").write_bytes(b"FROM scratch AS A\nENV my_key=\xff\x1b[2J \xe9_token=1\nCOPY $\xc3\xa9 /\n")
    for form in ("text", "json", "sarif"):
        assert main(["lint", "--format", form]) == 1
        out = capsys.readouterr().out
        assert "\x1b" not in out
        out.encode("utf-8")
        assert "\\udc" not in out


def test_an_unknown_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert lint(CLEAN, "--format", "xml") == 2
    assert "invalid choice: 'xml'" in capsys.readouterr().err


def test_a_build_shows_its_findings_once_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a").write_text("a")
    assert lint("FROM scratch as base\nCOPY a $x /\n", "--progress=plain", command="build") == 0
    err = capsys.readouterr().err
    assert err.count("FromAsCasing") == 1
    assert err.count("UndefinedVar") == 1


def test_error_stops_a_build_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a").write_text("a")
    text = "# check=error=true\nFROM scratch as base\nCOPY a /\n"
    assert lint(text, "--progress=plain", command="build") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Dockerfile:2:14: FromAsCasing: as is not written in the same case as FROM" in err
    assert "COPY" not in err
    assert lint(text, "--progress=plain", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", command="build") == 0


def test_a_base_for_another_platform_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    write_image(Path("base"), Platform("linux", "riscv64"), ImageConfig(env=(("SET_BY_BASE", "1"),)))
    text = "FROM oci-layout://./base\nUSER $SET_BY_BASE\n"
    assert lint(text, "--platform=linux/amd64") == 1
    out = capsys.readouterr().out
    assert "Dockerfile:1:6: warning: InvalidBaseImagePlatform" in out
    assert "runs on linux/riscv64, and linux/amd64 is built here" in out
    assert "UndefinedVar" not in out
    assert lint(text, "--platform=linux/riscv64") == 0
    assert lint(text, "--offline") == 1
    assert "UndefinedVar" in capsys.readouterr().out


def write_image(folder: Path, platform: Platform, config: ImageConfig) -> None:
    """An OCI layout with one image without layers."""
    writer = LayoutWriter(folder)
    configuration = ImageConfiguration(config, platform.architecture, platform.os, platform.variant).to_json()
    pointer = writer.add_bytes(configuration, mediatype.OCI_CONFIG)
    writer.add_manifest(Manifest(pointer, ()))
    writer.commit()
