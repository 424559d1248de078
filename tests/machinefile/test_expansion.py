"""Substitution in words."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinefile.expansion import ExpansionError, expand, expand_document
from machinefile.patterns import Pattern, substitute, trim_prefix, trim_suffix

SET = {"PWD": "/home", "NULL": "", "FOO": "xxyy", "BAR": "x", "STARS": "a***yy*", "LIST": "a  b"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he'llo\\'", "hello\\"),
        ('"he\\"llo"', 'he"llo'),
        ("he\\'llo", "he'llo"),
        ('"it\'s"', "it's"),
        ("'$PWD'", "$PWD"),
        ("\\$PWD", "$PWD"),
        ('"\\$PWD \\a"', "$PWD \\a"),
        ("$PWD/x", "/home/x"),
        ("${PWD}x", "/homex"),
        ("$PWDx", ""),
        ("$1x", "x"),
        ("$", "$"),
        ("a$", "a$"),
        ("$(x)", "$(x)"),
        ("a\\", "a"),
        ("${X:-d}", "d"),
        ("${X:-${Y:-z}}", "z"),
        ("${X:-$PWD}", "/home"),
        ("${X:-'}'}", "}"),
        ("${X:-a\\}b}", "a}b"),
        ("${NULL:-d}", "d"),
        ("${NULL-d}", ""),
        ("${PWD:-d}", "/home"),
        ("${X:+d}", ""),
        ("${NULL:+d}", ""),
        ("${NULL+d}", "d"),
        ("${PWD+d}", "d"),
        ("${PWD:?no}", "/home"),
        ("${NULL?no}", ""),
        ('"${X:-a b}"', "a b"),
        ("${FOO#x}", "xyy"),
        ("${FOO##*x}", "yy"),
        ("${FOO#*x*y}", "y"),
        ("${FOO#*}", "xxyy"),
        ("${FOO##*}", ""),
        ("${FOO#$BAR}", "xyy"),
        ("${FOO%y}", "xxy"),
        ("${FOO%%y*}", "xx"),
        ("${FOO%z}", "xxyy"),
        ("${FOO%}", "xxyy"),
        ("${STARS%%\\**\\*}", "a"),
        ("${FOO/x/z}", "zxyy"),
        ("${FOO//x/z}", "zzyy"),
        ("${FOO/$NULL/w}", "wxxyy"),
        ("${FOO///}", "xxyy"),
        ("${PWD//\\//_}", "_home"),
        ("${FOO/x*y/}", ""),
    ],
)
def test_a_word_expands_as_docker_does(word: str, expected: str) -> None:
    assert expand(word, SET).text == expected


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("'x", "unclosed-quote"),
        ('"x', "unclosed-quote"),
        ('"${PWD}', "unclosed-quote"),
        ("${PWD", "bad-substitution"),
        ("${PWD:-x", "bad-substitution"),
        ("${}", "bad-substitution"),
        ("${:}", "bad-substitution"),
        ("${{x}", "bad-substitution"),
        ("${PWD=x}", "bad-substitution"),
        ("${PWD:=x}", "bad-substitution"),
        ("${FOO//x}", "bad-substitution"),
        ("${X:?no}", "required-variable"),
        ("${X?}", "required-variable"),
        ("${NULL:?}", "required-variable"),
        ("${FOO#\\x}", "bad-pattern"),
    ],
)
def test_what_means_nothing_is_refused(word: str, code: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(word, SET)
    assert caught.value.code == code


def test_the_message_of_a_required_variable_is_expanded() -> None:
    with pytest.raises(ExpansionError, match="X: say x"):
        expand("${X:?say $BAR}", SET)


def test_unset_names_are_told_once_and_not_where_a_default_is_given() -> None:
    assert expand("$X ${Y} $X ${Z:-1} ${Q#x}", SET).unset == ("X", "Y", "Q")


def test_words_are_cut_at_blanks_that_are_not_quoted() -> None:
    assert expand("$LIST \"$LIST\" c\\ d ''", SET).words == ("a", "b", "a  b", "c d")


def test_the_backtick_escapes_under_its_directive() -> None:
    assert expand("c:\\x`$PWD `` $WIN", {"WIN": "a\\b`"}, escape="`").text == "c:\\x$PWD ` a\\b`"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a \"$BAR\" '$BAR'", "a \"x\" 'x'"),
        ("\\$BAR \\\\ \\n", "$BAR \\ n"),
        ("${X:-'}'}", "''}"),
        ("it's", "it's"),
    ],
)
def test_quotes_mean_nothing_in_a_heredoc(content: str, expected: str) -> None:
    assert expand_document(content, SET).text == expected


@pytest.mark.parametrize("depth", [1_000, 20_000])
def test_depth_costs_no_stack(depth: int) -> None:
    assert expand("${a:-" * depth + "x" + "}" * depth, {}).text == "x"


def test_many_stars_take_no_time() -> None:
    before = time.process_time()
    assert expand("${A#" + "*a" * 200 + "b}", {"A": "a" * 50_000}).text == "a" * 50_000
    assert expand("${A//" + "*a" * 200 + "b/}", {"A": "a" * 50_000}).text == "a" * 50_000
    assert time.process_time() - before < 2


@given(st.text(alphabet="ab$\\{}:-+?#%/'\"*_ 1`", max_size=40), st.sampled_from("\\`"))
def test_expanding_raises_nothing_but_its_own_error(word: str, escape: str) -> None:
    with suppress(ExpansionError):
        expand(word, {"a": "b*", "b": ""}, escape)
    with suppress(ExpansionError):
        expand_document(word, {"a": "b"})


@given(st.text(alphabet="ab", max_size=8), st.text(alphabet="ab*?", max_size=5))
def test_patterns_find_the_shortest_and_the_longest_match(value: str, pattern: str) -> None:
    import fnmatch

    ends = [end for end in range(len(value) + 1) if fnmatch.fnmatchcase(value[:end], pattern)]
    compiled = Pattern.parse(pattern)
    assert compiled.match(value, longest=False) == (ends[0] if ends else None)
    assert compiled.match(value, longest=True) == (ends[-1] if ends else None)
    assert trim_prefix(value, pattern, longest=False) == value[ends[0] if ends else 0 :]
    starts = [start for start in range(len(value), -1, -1) if fnmatch.fnmatchcase(value[start:], pattern)]
    assert trim_suffix(value, pattern, longest=False) == value[: starts[0] if starts else len(value)]
    assert trim_suffix(value, pattern, longest=True) == value[: starts[-1] if starts else len(value)]


def test_replacing_nothing_everywhere_is_as_in_go() -> None:
    assert substitute("ab", "", "-", everywhere=True) == "-a-b-"
