"""What did the parts of the machine draw beside a piece of work, and what of that is on the bill?"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.core.record import Absent, Figure, Record

DrawName = Literal["GPUs", "other GPUs", "CPU package"]


class Draw(Record, frozen=True):
    """One part's mean watts over the steady window, as its sensors tell, or why they do not.

    "GPUs" did the work, "other GPUs" stand in the same machine. `method` is Energy's.
    """

    name: DrawName
    watts: float | Absent
    method: Literal["counter", "integrated"] | Absent


class PowerPart(Record, frozen=True):
    """One part of the watts at the wall; its figure says whether it is read, declared or worked out, and from what."""

    name: str
    watts: Figure


class PsuHeadroom(Record, frozen=True):
    """The highest sampled draw behind the power supply as a share of its rating."""

    rating_watts: Figure
    peak_watts: Figure
    share: float


class Power(Record, frozen=True):
    """The watts that the kWh rest on, and what they cover.

    `split` adds up to the wall's watts, where they were put together from parts or taken apart; `psu` is the supply's
    headroom; `warnings` say where what is read contradicts what is declared.
    """

    watts: Figure
    covers: Literal["wall", "GPUs only", "CPU package only"]
    split: tuple[PowerPart, ...] | msgspec.UnsetType = msgspec.UNSET
    psu: PsuHeadroom | msgspec.UnsetType = msgspec.UNSET
    warnings: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
