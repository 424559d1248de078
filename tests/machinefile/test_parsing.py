"""Lines, directives, forms, heredocs: text to instructions."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lark import Lark, lexer

from machinefile.errors import MachinefileError
from machinefile.instructions import Form, Instruction, Machinefile
from machinefile.parser import parse
from machinefile.printer import to_text
from machinefile.source import Source
from machinefile.syntax import STARTS, grammar, grammar_text
from machinefile.syntax_json import to_json
from machinefile.vocabulary import INSTRUCTIONS


def read(text: str) -> Machinefile:
    return parse(Source("M", text))


def only(text: str) -> Instruction:
    (instruction,) = read(text).instructions
    return instruction


def words(text: str) -> list[str]:
    return [word.text for word in only(text).words]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN a b", ["a b"]),
        ("run\ta  b  ", ["a  b"]),
        ("RUN a \\\n  b", ["a   b"]),
        ("RUN a \\  \t\n b", ["a  b"]),
        ("RUN a \\\n# note\n  # indented note\n b", ["a  b"]),
        ("RUN a \\\n\n\n b", ["a  b"]),
        ("RUN a \\\r\n b\r\n", ["a  b"]),
        ("\ufeffRUN a", ["a"]),
        ("RUN a\\", ["a"]),
        ("RUN a\\\\\n# x\n", ["a\\\\"]),
        ("RUN echo '# no comment'", ["echo '# no comment'"]),
        ("RUN [ -f x ] && y", ["[ -f x ] && y"]),
        ("RUN ['a']", ["['a']"]),
        ("RUN -- --x", ["--x"]),
        ("# escape=`\nRUN a `\n b\\", ["a  b\\"]),
    ],
)
def test_a_run_is_one_string(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert only(text).form is Form.SHELL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('RUN ["a", "b c"]', ["a", "b c"]),
        ('CMD ["\\u0041\\n"]', ["A\n"]),
        ("CMD []", []),
        ('COPY ["a b", "c"]', ["a b", "c"]),
        ('SHELL ["/bin/bash","-c"]', ["/bin/bash", "-c"]),
        ('HEALTHCHECK CMD ["a"]', ["CMD", "a"]),
    ],
)
def test_a_json_array_is_the_exec_form(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert only(text).form is Form.EXEC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ENV A=1", [("A", "1")]),
        ("ENV A=1 B='x y' C=\"$A\"", [("A", "1"), ("B", "'x y'"), ("C", '"$A"')]),
        ("ENV A=", [("A", "")]),
        ("ENV A the rest = all", [("A", "the rest = all")]),
        ("ENV A =1", [("A", "=1")]),
        ("ENV A=a\\ b", [("A", "a\\ b")]),
        ('LABEL "com.x y"="1=2"', [('"com.x y"', '"1=2"')]),
        ("ARG A B=2 C", [("A", None), ("B", "2"), ("C", None)]),
        ("# escape=`\nENV A=a` b C=c:\\", [("A", "a` b"), ("C", "c:\\")]),
    ],
)
def test_pairs_are_kept_as_written(text: str, expected: list[tuple[str, str | None]]) -> None:
    assert [(pair.name, pair.value) for pair in only(text).pairs] == expected


def test_flags_keep_their_quotes() -> None:
    instruction = only('RUN --mount="type=bind,target=/a b" --network=none make')
    assert [(flag.name, flag.value) for flag in instruction.flags] == [
        ("mount", '"type=bind,target=/a b"'),
        ("network", "none"),
    ]


@pytest.mark.parametrize(
    ("text", "directives"),
    [
        (
            "# syntax=docker/dockerfile:1\n#check = skip=all\nRUN a",
            {"syntax": "docker/dockerfile:1", "check": "skip=all"},
        ),
        ("#!/usr/bin/env mbuild\n# syntax=x\nRUN a", {"syntax": "x"}),
        ("# ESCAPE=`\nRUN a", {"escape": "`"}),
        ("# a comment\n# syntax=x\nRUN a", {}),
        ("\n# syntax=x\nRUN a", {}),
        ("# unknown=1\n# syntax=x\nRUN a", {}),
        ("RUN a\n# syntax=x", {}),
    ],
)
def test_directives_stand_at_the_very_top(text: str, directives: dict[str, str]) -> None:
    assert to_json(read(text))["directives"] == directives


def test_comments_and_empty_continuations_are_remembered() -> None:
    instruction = only("# one\n# two\nRUN a \\\n\n b")
    assert instruction.line.comments == ("one", "two")
    assert instruction.line.empty_continuations == (4,)


@pytest.mark.parametrize(
    ("text", "docs"),
    [
        ("RUN <<EOF\na\nEOF", [("EOF", True, False, "a\n")]),
        ("RUN <<-'EOF'\n\ta\n\tEOF", [("EOF", False, True, "\ta\n")]),
        ('COPY <<"A B" /x\ny\nA B', [("A B", False, False, "y\n")]),
        ("COPY <<A <<B /x\n1\nA\n2\nB", [("A", True, False, "1\n"), ("B", True, False, "2\n")]),
        ("RUN cat << EOF > x\na\r\nEOF\r\n", [("EOF", True, False, "a\r\n")]),
        ("RUN 3<<E cat\nE", [("E", True, False, "")]),
        ("ADD <<E /x\n# kept\n\n \\\nE", [("E", True, False, "# kept\n\n \\\n")]),
        ("RUN cat<<EOF", []),
        ("RUN echo $((1<<2)) $((1 << 2))", []),
        ("RUN cat <<<x", []),
        ("RUN echo '<<EOF'", []),
        ('RUN ["<<EOF"]', []),
        ("CMD <<EOF", []),
    ],
)
def test_heredocs_belong_to_the_words_that_ask_for_them(text: str, docs: list[tuple[str, bool, bool, str]]) -> None:
    found = only(text).heredocs
    assert [(doc.name, doc.expand, doc.chomp, doc.content) for doc in found] == docs


def test_an_onbuild_holds_an_instruction_with_its_heredoc() -> None:
    instruction = only("ONBUILD COPY --chown=1 <<E /x\ny\nE")
    assert instruction.nested is not None
    assert instruction.nested.name == "COPY"
    assert [doc.content for doc in instruction.nested.heredocs] == ["y\n"]
    assert instruction.end_line == 3


def test_the_json_form_is_as_documented() -> None:
    text = "# syntax=x\nfrom a as b\nENV A=1 B\\=x=2\nARG C\nCOPY --link --from=b x y\nRUN <<E\nz\nE\nCMD a \\\n b\n"
    text += 'ENTRYPOINT ["x"]\nONBUILD RUN y\nHEALTHCHECK --retries=2 CMD z\nHEALTHCHECK NONE'

    def line(
        name: str, first: int, last: int, form: str, args: list[object], flags: object = (), heredocs: object = ()
    ) -> dict[str, object]:
        return {
            "name": name,
            "line": first,
            "end_line": last,
            "form": form,
            "args": args,
            "flags": list(flags) if isinstance(flags, (list, tuple)) else flags,
            "heredocs": list(heredocs) if isinstance(heredocs, (list, tuple)) else heredocs,
        }

    assert to_json(read(text)) == {
        "directives": {"syntax": "x"},
        "instructions": [
            line("FROM", 2, 2, "words", ["a", "as", "b"]),
            line("ENV", 3, 3, "pairs", [["A", "1"], ["B\\=x", "2"]]),
            line("ARG", 4, 4, "pairs", [["C", None]]),
            line("COPY", 5, 5, "words", ["x", "y"], [["link", None], ["from", "b"]]),
            line("RUN", 6, 8, "shell", ["<<E"], [], [{"name": "E", "expand": True, "chomp": False, "content": "z\n"}]),
            line("CMD", 9, 10, "shell", ["a  b"]),
            line("ENTRYPOINT", 11, 11, "exec", ["x"]),
            line("ONBUILD", 12, 12, "shell", [line("RUN", 12, 12, "shell", ["y"])]),
            line("HEALTHCHECK", 13, 13, "shell", ["z"], [["retries", "2"]]),
            line("HEALTHCHECK", 14, 14, "words", ["NONE"]),
        ],
    }


def test_a_thousand_instructions_parse_in_a_moment() -> None:
    read("RUN x\nENV A=1\nCOPY a b")  # loads the grammar
    text = "RUN --mount=type=cache,target=/x a && \\\n b\nENV A=b C=d\nCOPY --from=a b c\nLABEL a=b\n" * 250
    before = time.process_time()
    read(text)
    assert time.process_time() - before < 0.3


@pytest.mark.parametrize(
    "text",
    [
        "RUN " + "a" * 1_000_000,
        "ENV A=" + "b\\ " * 300_000,
        "COPY " + "a " * 300_000 + "b",
        "ENV A='" + "x" * 1_000_000,
        "RUN x\n" * 10_000,
        "RUN a \\\n" * 10_000 + "b",
        "RUN <<A\n" * 10_000,
    ],
    ids=["run", "env", "copy", "open quote", "many", "continued", "heredocs"],
)
def test_large_input_does_not_hang(text: str) -> None:
    before = time.process_time()
    with suppress(MachinefileError):
        read(text)
    assert time.process_time() - before < 8


_LINES = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.builds(
            "{} {}".format,
            st.sampled_from(sorted(INSTRUCTIONS)),
            st.text(alphabet="ab =\"'\\`$<>-[]{},:/#\t\nE1", max_size=30),
        ),
    ),
    max_size=6,
)


@given(_LINES)
def test_parsing_raises_nothing_but_its_own_error(lines: list[str]) -> None:
    try:
        found = read("\n".join(lines))
    except MachinefileError:
        return
    printed = read(to_text(found))
    assert _shape(printed) == _shape(found)


@pytest.mark.parametrize("text", ["RUN a\\ \\", "# escape=`\nUSER x` `", "RUN a\\\\", "RUN a \\"])
def test_a_last_line_that_nothing_continues_survives_printing(text: str) -> None:
    assert _shape(read(to_text(read(text)))) == _shape(read(text))


def _shape(machinefile: Machinefile) -> object:
    """What must survive printing: everything but where it stood."""

    def without_lines(value: object) -> object:
        if isinstance(value, dict):
            return {key: without_lines(item) for key, item in value.items() if key not in ("line", "end_line")}
        return [without_lines(item) for item in value] if isinstance(value, list) else value

    return without_lines(to_json(machinefile))


@pytest.mark.parametrize("name", sorted(STARTS))
def test_the_grammars_have_no_ambiguity(name: str) -> None:
    pytest.importorskip("interegular", reason="Lark's strict mode needs it")
    Lark(grammar_text(name), parser="lalr", lexer="contextual", start=list(STARTS[name]), strict=True)


@pytest.mark.parametrize("name", sorted(STARTS))
def test_a_start_does_not_look_for_ambiguities(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*_: object) -> None:
        pytest.fail("all terminals are compared with one another")

    monkeypatch.setattr("lark.lexer._check_regex_collisions", compare)
    monkeypatch.setattr("lark.lexer.has_interegular", True)
    grammar.__wrapped__(name)
    assert lexer.has_interegular, "who asks for it gets it"
