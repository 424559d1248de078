"""Docker's .dockerignore rules and Go's globs."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from machinefile.errors import MachinefileError
from machinefile.globs import has_wildcards, matches
from machinefile.ignore import IgnoreRules
from machinefile.wildcards import compile_wildcard


@pytest.mark.parametrize(
    ("text", "path", "ignored"),
    [
        ("*.o", "a.o", True),
        ("*.o", "d/a.o", False),
        ("**/*.o", "a.o", True),
        ("**/*.o", "d/e/a.o", True),
        ("dir", "dir/x/y", True),
        ("/dir/", "dir", True),
        ("./dir/../dir", "dir/x", True),
        ("dir/*", "dir", False),
        ("dir/*", "dir/x/y", True),
        ("dir/**", "dir", False),
        ("dir/**", "dir/x/y", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a]x", "ax", False),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "other", True),
        ("!keep\n*", "keep", True),
        ("*\n!a/b\na/b/c", "a/b/c", True),
        ("*\n!a/b\na/b/c", "a/b/d", False),
        ("#x\n  y  \n", "y", True),
        ("\ufeffx", "x", True),
        (" #x", "#x", True),
        ("x\r\n", "x", True),
        ("..", "x", False),
        ("", "x", False),
        ("a.b", "axb", False),
        ("**", "x/y", True),
    ],
)
def test_a_path_is_ignored_as_docker_does(text: str, path: str, ignored: bool) -> None:
    assert IgnoreRules.parse(text).ignored(path) is ignored


@pytest.mark.parametrize(
    ("text", "directory", "prunes"),
    [
        ("dir", "dir", True),
        ("dir\n!dir/x", "dir", False),
        ("dir\n!other/x", "dir", True),
        ("*\n!**/x", "dir", False),
        ("*\n!dir*/x", "dir", False),
        ("other", "dir", False),
    ],
)
def test_a_walk_skips_what_nothing_brings_back(text: str, directory: str, prunes: bool) -> None:
    assert IgnoreRules.parse(text).prunes(directory) is prunes


@pytest.mark.parametrize("text", ["[a", "a\\", "!", "[z-a]"])
def test_a_bad_pattern_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(MachinefileError) as caught:
        IgnoreRules.parse(f"x\n{text}")
    assert caught.value.code == "bad-ignore-pattern"
    assert caught.value.span is not None
    assert caught.value.span.line == 2


@given(st.text(alphabet="ab/*?!.\n[]^-\\#", max_size=20), st.text(alphabet="ab/.", min_size=1, max_size=8))
def test_rules_raise_nothing_but_their_own_error(text: str, path: str) -> None:
    try:
        rules = IgnoreRules.parse(text)
    except MachinefileError:
        return
    if rules.prunes(path):
        assert rules.ignored(f"{path}/a")
        assert rules.ignored(f"{path}/b/a")


@given(
    st.lists(st.sampled_from(["*", "**", "**/", "/", "a", "b", "?"]), max_size=8).map("".join),
    st.text(alphabet="ab/", max_size=8),
)
def test_following_states_agrees_with_a_regular_expression(pattern: str, path: str) -> None:
    from dataclasses import replace

    compiled = compile_wildcard(pattern, double_star=True)
    expected = re.fullmatch("".join(compiled.parts), path, re.DOTALL) is not None
    assert replace(compiled, expression=None, literal="").matches(path) is expected


def test_many_stars_do_not_hang() -> None:
    assert not compile_wildcard("*a" * 50 + "b", double_star=True).matches("a" * 2_000)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*.go", "a.go", True),
        ("*.go", "d/a.go", False),
        ("*/*.go", "d/a.go", True),
        ("**", "a/b", False),
        ("a[0-9]", "a5", True),
        ("a\\[0", "a[0", True),
        ("[^/]", "/", False),
    ],
)
def test_globs_are_gos(pattern: str, path: str, fits: bool) -> None:
    assert matches(pattern, path) is fits


def test_wildcards_are_recognised() -> None:
    assert has_wildcards("a*")
    assert has_wildcards("a[b")
    assert not has_wildcards("a\\*b")


@given(st.lists(st.text(alphabet="ab*?!/# .\\[]é", max_size=8), max_size=5))
@example(["/."])
@example(["? /"])
@example(["../x", ".."])
@example(["#"])
def test_the_lines_that_are_given_parse_to_the_same_rules(lines: list[str]) -> None:
    try:
        rules = IgnoreRules.parse("\n".join(lines))
    except MachinefileError:
        return
    again = IgnoreRules.parse("\n".join(rules.patterns()))
    assert [(rule.pattern, rule.keep) for rule in again.rules] == [(rule.pattern, rule.keep) for rule in rules.rules]
