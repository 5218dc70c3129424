"""Shows each GPU: the card, its way to memory, its state, its health, the processes on it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import (
    Fact,
    counted,
    degrees,
    gigabytes,
    grid,
    if_known,
    known,
    line,
    mapped,
    missing,
    of_limit,
    size,
)
from rigbench.machine.record import Gpu, PciHop, PciPath
from rigbench.topology.record import Topology, is_integrated

UNIFIED = "unified memory, shared with the CPU: see the host's memory"


def gpus(topology: Topology) -> RenderableType | None:
    absent = topology.driver_gpus
    why = [grid([("driver", f"n/a ({absent.reason})")])] if isinstance(absent, Absent) else []
    paths = {path.label: path for path in topology.paths}
    topics = {gpu.index: _topics(gpu, paths.get(gpu.label)) for gpu in topology.gpus}
    unknown = {index: missing(fact for facts in own.values() for fact in facts) for index, own in topics.items()}
    alike = len(unknown) > 1 and len(set(unknown.values())) == 1
    rows: list[tuple[str, str]] = []
    for gpu in topology.gpus:
        rows += block(gpu, paths.get(gpu.label), topics[gpu.index])
        rows += [("", unknown[gpu.index])] if unknown[gpu.index] and not alike else []
    rows += [("all", next(iter(unknown.values())))] if alike and any(unknown.values()) else []
    return Group(*why, *([grid(rows)] if rows else [])) if why or rows else None


def _topics(gpu: Gpu, path: PciPath | None) -> dict[str, list[Fact]]:
    """A GPU's lines but for its name, its way to memory and what only some cards have."""
    limit = ""  # newer cards tell how far they are from their limit, not where it is
    if not isinstance(gpu.slowdown_celsius, Absent):
        limit = f" (slows down at {gpu.slowdown_celsius:g})"
    elif not isinstance(gpu.margin_celsius, Absent) and not isinstance(gpu.slowdown_at_margin_celsius, Absent):
        limit = f" ({gpu.margin_celsius:g} below its limit, slows down at {gpu.slowdown_at_margin_celsius:g})"
    rebar = {True: "all of the memory (ReBAR on)", False: "ReBAR off"}
    mode = "default" if isinstance(gpu.compute_mode, Absent) else gpu.compute_mode
    modes = [  # only what is not as on every other card
        f"compute mode {mode}" if mode != "default" else "",
        "drives a display" if gpu.display_active is True else "",
        "persistence off" if gpu.persistence is False else "",
        "ECC off" if gpu.ecc_enabled is False else "",
    ]
    return {
        "card": [
            ("name", gpu.name),
            ("memory", UNIFIED if is_integrated(gpu) else mapped(gpu.memory_total_bytes, size)),
            ("bus id", gpu.pci_bus_id),
            ("profile", if_known(gpu.profile)),
        ],
        "link": [("link", path.best_bytes_per_s)] if path and isinstance(path.best_bytes_per_s, Absent) else [],
        "now": [
            ("temperature", mapped(gpu.temperature_celsius, lambda celsius: f"{degrees(celsius)}{limit}")),
            ("memory temperature", if_known(mapped(gpu.memory_temperature_celsius, degrees, "memory"))),
            ("power", of_limit(gpu.power_watts, gpu.power_limit_watts, units.format_watts)),
            ("fan", if_known(mapped(gpu.fan_share, units.format_share, "fan"))),
            ("state", mapped(gpu.performance_state, lambda state: f"P{state}")),
            ("used memory", mapped(gpu.memory_used_bytes, lambda used: f"{size(used)} in use")),
        ],
        "power": [*_power(gpu), ("mode", ", ".join(filter(None, modes)))],
        "slot": [
            ("BAR1", mapped(gpu.bar1_total_bytes, size, "BAR1")),
            ("ReBAR", if_known(mapped(gpu.bar1_covers_memory, lambda covers: rebar[covers]))),
            ("CPUs", if_known(mapped(gpu.cpu_affinity, str, "near CPUs"))),
            ("NUMA node", if_known(mapped(gpu.numa_node, lambda node: f"NUMA node {node}"))),
        ],
    }


def block(gpu: Gpu, path: PciPath | None, topics: dict[str, list[Fact]]) -> Iterable[tuple[str, str]]:
    """A GPU's lines, without what the driver would not say."""
    yield gpu.label, known(topics["card"]) or "a card that reports nothing"
    for number, text in enumerate(way(gpu, path) if path else ()):
        yield ("link" if number == 0 else ""), text
    for label in ("now", "power", "slot"):
        if known(topics[label]):
            yield label, known(topics[label])
    counts = {
        "PCIe replays": gpu.pcie_replays,
        "uncorrected ECC errors": gpu.ecc_uncorrected_errors,
        "corrected ECC errors": gpu.ecc_corrected_errors,
        "rows remapped after uncorrected errors": gpu.remapped_rows_uncorrected,
        "rows remapped after corrected errors": gpu.remapped_rows_corrected,
    }
    health = [f"{count} {what}" for what, count in counts.items() if isinstance(count, int) and count]
    health += ["a row remap waits for a reset"] if gpu.row_remap_pending is True else []
    health += ["a row remap failed"] if gpu.row_remap_failed is True else []
    if health:
        yield "health", ", ".join(health)
    if gpu.mig_enabled is True and isinstance(gpu.mig_devices, Absent):
        yield "MIG", f"on; its parts n/a ({gpu.mig_devices.reason})"
    elif gpu.mig_enabled is True and isinstance(gpu.mig_devices, tuple):
        parts = [known([("", it.name), ("", mapped(it.memory_total_bytes, size))]) for it in gpu.mig_devices]
        yield "MIG", f"on, {counted(len(parts), 'part')}{': ' if parts else ''}{'; '.join(parts)}"
    processes = []
    for process in gpu.processes if isinstance(gpu.processes, tuple) else ():
        name = process.name if isinstance(process.name, str) else f"name n/a ({process.name.reason})"
        used = line([("memory", mapped(process.memory_bytes, size))])
        processes.append(f"{process.kind} process {process.pid} ({name}), {used}")
    if processes:
        yield "processes", "; ".join(processes)


def way(gpu: Gpu, path: PciPath) -> Iterable[str]:
    """The path's minimum, and what makes it so."""
    narrowest = next((hop for hop in path.hops if hop.device == path.narrowest), None)
    if narrowest is None:
        return
    expected = path.expected
    band = "" if isinstance(expected, Absent) else f"; expect {gigabytes(expected.low)} to {gigabytes(expected.high)}"
    yield f"{_speed(gpu, path, narrowest)}{band}"
    if len(path.hops) > 1 and isinstance(narrowest.port, str):
        yield f"narrowest of {len(path.hops)} links: {narrowest.port} to {narrowest.device}"
    for hop in path.hops:
        yield from hop.limits
    if path.shared_with:
        yield f"shares that link with {', '.join(path.shared_with)}"
    if isinstance(path.chipset, str):
        yield f"through the {path.chipset}, whose cards share one link to the CPU"
    if path.hops_unknown:
        yield f"{counted(path.hops_unknown, 'link')} on the way not reported: this is an upper bound"


def _speed(gpu: Gpu, path: PciPath, narrowest: PciHop) -> str:
    """An idle card rests at gen 1: that is information, not a fault."""
    link = lanes(narrowest.generation_best, narrowest.width_best_lanes)
    best = f"{link}, {gigabytes(path.best_bytes_per_s)} GB/s each way"
    own = path.hops[-1]
    at_rest = isinstance(gpu.performance_state, int) and gpu.performance_state > 2
    now = mapped(own.generation_now, lambda generation: f"gen {generation} now{' (idle)' if at_rest else ''}")
    slower = isinstance(own.generation_now, int) and own.generation_now != own.generation_best
    if isinstance(path.awake_bytes_per_s, Absent):
        return f"{now}, capable of {best}" if slower and isinstance(now, str) else f"capable of {best}"
    if path.awake_bytes_per_s == path.best_bytes_per_s:
        return f"{best}; {now}" if slower and isinstance(now, str) else best
    hop = next((hop for hop in path.hops if hop.device == path.narrowest_awake), narrowest)
    at_work = lanes(hop.generation_awake, hop.width_now_lanes)
    return f"{at_work} at work, {gigabytes(path.awake_bytes_per_s)} GB/s each way; capable of {best}"


def lanes(generation: int | Absent, width: int | Absent) -> str:
    if isinstance(generation, Absent) or isinstance(width, Absent):
        return "not reported"
    return f"gen {generation} x{width}"


def _power(gpu: Gpu) -> list[Fact]:
    low, high = gpu.power_limit_min_watts, gpu.power_limit_max_watts
    limit, default = gpu.power_limit_watts, gpu.power_limit_default_watts
    if isinstance(limit, Absent) or isinstance(default, Absent):
        return [("power limit", mapped(limit, units.format_watts, "limit"))]
    at_default = ", the default" if limit == default else f", default {units.format_watts(default)}"
    can = "" if isinstance(low, Absent) or isinstance(high, Absent) else f"can be {low:g} to {high:g} W"
    return [("power limit", f"limit {units.format_watts(limit)}{at_default}"), ("bounds", can)]
