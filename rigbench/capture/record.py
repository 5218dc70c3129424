"""What did a capture write, what did it hide, and what did it leave out?"""

from __future__ import annotations

from rigbench.core.record import Absent, Record


class CaptureSummary(Record, frozen=True):
    """`files` is {name: bytes}, `redacted` {kind of secret: how often it was replaced}.

    `left_out` are files that were read and are in no form in the capture; `load` is the file with the readings under
    load, or why there are none.
    """

    folder: str
    files: dict[str, int]
    gpus: int
    redacted: dict[str, int]
    left_out: tuple[str, ...]
    load: str | Absent
