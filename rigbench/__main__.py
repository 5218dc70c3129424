"""The command line's entry, and its last line of defence: no traceback reaches a user."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from types import FrameType
from typing import NoReturn

from rigbench.core.errors import INTERNAL, INTERRUPTED, RigbenchError


def main() -> NoReturn:
    """Run the command line and exit with the contract's code."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        code = _run()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _run() -> int:
    import typer

    from rigbench.cli import app

    try:
        return int(app(standalone_mode=False, prog_name="rigbench") or 0)
    except RigbenchError as error:
        _say(str(error))
        return error.exit_code
    except typer.TyperException as error:
        words = error.format_message().rstrip(".").replace("Value error, ", "")
        _say(f"{words}; `rigbench --help` lists the commands, `rigbench COMMAND --help` their options")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last line of defence
        _say(_internal(error))
        return INTERNAL


def _internal(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    with tempfile.NamedTemporaryFile("w", prefix="rigbench-", suffix=".txt", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    words = " ".join(str(error).split())[:200]
    return f"internal error, {type(error).__name__} at {where}: {words}; please report it with {file.name}"


def _say(line: str) -> None:
    sys.stderr.write("rigbench: " + " ".join(line.split()) + "\n")


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
