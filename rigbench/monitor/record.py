"""What was seen while watching a rig at work: a line per event as it is recorded, and the summary that they add up to?

A recording (`rigbench monitor --record FILE`) is one JSON document per line: a MonitorHeader, then MonitorCard,
MonitorMissing, MonitorTick and MonitorSlow in the order in which they happened, then a MonitorEnd. Moments are seconds
since the header.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from rigbench.core.record import Absent, Record

FORMAT = 1  # of a recording
METHOD = 1

MonitorEndedBy = Literal["time is up", "one look", "stopped by the user", "recording ended", "cut short"]
HintSeverity = Literal["fault", "warning", "information"]
NOT_GONE = Absent("not gone")


class MonitorHeader(Record, frozen=True, kw_only=True):
    """How it is watched. `slow_seconds` is the rhythm of MonitorSlow; `gpus_absent` says why no GPU is seen."""

    rigbench_monitor: int = FORMAT
    started_at: str
    interval_seconds: float
    slow_seconds: float
    replayed: bool
    core_count: int | Absent
    host_memory_total_bytes: int | Absent
    gpus_absent: Absent | msgspec.UnsetType = msgspec.UNSET
    notes: tuple[str, ...] = ()


class MonitorCard(Record, frozen=True, kw_only=True):
    """A GPU comes into view, or its power limit changes; `device` is its name everywhere else."""

    at_seconds: float
    device: str
    name: str | Absent
    uuid: str | Absent
    memory_total_bytes: int | Absent
    power_limit_watts: float | Absent


class MonitorMissing(Record, frozen=True):
    """From here on these readings of a device are not answered, and why: an empty mapping means that all are."""

    at_seconds: float
    device: str
    reasons: dict[str, str]


class GpuTick(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU at one tick. A reading that is not there is missing by the last MonitorMissing's reason."""

    utilisation_share: float | msgspec.UnsetType = msgspec.UNSET
    memory_used_bytes: int | msgspec.UnsetType = msgspec.UNSET
    power_watts: float | msgspec.UnsetType = msgspec.UNSET
    temperature_celsius: float | msgspec.UnsetType = msgspec.UNSET
    sm_clock_hertz: float | msgspec.UnsetType = msgspec.UNSET
    fan_share: float | msgspec.UnsetType = msgspec.UNSET
    throttle_bits: int | msgspec.UnsetType = msgspec.UNSET
    energy_joules: float | msgspec.UnsetType = msgspec.UNSET
    pcie_replays: int | msgspec.UnsetType = msgspec.UNSET


class HostTick(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The host at one tick, as GpuTick. Disk rates are of this machine's own disks, not of network storage."""

    busy_share: float | msgspec.UnsetType = msgspec.UNSET
    iowait_share: float | msgspec.UnsetType = msgspec.UNSET
    cores_at_limit: int | msgspec.UnsetType = msgspec.UNSET
    load_average: float | msgspec.UnsetType = msgspec.UNSET
    memory_used_bytes: int | msgspec.UnsetType = msgspec.UNSET
    swap_used_bytes: int | msgspec.UnsetType = msgspec.UNSET
    disk_read_bytes_per_s: float | msgspec.UnsetType = msgspec.UNSET
    disk_write_bytes_per_s: float | msgspec.UnsetType = msgspec.UNSET
    temperature_celsius: float | msgspec.UnsetType = msgspec.UNSET
    energy_joules: float | msgspec.UnsetType = msgspec.UNSET


class MonitorTick(Record, frozen=True):
    at_seconds: float
    gpus: dict[str, GpuTick]
    host: HostTick


class MonitorProcess(Record, frozen=True, kw_only=True):
    """A process on a GPU. `cores` is what it and its children use of the CPU, `children_at_limit` how many use one."""

    pid: int
    kind: str
    name: str | Absent
    memory_bytes: int | Absent
    children: int | Absent
    cores: float | Absent
    children_at_limit: int | Absent


class GpuSlow(Record, frozen=True):
    """What is read on a slower beat. PCIe rates are of one window of 20 ms each, as the driver measures them."""

    to_gpu_bytes_per_s: float | Absent
    from_gpu_bytes_per_s: float | Absent
    processes: tuple[MonitorProcess, ...] | Absent


class MonitorSlow(Record, frozen=True):
    at_seconds: float
    gpus: dict[str, GpuSlow]


class MonitorEnd(Record, frozen=True):
    """The last line, unless the watch was killed or its disk was full."""

    at_seconds: float
    ended_by: MonitorEndedBy


MonitorEvent = MonitorHeader | MonitorCard | MonitorMissing | MonitorTick | MonitorSlow | MonitorEnd


class Watched(Record, frozen=True):
    """A reading over all of the time: its last value, then mean, least and most of `n` answered ticks."""

    now: float | Absent
    mean: float
    low: float
    high: float
    n: int


class Gone(Record, frozen=True):
    """Since when a GPU answers nothing, and the driver's reason."""

    since_seconds: float
    reason: str


class WatchedEnergy(Record, frozen=True):
    """Joules since the first tick. "counter": the device's own; "integrated": its power over the ticks."""

    joules: float
    seconds: float
    method: Literal["counter", "integrated"]


class MonitorGpu(Record, frozen=True, kw_only=True):
    """One GPU since the start. `throttle_share` is of `throttle_ticks` answered ones, per reason; idleness is one.

    `busy` is the share of time in which any kernel ran, not how much of the card it filled. `frozen` says which sensor
    stands still though the card works.
    """

    device: str
    name: str | Absent
    uuid: str | Absent
    memory_total_bytes: int | Absent
    power_limit_watts: float | Absent
    utilisation_share: Watched | Absent
    memory_used_bytes: Watched | Absent
    power_watts: Watched | Absent
    temperature_celsius: Watched | Absent
    sm_clock_hertz: Watched | Absent
    fan_share: Watched | Absent
    throttle_now: tuple[str, ...]
    throttle_share: dict[str, float]
    throttle_ticks: int
    energy: WatchedEnergy | Absent
    to_gpu_bytes_per_s: Watched | Absent
    from_gpu_bytes_per_s: Watched | Absent
    pcie_replays: int | Absent
    processes: tuple[MonitorProcess, ...] | Absent
    gone: Gone | Absent = NOT_GONE
    unanswered_ticks: int = 0
    frozen: str | Absent = Absent("its readings move")


class MonitorHost(Record, frozen=True, kw_only=True):
    """The host beside them. `package_energy` is of the CPU package alone."""

    core_count: int | Absent
    memory_total_bytes: int | Absent
    busy_share: Watched | Absent
    iowait_share: Watched | Absent
    cores_at_limit: Watched | Absent
    load_average: Watched | Absent
    memory_used_bytes: Watched | Absent
    swap_used_bytes: Watched | Absent
    disk_read_bytes_per_s: Watched | Absent
    disk_write_bytes_per_s: Watched | Absent
    temperature_celsius: Watched | Absent
    package_energy: WatchedEnergy | Absent


class LiveHint(Record, frozen=True):
    """What a window of readings suggests, what was seen, and the next command to run. A hint is not a measurement."""

    code: str
    severity: HintSeverity
    where: tuple[str, ...]
    sentence: str
    evidence: tuple[str, ...]
    next: str


class MonitorHint(Record, frozen=True):
    """A hint over all of the time: held at `held_looks` of `looks`. The evidence is that of its last window."""

    hint: LiveHint
    first_seconds: float
    last_seconds: float
    held_looks: int
    looks: int
    holds_now: bool


class Monitor(Record, frozen=True, kw_only=True):
    """The summary. Hints rest on the last `window_seconds`, shares and means on all of the time.

    `late_ticks` were missed because reading took longer than the interval. PCIe traffic is sampled: 20 ms of every
    `slow_seconds`.
    """

    method: int
    started_at: str
    seconds: float
    interval_seconds: float
    slow_seconds: float
    window_seconds: float
    ticks: int
    late_ticks: int
    replayed: bool
    ended_by: MonitorEndedBy | Literal["still watching"]
    gpus: tuple[MonitorGpu, ...]
    gpus_absent: Absent | msgspec.UnsetType = msgspec.UNSET
    host: MonitorHost
    hints: tuple[MonitorHint, ...]
    notes: tuple[str, ...] = ()

    @property
    def at_fault(self) -> bool:
        """A GPU that answers no more, or a hint of a fault that held."""
        return any(isinstance(gpu.gone, Gone) for gpu in self.gpus) or any(
            held.hint.severity == "fault" for held in self.hints
        )
