"""Shows a watch's summary: what each GPU did since the start, the host beside it, and what that hints at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import (
    MARK_OF,
    SEVERITY_STYLES,
    Fact,
    Headline,
    closing,
    counted,
    grid,
    headline,
    known,
    mapped,
    marked,
    missing,
    printable,
    table,
)
from rigbench.machine.record import KernelEvent
from rigbench.monitor.record import (
    LOOK_SECONDS,
    Gone,
    KernelSeen,
    Monitor,
    MonitorGpu,
    MonitorHint,
    MonitorHost,
    Watched,
    WatchedEnergy,
)
from rigbench.work.telemetry import IDLE, REASONS

JOULES_PER_KWH = 3.6e6
MOST_PROCESSES = 4
PCIE_WINDOW = "20 ms"  # nvml.h, nvmlDeviceGetPcieThroughput


def told(monitor: Monitor, console: Console, whole: bool, quiet: bool) -> None:
    if whole:
        show(monitor, console)
    else:
        brief(monitor, console, quiet)


def brief(monitor: Monitor, console: Console, quiet: bool = False) -> None:
    """What was odd, a line a card, the host, and how long it was watched."""
    headline("monitor", verdict(monitor), console)
    if monitor.gpus:
        console.print(table(COLUMNS, [_in_a_row(gpu) for gpu in monitor.gpus]))
    if quiet:
        return
    odd: list[Headline] = [("fault", lost) for lost in map(_lost, monitor.gpus) if lost]
    odd += [("warn", f"{it.device}: {it.frozen}: do not trust it") for it in monitor.gpus if isinstance(it.frozen, str)]
    for held in monitor.hints:
        seen, so = "; ".join(held.hint.evidence), ", and still so" if held.holds_now else ""
        when = f"so {units.format_share(held.held_looks / held.looks)} of the time watched{so}"
        odd.append((MARK_OF[held.hint.severity], f"{held.hint.title}: {seen}; {when}; next: {held.hint.cure}"))
    for event in monitor.kernel:
        told = "; ".join(f"next: {text}" if label == "next" else text for label, text in _kernel(event))
        odd.append((MARK_OF[event.event.severity], f"{kernel_words(event.event)}; {told}"))
    marked([*odd, *(("note", note) for note in monitor.notes)], console)
    host = known(host_facts(monitor.host, now=False).values(), "; ")
    console.print(grid([("host", host)] if host else []))
    closing(_watched(monitor), "--verbose: every reading of each card, and what was not reported", console)


def verdict(monitor: Monitor) -> Headline:
    """The worst that was seen, else that nothing was."""
    if isinstance(monitor.gpu_count, Absent):
        return "warn", f"no GPU is seen ({monitor.gpu_count.reason})"
    if lost := next(filter(None, map(_lost, monitor.gpus)), ""):
        return "fault", lost
    found = [(held.hint.severity, held.hint.title) for held in monitor.hints]
    found += [(seen.event.severity, kernel_words(seen.event)) for seen in monitor.kernel]
    if not found:
        return "ok", f"{counted(len(monitor.gpus), 'GPU')} watched for {length(monitor.seconds)}, nothing odd"
    severity, title = min(found, key=lambda it: list(MARK_OF).index(it[0]))
    return MARK_OF[severity], title


def _lost(gpu: MonitorGpu) -> str:
    if not isinstance(gpu.gone, Gone):
        return ""
    return f"{gpu.device} answers no more since {length(gpu.gone.since_seconds)} ({gpu.gone.reason})"


# Means over the watch; memory and the hottest at most.
COLUMNS = ("=card", ">busy", ">memory", ">W", ">limit", ">°C", ">hottest", ">MHz", ">fan", "slowed by")


def _in_a_row(gpu: MonitorGpu) -> tuple[str, ...]:
    def mean(its: Watched | Absent, scale: float = 1.0) -> str:
        return "n/a" if isinstance(its, Absent) else f"{its.mean * scale:,.0f}"

    def share(its: Watched | Absent) -> str:
        return "n/a" if isinstance(its, Absent) else units.format_share(its.mean)

    memory, heat, limit, held = gpu.memory_used_bytes, gpu.temperature_celsius, gpu.power_limit_watts, _held_down(gpu)
    return (
        gpu.device,
        share(gpu.utilisation_share),
        "n/a" if isinstance(memory, Absent) else units.format_bytes(round(memory.high)),
        mean(gpu.power_watts),
        "n/a" if isinstance(limit, Absent) else f"{limit:,.0f}",
        mean(heat),
        "n/a" if isinstance(heat, Absent) else f"{heat.high:.0f}",
        mean(gpu.sm_clock_hertz, 1e-6),
        share(gpu.fan_share),
        "n/a" if isinstance(held, Absent) else held.removesuffix(" of the time"),
    )


def _watched(monitor: Monitor) -> str:
    """ "3 min 59 s of a recorded rig: 240 readings, one each 1 s; recording ended"."""
    of = " of a recorded rig" if monitor.replayed else ""
    late = f", {monitor.late_ticks:,} missed" if monitor.late_ticks else ""
    each = f"{counted(monitor.ticks, 'reading')}, one each {rhythm(monitor.interval_seconds)}"
    return f"{length(monitor.seconds)}{of}: {each}{late}; {monitor.ended_by}"


def show(monitor: Monitor, console: Console) -> None:
    console.print(Text(f"watched {_watched(monitor)}", style="bold"))
    if isinstance(monitor.gpu_count, Absent):
        console.print(Text(printable(f"no GPU is seen ({monitor.gpu_count.reason})"), style="yellow"))
    for gpu in monitor.gpus:
        name = gpu.name if isinstance(gpu.name, str) else f"name n/a ({gpu.name.reason})"
        console.print(Text.assemble((printable(gpu.device), "bold"), f"  {printable(name)}"))
        if isinstance(gpu.gone, Gone):
            since = f"{length(gpu.gone.since_seconds)}: {gpu.gone.reason}; what follows is from before"
            console.print(Text(printable(f"  answers no more since {since}"), style=SEVERITY_STYLES["fault"]))
        if isinstance(gpu.frozen, str):
            console.print(Text(f"  {gpu.frozen}: do not trust it", style="yellow"))
        console.print(grid(_rows(gpu_facts(gpu, monitor, now=False))))
    console.print(Text("host", style="bold"))
    console.print(grid(_rows(host_facts(monitor.host, now=False))))
    for held in monitor.hints:
        severity = held.hint.severity
        console.print(Text.assemble((f"{word(severity)}  ", SEVERITY_STYLES[severity]), printable(held.hint.title)))
        console.print(grid(_hint(held)))
    for seen in monitor.kernel:
        severity = seen.event.severity
        console.print(Text.assemble((f"kernel ({severity})  ", SEVERITY_STYLES[severity]), kernel_words(seen.event)))
        console.print(grid(_kernel(seen)))
    for note in monitor.notes:
        console.print(Text(printable(f"note: {note}"), style="dim"))


def kernel_words(event: KernelEvent) -> str:
    """ "GPU0 (0000:01:00.0): the card fell off the bus (Xid 79), 3 times"."""
    often = f", {event.count} times" if event.count > 1 else ""
    return printable(f"{f'{event.where}: ' if event.where else ''}{event.title}{often}")


def _kernel(seen: KernelSeen) -> Iterator[tuple[str, str]]:
    event = seen.event
    at = f"after {length(seen.first_seconds)}"
    if seen.last_seconds > seen.first_seconds:
        at = f"first {at}, last after {length(seen.last_seconds)}"
    yield "seen", printable(f"{event.text} ({at})")
    yield "means", event.meaning
    yield "next", event.do


def _rows(facts: Mapping[str, Fact]) -> Iterator[tuple[str, str]]:
    for label, (_, text) in facts.items():
        if isinstance(text, str) and text:
            yield label, text
    if unknown := missing(facts.values()):
        yield "missing", unknown


def _hint(held: MonitorHint) -> Iterator[tuple[str, str]]:
    for number, seen in enumerate(held.hint.evidence):
        yield ("seen" if not number else ""), seen
    share = units.format_share(held.held_looks / held.looks)
    so = ", still so" if held.holds_now else ""
    span = f"first after {length(held.first_seconds)}, last after {length(held.last_seconds)}{so}"
    yield "seen at", f"{share} of the readings, one every {LOOK_SECONDS:g} s; {span}"
    yield "next", held.hint.cure


def gpu_facts(gpu: MonitorGpu, monitor: Monitor, *, now: bool) -> dict[str, Fact]:
    """Every reading of a card by its label, as it is now or over the time since the start."""
    shown = at_present if now else over_time
    memory, power = shown(gpu.memory_used_bytes, units.format_bytes), shown(gpu.power_watts, units.format_watts)
    limit = mapped(gpu.power_limit_watts, units.format_watts)
    rates = gpu.to_gpu_bytes_per_s, gpu.from_gpu_bytes_per_s
    to_gpu, from_gpu = (shown(rate, units.format_bytes_per_s) for rate in rates)
    window = f"; {PCIE_WINDOW} of every {rhythm(monitor.slow_seconds)}"
    if not now and isinstance(gpu.to_gpu_bytes_per_s, Watched):
        times = gpu.to_gpu_bytes_per_s.n
        window += f", {times:,} time{'' if times == 1 else 's'}"
    traffic = from_gpu if isinstance(from_gpu, Absent) else f"in {to_gpu}, out {from_gpu}{window}"
    return {
        "busy": ("utilisation", shown(gpu.utilisation_share, units.format_share)),
        "memory": ("memory", _beside(memory, " of ", mapped(gpu.memory_total_bytes, units.format_bytes))),
        "power": ("power", _beside(power, " of " if now else ", limit ", limit)),
        "heat": ("temperature", shown(gpu.temperature_celsius, lambda celsius: f"{celsius:.0f} °C")),
        "clock": ("clock", shown(gpu.sm_clock_hertz, lambda hertz: f"{hertz / 1e6:,.0f} MHz")),
        "fan": ("fan", shown(gpu.fan_share, lambda share: f"{'fan ' if now else ''}{units.format_share(share)}")),
        "slowed by": ("throttle reasons", _held_down(gpu)),
        "PCIe": ("PCIe traffic", to_gpu if isinstance(to_gpu, Absent) else traffic),
        "energy": ("energy", _energy(gpu.energy)),
        "processes": ("processes", _processes(gpu)),
    }


def host_facts(host: MonitorHost, *, now: bool) -> dict[str, Fact]:
    """Every reading of the host by its label, as gpu_facts."""
    shown = at_present if now else over_time
    busy = shown(host.busy_share, units.format_share)
    if isinstance(busy, str):
        cores = f" of {host.core_count} cores" if isinstance(host.core_count, int) else ""
        full = shown(host.cores_at_limit, lambda count: units.format_significant(count, 2))
        load = shown(host.load_average, lambda value: units.format_significant(value, 2))
        busy = f"{'CPU ' if now else ''}{busy} busy{cores}"
        busy += f", {full} fully busy" if isinstance(full, str) and full != "0" else ""
        busy += f", load {load}" if isinstance(load, str) else ""
    memory = shown(host.memory_used_bytes, units.format_bytes)
    swap = host.swap_used_bytes
    unused = isinstance(swap, Absent) or not swap.high
    rates = host.disk_read_bytes_per_s, host.disk_write_bytes_per_s
    reads, writes = (shown(rate, units.format_bytes_per_s) for rate in rates)
    disks = writes if isinstance(writes, Absent) else f"read {reads}, written {writes}"
    return {
        "CPU": ("CPU load", busy),
        "heat": ("CPU temperature", shown(host.temperature_celsius, lambda celsius: f"{celsius:.0f} °C")),
        "energy": ("CPU package energy", _energy(host.package_energy)),
        "memory": ("memory", _beside(memory, " of ", mapped(host.memory_total_bytes, units.format_bytes))),
        "swap": ("swap", "" if unused else shown(swap, units.format_bytes)),
        "disks": ("disks", reads if isinstance(reads, Absent) else disks),
    }


def over_time(watched: Watched | Absent, text: Callable[[float], str]) -> str | Absent:
    """Mean, and between which extremes."""
    if isinstance(watched, Absent):
        return watched
    low, high = text(watched.low), text(watched.high)
    return text(watched.mean) if low == high else f"{text(watched.mean)} on average ({low} to {high})"


def at_present(watched: Watched | Absent, text: Callable[[float], str]) -> str | Absent:
    """The last reading."""
    last = watched if isinstance(watched, Absent) else watched.now
    return last if isinstance(last, Absent) else text(last)


def _beside(text: str | Absent, word: str, limit: str | Absent) -> str | Absent:
    return text if isinstance(text, Absent) or isinstance(limit, Absent) else f"{text}{word}{limit}"


def _held_down(gpu: MonitorGpu) -> str | Absent:
    """Reasons by their share of the time since the start; idleness is none."""
    if not gpu.throttle_ticks:
        return Absent("not answered") if gpu.unanswered_ticks == 0 else ""
    shares = sorted(gpu.throttle_share.items(), key=lambda it: -it[1])
    held = [f"{REASONS.get(name, name)} {units.format_share(share)}" for name, share in shares if name != IDLE]
    return f"{', '.join(held)} of the time" if held else "nothing"


def _energy(used: WatchedEnergy | Absent) -> str | Absent:
    if isinstance(used, Absent):
        return used
    return f"{units.format_significant(used.joules / JOULES_PER_KWH)} kWh in {length(used.seconds)} ({used.method})"


def _processes(gpu: MonitorGpu) -> str | Absent:
    if isinstance(gpu.processes, Absent):
        return gpu.processes
    listed = []
    for one in gpu.processes[:MOST_PROCESSES]:
        facts: list[Fact] = [
            ("memory", mapped(one.memory_bytes, units.format_bytes)),
            ("cores", mapped(one.cores, lambda cores: f"{cores:.1f} cores")),
            ("children", "" if not one.children else mapped(one.children, lambda count: f"{count} children")),
        ]
        name, about = one.name if isinstance(one.name, str) else "a process", known(facts)
        listed.append(f"{name} {one.pid}{f': {about}' if about else ''}")
    more = len(gpu.processes) - len(listed)
    return "; ".join(listed + ([f"{more} more"] if more > 0 else [])) or "no process"


def length(seconds: float) -> str:
    """ "0.5 s", "12 s", "3 min 5 s": fractions only below a second."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if 0.05 <= seconds < 0.95 else f"{seconds:.0f} s"
    return units.format_seconds(seconds)


def rhythm(seconds: float) -> str:
    """ "1 s", "0.5 s", "2 min"."""
    return f"{seconds:g} s" if seconds < 60 else units.format_seconds(seconds)


def word(severity: str) -> str:
    return "hint" if severity == "information" else f"hint ({severity})"
