"""What does each GPU look like on a screen: the card, its way to memory, its state, its health, its company?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

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
from rigbench.machine.record import Gpu, GpuProcess, PciHop, PciPath
from rigbench.topology.record import Topology

if TYPE_CHECKING:
    from rich.console import RenderableType


def gpus(topology: Topology) -> RenderableType | None:
    from rich.console import Group

    absent = topology.driver_gpus
    why = [grid([("driver", f"n/a ({absent.reason})")])] if isinstance(absent, Absent) else []
    paths = {path.label: path for path in topology.paths}
    topics = {gpu.index: _topics(gpu, paths.get(f"GPU{gpu.index}")) for gpu in topology.gpus}
    unknown = {index: missing(fact for facts in own.values() for fact in facts) for index, own in topics.items()}
    alike = len(unknown) > 1 and len(set(unknown.values())) == 1
    rows: list[tuple[str, str]] = []
    for gpu in topology.gpus:
        rows += block(gpu, paths.get(f"GPU{gpu.index}"), topics[gpu.index])
        rows += [("", unknown[gpu.index])] if unknown[gpu.index] and not alike else []
    rows += [("all", next(iter(unknown.values())))] if alike and any(unknown.values()) else []
    return Group(*why, *([grid(rows)] if rows else [])) if why or rows else None


def _topics(gpu: Gpu, path: PciPath | None) -> dict[str, list[Fact]]:
    """A GPU's lines but for its name, its way to memory and what only some cards have."""
    card: list[Fact] = [
        ("name", gpu.name),
        ("memory", mapped(gpu.memory_total_bytes, size)),
        ("bus id", gpu.pci_bus_id),
        ("profile", if_known(gpu.profile)),
    ]
    link: list[Fact] = [("link", path.best_bytes_per_s)] if path and isinstance(path.best_bytes_per_s, Absent) else []
    modes: Fact = ("mode", _modes(gpu))
    slot = [*_bar1(gpu), *_near(gpu)]
    return {"card": card, "link": link, "now": _now(gpu), "power": [*_power(gpu), modes], "slot": slot}


def block(gpu: Gpu, path: PciPath | None, topics: dict[str, list[Fact]]) -> Iterable[tuple[str, str]]:
    """A GPU's lines, without what the driver would not say."""
    yield f"GPU{gpu.index}", known(topics["card"]) or "a card that tells nothing"
    for number, text in enumerate(way(gpu, path) if path else ()):
        yield ("link" if number == 0 else ""), text
    for label in ("now", "power", "slot"):
        if known(topics[label]):
            yield label, known(topics[label])
    for label, text in (("health", _health(gpu)), ("MIG", _mig(gpu)), ("in use", _company(gpu))):
        if text:
            yield label, text


def way(gpu: Gpu, path: PciPath) -> Iterable[str]:
    """The path's minimum, and what makes it so."""
    narrowest = next((hop for hop in path.hops if hop.device == path.narrowest), None)
    if narrowest is None:
        return
    yield f"{_speed(gpu, path, narrowest)}{_expected(path)}"
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


def _expected(path: PciPath) -> str:
    if isinstance(path.expected, Absent):
        return ""
    return f"; expect {gigabytes(path.expected.low)} to {gigabytes(path.expected.high)}"


def lanes(generation: int | Absent, width: int | Absent) -> str:
    if isinstance(generation, Absent) or isinstance(width, Absent):
        return "not reported"
    return f"gen {generation} x{width}"


def _now(gpu: Gpu) -> list[Fact]:
    limit = _limit(gpu)
    return [
        ("temperature", mapped(gpu.temperature_celsius, lambda celsius: f"{degrees(celsius)}{limit}")),
        ("memory temperature", if_known(mapped(gpu.memory_temperature_celsius, degrees, "memory"))),
        ("power", of_limit(gpu.power_watts, gpu.power_limit_watts, units.format_watts)),
        ("fan", if_known(mapped(gpu.fan_share, units.format_share, "fan"))),
        ("state", mapped(gpu.performance_state, lambda state: f"P{state}")),
        ("used memory", mapped(gpu.memory_used_bytes, lambda used: f"{size(used)} in use")),
    ]


def _limit(gpu: Gpu) -> str:
    """Newer cards tell how far they are from their limit, not where it is."""
    if not isinstance(gpu.slowdown_celsius, Absent):
        return f" (slows down at {gpu.slowdown_celsius:g})"
    if isinstance(gpu.margin_celsius, Absent) or isinstance(gpu.slowdown_at_margin_celsius, Absent):
        return ""
    return f" ({gpu.margin_celsius:g} below its limit, slows down at {gpu.slowdown_at_margin_celsius:g})"


def _power(gpu: Gpu) -> list[Fact]:
    low, high = gpu.power_limit_min_watts, gpu.power_limit_max_watts
    limit, default = gpu.power_limit_watts, gpu.power_limit_default_watts
    if isinstance(limit, Absent) or isinstance(default, Absent):
        return [("power limit", mapped(limit, units.format_watts, "limit"))]
    text = f"limit {units.format_watts(limit)}" + (
        "" if limit == default else f", default {units.format_watts(default)}"
    )
    can = "" if isinstance(low, Absent) or isinstance(high, Absent) else f"can be {low:g} to {high:g} W"
    return [("power limit", f"{text}, the default" if limit == default else text), ("bounds", can)]


def _bar1(gpu: Gpu) -> list[Fact]:
    covers = if_known(
        mapped(gpu.bar1_covers_memory, lambda all_of_it: "all of the memory (ReBAR on)" if all_of_it else "ReBAR off")
    )
    return [("BAR1", mapped(gpu.bar1_total_bytes, size, "BAR1")), ("ReBAR", covers)]


def _near(gpu: Gpu) -> list[Fact]:
    node = if_known(mapped(gpu.numa_node, lambda node: f"NUMA node {node}"))
    return [("CPUs", if_known(mapped(gpu.cpu_affinity, str, "near CPUs"))), ("NUMA node", node)]


def _health(gpu: Gpu) -> str:
    counts = {
        "PCIe replays": gpu.pcie_replays,
        "uncorrected ECC errors": gpu.ecc_uncorrected_errors,
        "corrected ECC errors": gpu.ecc_corrected_errors,
        "rows remapped after uncorrected errors": gpu.remapped_rows_uncorrected,
        "rows remapped after corrected errors": gpu.remapped_rows_corrected,
    }
    found = [f"{count} {what}" for what, count in counts.items() if isinstance(count, int) and count]
    found += ["a row remap waits for a reset"] if gpu.row_remap_pending is True else []
    found += ["a row remap failed"] if gpu.row_remap_failed is True else []
    return ", ".join(found)


def _modes(gpu: Gpu) -> str:
    """Only what is not as on every other card."""
    mode = gpu.compute_mode if isinstance(gpu.compute_mode, str) and gpu.compute_mode != "default" else ""
    found = [f"compute mode {mode}"] if mode else []
    found += ["drives a display"] if gpu.display_active is True else []
    found += ["persistence off"] if gpu.persistence is False else []
    found += ["ECC off"] if gpu.ecc_enabled is False else []
    return ", ".join(found)


def _mig(gpu: Gpu) -> str:
    if gpu.mig_enabled is not True:
        return ""
    if isinstance(gpu.mig_devices, Absent):
        return f"on; its parts n/a ({gpu.mig_devices.reason})"
    parts = [known([("", device.name), ("", mapped(device.memory_total_bytes, size))]) for device in gpu.mig_devices]
    return f"on, {counted(len(parts), 'part')}{': ' if parts else ''}{'; '.join(parts)}"


def _company(gpu: Gpu) -> str:
    return "; ".join(map(_process, gpu.processes)) if isinstance(gpu.processes, tuple) else ""


def _process(process: GpuProcess) -> str:
    name = process.name if isinstance(process.name, str) else f"name n/a ({process.name.reason})"
    used = line([("memory", mapped(process.memory_bytes, size))])
    return f"{process.kind} process {process.pid} ({name}), {used}"
