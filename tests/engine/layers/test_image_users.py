"""USER and --chown, looked up in an image by Docker's rules."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.layers.entry import Entry, EntryType
from engine.layers.root import RootView
from engine.layers.tarwrite import Item, write_layer
from engine.layers.users import Account, UserDatabase
from machinefile.errors import StepError

PASSWD = b"""# comment
root:x:0:0:root:/root:/bin/bash
app:x:1000:1001:App:/home/app:/bin/sh
app:x:5:5:again:/:/bin/sh
broken
negative:x:-1:0::/:
1234:x:77:78:named like a number:/n:/bin/sh
homeless:x:60:60:::
"""
GROUP = b"""root:x:0:
wheel:x:10:root,app
app:x:1001:
video:x:44:app, homeless
broken:x
"""
USERS = UserDatabase.parse(PASSWD, GROUP)


@pytest.mark.parametrize(
    ("spec", "account"),
    [
        ("", Account(0, 0, (10,), "/root", "root")),
        ("root", Account(0, 0, (10,), "/root", "root")),
        ("0", Account(0, 0, (10,), "/root", "root")),
        ("app", Account(1000, 1001, (10, 44), "/home/app", "app")),
        ("1000", Account(1000, 1001, (10, 44), "/home/app", "app")),
        ("app:wheel", Account(1000, 10, (), "/home/app", "app")),
        ("app:7", Account(1000, 7, (), "/home/app", "app")),
        ("4711", Account(4711, 0, (), "/", "")),
        ("4711:4712", Account(4711, 4712, (), "/", "")),
        ("1000:5", Account(1000, 5, (), "/home/app", "app")),
        ("4711:video", Account(4711, 44, (), "/", "")),
        ("1234", Account(1234, 0, (), "/", "")),
        ("homeless", Account(60, 60, (44,), "/", "homeless")),
        ("2147483647", Account(2147483647, 0)),
    ],
)
def test_user_is_looked_up_as_docker_does(spec: str, account: Account) -> None:
    assert USERS.account(spec) == account


@pytest.mark.parametrize(
    ("spec", "owner"),
    [
        ("app", (1000, 1001)),
        ("1000", (1000, 1000)),
        ("app:wheel", (1000, 10)),
        ("5:6", (5, 6)),
        (":wheel", (0, 10)),
        ("", (0, 0)),
    ],
)
def test_chown_takes_a_number_alone_for_both(spec: str, owner: tuple[int, int]) -> None:
    assert USERS.owner(spec) == owner


@pytest.mark.parametrize(
    "spec", ["nobody", "app:nothing", "broken", "negative", "99999999999", "4294967295", "-1", "١"]
)
def test_an_unknown_user_or_group_is_an_error(spec: str) -> None:
    with pytest.raises(StepError) as caught:
        USERS.account(spec)
    assert caught.value.code == "user-unknown"
    assert caught.value.hint


def test_a_typo_gets_a_suggestion() -> None:
    with pytest.raises(StepError) as caught:
        USERS.account("homless")
    assert "homeless" in caught.value.hint


def test_an_image_without_files_knows_root_and_numbers() -> None:
    empty = RootView([])
    assert empty.identity("") == Account()
    assert empty.identity("12") == Account(12)
    with pytest.raises(StepError, match="app"):
        empty.identity("app")


def test_the_files_are_taken_from_the_top_layer_and_through_links() -> None:
    def layer(*items: Item):  # type: ignore[no-untyped-def]
        return write_layer(items, io.BytesIO()).index

    def passwd(path: str, data: bytes) -> Item:
        return Item(Entry(path, EntryType.FILE, size=len(data)), lambda: io.BytesIO(data))

    base = layer(passwd("etc/passwd", PASSWD), passwd("etc/group", GROUP))
    newer = layer(passwd("etc/passwd", b"new:x:9:9::/:\n"))
    assert RootView([base]).identity("app").groups == (10, 44)
    assert RootView([base, newer]).identity("new").uid == 9
    linked = layer(
        passwd("nix/store/fake/etc/passwd", b"nix:x:3:3::/:\n"),
        Item(Entry("etc/passwd", EntryType.SYMLINK, 0o777, link="/nix/store/fake/etc/passwd")),
        Item(Entry("etc/group", EntryType.WHITEOUT)),
    )
    view = RootView([base, linked])
    assert view.identity("nix") == Account(3, 3, (), "/", "nix")
    with pytest.raises(StepError):
        view.identity("nix:wheel")


@given(st.binary(max_size=300), st.binary(max_size=300), st.text(max_size=20))
def test_any_files_and_any_user_give_an_account_or_an_error(passwd: bytes, group: bytes, spec: str) -> None:
    database = UserDatabase.parse(passwd, group)
    codes = set()
    for look in (database.account, database.owner):
        try:
            look(spec)
        except StepError as error:
            codes.add(error.code)
    assert codes <= {"user-unknown"}
