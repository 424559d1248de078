"""COPY: what lands where, with which mode and owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from engine.layers.entry import Entry, EntryType
from engine.steps.copy import copied_entries, match_sources
from machinefile.errors import MachinefileError
from machinefile.steps import Copy, FromContext, InlineFile

FILE, DIRECTORY, SYMLINK = EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK


class DictTree:
    """A tree out of a dict: text is a file's content, None a directory, `-> x` a link."""

    def __init__(self, files: Mapping[str, str | None], mode: int = 0o644, owner: int = 0) -> None:
        self.entries = {"": Entry("", DIRECTORY, 0o755)}
        for path, content in files.items():
            parts = path.split("/")
            for depth in range(1, len(parts)):
                above = "/".join(parts[:depth])
                self.entries.setdefault(above, Entry(above, DIRECTORY, 0o750, owner, owner))
            if content is None:
                self.entries[path] = Entry(path, DIRECTORY, 0o750, owner, owner)
            elif content.startswith("-> "):
                self.entries[path] = Entry(path, SYMLINK, 0o777, link=content[3:])
            else:
                self.entries[path] = Entry(path, FILE, mode, owner, owner, size=len(content))

    def entry(self, path: str) -> Entry | None:
        return self.entries.get(path)

    def children(self, path: str) -> Sequence[str]:
        prefix = f"{path}/" if path else ""
        names = {entry[len(prefix) :].partition("/")[0] for entry in self.entries if entry.startswith(prefix) and entry}
        return sorted(names - {""})


def copy(
    sources: str | tuple[str, ...],
    destination: str,
    files: Mapping[str, str | None],
    image: Mapping[str, str | None] | None = None,
    inline: tuple[InlineFile, ...] = (),
    **options: object,
) -> dict[str, Entry]:
    names = (sources,) if isinstance(sources, str) else sources
    into = bool(options.pop("into", destination.endswith("/") or len(names) > 1))
    owner = options.pop("owner_numbers", None)
    operation = Copy(
        FromContext(),
        names,
        destination.rstrip("/") or "/",
        into,
        files=inline,
        **options,  # type: ignore[arg-type]
    )
    tree, target = DictTree(files), DictTree(image or {})
    matched = match_sources(operation, tree, where="the build context")
    entries = copied_entries(operation, tree, matched, target, owner)  # type: ignore[arg-type]
    assert [one.entry.path for one in entries] == sorted((one.entry.path for one in entries), key=str.encode)
    return {one.entry.path: one.entry for one in entries}


def test_below_a_directory_that_the_image_lacks_nothing_is_looked_up() -> None:
    asked: list[str] = []

    class Asked(DictTree):
        def entry(self, path: str) -> Entry | None:
            asked.append(path)
            return super().entry(path)

    tree = DictTree({"src/d/a": "x", "src/d/b": "y", "src/e/c": "z"})
    operation = Copy(FromContext(), ("src",), "/there", False)
    matched = match_sources(operation, tree, where="the build context")
    made = copied_entries(operation, tree, matched, Asked({"there/d/old": "o"}), None)
    assert [one.entry.path for one in made] == ["there", "there/d", "there/d/a", "there/d/b", "there/e", "there/e/c"]
    assert "there/d/a" in asked
    assert "there/e" in asked
    assert "there/e/c" not in asked


def test_a_file_gets_the_name_of_the_destination() -> None:
    made = copy("a", "/b", {"a": "x"})
    assert list(made) == ["b"]
    assert made["b"].mode == 0o644


def test_a_file_goes_into_a_destination_with_a_slash() -> None:
    assert list(copy("d/a", "/srv/www/", {"d/a": "x"})) == ["srv", "srv/www", "srv/www/a"]


def test_a_file_goes_into_a_directory_that_is_there() -> None:
    made = copy("a", "/srv", {"a": "x"}, {"srv": None})
    assert list(made) == ["srv", "srv/a"]
    assert made["srv"].mode == 0o750, "the directory above is repeated as it is"


def test_directories_that_are_made_are_0755_and_belong_to_the_owner() -> None:
    made = copy("a", "/x/y/b", {"a": "x"}, owner_numbers=(7, 8))
    assert [(made[path].mode, made[path].uid, made[path].gid) for path in ("x", "x/y")] == [(0o755, 7, 8)] * 2


def test_a_directory_gives_its_contents() -> None:
    made = copy("d", "/app", {"d/one": "1", "d/sub/two": "2"})
    assert list(made) == ["app", "app/one", "app/sub", "app/sub/two"]
    assert made["app"].mode == 0o755, "the top's own mode stays behind"
    assert made["app/sub"].mode == 0o750


def test_the_whole_context_can_be_copied() -> None:
    assert list(copy("", "/", {"a": "1", "b/c": "2"})) == ["a", "b", "b/c"]


def test_nested_directories_that_are_there_take_the_source_s_mode() -> None:
    image = DictTree({"app/sub/old": "o"})
    image.entries["app/sub"] = Entry("app/sub", DIRECTORY, 0o700)
    made = copy("d", "/app", {"d/sub/new": "n"}, {"app/sub/old": "o"})
    assert made["app/sub"].mode == 0o750
    assert "app/sub/old" not in made


def test_wildcards_match_within_one_directory() -> None:
    files: dict[str, str | None] = {"a.txt": "1", "b.txt": "2", "c.md": "3", "d/e.txt": "4"}
    assert list(copy("*.txt", "/t/", files)) == ["t", "t/a.txt", "t/b.txt"]
    assert list(copy("*/*.txt", "/t/", files)) == ["t", "t/e.txt"]
    assert list(copy("[ab].t?t", "/t/", files)) == ["t", "t/a.txt", "t/b.txt"]


def test_a_wildcard_that_matches_nothing_copies_nothing() -> None:
    assert copy("*.none", "/t/", {"a": "1"}) == {}


def test_a_plain_source_that_is_missing_is_an_error() -> None:
    with pytest.raises(MachinefileError) as caught:
        copy("none", "/t", {"a": "1"})
    assert caught.value.code == "source-missing"
    assert ".dockerignore" in caught.value.hint


def test_links_in_a_source_s_path_are_followed_inside_the_context() -> None:
    files: dict[str, str | None] = {"real/f": "1", "link": "-> real", "up": "-> ../../../real/f", "abs": "-> /real"}
    assert list(copy("link/f", "/x", files)) == ["x"]
    assert list(copy("up", "/x", files)) == ["x"]
    assert list(copy("abs", "/x", files)) == ["x", "x/f"]


def test_a_source_that_is_a_link_out_of_the_context_is_missing() -> None:
    with pytest.raises(MachinefileError) as caught:
        copy("out", "/x", {"out": "-> /etc/passwd"})
    assert caught.value.code == "source-missing"


def test_a_link_inside_a_directory_stays_a_link() -> None:
    made = copy("d", "/x", {"d/l": "-> /anywhere"})
    assert made["x/l"].type is SYMLINK
    assert made["x/l"].link == "/anywhere"


def test_a_loop_of_links_is_an_error() -> None:
    with pytest.raises(MachinefileError) as caught:
        copy("a", "/x", {"a": "-> b", "b": "-> a"})
    assert caught.value.code == "link-loop"


def test_the_destination_s_links_are_followed_inside_the_image() -> None:
    image: dict[str, str | None] = {"var/www": "-> /srv/data", "srv/data": None}
    assert list(copy("a", "/var/www/", {"a": "1"}, image)) == ["srv", "srv/data", "srv/data/a"]


def test_a_destination_link_that_leads_nowhere_makes_what_it_names() -> None:
    assert list(copy("a", "/l", {"a": "1"}, {"l": "-> /new/file"})) == ["new", "new/file"]


def test_a_file_does_not_replace_a_directory_nor_the_other_way_round() -> None:
    for sources, destination, files, image in (
        ("d", "/x", {"d/n": "1"}, {"x/n/deep": "1"}),
        ("d", "/x", {"d/n/deep": "1"}, {"x/n": "1"}),
        ("d", "/x", {"d/n": "1"}, {"x": "a file"}),
        ("a", "/x/y", {"a": "1"}, {"x": "a file"}),
    ):
        with pytest.raises(MachinefileError) as caught:
            copy(sources, destination, files, image)
        assert caught.value.code == "copy-conflict"


def test_a_file_replaces_a_file_and_a_link() -> None:
    made = copy("d", "/x", {"d/f": "1", "d/l": "2"}, {"x/f": "0", "x/l": "-> f"})
    assert made["x/l"].type is FILE


def test_chown_is_for_everything_that_is_copied() -> None:
    made = copy("d", "/x", {"d/s/f": "1"}, owner_numbers=(5, 6))
    assert {(entry.uid, entry.gid) for entry in made.values()} == {(5, 6)}


def test_chmod_is_for_files_and_directories_but_not_for_what_leads_there() -> None:
    made = copy("d", "/p/x", {"d/s/f": "1", "d/l": "-> f"}, mode="700")
    assert made["p"].mode == 0o755
    assert made["p/x/s"].mode == 0o700
    assert made["p/x/s/f"].mode == 0o700
    assert made["p/x/l"].mode == 0o777


def test_parents_keeps_the_path_of_each_source() -> None:
    files: dict[str, str | None] = {"a/b/f": "1", "a/d/g": "2"}
    assert list(copy(("a/b/f", "a/d"), "/x/", files, parents=True)) == [
        "x",
        "x/a",
        "x/a/b",
        "x/a/b/f",
        "x/a/d",
        "x/a/d/g",
    ]


def test_exclude_leaves_out_what_it_matches() -> None:
    made = copy("d", "/x", {"d/a.txt": "1", "d/b.md": "2", "d/s/c.txt": "3"}, exclude=("*.txt",))
    assert list(made) == ["x", "x/b.md", "x/s", "x/s/c.txt"]


def test_a_heredoc_is_a_file() -> None:
    made = copy((), "/etc/motd", {}, into=False, inline=(InlineFile("EOF", "hello\n"),))
    assert made["etc/motd"].size == 6
    assert made["etc/motd"].mode == 0o644


def test_later_sources_see_what_earlier_ones_wrote() -> None:
    made = copy(("a", "d"), "/x/", {"a": "1", "d/sub/f": "2"})
    assert list(made) == ["x", "x/a", "x/sub", "x/sub/f"]


def test_parents_makes_the_directories_on_the_way_like_the_source_s() -> None:
    made = copy("a/./b/f", "/x/", {"a/b/f": "1"}, parents=True)
    assert list(made) == ["x", "x/b", "x/b/f"]
    assert made["x/b"].mode == 0o750
