"""The .git of ADD --keep-git-dir, written so that equal commits give equal files."""

from __future__ import annotations

from pathlib import Path

from engine.remote.git import Git
from engine.remote.giturl import is_ref_name

_SECONDS = 3600.0


def write_git_dir(git: Git, bare: Path, folder: Path, remote: str, commit: str, ref: str, tag: str) -> None:
    """Write what a shallow clone of one commit has: its objects in a pack, its name, an index without times.

    HEAD is the commit itself, as BuildKit leaves it. A pack depends on git's version and on nothing else: its objects
    come in the order of the tree, and one thread packs them. Raises as Git.run.
    """
    (folder / "objects" / "pack").mkdir(parents=True)
    (folder / "refs" / "heads").mkdir(parents=True)
    (folder / "refs" / "tags").mkdir(parents=True)
    listed = git.run(
        f"--git-dir={bare}",
        "rev-list",
        "--objects",
        "--no-object-names",
        f"{commit}^{{tree}}",
        timeout=_SECONDS,
        limit=1 << 30,
    )
    objects = "".join(f"{name}\n" for name in (tag, commit) if name).encode() + listed
    git.run(
        f"--git-dir={bare}",
        "pack-objects",
        "--quiet",
        "--no-reuse-delta",
        "--no-reuse-object",
        "--threads=1",
        str(folder / "objects" / "pack" / "pack"),
        timeout=_SECONDS,
        stdin=objects,
    )
    for extra in folder.glob("objects/pack/*"):
        if extra.suffix not in (".pack", ".idx"):
            extra.unlink()
    (folder / "HEAD").write_text(f"{commit}\n")
    (folder / "config").write_text(_config(remote, sha256=len(commit) == 64))
    if ref.startswith(("refs/heads/", "refs/tags/")) and is_ref_name(ref):  # it becomes a path
        path = folder / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{tag or commit}\n")
    about = git.run(f"--git-dir={bare}", "cat-file", "commit", commit, timeout=_SECONDS)
    if any(line.startswith(b"parent ") for line in about.partition(b"\n\n")[0].splitlines()):
        (folder / "shallow").write_text(f"{commit}\n")
    git.run(f"--git-dir={folder}", "read-tree", commit, timeout=_SECONDS)


def _config(remote: str, *, sha256: bool) -> str:
    lines = ["[core]", "\trepositoryformatversion = 1" if sha256 else "\trepositoryformatversion = 0"]
    lines += ["\tfilemode = true", "\tbare = false", "\tlogallrefupdates = true"]
    lines += ["[extensions]", "\tobjectformat = sha256"] if sha256 else []
    quoted = remote.replace("\\", "\\\\").replace('"', '\\"')
    lines += ['[remote "origin"]', f'\turl = "{quoted}"', "\tfetch = +refs/heads/*:refs/remotes/origin/*"]
    return "\n".join(lines) + "\n"
