"""Runs many commands in one process on the terminal it has, pass after pass, each begun by a line that names it.

python screens_in_terminal.py COMMANDS.json: a list of passes, each of the words of every command by name and whether
colour is wanted. Between passes it waits for Enter, so that the terminal can be given another width.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rigbench import __main__


def main() -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 # hints go there, and would stand between the screens
    for number, (colour, commands) in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        input(f"=== pass {number}\n")
        os.environ.pop("NO_COLOR", None)
        if not colour:
            os.environ["NO_COLOR"] = "1"
        for name, words in commands.items():
            print(f"=== {name}", flush=True)
            sys.argv = ["rigbench", *words]
            __main__._run()
            sys.stdout.flush()
        print(f"=== end {number}", flush=True)
    input()


main()
