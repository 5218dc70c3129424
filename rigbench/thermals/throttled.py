"""What held the clocks down under load, since when, for what share of the time, and what did it cost?"""

from __future__ import annotations

from collections.abc import Sequence

from rigbench.core import stats
from rigbench.core.record import Absent, Column, SensorSeries
from rigbench.thermals.record import HeatLoad, ThrottleSeverity, Throttling
from rigbench.work.throttle import decode_throttle

IDLE = 0x1
# A GeForce under a tensor load is at its power cap as a rule, and slows down softly near its target temperature; what
# the hardware itself does is a fault of cooling or of power (nvml.h, nvmlClocksEventReason*).
SEVERITY: dict[int, ThrottleSeverity] = {0x8: "fault", 0x20: "warning", 0x40: "fault", 0x80: "fault"}
FEWEST = 5  # ticks or windows on either side of a comparison
COMPARED_TICKS = 0.5  # of a window's ticks must have the bit for the window to count as held down


def reasons(
    at_seconds: Sequence[float], series: SensorSeries, load: HeatLoad | Absent, began: float, ended: float
) -> tuple[Throttling, ...]:
    """Every reason but idleness, worst first; moments are of the monotonic clock, `first_seconds` since `began`."""
    if isinstance(series.throttle_bits, Absent):
        return ()
    ticks = [
        (index, at, bits)
        for index, (at, bits) in enumerate(zip(at_seconds, series.throttle_bits, strict=True))
        if began <= at <= ended and not isinstance(bits, Absent)
    ]
    seen = 0
    for _, _, bits in ticks:
        seen |= bits
    found = []
    for bit in (1 << place for place in range(seen.bit_length()) if seen >> place & 1):
        if bit == IDLE:
            continue
        held = [index for index, _, bits in ticks if bits & bit]
        free = [index for index, _, bits in ticks if not bits & bit]
        found.append(
            Throttling(
                reason=decode_throttle(bit)[0],
                bit=bit,
                severity=SEVERITY.get(bit, "information"),
                share=len(held) / len(ticks),
                first_seconds=at_seconds[held[0]] - began,
                clock_ratio=_clock_ratio(series.sm_clock_hertz, held, free),
                throughput_ratio=_throughput_ratio(load, [(at, bool(bits & bit)) for _, at, bits in ticks]),
            )
        )
    order = ("fault", "warning", "information")
    return tuple(sorted(found, key=lambda it: (order.index(it.severity), -it.share)))


def _clock_ratio(clocks: Column, held: Sequence[int], free: Sequence[int]) -> float | Absent:
    if isinstance(clocks, Absent):
        return clocks
    sides = [[clocks[index] for index in side if not isinstance(clocks[index], Absent)] for side in (held, free)]
    if min(map(len, sides)) < FEWEST:
        return Absent("there is nothing to compare with: it was so all the time, or hardly ever")
    with_bit, without = (stats.median([it for it in side if not isinstance(it, Absent)]) for side in sides)
    return with_bit / without if without > 0 else Absent("the clock reads 0")


def _throughput_ratio(load: HeatLoad | Absent, ticks: Sequence[tuple[float, bool]]) -> float | Absent:
    """Of windows in which most ticks had the bit to those in which none had, total work over total time."""
    if isinstance(load, Absent):
        return load
    work, seconds, count = [0.0, 0.0], [0.0, 0.0], [0, 0]
    place = 0
    for ended_at, took, products in zip(load.ended_at_seconds, load.seconds, load.products, strict=True):
        inside: list[bool] = []
        while place < len(ticks) and ticks[place][0] <= ended_at:
            inside.append(ticks[place][1])
            place += 1
        if not inside:
            continue
        share = sum(inside) / len(inside)
        if 0 < share < COMPARED_TICKS:
            continue
        side = int(share > 0)
        work[side] += products
        seconds[side] += took
        count[side] += 1
    if min(count) < FEWEST:
        return Absent("there is nothing to compare with: it was so all the time, or hardly ever")
    return (work[1] / seconds[1]) / (work[0] / seconds[0])
