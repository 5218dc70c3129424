"""What a comparison is told, and what it found: per number faster, slower, the same or ambiguous, and what changed."""

from __future__ import annotations

from typing import Annotated, Literal

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN, Option, Reader
from rigbench.core.record import Absent, Record

LEVEL = 0.90  # of an unchanged rig, so many comparisons find nothing changed at all
Verdict = Literal["faster", "slower", "better", "worse", "same", "ambiguous"]
WORSE: tuple[Verdict, ...] = ("slower", "worse")


def _share(text: str, option: str) -> float:
    """ "5%", "5 %" or "0.05"."""
    percent = text.strip().removesuffix("%").strip()
    value = units.parse_number(percent, option, 0.0001, 100.0) if text.strip().endswith("%") else None
    share = value / 100 if value is not None else units.parse_number(percent, option, 0.000001, 1.0)
    if not 0 < share < 1:
        raise RigbenchError(f"{option} {text[:40]!r} is no share", "write it as 5%")
    return share


SHARE = Reader(_share, units.format_share)


class Options(Record, frozen=True, kw_only=True):
    fail_over: Annotated[
        float | Absent,
        Option(
            SHARE,
            "For CI: exit 1 where something got worse by more than this, 3 where so few runs cannot show it.",
            "5%",
        ),
    ] = NOT_GIVEN
    same_within: Annotated[float, Option(SHARE, "What is surely nearer than this is called the same.", "3%")] = 0.03


class Side(Record, frozen=True, kw_only=True):
    """What stands on one side. A unit is what varies: a run of one rig, a rig where there are several."""

    name: str  # as it was asked for
    runs: tuple[str, ...]
    added: tuple[str, ...] = ()  # of them: stored repeats that were not named
    machine: str
    unit: Literal["run", "rig"]
    units: int


class Compared(Record, frozen=True, kw_only=True):
    room: str
    what: str
    metric: str
    unit: str
    better: Literal["higher", "lower", ""]
    before: float  # the geometric mean of its units
    after: float
    before_units: tuple[float, ...]
    after_units: tuple[float, ...]
    ratio: Estimate  # after over before; its level is 0 where nothing tells how units vary
    verdict: Verdict
    p: float  # of the step-down maximum: the chance that an unchanged rig gives this or any other as large a difference
    place: str = ""  # of one rig among others

    @property
    def name(self) -> str:
        return f"{self.room} {self.what}"

    @property
    def loss(self) -> float:
        """How much worse it got, as a share of before; negative where it got better."""
        its = self.ratio.value
        return 1 - its if self.better == "higher" else its - 1 if self.better == "lower" else 0.0


class NotCompared(Record, frozen=True):
    """A number that one side lacks, or that was measured under other conditions there."""

    name: str
    reason: str


class Pair(Record, frozen=True, kw_only=True):
    """Two sides."""

    before: Side
    after: Side
    changes: tuple[str, ...]  # driver, torch, settings, hardware: what besides time is different
    rows: tuple[Compared, ...]  # what got worse first
    refused: tuple[NotCompared, ...]
    level: float  # an unchanged rig gives nothing but "same" and "ambiguous" in at least this share of comparisons
    splits: int  # ways to share all units out, with which the observed one was compared
    least_p: float  # that so many units a side could give
    more_runs: int  # of the after side that would let a difference be told; 0: there are enough


class Comparison(Record, frozen=True, kw_only=True):
    same_within: float
    pairs: tuple[Pair, ...]
    unreadable: tuple[str, ...] = ()
