"""dataclasses without inspect."""

from __future__ import annotations

import subprocess
import sys

_PROBE = """
import sys
from machinefile.values import dataclass
assert "dataclasses" in sys.modules and "inspect" not in sys.modules, "imported in vain"

import dataclasses

@dataclasses.dataclass
class Undocumented:
    first: int
    second: str = "x"

assert Undocumented.__doc__ == "Undocumented(first: int, second: str = 'x')", Undocumented.__doc__

import inspect
assert str(inspect.signature(Undocumented)) == "(first: int, second: str = 'x') -> None"
assert type(inspect).__name__ == "module", "others have the module itself"
"""


def test_what_needs_inspect_gets_it_and_nothing_else_waits_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
