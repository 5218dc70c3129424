"""What one reading says against its limit: a mark and a word or two, for the live picture. Hints rest on windows."""

from __future__ import annotations

from collections.abc import Sequence

from rigbench.core.record import Absent
from rigbench.core.screen import MARK_OF, MARKS, Mark
from rigbench.monitor.verdict import BUSY, IDLE, THROTTLED
from rigbench.work.telemetry import IDLE as IDLE_CLOCKS
from rigbench.work.telemetry import REASONS

Judged = tuple[Mark, str]
OK: Judged = ("ok", "")

LITTLE_LEFT, NEARLY_FULL = 0.9, 0.97  # of memory: 3 % of 16 GiB is 0.5 GiB, and one allocation more ends a training
AT_POWER_LIMIT = 0.97  # a card held at its limit swings by so much; that is normal, and worth to know
FULL_SPEED = 0.95  # of the fan: there is no air to be had any more
TARGET_SLACK, SLOWDOWN_SLACK = 1.0, 5.0  # °C below: sensors tell whole degrees; a card that hot is one warm day away
CORES_TAKEN = 0.9  # of the host's cores: a data loader gets no more
HOST_FULL = 0.95  # of the host's memory: beyond, the kernel ends processes


def busy(share: float) -> Judged:
    """Never more than a note: what a card waits for is a hint's to say, over a window."""
    return ("note", "idle") if share < IDLE else ("note", "mostly waits") if share < BUSY else OK


def memory(share: float) -> Judged:
    return ("warn", "nearly full") if share >= NEARLY_FULL else ("note", "little left") if share >= LITTLE_LEFT else OK


def power(share: float) -> Judged:
    return ("note", "at its limit") if share >= AT_POWER_LIMIT else OK


def heat(celsius: float, target: float | Absent, slowdown: float | Absent) -> Judged:
    """`target`: from where on the driver lowers clocks; `slowdown`: where the hardware does."""
    if not isinstance(slowdown, Absent) and celsius >= slowdown:
        return "fault", "too hot"
    if not isinstance(target, Absent) and celsius >= target - TARGET_SLACK:
        return "warn", "at its target"
    if not isinstance(slowdown, Absent) and celsius >= slowdown - SLOWDOWN_SLACK:
        return "warn", "near its limit"
    return OK


def fan(share: float) -> Judged:
    return ("note", "full speed") if share >= FULL_SPEED else OK


def held(reasons: Sequence[str]) -> Judged:
    """What holds clocks down now, worst first, with the worst's mark; idleness holds nothing down."""
    judged: list[Judged] = [
        (MARK_OF[THROTTLED[name][0]] if name in THROTTLED else "note", REASONS.get(name, name))
        for name in reasons
        if name != IDLE_CLOCKS
    ]
    judged.sort(key=lambda it: -list(MARKS).index(it[0]))
    return (judged[0][0], ", ".join(words for _, words in judged)) if judged else OK


def cores(share: float) -> Judged:
    return ("note", "no core free") if share >= CORES_TAKEN else OK


def host_memory(share: float) -> Judged:
    return ("warn", "nearly full") if share >= HOST_FULL else OK


def loaders(at_limit: int | Absent) -> Judged:
    """Of a process's children: a loader that fills a core may be what the card waits for."""
    if isinstance(at_limit, Absent) or not at_limit:
        return OK
    return "note", f"{at_limit} {'fills' if at_limit == 1 else 'fill'} a core"
