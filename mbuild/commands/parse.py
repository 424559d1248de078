"""`mbuild parse`: the syntax of a Machinefile, nothing substituted."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from machinefile.syntax_json import to_json
from mbuild.arguments import Parser, add_format_option
from mbuild.request import find_machinefile, read_machinefile


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Parse a Machinefile and print what it says."""
    parser = Parser(prog="mbuild parse", description="Check the syntax of a Machinefile and print what it says.")
    parser.add_argument("context", nargs="?", default=".", help="the folder that holds it (default: this one)")
    parser.add_argument("-f", "--file", default="", metavar="FILE", help="the Machinefile; - reads standard input")
    add_format_option(parser)
    options = parser.parse_args(arguments)
    parsed = to_json(read_machinefile(find_machinefile(options.file, Path(options.context))))
    if options.format == "json":
        print(json.dumps(parsed, indent=2))
        return 0
    for instruction in parsed["instructions"]:
        print(f"{instruction['line']:>5}  {instruction['name']}  {json.dumps(instruction['args'], ensure_ascii=False)}")
    return 0
