"""What went wrong, said in one line with its cure, and which exit code that is."""

from __future__ import annotations

from collections.abc import Iterable

FINE, FAULT, BAD_INPUT, NOTHING, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 4, 130


class RigbenchError(Exception):
    """A failure that the user can do something about: what happened, and what to do.

    `exit_code` is the command line's contract: 2 bad usage or input, 3 nothing could be answered.
    """

    def __init__(self, what_happened: str, what_to_do: str = "", exit_code: int = BAD_INPUT) -> None:
        self.what_happened = what_happened
        self.what_to_do = what_to_do
        self.exit_code = exit_code
        super().__init__(f"{what_happened}; {what_to_do}" if what_to_do else what_happened)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ "did you mean a or b? ", to stand before another cure; "" where nothing is near."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=2)
    return f"did you mean {' or '.join(near)}? " if near else ""
