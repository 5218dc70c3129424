"""Tells a watch's readings as alarms' state and as samples for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rigbench.alarms import DiskLeft, State
from rigbench.core.record import Absent
from rigbench.machine.record import KernelEvent
from rigbench.monitor.record import Gone, Monitor, Watched
from rigbench.openmetrics import Sample

GPU = {  # fields of MonitorGpu, as they are now
    "utilisation_share": ("utilisation_ratio", "Share of time in which any kernel ran."),
    "memory_used_bytes": ("memory_used_bytes", "Memory in use."),
    "power_watts": ("power_watts", "Power that the card draws."),
    "temperature_celsius": ("temperature_celsius", "Temperature of the chip."),
    "sm_clock_hertz": ("sm_clock_hertz", "Clock of the multiprocessors."),
    "fan_share": ("fan_ratio", "Speed of its first fan, of the highest."),
    "to_gpu_bytes_per_s": ("pcie_to_gpu_bytes_per_second", "PCIe traffic to the card, in one window of 20 ms."),
    "from_gpu_bytes_per_s": ("pcie_from_gpu_bytes_per_second", "PCIe traffic from the card, in one window of 20 ms."),
}
LIMITS = {  # that do not move
    "memory_total_bytes": ("memory_total_bytes", "Memory of the card."),
    "power_limit_watts": ("power_limit_watts", "Power limit that is set."),
}
HOST = {
    "busy_share": ("cpu_busy_ratio", "Share of the CPU's time that is used."),
    "iowait_share": ("cpu_iowait_ratio", "Share of the CPU's time spent waiting for disks."),
    "memory_used_bytes": ("memory_used_bytes", "Memory in use."),
    "disk_read_bytes_per_s": ("disk_read_bytes_per_second", "Read from this machine's own disks."),
    "disk_write_bytes_per_s": ("disk_written_bytes_per_second", "Written to this machine's own disks."),
    "temperature_celsius": ("cpu_temperature_celsius", "Temperature of the CPU."),
}


def samples(monitor: Monitor) -> Iterator[Sample]:
    """Readings as they are now; one that is missing has no sample."""
    for field, (name, words) in GPU.items():
        for gpu in monitor.gpus:
            if (value := _now(getattr(gpu, field))) is not None and not isinstance(gpu.gone, Gone):
                yield Sample(f"rigbench_gpu_{name}", words, {"gpu": gpu.device}, value)
    for field, (name, words) in LIMITS.items():
        for gpu in monitor.gpus:
            if not isinstance(value := getattr(gpu, field), Absent):
                yield Sample(f"rigbench_gpu_{name}", words, {"gpu": gpu.device}, value)
    for gpu in monitor.gpus:
        name = gpu.name if isinstance(gpu.name, str) else ""
        yield Sample("rigbench_gpu_info", "Always 1.", {"gpu": gpu.device, "name": name}, 1.0)
    for gpu in monitor.gpus:
        yield Sample(
            "rigbench_gpu_up", "1 while the card answers.", {"gpu": gpu.device}, float(isinstance(gpu.gone, Absent))
        )
    for gpu in monitor.gpus:
        if not isinstance(gpu.energy, Absent):
            words = "Energy since the watch began."
            yield Sample("rigbench_gpu_energy_joules", words, {"gpu": gpu.device}, gpu.energy.joules, "counter")
    for gpu in monitor.gpus:
        for reason in gpu.throttle_share:
            words, labels = "1 where the reason holds clocks down now.", {"gpu": gpu.device, "reason": reason}
            yield Sample("rigbench_gpu_throttled", words, labels, float(reason in gpu.throttle_now))
    for field, (name, words) in HOST.items():
        if (value := _now(getattr(monitor.host, field))) is not None:
            yield Sample(f"rigbench_host_{name}", words, {}, value)
    for seen in monitor.kernel:
        labels = {"code": seen.event.code, "device": seen.event.where, "severity": seen.event.severity}
        yield Sample("rigbench_kernel_events", "Lines of the kernel's log.", labels, float(seen.event.count), "counter")
    for held in monitor.hints:
        labels = {"code": held.hint.code, "where": ",".join(held.hint.where), "severity": held.hint.severity}
        yield Sample("rigbench_hint", "1 while the hint holds.", labels, float(held.holds_now))
    yield Sample("rigbench_watched_seconds", "Since the watch began.", {}, monitor.seconds)


def state(
    monitor: Monitor, fresh: Sequence[KernelEvent], disks: tuple[DiskLeft, ...], left_seconds: float | Absent
) -> State:
    """What alarms may be raised by; `fresh` are the kernel's lines since the last time."""
    hints = [held.hint for held in monitor.hints if held.holds_now and held.hint.code.startswith("throttled-")]
    return State(
        at_seconds=monitor.seconds,
        throttled={device: hint.title.partition(": ")[2] or hint.title for hint in hints for device in hint.where},
        lost={gpu.device: gpu.gone.reason for gpu in monitor.gpus if isinstance(gpu.gone, Gone)},
        kernel=tuple(fresh),
        disks=disks,
        left_seconds=left_seconds,
    )


def _now(watched: Watched | Absent) -> float | None:
    value = watched if isinstance(watched, Absent) else watched.now
    return None if isinstance(value, Absent) else float(value)
