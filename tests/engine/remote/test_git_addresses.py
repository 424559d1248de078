"""How ADD reads the address of a repository."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.remote.giturl import GitUrl, join_remote, parse_git_url
from engine.remote.weburl import file_name, without_password
from machinefile.errors import MachinefileError

AT = "https://h.org/a/b.git"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AT, GitUrl(AT)),
        (f"{AT}#main", GitUrl(AT, "main")),
        (f"{AT}#main:sub/dir", GitUrl(AT, "main", "sub/dir")),
        (f"{AT}#:sub", GitUrl(AT, "", "sub")),
        (f"{AT}#feature/x:/sub/../other/", GitUrl(AT, "feature/x", "other")),
        (f"{AT}#main:../../etc", GitUrl(AT, "main", "etc")),
        (f"{AT}?ref=main&subdir=s", GitUrl(AT, "main", "s")),
        (f"{AT}?tag=v1", GitUrl(AT, "refs/tags/v1")),
        (f"{AT}?branch=dev", GitUrl(AT, "refs/heads/dev")),
        (f"{AT}?branch=refs/heads/dev", GitUrl(AT, "refs/heads/dev")),
        (f"{AT}?commit={COMMIT}", GitUrl(AT, COMMIT, checksum=COMMIT)),
        (f"{AT}?checksum=0123456&tag=v1", GitUrl(AT, "refs/tags/v1", checksum="0123456")),
        (f"{AT}?ref=pull/4/head", GitUrl(AT, "pull/4/head")),
        (f"{AT}?ref=v1#v1", GitUrl(AT, "v1")),
        (f"{AT}?keep-git-dir", GitUrl(AT, keep_git_dir=True)),
        (f"{AT}?keep-git-dir=false&submodules=0", GitUrl(AT, keep_git_dir=False, submodules=False)),
        ("git@h.org:a/b.git#v1:s", GitUrl("git@h.org:a/b.git", "v1", "s")),
        ("git@h.org:a/b?tag=v1", GitUrl("git@h.org:a/b", "refs/tags/v1")),
        ("ssh://git@h.org:22/a/b#v1", GitUrl("ssh://git@h.org:22/a/b", "v1")),
        ("git://h.org/a/b", GitUrl("git://h.org/a/b")),
    ],
)
def test_addresses_are_read_as_buildkit_reads_them(text: str, expected: GitUrl) -> None:
    assert parse_git_url(text) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (f"{AT}?tga=v1", "tag"),
        (f"{AT}?tag=v1&branch=b", "more than one ref"),
        (f"{AT}?ref=a#b", "more than one ref"),
        (f"{AT}?subdir=a#b:c", "more than one subdir"),
        (f"{AT}?tag=", "no value"),
        (f"{AT}?tag=a&tag=b", "twice"),
        (f"{AT}?submodules=perhaps", "true or false"),
        (f"{AT}?commit=xyz", "commit"),
        (f"{AT}#--upload-pack=touch", "branch"),
        (f"{AT}#a..b", "branch"),
        (f"{AT}#a b", "branch"),
        (f"{AT}#a*", "branch"),
        ("ext::sh -c true", "spaces"),
        ("file:///etc/x.git", "begins with none"),
        ("ssh://-oProxyCommand=x/y.git", "names no repository"),
        ("-x@host:y", "begins with none"),
        ("git@-host:y", "begins with none"),
        ("https:///x.git", "names no repository"),
        ("git://h.org/", "names no repository"),
        ("https://[::1/x.git", ""),
    ],
)
def test_addresses_that_make_no_sense_or_do_harm_are_refused(text: str, word: str) -> None:
    with pytest.raises(MachinefileError) as raised:
        parse_git_url(text)
    assert raised.value.code == "bad-git-url"
    assert word in raised.value.message + raised.value.hint


@given(st.text(max_size=60))
def test_any_fragment_is_read_or_refused_and_never_becomes_an_option(fragment: str) -> None:
    try:
        url = parse_git_url(f"{AT}#{fragment}")
    except MachinefileError:
        return
    assert not url.ref.startswith("-")
    assert not url.subdir.startswith("/")
    assert ".." not in url.subdir.split("/")


@pytest.mark.parametrize(
    ("base", "address", "expected"),
    [
        ("https://h.org/a/b.git", "../c.git", "https://h.org/a/c.git"),
        ("https://h.org/a/b.git/", "../../c.git", "https://h.org/c.git"),
        ("https://h.org/a/b.git", "./c.git", "https://h.org/a/b.git/c.git"),
        ("git@h.org:a/b.git", "../c.git", "git@h.org:a/c.git"),
        ("git@h.org:b.git", "../c.git", "git@h.org:c.git"),
        ("https://h.org/a/b.git", "https://o.org/c", "https://o.org/c"),
    ],
)
def test_the_address_of_a_submodule_may_be_relative(base: str, address: str, expected: str) -> None:
    assert join_remote(base, address) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://h.org/a/file.tar.gz?x=/y#z", "file.tar.gz"),
        ("https://h.org/a%20b.txt", "a b.txt"),
        ("https://h.org/a/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://h.org/folder/", "folder"),
        ("https://h.org", "__unnamed__"),
        ("https://h.org/", "__unnamed__"),
        ("https://h.org/a/..", "__unnamed__"),
    ],
)
def test_a_file_is_named_after_the_last_part_of_its_address(address: str, expected: str) -> None:
    assert file_name(address) == expected


@pytest.mark.parametrize("address", ["https://", "https://h.org/%00", "https://h.org/" + "x" * 256, "http://[x/y"])
def test_addresses_that_name_no_file_are_refused(address: str) -> None:
    with pytest.raises(MachinefileError) as raised:
        file_name(address)
    assert raised.value.code == "bad-url"


@given(st.text("ab:/?#%", max_size=20), st.text("xyz", min_size=8, max_size=10))
def test_no_password_is_shown(rest: str, password: str) -> None:
    assert password not in without_password(f"https://ada:{password}@h.org/{rest}")
    assert without_password(f"ssh://git@h.org/{rest}") == f"ssh://git@h.org/{rest}"
