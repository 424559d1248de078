"""Run one target under atheris: `python tests/fuzz/fuzz.py TARGET [libFuzzer's options and corpus folders]`."""

from __future__ import annotations

import sys

import atheris

# What is imported in here is instrumented: the fuzzer sees which of its branches an input takes.
with atheris.instrument_imports(include=["machinefile", "cache.carry"]):
    from targets import TARGETS


def main() -> None:
    """See above. Ends the process."""
    target = TARGETS[sys.argv.pop(1)]
    target(b"")  # load the grammars: the first input's time is limited as every other's
    target(b"FROM a\nENV A=$A\0a\0b")
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
