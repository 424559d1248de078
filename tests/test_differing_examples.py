"""The page about what makes builds differ shows the examples as they are."""

from __future__ import annotations

from differing_examples import FOLDER, shown


def test_each_example_is_shown_and_each_that_is_shown_is_there() -> None:
    names = [one.name for one in shown()]
    assert sorted(names) == sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
    assert len(set(names)) == len(names) >= 6


def test_the_lines_shown_are_all_that_an_example_and_its_mended_twin_have_not_in_common() -> None:
    for one in shown():
        broken, mended = (
            (one.folder / name).read_text().splitlines() for name in ("Machinefile", "Machinefile.mended")
        )
        assert (broken[one.line - 1], mended[one.line - 1]) == (one.broken, one.mended)
        del broken[one.line - 1], mended[one.line - 1]
        assert broken == mended
