"""What do a watch's last readings look like as columns, and what can be read off one or two of them?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from rigbench.core import units
from rigbench.core.record import Absent

FEWEST = 20  # readings: fewer are not yet a window
BEHIND_READINGS = 0.8  # the same card behind at so many of them
LOW, HIGH = 0.3, 0.8  # utilisation swings between these
HELD_SHARE, HELD_BYTES = 0.2, 2 << 30  # memory that says that a model is loaded

Column = Sequence[float | Absent]


class CardWindow(NamedTuple):
    """One GPU's last readings, an entry per tick. `throttle_share` is of this window, `workers_full` per slow beat."""

    device: str
    name: str | Absent
    memory_total_bytes: float | Absent
    utilisation: Column
    memory_used_bytes: Column
    power_share: Column  # of its limit
    throttle_share: Mapping[str, float]
    processes: tuple[str, ...] = ()
    workers_full: float | Absent = Absent("no process was seen")


class HostWindow(NamedTuple):
    busy: Column
    iowait: Column
    cores_at_limit: Column
    disk_read_bytes_per_s: Column


class Window(NamedTuple):
    seconds: float
    ticks: int
    cards: tuple[CardWindow, ...]
    host: HostWindow


def behind(
    window: Window, of: Callable[[CardWindow], Column], least: float, apart: float
) -> Iterable[tuple[CardWindow, CardWindow]]:
    """(card, the leader of its kind) where the mean is so far behind, and the card is behind at nearly all readings."""
    for card in window.cards:
        alike = [one for one in window.cards if one.name == card.name and len(known_of(of(one))) >= FEWEST]
        if card not in alike or len(alike) < 2:
            continue
        lead = max(alike, key=lambda one: mean(of(one)))
        if lead is card or mean(of(lead)) < least or mean(of(lead)) - mean(of(card)) < apart:
            continue
        count, paired = times_behind(of(card), of(lead))
        if paired >= FEWEST and count >= BEHIND_READINGS * paired:
            yield card, lead


def times_behind(card: Column, lead: Column) -> tuple[int, int]:
    pairs = [
        (one, other)
        for one, other in zip(card, lead, strict=True)
        if not isinstance(one, Absent) and not isinstance(other, Absent)
    ]
    return sum(one < other for one, other in pairs), len(pairs)


def swings(known: Sequence[float]) -> int:
    """How often it went from nearly idle to busy."""
    count, low = 0, False
    for value in known:
        if value < LOW:
            low = True
        elif value > HIGH and low:
            count, low = count + 1, False
    return count


def holds_a_model(card: CardWindow) -> bool:
    readings = known_of(card.memory_used_bytes)
    if not readings:
        return False
    used, total = readings[-1], card.memory_total_bytes
    return used >= HELD_BYTES or (not isinstance(total, Absent) and used >= HELD_SHARE * total)


def memory(card: CardWindow) -> str:
    readings = known_of(card.memory_used_bytes)
    if not readings:
        return f"{card.device}'s memory cannot be read"
    used = units.format_bytes(readings[-1])
    if isinstance(card.memory_total_bytes, Absent):
        return f"{card.device} holds {used}"
    return f"{card.device} holds {used} of {units.format_bytes(card.memory_total_bytes)}"


def length(window: Window) -> str:
    return f"{window.seconds:.0f} s" if window.seconds < 59.5 else units.format_seconds(float(round(window.seconds)))


def known_of(column: Column) -> list[float]:
    return [value for value in column if not isinstance(value, Absent)]


def mean(column: Column) -> float:
    """Of what was answered; 0 where nothing was."""
    readings = known_of(column)
    return math.fsum(readings) / len(readings) if readings else 0.0
