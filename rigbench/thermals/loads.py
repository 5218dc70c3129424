"""Which devices are soaked, and how do their loads and sensors become one record?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from rigbench.core import stats, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent, Figure, SensorSeries, Telemetry
from rigbench.document import Run
from rigbench.machine.record import Gpu
from rigbench.store import now
from rigbench.thermals import knee as power_knee
from rigbench.thermals import soak
from rigbench.thermals.probe import METHOD
from rigbench.thermals.record import HeatCard, HeatEndedBy, HeatLoad, PowerAdvice, Thermals
from rigbench.thermals.watch import Limit, limit_of
from rigbench.work.crew import Crew
from rigbench.work.sensors import CPU

BECAUSE: dict[str, str] = {
    "time limit": "the time was up",
    "worker died": "every load ended before its time",
    "recording ended": "the recording ended",
}
POWER_CURE = "; a sweep needs a power sensor: a GPU's own, or powercap's energy_uj of the CPU, made readable by root"
SLOWER_THAN_ASKED = 1.5  # times the period: below that a tick is merely late


class Lane(NamedTuple):
    """A device to be loaded: torch's name for it, and what the driver knows of it, None for the CPU."""

    name: str
    device: str
    gpu: Gpu | None
    limit: Limit | None


def lanes(gpus: Sequence[Gpu], order: Sequence[int], device: str | None) -> list[Lane]:
    """The devices that an option names: all visible GPUs, in CUDA's order, where none is named, else the CPU.

    Raises:
        RigbenchError: the named device is not there, or is no device.
    """
    by_index = {gpu.index: gpu for gpu in gpus}
    visible = [
        Lane(f"GPU{index}", f"cuda:{place}", by_index[index], limit_of(by_index[index]))
        for place, index in enumerate(order)
    ]
    if device == "cpu" or (device in (None, "auto") and not visible):
        return [Lane(CPU, "cpu", None, None)]
    if device in (None, "auto"):
        return visible
    kind, _, number = str(device).partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise RigbenchError(f"--device {device!r} is not a device", "use cpu, cuda or cuda:N")
    if int(number or 0) >= len(visible):
        why = f"--device {device}: the driver shows {len(visible)} GPUs"
        raise RigbenchError(why, "use --device cpu, or a GPU that `rigbench topology` lists", exit_code=NOTHING)
    return [visible[int(number or 0)]]


def all_lanes(gpus: Sequence[Gpu]) -> list[Lane]:
    """Of a recorded rig: every GPU in the driver's order, whatever is visible here."""
    return [Lane(f"GPU{gpu.index}", "", gpu, limit_of(gpu)) for gpu in gpus]


def record(
    *,
    lanes: Sequence[Lane],
    loads: Mapping[str, HeatLoad],
    sensors: Telemetry,
    lost: Mapping[str, str],
    seconds: float,
    planned_seconds: float,
    label: str | Absent,
    ambient: Figure | Absent,
    ended: tuple[HeatEndedBy, str],
    earlier: Sequence[Run],
    run: Run,
) -> Thermals:
    """The soak as it stands. A card whose load never began has no place in it."""
    cards = []
    for lane in lanes:
        load, series = loads.get(lane.name), series_of(sensors, lane)
        if load is None or series is None or not load.ended_at_seconds:
            continue
        facts = soak.Facts(
            name=lane.name,
            device_name=load.device.name,
            gpu=lane.gpu,
            load=load,
            began=load.began_at_seconds,
            ended=load.ended_at_seconds[-1],
            ambient=ambient,
            lost=lost.get(lane.name, ""),
        )
        cards.append(soak.card(facts, sensors, series))
    result = Thermals(
        method=METHOD,
        started_at=now(),
        seconds=seconds,
        planned_seconds=planned_seconds,
        replayed=False,
        label=label,
        ambient_celsius=ambient,
        cards=tuple(cards),
        ended_by=ended[0],
        ended_because=ended[1],
        telemetry=sensors,
        period_achieved_seconds=period_achieved(sensors),
        power=Absent("not looked for"),
        notes=notes(sensors, lanes, [series_of(sensors, lane) for lane in lanes]),
        **compared(cards),  # type: ignore[arg-type]
    )
    return msgspec.structs.replace(result, started_at=run.started_at, power=_power(result, earlier, run))


def series_of(sensors: Telemetry, lane: Lane) -> SensorSeries | None:
    return next((series for series in sensors.series if series.device == lane.name), None)


def compared(cards: Sequence[HeatCard]) -> dict[str, str | float | Absent]:
    """The hottest of several by where it is heading, else by its peak; and how far the coolest is below it."""
    heat = {card.name: _heat(card) for card in cards}
    known = {name: value for name, value in heat.items() if not isinstance(value, Absent)}
    if len(cards) < 2 or not known:
        why = Absent("one device" if len(cards) < 2 else "no temperature was read")
        return {"hottest": why, "spread_celsius": why}
    hottest = max(known, key=lambda name: known[name])
    return {"hottest": hottest, "spread_celsius": known[hottest] - min(known.values())}


def _heat(card: HeatCard) -> float | Absent:
    steady = card.steady if isinstance(card.steady, Absent) else card.steady.temperature_celsius
    return card.peak_celsius if isinstance(steady, Absent) else steady


def period_achieved(sensors: Telemetry) -> float | Absent:
    at = sensors.at_seconds
    steps = [later - earlier for earlier, later in itertools.pairwise(at)]
    return stats.median(steps) if steps else Absent("fewer than two ticks")


def notes(sensors: Telemetry, lanes: Sequence[Lane], series: Sequence[SensorSeries | None]) -> tuple[str, ...]:
    """What of the watching was not as asked for."""
    found = []
    asked, got = sensors.period_seconds, period_achieved(sensors)
    if isinstance(got, float) and got >= SLOWER_THAN_ASKED * asked:
        found.append(f"telemetry was slower than asked: every {got:.2g} s instead of {asked:.2g} s")
    for lane, own in zip(lanes, series, strict=True):
        unknown = lane.limit is not None and lane.limit.slowdown_celsius is lane.limit.at_margin_celsius is None
        blind = own is None or isinstance(own.temperature_celsius, Absent)
        if lane.gpu and (unknown or blind):
            what = "tells no temperature" if blind else "tells no slowdown limit"
            found.append(f"{lane.name} {what}: only the card itself could have stopped this load, rigbench not")
    return tuple(found)


def faults(result: Thermals, crew: Crew[HeatLoad], lost: Mapping[str, str]) -> list[str]:
    """Each fault as a line: what its cards tell, why it had to end, whose load ended before its time."""
    found = card_faults(result)
    if result.ended_by in ("safety stop", "sensors silent"):
        found.append(f"thermals: {result.ended_because}")
    told = {card.name for card in result.cards if card.faults}
    early = [name for name in lost if name not in {card.name for card in result.cards}]
    found += [f"thermals {name}: {lost[name]} before its load began" for name in early]
    told |= set(early)
    found += [
        f"thermals {name}: its load {outcome.ended}: {outcome.reason}"
        for name, outcome in crew.outcomes.items()
        if outcome.ended in ("died", "hung") and name not in told
    ]
    return found


def card_faults(result: Thermals) -> list[str]:
    """What the hardware did to the clocks, what was lost, what was computed wrong."""
    held = [
        f"thermals {card.name}: held down by {it.reason} ({it.bit:#x}) {units.format_share(it.share)} of the time"
        for card in result.cards
        for it in card.throttling
        if it.severity == "fault"
    ]
    return held + [f"thermals {card.name}: {line}" for card in result.cards for line in card.faults]


def _power(result: Thermals, earlier: Sequence[Run], run: Run) -> PowerAdvice | Absent:
    watts = [card.steady if isinstance(card.steady, Absent) else card.steady.watts for card in result.cards]
    missing = next((it for it in watts if isinstance(it, Absent)), None)
    if missing is not None:
        return Absent(f"no watts: {missing.reason}{'' if 'too short' in missing.reason else POWER_CURE}")
    if isinstance(result.label, Absent):
        return Absent("no --label was given; runs at three or more power limits show where watts stop paying")
    this = msgspec.structs.replace(run, thermals=result)
    return power_knee.advice(power_knee.points_of([this, *earlier], result))
