"""A git repository on a server: which commit a name stands for, and the files of a commit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from engine.layers.limits import LayerLimits
from engine.remote.checkout import Checkout
from engine.remote.git import Git
from engine.remote.gitdir import write_git_dir
from engine.remote.giturl import GitUrl, check_remote, is_commit, is_ref_name, join_remote
from machinefile.errors import MachinefileError, TransferError, UntrustedDataError
from machinefile.values import dataclass

ASKING_SECONDS = 120.0
FETCHING_SECONDS = 3600.0
_MAX_DEPTH = 10
_MAX_SUBMODULES = 256


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for."""

    commit: str
    ref: str = ""
    """The whole name, `refs/tags/v1`; empty where the commit itself was named."""
    tag: str = ""
    """The tag object that stands between the name and the commit, for an annotated tag."""

    def matches(self, checksum: str) -> bool:
        """Whether a checksum names the commit, or the tag."""
        return self.commit.startswith(checksum) or bool(self.tag and self.tag.startswith(checksum))


def find_commit(git: Git, url: GitUrl) -> Found:
    """Ask the server which commit is meant. A commit that is named in full is believed.

    As BuildKit has it, a name is looked for among the whole names, then the branches, then the tags. Raises
    TransferError (`git-ref-missing`, and what Git.run raises), UntrustedDataError (`digest-mismatch`).
    """
    found = Found(url.ref) if is_commit(url.ref) else _ask(git, url)
    if url.checksum and not found.matches(url.checksum):
        raise UntrustedDataError(
            f"{url.ref or 'HEAD'} of {url.shown} is the commit {found.commit}, not {url.checksum}",
            code="digest-mismatch",
            hint="the branch or tag was moved; change the checksum only if you know why",
        )
    return found


def _ask(git: Git, url: GitUrl) -> Found:
    wanted = ["refs/" + url.ref.removeprefix("refs/"), f"refs/heads/{url.ref}", f"refs/tags/{url.ref}"]
    if not url.ref:
        wanted = ["HEAD"]
    patterns = [*wanted, *(f"{name}^{{}}" for name in wanted)] if url.ref else wanted
    output = git.run("ls-remote", "--symref", "--", url.remote, *patterns, timeout=ASKING_SECONDS, remote=url.remote)
    listed: dict[str, str] = {}
    for line in output.decode("utf-8", "surrogateescape").splitlines():
        value, _, name = line.partition("\t")
        listed.setdefault(("symref " if value.startswith("ref: ") else "") + name, value.removeprefix("ref: "))
    for name in wanted:
        identity = listed.get(name, "")
        if is_commit(identity):
            peeled = listed.get(f"{name}^{{}}", "")
            ref = listed.get("symref HEAD", "") if name == "HEAD" else name
            ref = ref if is_ref_name(ref) else ""  # what HEAD stands for is what the server says
            return Found(peeled, ref, identity) if is_commit(peeled) else Found(identity, ref)
    raise TransferError(
        f"{url.shown} has no {url.ref or 'HEAD'}",
        code="git-ref-missing",
        hint="name a branch, a tag or the whole name of a commit" if url.ref else "name a branch, a tag or a commit",
    )


class Repository:
    """Fetches commits into bare repositories below a folder, and puts their files beside them."""

    def __init__(self, git: Git, folder: Path, limits: LayerLimits) -> None:
        self._git = git
        self._folder = folder
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self._fetched = 0

    def checkout(self, url: GitUrl, found: Found, *, keep_git_dir: bool) -> Checkout:
        """The files of a commit, with those of its submodules. Raises as `find_commit`, and `git-submodule`."""
        return self._checkout(url, found, keep_git_dir, 0)

    def _checkout(self, url: GitUrl, found: Found, keep_git_dir: bool, depth: int) -> Checkout:
        self._fetched += 1
        if depth > _MAX_DEPTH or self._fetched > _MAX_SUBMODULES:
            raise _bad_submodule(url, f"there are more than {_MAX_SUBMODULES}, or {_MAX_DEPTH} in one another")
        top = self._folder / str(self._fetched)
        bare, files = top / "bare", top / "files"
        files.mkdir(parents=True)
        self._fetch(url, found, bare)
        links = self._survey(bare, found.commit)
        self._run(bare, f"--work-tree={files}", "read-tree", "--reset", "-u", found.commit)
        parts: dict[str, Checkout] = {}
        if links and url.submodules:
            parts.update(self._submodules(url, bare, found.commit, links, depth))
        if keep_git_dir:
            if found.tag and not self._has(bare, found.tag):
                self._fetch_tag(url, found, bare)
            write_git_dir(self._git, bare, top / "git", url.shown, found.commit, found.ref, found.tag)
            parts[".git"] = Checkout(top / "git")
        return Checkout(files, parts)

    def _fetch(self, url: GitUrl, found: Found, bare: Path) -> None:
        """The commit alone where the server gives that, else all there is: what old servers and files served by a
        plain web server need."""
        self._init(bare, found.commit)
        named = f"+{found.ref}:{found.ref}" if found.ref else ""
        ways = [("--depth=1", named)] if named else []
        ways += [("--depth=1", found.commit), ("", "+refs/heads/*:refs/heads/*"), ("", "+refs/*:refs/*")]
        failure: TransferError | None = None
        for depth, wanted in ways:
            if not depth and (bare / "shallow").exists():  # what is cut off already would stay so
                shutil.rmtree(bare)
                self._init(bare, found.commit)
            words = ["fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head", "--no-recurse-submodules"]
            words += [depth] if depth else []
            try:
                self._run(bare, *words, "--", url.remote, wanted, remote=url.remote, grows=bare)
            except TransferError as error:
                if error.code != "git-failed":
                    raise
                failure = failure or error
            if self._has(bare, found.commit):
                return
        raise failure or TransferError(
            f"{url.shown} does not give the commit {found.commit}",
            code="git-ref-missing",
            hint="check the commit, or name the branch that has it",
        )

    def _fetch_tag(self, url: GitUrl, found: Found, bare: Path) -> None:
        """The object of a tag that was moved since a lock file pinned it. Raises TransferError `git-ref-missing`."""
        words = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--depth=1"]
        try:
            self._run(bare, *words, "--", url.remote, found.tag, remote=url.remote, grows=bare)
        except TransferError as error:
            if error.code != "git-failed":
                raise
            raise TransferError(
                f"{url.shown} does not give the tag object {found.tag} of {found.ref} any more",
                code="git-ref-missing",
                hint="the tag was moved; pin it anew with mbuild lock --upgrade",
            ) from error

    def _init(self, bare: Path, commit: str) -> None:
        form = "sha256" if len(commit) == 64 else "sha1"
        self._git.run("init", "--quiet", "--bare", f"--object-format={form}", "--", str(bare), timeout=ASKING_SECONDS)

    def _has(self, bare: Path, commit: str) -> bool:
        try:
            self._run(bare, "cat-file", "-e", f"{commit}^{{commit}}")
        except TransferError as error:
            if error.code != "git-failed":
                raise
            return False
        return True

    def _survey(self, bare: Path, commit: str) -> list[tuple[str, str]]:
        """Count what a checkout would write before it does, and give the submodules: path and commit."""
        listing = self._run(bare, "ls-tree", "-r", "-t", "-l", "-z", commit, limit=self._limits.max_metadata)
        links = []
        for line in listing.split(b"\0")[:-1]:
            about, _, path = line.partition(b"\t")
            _, kind, identity, size = about.split()
            self._entries += 1
            self._bytes += int(size) if size.isdigit() else 0
            if self._entries > self._limits.max_entries or self._bytes > self._limits.max_bytes:
                raise TransferError(
                    f"the commit {commit} has more than {self._limits.max_entries} files, or "
                    f"{self._limits.max_bytes} bytes",
                    code="git-too-large",
                    hint="MBUILD_MAX_LAYER_BYTES sets the limit for bytes",
                )
            if kind == b"commit":
                links.append((path.decode("utf-8", "surrogateescape"), identity.decode()))
        return links

    def _submodules(
        self, url: GitUrl, bare: Path, commit: str, links: Iterable[tuple[str, str]], depth: int
    ) -> dict[str, Checkout]:
        addresses = self._addresses(url, bare, commit)
        parts = {}
        for path, wanted in links:
            address = addresses.get(path)
            if address is None:
                raise _bad_submodule(url, f".gitmodules has no url for {path!r}")
            try:
                below = GitUrl(check_remote(join_remote(url.remote, address)))
            except MachinefileError as error:
                raise _bad_submodule(url, f"{path!r}: {error.message}") from error
            parts[path] = self._checkout(below, Found(wanted), False, depth + 1)
        return parts

    def _addresses(self, url: GitUrl, bare: Path, commit: str) -> dict[str, str]:
        words = ["config", "-z", f"--blob={commit}:.gitmodules", "--get-regexp", r"^submodule\..*\.(path|url)$"]
        try:
            output = self._run(bare, *words)
        except TransferError as error:
            raise _bad_submodule(url, "its .gitmodules cannot be read") from error
        values: dict[str, dict[str, str]] = {}
        for pair in output.decode("utf-8", "surrogateescape").split("\0")[:-1]:
            key, _, value = pair.partition("\n")
            name, _, what = key.rpartition(".")
            values.setdefault(name, {})[what] = value
        return {one["path"].rstrip("/"): one["url"] for one in values.values() if "path" in one and "url" in one}

    def _run(
        self, bare: Path, *words: str, remote: str = "", grows: Path | None = None, limit: int = 64 << 20
    ) -> bytes:
        return self._git.run(
            f"--git-dir={bare}", *words, timeout=FETCHING_SECONDS, remote=remote, grows=grows, limit=limit
        )


def _bad_submodule(url: GitUrl, reason: str) -> TransferError:
    return TransferError(
        f"the submodules of {url.shown} cannot be fetched: {reason}",
        code="git-submodule",
        hint="leave them out with ?submodules=false",
    )
