"""Is each card there, healthy, cool, at its full power and ours alone?"""

from __future__ import annotations

from rigbench.core import units
from rigbench.core.finding import Cost, Finding
from rigbench.core.record import Absent
from rigbench.core.verdict import cost, finding, label, merged, unique
from rigbench.machine.record import Gpu, GpuProcess
from rigbench.topology.record import Topology

NVIDIA = "10de"
RECORDED = "the recording"  # how the reasons of a recording's missing parts begin
LOST = "GPU is lost"
# nvmlReturn_t 8, 11 and 16: the card is there and will not work as it is.
UNWELL = {"external power cable not attached", "interrupt problem", "GPU needs a reset"}
# Reasons for which a working card may tell neither name nor UUID: the caller's, the driver's age, a container's walls.
HARMLESS = {
    "not supported",
    "not supported with vGPU ECC",
    "no permission",
    "function not found in this driver",
    "function not found in this pynvml",
    "structure version not known to this driver",
    "deprecated in this driver",
}
NEAR_CELSIUS = 5.0
HALF_A_WATT = 0.5
# nvmlClocksEventReason*; rest, the ordinary power cap and clocks that somebody chose are no news.
HELD_DOWN = {
    0x08: "hardware slowdown (0x8)",
    0x20: "software thermal slowdown (0x20)",
    0x40: "hardware thermal slowdown (0x40)",
    0x80: "power brake (0x80)",
}
KERNEL_LOG = "sudo dmesg | grep -iE 'nvrm|xid'"


def on_the_bus_without_driver(topology: Topology) -> list[Finding]:
    """Nothing of the kind can be said of a recording in which the driver was not recorded."""
    why = topology.driver_gpus
    if not isinstance(why, Absent) or why.reason.startswith(RECORDED) or not topology.gpus:
        return []
    evidence = [f"the PCI tree shows {gpu.pci_bus_id} (10de:{gpu.pci_device_id})" for gpu in topology.gpus]
    said = f"the driver: {why.reason}"
    return [finding("no-driver", "fault", [*evidence, said], map(label, topology.gpus), "all of it", [KERNEL_LOG])]


def lost(topology: Topology) -> list[Finding]:
    return merged(
        [
            finding("gpu-lost", "fault", [f"the driver's answer: {LOST} (15)"], [label(gpu)], "all of it", [KERNEL_LOG])
            for gpu in topology.gpus
            if LOST in _reasons(gpu)
        ]
    )


def unreadable(topology: Topology) -> list[Finding]:
    found = []
    for gpu in topology.gpus:
        reasons = _reasons(gpu)
        told = [reason for reason in reasons if reason in UNWELL]
        identity = [fact.reason for fact in (gpu.name, gpu.uuid, gpu.pci_bus_id) if isinstance(fact, Absent)]
        if len(identity) == 3 and not HARMLESS & set(identity):
            told += identity
        if told and LOST not in reasons:
            evidence = [f"the driver's answer: {reason}" for reason in unique(told)]
            found.append(finding("gpu-unreadable", "fault", evidence, [label(gpu)], "all of it", [KERNEL_LOG]))
    return merged(found)


def _reasons(gpu: Gpu) -> set[str]:
    facts = (getattr(gpu, name) for name in gpu.__struct_fields__)
    return {fact.reason for fact in facts if isinstance(fact, Absent)}


def not_listed(topology: Topology) -> list[Finding]:
    """NVIDIA cards on the bus beside those of the driver; a container is often given only some."""
    if isinstance(topology.driver_gpus, Absent):
        return []
    listed = {gpu.pci_bus_id for gpu in topology.gpus}
    if any(isinstance(bus_id, Absent) for bus_id in listed):
        return []  # which one that is, nobody can tell
    extra = [item for item in topology.pci if item.kind == "GPU" and item.vendor_id == NVIDIA]
    where = [item.bus_id for item in extra if item.bus_id not in listed]
    evidence = [f"the driver lists {len(topology.gpus)}, the PCI tree holds {len(extra)}"]
    return [finding("gpu-not-listed", "information", evidence, where, "all of it, here", [KERNEL_LOG])] if where else []


def memory_health(topology: Topology) -> list[Finding]:
    found = []
    for gpu in topology.gpus:
        where, index = [label(gpu)], gpu.index
        recent = gpu.ecc_uncorrected_errors_since_load
        if isinstance(recent, int) and recent:
            counts = [f"{recent} uncorrected ECC errors since the driver was loaded"]
            found.append(finding("ecc-uncorrected", "fault", counts, where, "trust, not speed"))
        if gpu.row_remap_failed is True:
            said = ["the driver says that a row remap failed"]
            found.append(finding("row-remap-failed", "fault", said, where, "trust, not speed"))
        if gpu.row_remap_pending is True:
            said, reset = ["the driver says that a row remap is pending"], f"sudo nvidia-smi -i {index} --gpu-reset"
            found.append(finding("row-remap-pending", "warning", said, where, "nothing in speed", [reset]))
        counted = {
            "corrected ECC errors over its life": gpu.ecc_corrected_errors,
            "uncorrected ECC errors over its life": gpu.ecc_uncorrected_errors,
            "rows remapped after corrected errors": gpu.remapped_rows_corrected,
            "rows remapped after uncorrected errors": gpu.remapped_rows_uncorrected,
        }
        history = [f"{count} {what}" for what, count in counted.items() if isinstance(count, int) and count]
        if history:
            found.append(finding("memory-errors", "information", history, where, "nothing in speed"))
    return merged(found)


def replays(topology: Topology) -> list[Finding]:
    found = [
        finding(
            "pcie-replays", "information", [f"{gpu.pcie_replays} replays"], [label(gpu)], "a count without its time"
        )
        for gpu in topology.gpus
        if isinstance(gpu.pcie_replays, int) and gpu.pcie_replays
    ]
    return merged(found)


def near_slowdown(topology: Topology) -> list[Finding]:
    """Degrees where the card tells its threshold, else its margins (T.Limit), which count down and below zero."""
    found = []
    for gpu in topology.gpus:
        now, limit = gpu.temperature_celsius, gpu.slowdown_celsius
        margin, at_margin = gpu.margin_celsius, gpu.slowdown_at_margin_celsius
        if isinstance(now, float) and isinstance(limit, float):
            left, said = limit - now, f"{now:g} °C, slows down at {limit:g}"
        elif isinstance(margin, float) and isinstance(at_margin, float):
            left, said = margin - at_margin, f"{margin:g} °C below its limit, slows down at {at_margin:g}"
        else:
            continue
        if left <= NEAR_CELSIUS:
            found.append(finding("near-slowdown", "warning", [said], [label(gpu)], "nothing before the limit"))
    return merged(found)


def throttled(topology: Topology) -> list[Finding]:
    found = []
    for gpu in topology.gpus:
        bits = gpu.throttle_bits if isinstance(gpu.throttle_bits, int) else 0
        named = [text for bit, text in HELD_DOWN.items() if bits & bit]
        if named:
            evidence = [f"held down by {', '.join(named)}"]
            found.append(finding("throttled", "warning", evidence, [label(gpu)], "only a measurement under load tells"))
    return merged(found)


def power_limit(topology: Topology) -> list[Finding]:
    found = []
    for gpu in topology.gpus:
        limit, default = gpu.power_limit_watts, gpu.power_limit_default_watts
        if isinstance(limit, Absent) or isinstance(default, Absent) or limit > default - HALF_A_WATT:
            continue
        low, high = units.format_watts(limit), units.format_watts(default)
        evidence = [f"limit {low}, {units.format_share(limit / default)} of the default {high}"]
        sentence = f"{low} instead of {high}; what that is in speed, only a measurement at both tells"
        price = cost(sentence, "watts", limit, default, "the driver's limits", "measured")
        command = f"sudo nvidia-smi -i {gpu.index} -pl {default:g}"
        found.append(finding("power-limit", "warning", evidence, [label(gpu)], price, [command]))
    return merged(found)


def persistence(topology: Topology) -> list[Finding]:
    """A display keeps the driver open all the same; a guest of Windows has no such mode."""
    found = [
        finding(
            "persistence-off",
            "information",
            ["persistence mode is off"],
            [label(gpu)],
            "some seconds at each start, not measured here",
            ["sudo systemctl enable --now nvidia-persistenced", "sudo nvidia-smi -pm 1"],
        )
        for gpu in topology.gpus
        if gpu.persistence is False and gpu.display_active is not True and topology.virtual_machine != "WSL2"
    ]
    return merged(found)


def in_use(topology: Topology) -> list[Finding]:
    """Programs that only draw are on every desktop and not counted."""
    found = []
    for gpu in topology.gpus:
        listed = gpu.processes if isinstance(gpu.processes, tuple) else ()
        others = [process for process in listed if process.kind != "graphics"]
        if others:
            pids = ",".join(str(process.pid) for process in others)
            evidence = [_process(process) for process in others]
            found.append(
                finding("gpu-in-use", "warning", evidence, [label(gpu)], _taken(gpu, others), [f"ps -fp {pids}"])
            )
    return merged(found)


def _process(process: GpuProcess) -> str:
    name = f" ({process.name})" if isinstance(process.name, str) else ""
    held = f", {units.format_bytes(process.memory_bytes)}" if isinstance(process.memory_bytes, int) else ""
    return f"{process.kind} process {process.pid}{name}{held}"


def _taken(gpu: Gpu, processes: list[GpuProcess]) -> Cost | str:
    held = [process.memory_bytes for process in processes if isinstance(process.memory_bytes, int)]
    total = gpu.memory_total_bytes
    if not held or isinstance(total, Absent):
        return "the memory that it holds is not reported"
    sentence = f"{units.format_bytes(sum(held))} of {units.format_bytes(total)}, and its share of the time"
    return cost(sentence, "bytes", total - sum(held), total, "the driver's list of processes", "measured")


def mixed(topology: Topology) -> list[Finding]:
    ids = {gpu.pci_device_id for gpu in topology.gpus if isinstance(gpu.pci_device_id, str)}
    if len(ids) < 2:
        return []
    kinds: dict[str, list[str]] = {}
    for gpu in topology.gpus:
        name = gpu.name if isinstance(gpu.name, str) else f"a card 10de:{gpu.pci_device_id}"
        kinds.setdefault(name, []).append(label(gpu))
    evidence = [f"{', '.join(labels)}: {name}" for name, labels in kinds.items()]
    where = map(label, topology.gpus)
    return [finding("mixed-gpus", "information", evidence, where, "it depends on how the work is split")]
