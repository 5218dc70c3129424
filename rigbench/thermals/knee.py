"""Where do more watts stop paying? The knee of throughput per watt, from runs at several power limits."""

from __future__ import annotations

from collections.abc import Sequence

from rigbench.core import units
from rigbench.core.record import Absent, Skipped
from rigbench.document import Run
from rigbench.thermals.record import HeatCard, PowerAdvice, PowerPoint, Thermals

FEWEST_LABELS = 3
PLATEAU_SHARE = 0.03  # of the most work per joule: as near as two runs of one card come to each other
SWEEP = "set a limit (sudo nvidia-smi -pl WATTS), run `rigbench thermals --label WATTSW`, and so on"


def advice(points: Sequence[PowerPoint]) -> PowerAdvice | Absent:
    """The label with the most work per joule, those near it, and of these the fastest.

    A knee at either end of the sweep may lie beyond it, and the sentence says so.
    """
    if len(points) < FEWEST_LABELS:
        held = "1 labelled run" if len(points) == 1 else f"{len(points)} labelled runs"
        missing = f"{FEWEST_LABELS - len(points)} more needed for the knee of throughput per watt"
        return Absent(f"{held} of this rig with watts and throughput, {missing}: {SWEEP}")
    ordered = sorted(points, key=lambda point: point.watts)
    per_watt = {point.label: point.flops_per_s.value / point.watts for point in ordered}
    knee = max(ordered, key=lambda point: per_watt[point.label])
    near = [point for point in ordered if per_watt[point.label] >= (1 - PLATEAU_SHARE) * per_watt[knee.label]]
    advised = max(near, key=lambda point: point.flops_per_s.value)
    return PowerAdvice(
        points=tuple(ordered),
        knee=knee.label,
        plateau=tuple(point.label for point in near),
        advised=advised.label,
        sentence=_sentence(ordered, near, knee, advised),
        commands=_commands(advised, ordered),
    )


def _sentence(ordered: Sequence[PowerPoint], near: Sequence[PowerPoint], knee: PowerPoint, advised: PowerPoint) -> str:
    fastest = max(ordered, key=lambda point: point.flops_per_s.value)
    plateau = f"a plateau within 3 % of it: {near[0].label} to {near[-1].label}"
    if len(near) == 1:
        plateau = "no other within 3 % of it"
    speed = units.format_share(advised.flops_per_s.value / fastest.flops_per_s.value)
    power = units.format_share(advised.watts / fastest.watts)
    said = f"most work per joule at {knee.label}, {plateau}"
    if advised is not fastest:
        said += f"; {advised.label} gives {speed} of the throughput of {fastest.label} for {power} of its watts"
    if knee in (ordered[0], ordered[-1]):
        said += f"; that is the {'lowest' if knee is ordered[0] else 'highest'} of the sweep, the knee may lie beyond"
    return said


def _commands(advised: PowerPoint, ordered: Sequence[PowerPoint]) -> tuple[str, ...]:
    """Only where the runs were at limits that differ: a label alone sets nothing."""
    if len({point.limits_watts for point in ordered}) < len(ordered):
        return ()
    return tuple(f"sudo nvidia-smi -i {index} -pl {watts:g}" for index, watts in advised.limits_watts)


def points_of(runs: Sequence[Run], like: Thermals) -> list[PowerPoint]:
    """The newest run of every label, of the same devices under the same load; `runs` newest first."""
    found: dict[str, PowerPoint] = {}
    for run in runs:
        thermals = run.thermals if isinstance(run.thermals, Thermals) else None
        if not thermals or isinstance(thermals, Skipped) or isinstance(thermals.label, Absent):
            continue
        if thermals.label in found or _load_of(thermals) != _load_of(like):
            continue
        point = _point(thermals.label, run.id, thermals.cards)
        if point is not None:
            found[thermals.label] = point
    return list(found.values())


def _load_of(thermals: Thermals) -> object:
    loads = [card.load for card in thermals.cards]
    return thermals.method, [
        load if isinstance(load, Absent) else (load.device, load.dtype, load.m, load.n, load.k) for load in loads
    ]


def _point(label: str, run_id: str, cards: Sequence[HeatCard]) -> PowerPoint | None:
    watts, rate, low, high, limits = 0.0, 0.0, 0.0, 0.0, []
    confidence, n = 1.0, 0
    for card in cards:
        if isinstance(card.steady, Absent) or isinstance(card.steady.watts, Absent) or isinstance(card.hot, Absent):
            return None
        watts += card.steady.watts.value
        own = card.hot.flops_per_s
        rate, low, high = rate + own.value, low + own.low, high + own.high
        confidence, n = min(confidence, own.level), own.n
        if isinstance(card.index, int) and isinstance(card.power_limit_watts, float):
            limits.append((card.index, card.power_limit_watts))
    total = type(own)(value=rate, low=low, high=high, level=confidence, method="sum over cards", n=n)
    return PowerPoint(label=label, run_id=run_id, limits_watts=tuple(limits), watts=watts, flops_per_s=total)
