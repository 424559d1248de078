"""Users and groups by name, out of an image's etc/passwd and etc/group, by Docker's rules.

Source: what runc and BuildKit do with USER (moby/sys/user, GetExecUser): a number is always an id, never a name;
the first matching line counts; lines that cannot be read are passed over.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from machinefile.errors import StepError
from machinefile.values import dataclass

_MAX_ID = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class User:
    """A line of etc/passwd."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A line of etc/group."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """Who a process is, in numbers, and where it is at home."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    """Supplementary groups, in the order of etc/group; none when a group was given explicitly."""
    home: str = "/"
    name: str = ""
    """The user's name; empty where etc/passwd has none."""


@dataclass(frozen=True, slots=True)
class UserDatabase:
    """An image's users and groups."""

    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()

    @classmethod
    def parse(cls, passwd: bytes, group: bytes) -> UserDatabase:
        """Read the two files; an image without one has it empty."""
        return cls(
            tuple(user for line in _lines(passwd) if (user := _user(line)) is not None),
            tuple(found for line in _lines(group) if (found := _group(line)) is not None),
        )

    def account(self, spec: str) -> Account:
        """Who `USER spec` is: empty (root), `name`, `uid`, `name:group`, `uid:gid`.

        A uid without a line in etc/passwd is taken as it is, with gid 0. Raises StepError (`user-unknown`).
        """
        user_part, separator, group_part = spec.partition(":")
        if separator and user_part.isdigit() and group_part.isdigit():
            return self._numeric(_id(user_part, spec), _id(group_part, spec))
        user = self._find_user(user_part or "0", spec)
        if group_part:
            return Account(user.uid, self._find_gid(group_part, spec), (), user.home, user.name)
        return Account(user.uid, user.gid, self._memberships(user.name), user.home, user.name)

    def owner(self, spec: str) -> tuple[int, int]:
        """Whose a file is with `--chown=spec`. Unlike in USER a number alone is both uid and gid (Docker's reference
        of COPY). Raises StepError (`user-unknown`)."""
        user_part, _, group_part = spec.partition(":")
        if user_part.isdigit():
            uid = gid = _id(user_part, spec)
        elif user_part:
            user = self._find_user(user_part, spec)
            uid, gid = user.uid, user.gid
        else:
            uid = gid = 0
        return uid, self._find_gid(group_part, spec) if group_part else gid

    def _numeric(self, uid: int, gid: int) -> Account:
        user = next((user for user in self.users if user.uid == uid), None)
        return Account(uid, gid, (), user.home if user else "/", user.name if user else "")

    def _memberships(self, name: str) -> tuple[int, ...]:
        return tuple(dict.fromkeys(group.gid for group in self.groups if name and name in group.members))

    def _find_user(self, wanted: str, spec: str) -> User:
        if wanted.isdigit():
            uid = _id(wanted, spec)
            return next((user for user in self.users if user.uid == uid), User("", uid, 0, "/"))
        for user in self.users:
            if user.name == wanted:
                return user
        raise _unknown("user", wanted, [user.name for user in self.users])

    def _find_gid(self, wanted: str, spec: str) -> int:
        if wanted.isdigit():
            return _id(wanted, spec)
        for group in self.groups:
            if group.name == wanted:
                return group.gid
        raise _unknown("group", wanted, [group.name for group in self.groups])


def _unknown(what: str, wanted: str, names: Sequence[str]) -> StepError:
    file = "passwd" if what == "user" else "group"
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"add it in a RUN step before this one, or give the {what} by number"
    if not names:
        hint = f"the image has no /etc/{file} with {what}s in it: give the {what} by number"
    return StepError(f"there is no {what} {wanted!r} in the image's /etc/{file}", code="user-unknown", hint=hint)


def _id(digits: str, spec: str) -> int:
    if not digits.isascii() or len(digits) > 10 or int(digits) > _MAX_ID:
        raise StepError(
            f"the id {digits} in {spec!r} is out of range",
            code="user-unknown",
            hint=f"ids go from 0 to {_MAX_ID}",
        )
    return int(digits)


def _lines(data: bytes) -> list[list[str]]:
    text = data.decode("utf-8", "surrogateescape")
    stripped = (line.strip() for line in text.split("\n"))
    return [line.split(":") for line in stripped if line and not line.startswith("#")]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def _user(fields: Sequence[str]) -> User | None:
    if len(fields) < 4:
        return None
    uid, gid = _number(fields[2]), _number(fields[3])
    if uid is None or gid is None:
        return None
    home = fields[5] if len(fields) > 5 and fields[5] else "/"
    return User(fields[0], uid, gid, home, fields[6] if len(fields) > 6 else "")


def _group(fields: Sequence[str]) -> Group | None:
    gid = _number(fields[2]) if len(fields) > 2 else None
    if gid is None:
        return None
    members = fields[3].split(",") if len(fields) > 3 else []
    return Group(fields[0], gid, tuple(member.strip() for member in members if member.strip()))
