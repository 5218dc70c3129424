"""Judges what was read beside a probe: whether the machine left it alone, and by how much it did not."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.work.record import Disturbance, GpuBeside
from rigbench.work.telemetry import REASONS

# A share of running plus waiting. Processes of one quiet machine differ by 5 % anyway (budget/rates.py), and a quiet
# probe's threads wait about 2 % (tests/bench/disturbed_trials.py); one busy loop on each core makes it about half.
WAITED_SHARE = 0.10
# Seconds of waiting in a second, over all threads. Work in step goes at the pace of its slowest thread: on 64 cores one
# neighbour halves it, which is hardly 1 % of what 64 threads run and wait.
WAITED_A_SECOND = 0.25
STOLEN_SHARE = 0.10  # of the time that virtual processors wanted; rented ones lose a few per cent on a good day
PAUSED_SHARE = 0.02  # nobody stops a probe by accident: a little more than the one tick that a debugger's look costs
OTHERS_SHARE = 0.05  # of a GPU's time; a desktop's compositor takes 1 to 3 %
BEFORE_SHARE = 0.10  # of a GPU's time before the probe touched it, where no process tells whose it is
# The hardware's own protection. The power limit and the driver's thermal slowdown are how a card works when hot, and
# so will it in the long run: they are shown with the sensors, and cost what they cost.
HELD_BACK = ("hw_slowdown", "hw_thermal", "hw_power_brake")
HELD_SHARE = 0.10  # of the ticks


def judged(its: Disturbance) -> Disturbance:
    """With the evidence that it was disturbed, the worst first."""
    found = sorted(_evidence(its), key=lambda pair: -pair[0])
    return msgspec.structs.replace(its, evidence=tuple(sentence for _, sentence in found))


def severity(its: Disturbance) -> float:
    """How many times over its threshold the worst reading is; the lower of two tries is the better."""
    return max((times for times, _ in _evidence(its)), default=0.0)


def _evidence(its: Disturbance) -> Iterator[tuple[float, str]]:
    """(times its threshold, sentence) of every reading at or over its threshold."""
    readings = [*_processors(its), *(reading for gpu in its.gpus for reading in _gpu(gpu, its.room))]
    for share, threshold, sentence in readings:
        if share >= threshold:
            yield share / threshold, sentence


def _processors(its: Disturbance) -> Iterator[tuple[float, float, str]]:
    """(share, threshold, sentence)."""
    lost, share = its.lost_seconds, its.lost_share
    if not isinstance(lost, Absent) and not isinstance(share, Absent):
        a_second = lost / its.wall_seconds if its.wall_seconds else 0.0
        sentence = f"threads of the probe waited {units.format_share(share)} of the time for a processor"
        if share >= WAITED_SHARE or a_second < WAITED_A_SECOND:
            yield share, WAITED_SHARE, sentence
        else:
            of_wall = f"in {units.format_share(min(1.0, a_second))} of the time a thread of the probe waited for a"
            yield a_second, WAITED_A_SECOND, f"{of_wall} processor"
    busy, stolen = its.busy_seconds, its.stolen_seconds
    if not isinstance(busy, Absent) and not isinstance(stolen, Absent) and busy + stolen > 0:
        share = stolen / (busy + stolen)
        yield share, STOLEN_SHARE, f"the hypervisor withheld {units.format_share(share)} of the processor time"
    if not isinstance(its.paused_seconds, Absent) and its.wall_seconds:
        share = its.paused_seconds / its.wall_seconds
        yield share, PAUSED_SHARE, f"the probe was stopped for {units.format_share(share)} of its time"


def _gpu(gpu: GpuBeside, room: str) -> Iterator[tuple[float, float, str]]:
    """A heat test is there to bring a card to its limits: that it reaches them is its result."""
    if not isinstance(gpu.others_share, Absent):
        by = f" by {', '.join(gpu.others)}" if gpu.others else ""
        used = f"{gpu.device} was used {units.format_share(gpu.others_share)} of the time{by}"
        yield gpu.others_share, OTHERS_SHARE, used
    if not isinstance(gpu.before_share, Absent):
        busy = f"{gpu.device} was {units.format_share(gpu.before_share)} busy before the probe began"
        yield gpu.before_share, BEFORE_SHARE, busy
    for reason in HELD_BACK if room != "thermals" else ():
        held = gpu.throttle_share.get(reason, 0.0)
        why = f"{gpu.device} was slowed down by its {REASONS[reason]} {units.format_share(held)} of the time"
        yield held, HELD_SHARE, why
