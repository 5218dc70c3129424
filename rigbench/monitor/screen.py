"""How does a watch's summary look: what each GPU did since the start, the host beside it, and what that hints at?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import Fact, degrees, grid, known, mapped, missing
from rigbench.monitor.record import (
    Gone,
    Monitor,
    MonitorGpu,
    MonitorHint,
    MonitorHost,
    MonitorProcess,
    Watched,
    WatchedEnergy,
)
from rigbench.work.throttle import REASONS

if TYPE_CHECKING:
    from rich.console import Console

JOULES_PER_KWH = 3.6e6
IDLE = "gpu_idle"
STYLES = {"fault": "bold red", "warning": "yellow", "information": ""}
MOST_PROCESSES = 4
LOOK_SECONDS = 5.0  # how often the last window is looked at
PCIE_WINDOW = "20 ms"  # nvml.h, nvmlDeviceGetPcieThroughput

Row = tuple[str, str]


def show(monitor: Monitor, console: Console) -> None:
    """The whole of it: a line of what was watched, each GPU, the host, the hints with how long they held."""
    from rich.text import Text

    console.print(Text(headline(monitor), style="bold"))
    if not isinstance(monitor.gpus_absent, msgspec.UnsetType):
        console.print(Text(f"no GPU is seen ({monitor.gpus_absent.reason})", style="yellow"))
    for gpu in monitor.gpus:
        console.print(Text.assemble((gpu.device, "bold"), f"  {_name(gpu)}"))
        if isinstance(gpu.gone, Gone):
            console.print(Text(f"  {gone(gpu.gone)}", style=STYLES["fault"]))
        if isinstance(gpu.frozen, str):
            console.print(Text(f"  {gpu.frozen}: do not trust it", style="yellow"))
        console.print(grid(_card(gpu, monitor)))
    console.print(Text("host", style="bold"))
    console.print(grid(_host(monitor.host)))
    for held in monitor.hints:
        console.print(Text.assemble((f"{word(held.hint.severity)}  ", STYLES[held.hint.severity]), held.hint.sentence))
        console.print(grid(_hint(held)))
    for note in monitor.notes:
        console.print(Text(f"note: {note}", style="dim"))


def headline(monitor: Monitor) -> str:
    readings = f"{monitor.ticks:,} reading{'' if monitor.ticks == 1 else 's'}"
    each = f"one each {rhythm(monitor.interval_seconds)}"
    late = f", {monitor.late_ticks:,} missed" if monitor.late_ticks else ""
    taken = "of a recorded rig, as if " if monitor.replayed else ""
    return f"watched {taken}{length(monitor.seconds)}: {readings}, {each}{late}; {monitor.ended_by}"


def length(seconds: float) -> str:
    """ "0.5 s", "12 s", "3 min 5 s": fractions only below a second."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if 0.05 <= seconds < 0.95 else f"{seconds:.0f} s"
    return units.format_seconds(seconds)


def rhythm(seconds: float) -> str:
    """ "1 s", "0.5 s", "2 min"."""
    return f"{seconds:g} s" if seconds < 60 else units.format_seconds(seconds)


def gone(since: Gone) -> str:
    return f"answers no more since {length(since.since_seconds)}: {since.reason}; what follows is from before"


def word(severity: str) -> str:
    return "hint" if severity == "information" else f"hint ({severity})"


def _name(gpu: MonitorGpu) -> str:
    return gpu.name if isinstance(gpu.name, str) else f"name n/a ({gpu.name.reason})"


def _card(gpu: MonitorGpu, monitor: Monitor) -> Iterator[Row]:
    facts: dict[str, Fact] = {
        "busy": ("utilisation", over_time(gpu.utilisation_share, units.format_share)),
        "memory": ("memory", of(over_time(gpu.memory_used_bytes, units.format_bytes), gpu.memory_total_bytes)),
        "power": ("power", watts_of(over_time(gpu.power_watts, units.format_watts), gpu.power_limit_watts)),
        "heat": ("temperature", over_time(gpu.temperature_celsius, lambda celsius: f"{celsius:.0f} °C")),
        "clock": ("clock", over_time(gpu.sm_clock_hertz, megahertz)),
        "fan": ("fan", over_time(gpu.fan_share, units.format_share)),
        "held": ("throttle reasons", held_down(gpu)),
        "PCIe": ("PCIe traffic", _traffic(gpu, monitor)),
        "energy": ("energy", mapped(gpu.energy, energy)),
        "in use": ("processes", company(gpu)),
    }
    for label, fact in facts.items():
        if isinstance(fact[1], str) and fact[1]:
            yield label, fact[1]
    if unknown := missing(facts.values()):
        yield "missing", unknown


def over_time(watched: Watched | Absent, shown: Callable[[float], str]) -> str | Absent:
    """Mean, and between which extremes."""
    if isinstance(watched, Absent):
        return watched
    low, high = shown(watched.low), shown(watched.high)
    return shown(watched.mean) if low == high else f"{shown(watched.mean)} on average ({low} to {high})"


def of(text: str | Absent, total_bytes: float | Absent) -> str | Absent:
    if isinstance(text, Absent) or isinstance(total_bytes, Absent):
        return text
    return f"{text} of {units.format_bytes(total_bytes)}"


def watts_of(text: str | Absent, limit: float | Absent) -> str | Absent:
    if isinstance(text, Absent) or isinstance(limit, Absent):
        return text
    return f"{text}, limit {units.format_watts(limit)}"


def megahertz(hertz: float) -> str:
    return f"{hertz / 1e6:,.0f} MHz"


def held_down(gpu: MonitorGpu) -> str | Absent:
    """Reasons by their share of the time since the start; idleness is none."""
    if not gpu.throttle_ticks:
        return Absent("not answered") if gpu.unanswered_ticks == 0 else ""
    shares = {name: share for name, share in gpu.throttle_share.items() if name != IDLE}
    if not shares:
        return "clocks free all the time"
    worst = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{REASONS.get(name, name)} {units.format_share(share)}" for name, share in worst) + " of the time"


def _traffic(gpu: MonitorGpu, monitor: Monitor) -> str | Absent:
    into, out = gpu.to_gpu_bytes_per_s, gpu.from_gpu_bytes_per_s
    if isinstance(into, Absent):
        return into
    if isinstance(out, Absent):
        return out
    ways = f"in {over_time(into, units.format_bytes_per_s)}, out {over_time(out, units.format_bytes_per_s)}"
    return f"{ways}; {PCIE_WINDOW} of every {rhythm(monitor.slow_seconds)}, {into.n:,} time{'' if into.n == 1 else 's'}"


def energy(used: WatchedEnergy) -> str:
    return f"{units.format_significant(used.joules / JOULES_PER_KWH)} kWh in {length(used.seconds)} ({used.method})"


def company(gpu: MonitorGpu) -> str | Absent:
    if isinstance(gpu.processes, Absent):
        return gpu.processes
    listed = [process(one) for one in gpu.processes[:MOST_PROCESSES]]
    more = len(gpu.processes) - len(listed)
    return "; ".join(listed + ([f"{more} more"] if more > 0 else [])) or "no process"


def process(one: MonitorProcess) -> str:
    name = one.name if isinstance(one.name, str) else "a process"
    facts: list[Fact] = [
        ("memory", mapped(one.memory_bytes, units.format_bytes)),
        ("cores", mapped(one.cores, lambda cores: f"{cores:.1f} cores")),
        ("children", "" if not one.children else mapped(one.children, lambda count: f"{count} children")),
    ]
    told = known(facts)
    return f"{name} {one.pid}{f': {told}' if told else ''}"


def _host(host: MonitorHost) -> Iterator[Row]:
    facts: dict[str, Fact] = {
        "CPU": ("CPU load", cpu(host, lambda one, shown: over_time(one, shown))),
        "heat": ("CPU temperature", over_time(host.temperature_celsius, degrees)),
        "energy": ("CPU package energy", mapped(host.package_energy, energy)),
        "memory": ("memory", of(over_time(host.memory_used_bytes, units.format_bytes), host.memory_total_bytes)),
        "swap": ("swap", _swap(host)),
        "disks": ("disks", disks(host, lambda one, shown: over_time(one, shown))),
    }
    for label, fact in facts.items():
        if isinstance(fact[1], str) and fact[1]:
            yield label, fact[1]
    if unknown := missing(facts.values()):
        yield "missing", unknown


def cpu(host: MonitorHost, how: Callable[..., str | Absent]) -> str | Absent:
    """`how` shows a Watched with a format: over the time, or as it is now."""
    busy = how(host.busy_share, units.format_share)
    if isinstance(busy, Absent):
        return busy
    cores = mapped(host.core_count, lambda count: f"of {count} cores")
    full = how(host.cores_at_limit, lambda count: f"{units.format_significant(count, 2)}")
    load = how(host.load_average, lambda value: units.format_significant(value, 2))
    parts = [
        f"{busy} busy {cores if isinstance(cores, str) else ''}".rstrip(),
        f"{full} at their limit" if isinstance(full, str) and full != "0" else "",
        f"load {load}" if isinstance(load, str) else "",
    ]
    return ", ".join(part for part in parts if part)


def _swap(host: MonitorHost) -> str | Absent:
    swap = host.swap_used_bytes
    return "" if isinstance(swap, Absent) or not swap.high else over_time(swap, units.format_bytes)


def disks(host: MonitorHost, how: Callable[..., str | Absent]) -> str | Absent:
    reads, writes = (
        how(one, units.format_bytes_per_s) for one in (host.disk_read_bytes_per_s, host.disk_write_bytes_per_s)
    )
    if isinstance(reads, Absent) or isinstance(writes, Absent):
        return reads if isinstance(reads, Absent) else writes
    return f"read {reads}, written {writes}"


def _hint(held: MonitorHint) -> Iterator[Row]:
    for number, seen in enumerate(held.hint.evidence):
        yield ("seen" if not number else ""), seen
    share = units.format_share(held.held_looks / held.looks)
    now = ", still so" if held.holds_now else ""
    span = f"first after {length(held.first_seconds)}, last after {length(held.last_seconds)}{now}"
    yield "held", f"at {share} of the looks, one each {LOOK_SECONDS:g} s; {span}"
    yield "next", held.hint.next
