"""What a capture wrote, hid and left out."""

from __future__ import annotations

from rigbench.core.record import Absent, Record


class CaptureSummary(Record, frozen=True):
    folder: str
    files: dict[str, int]  # bytes by name
    gpus: int
    redacted: dict[str, int]  # how often each kind of secret was replaced
    left_out: tuple[str, ...]  # files that were read and are in no form in the capture
    made_from: tuple[str, ...] = ()  # what somebody pasted, as it was recognised; empty of a machine's own capture
    load: str | Absent = Absent("not asked for")  # the file with the readings under load, or why there are none
