"""What do datasheets, prices and stored probes say of a rig: its peak, its watts, its rent and price, its heat?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from rigbench.budget import forecast, money
from rigbench.budget.forecast import Ends, Known
from rigbench.budget.plan import Question
from rigbench.budget.record import Configuration, NextSlice
from rigbench.core import profiles
from rigbench.core.profiles import GpuProfile, RigProfile
from rigbench.core.record import Absent, Device, Figure
from rigbench.document import Run
from rigbench.predict import steptime
from rigbench.thermals.record import Thermals
from rigbench.work import power as cost
from rigbench.work.record import Power, PowerPart

# Cards that train draw most of their limit, small models less: 0.85 of it, between six tenths and all. Assumed.
WATTS_SHARE = (0.85, 0.6, 1.0)


def of_device(configuration: Configuration, runs: Sequence[Run], next_slice: NextSlice | None) -> Known:
    """What is known of this rig beside its slices, from its stored probes (newest first) and its card's datasheet."""
    gpu = _matched(configuration.device)
    count = configuration.ranks or 1
    hot_extra, hot_basis = _hot(runs, configuration.device.kind)
    if isinstance(gpu, Absent):
        return Known(gpu, hot_extra, hot_basis, next_slice=next_slice)
    return Known(
        peak_flops_per_s=peak(gpu, configuration.precision, count),
        hot_extra=hot_extra,
        hot_basis=hot_basis,
        rent=rent(gpu),
        purchase=purchase(profiles.gpu(gpu), count),
        next_slice=next_slice,
    )


def short(gpu: GpuProfile) -> str:
    """ "RTX 4080" of "NVIDIA GeForce RTX 4080"."""
    return gpu.names[0].removeprefix("NVIDIA ").removeprefix("GeForce ")


def peak(gpu: str, precision: str, count: int) -> Figure | Absent:
    dtype = cast(profiles.Dtype, steptime.DTYPE[precision])
    figure = profiles.peak(gpu, dtype)
    if isinstance(figure, Absent):
        return figure
    return msgspec.structs.replace(figure, value=count * figure.value, basis=f"{_times(count)}{figure.basis}, {dtype}")


def _times(count: int) -> str:
    return f"{count} × " if count > 1 else ""


def power(question: Question, rig: RigProfile, gpu: GpuProfile) -> Power | Absent:
    """Cards at an assumed share of their limit, and the host of the rig's profile or of one with the same cards."""
    if not isinstance(question.watts.wall_watts, Absent):
        return cost.power((), question.watts)
    limit = gpu.figure("power_limit_watts", 1.0)
    if isinstance(limit, Absent):
        return limit
    value, low, high = (rig.count * limit.value * share for share in WATTS_SHARE)
    middle, least, most = WATTS_SHARE
    basis = f"{_times(rig.count)}{limit.value:g} W power limit × {middle:g}, assumed ({least:g} to {most:g})"
    figure = Figure(value, "predicted", basis, low, high)
    declared = question.watts
    if isinstance(declared.host, Absent):  # that of this rig's profile, else of the profile with as many of these cards
        alike = (one for one in profiles.rigs() if (one.gpu, one.count) == (rig.gpu, rig.count))
        twin = rig if not isinstance(rig.host_watts, Absent) else next(alike, rig)
        declared = msgspec.structs.replace(declared, rig_profile=twin)
    if isinstance(declared.host, Absent):
        return Power(watts=figure, covers="GPUs only")
    return cost.at_wall([PowerPart("GPUs", figure)], declared)


def rent(gpu: str) -> money.RentPrice | Absent:
    """The newest dated price of such a card; of undated ones the highest."""
    found = [price for price in profiles.prices().cloud if price.gpu == gpu]
    if not found:
        return money.NO_RENT
    best = max(found, key=lambda it: ("" if isinstance(it.date, Absent) else it.date, it.per_gpu_hour))
    date = "undated" if isinstance(best.date, Absent) else best.date
    least, most = (pick(price.per_gpu_hour for price in found) for pick in (min, max))
    spread = f"; listed from {least:g} to {most:g}" if least < most else ""
    name = f"{best.provider}, {date}, {best.source}{spread} (--rent)"
    return money.RentPrice(best.per_gpu_hour, best.currency, name)


def purchase(gpu: GpuProfile, count: int) -> money.RigPrice | Absent:
    if isinstance(gpu.launch_price_usd, Absent):
        return money.NO_PURCHASE
    kind = gpu.launch_price_kind.partition(" (")[0] or "list price"
    basis = f"{_times(count)}{gpu.launch_price_usd:,.0f} USD {kind}, without the host; --purchase"
    return money.RigPrice(Figure(count * gpu.launch_price_usd, "datasheet", basis), "USD")


def _hot(runs: Sequence[Run], kind: str) -> tuple[Ends, str]:
    """Of the newest run that soaked such a device; of several cards the one that lost most."""
    for run in runs:
        if not isinstance(run.thermals, Thermals):
            continue
        ratios = [
            card.hot_over_cold
            for card in run.thermals.cards
            if not isinstance(card.load, Absent) and card.load.device.kind == kind
        ]
        found = [ratio for ratio in ratios if not isinstance(ratio, Absent)]
        if found:
            return forecast.hot(min(found, key=lambda ratio: ratio.value), f"thermals of run {run.id}")
    return forecast.HOT_ASSUMED, forecast.HOT_WORDS


def _matched(device: Device) -> str | Absent:
    if device.kind == "cpu":
        return Absent("a processor has no datasheet here")
    memory = device.memory_total_bytes
    return profiles.match_gpu(None, device.name, None if isinstance(memory, Absent) else memory)
