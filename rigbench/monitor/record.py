"""What is watched and how: options, a line per event as it is recorded, and the summary that the events add up to.

A recording (`rigbench monitor --record FILE`) is one JSON document per line: a MonitorHeader, then MonitorCard,
MonitorTick, MonitorSlow and MonitorKernel in the order in which they happened, then a MonitorEnd. Moments are seconds
since the header.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.finding import Finding
from rigbench.core.options import TEXT, Option, Reader, size
from rigbench.core.record import Absent, Record
from rigbench.machine.record import KernelEvent

FORMAT = 1  # of a recording
METHOD = 1
FASTEST_SECONDS, SLOWEST_SECONDS = 0.1, 3600.0  # sensors themselves move at about 10 Hz
SLOW_SECONDS = 5.0
LOOK_SECONDS = 5.0  # how often the last window is looked at for hints
FOREVER = Absent("until the user says stop")
NOT_READ = Absent("not read yet")
NOT_GONE = Absent("not gone")
NO_FILE = Absent("no file was named")

MonitorEndedBy = Literal["time is up", "one look", "stopped by the user", "recording ended", "cut short"]


FOR_SECONDS = Reader(lambda text, option: FOREVER if text == "forever" else units.parse_seconds(text, option))


def _interval(text: str, option: str) -> float:
    period = units.parse_seconds(text, option)
    if not FASTEST_SECONDS <= period <= SLOWEST_SECONDS:
        why = "sensors move ten times a second" if period < FASTEST_SECONDS else "nothing would be seen"
        raise RigbenchError(f"{option} {text!r}: {why}", "give 0.1s to 1h")
    return period


class Options(Record, frozen=True, kw_only=True):
    seconds: Annotated[
        float | Absent, Option(FOR_SECONDS, "So long, as 45, 10min or 8h. Default: forever, until Ctrl-C.", "N")
    ] = FOREVER
    interval: Annotated[
        float, Option(Reader(_interval, lambda seconds: f"{seconds:g}s"), "Between two readings; 0.1s to 1h.", "1s")
    ] = 1.0
    record: Annotated[
        str | Absent, Option(TEXT, "Write every reading, a JSON document a line.", "FILE", private=True)
    ] = NO_FILE
    record_limit: Annotated[
        int,
        Option(
            size(64 << 10, usual="give 64KiB or more, as 1GiB"),
            "The most that --record writes: FILE, then FILE.1 and older parts, of which the oldest goes.",
            "SIZE",
        ),
    ] = 1 << 30
    force: Annotated[bool, Option(None, "Replace the file of --record.", private=True)] = False
    once: Annotated[bool, Option(None, "One look, over one interval; with --json for scripts.")] = False
    recorded: Annotated[str | Absent, Option(TEXT, "The summary of what --record wrote.", "FILE", ("--from",))] = (
        NO_FILE
    )

    @property
    def slow_seconds(self) -> float:
        return max(SLOW_SECONDS, self.interval)

    @property
    def length_seconds(self) -> float | Absent:
        """One look is two readings, an interval apart, so that rates are known."""
        return self.interval if self.once else self.seconds


class MonitorHeader(Record, frozen=True, kw_only=True):
    rigbench_monitor: int = FORMAT
    started_at: str
    interval_seconds: Annotated[float, msgspec.Meta(ge=1e-3)]  # of a shorter one no window would end
    slow_seconds: float  # the rhythm of MonitorSlow
    replayed: bool
    core_count: int | Absent
    host_memory_total_bytes: int | Absent
    gpu_count: int | Absent  # or why no GPU is seen
    notes: tuple[str, ...] = ()


class MonitorCard(Record, frozen=True, kw_only=True):
    """A GPU comes into view, or its power limit changes; `device` is its name everywhere else."""

    at_seconds: float
    device: str
    name: str | Absent
    uuid: str | Absent
    memory_total_bytes: int | Absent
    power_limit_watts: float | Absent
    target_celsius: float | Absent = NOT_READ  # from where on the driver lowers its clocks
    slowdown_celsius: float | Absent = NOT_READ  # and the hardware


class GpuTick(Record, frozen=True, kw_only=True):
    utilisation_share: float | Absent = NOT_READ
    memory_used_bytes: int | Absent = NOT_READ
    power_watts: float | Absent = NOT_READ
    temperature_celsius: float | Absent = NOT_READ
    sm_clock_hertz: float | Absent = NOT_READ
    fan_share: float | Absent = NOT_READ
    throttle_bits: int | Absent = NOT_READ
    energy_joules: float | Absent = NOT_READ
    pcie_replays: int | Absent = NOT_READ


class HostTick(Record, frozen=True, kw_only=True):
    busy_share: float | Absent = NOT_READ
    iowait_share: float | Absent = NOT_READ
    cores_at_limit: int | Absent = NOT_READ
    load_average: float | Absent = NOT_READ
    memory_used_bytes: int | Absent = NOT_READ
    swap_used_bytes: int | Absent = NOT_READ
    disk_read_bytes_per_s: float | Absent = NOT_READ  # of this machine's own disks, not of network storage
    disk_write_bytes_per_s: float | Absent = NOT_READ
    temperature_celsius: float | Absent = NOT_READ
    energy_joules: float | Absent = NOT_READ


class MonitorTick(Record, frozen=True):
    at_seconds: float
    gpus: dict[str, GpuTick]
    host: HostTick


class MonitorProcess(Record, frozen=True, kw_only=True):
    pid: int
    kind: str
    name: str | Absent
    memory_bytes: int | Absent
    children: int | Absent
    cores: float | Absent  # of the CPU, that it and its children use
    children_at_limit: int | Absent  # how many of them use a whole core


class GpuSlow(Record, frozen=True):
    to_gpu_bytes_per_s: float | Absent  # PCIe, in one window of 20 ms each, as the driver measures it
    from_gpu_bytes_per_s: float | Absent
    processes: tuple[MonitorProcess, ...] | Absent


class MonitorSlow(Record, frozen=True):
    at_seconds: float
    gpus: dict[str, GpuSlow]


class MonitorKernel(Record, frozen=True):
    """A line of the kernel's log, new since the tick before; of a replay one that its capture holds."""

    at_seconds: float
    event: KernelEvent


class MonitorEnd(Record, frozen=True):  # missing where the watch was killed or its disk was full
    at_seconds: float
    ended_by: MonitorEndedBy


MonitorEvent = MonitorHeader | MonitorCard | MonitorTick | MonitorSlow | MonitorKernel | MonitorEnd


class Watched(Record, frozen=True):
    now: float | Absent
    mean: float  # this and the next two over all of the time
    low: float
    high: float
    n: int  # answered ticks


class Gone(Record, frozen=True):
    """A GPU that answers nothing any more, and the driver's reason."""

    since_seconds: float
    reason: str


class WatchedEnergy(Record, frozen=True):
    joules: float  # since the first tick
    seconds: float
    method: Literal["counter", "integrated"]  # the device's own, or its power over the ticks


class MonitorGpu(Record, frozen=True, kw_only=True):
    device: str
    name: str | Absent
    uuid: str | Absent
    memory_total_bytes: int | Absent
    power_limit_watts: float | Absent
    utilisation_share: Watched | Absent  # of time in which any kernel ran, not how much of the card it filled
    memory_used_bytes: Watched | Absent
    power_watts: Watched | Absent
    temperature_celsius: Watched | Absent
    sm_clock_hertz: Watched | Absent
    fan_share: Watched | Absent
    throttle_now: tuple[str, ...]
    throttle_share: dict[str, float]  # per reason, of which idleness is one
    throttle_ticks: int  # that were answered
    energy: WatchedEnergy | Absent
    to_gpu_bytes_per_s: Watched | Absent
    from_gpu_bytes_per_s: Watched | Absent
    pcie_replays: int | Absent
    processes: tuple[MonitorProcess, ...] | Absent
    target_celsius: float | Absent = NOT_READ
    slowdown_celsius: float | Absent = NOT_READ
    gone: Gone | Absent = NOT_GONE
    unanswered_ticks: int = 0
    frozen: str | Absent = Absent("its readings move")  # which sensor stands still though the card works


class MonitorHost(Record, frozen=True, kw_only=True):
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
    package_energy: WatchedEnergy | Absent  # of the CPU package alone


class MonitorHint(Record, frozen=True):
    """What a window of readings suggests, over all of the time. A hint is not a measurement."""

    hint: Finding  # with the evidence of its last window
    first_seconds: float
    last_seconds: float
    held_looks: int
    looks: int  # in all
    holds_now: bool


class KernelSeen(Record, frozen=True):
    event: KernelEvent  # the first of its kind and device, with the count of all
    first_seconds: float
    last_seconds: float


class Monitor(Record, frozen=True, kw_only=True):
    method: int
    started_at: str
    seconds: float
    interval_seconds: float
    slow_seconds: float  # PCIe traffic is sampled: 20 ms of each of these
    window_seconds: float  # what hints rest on; shares and means are of all of the time
    ticks: int
    late_ticks: int  # missed because reading took longer than the interval
    replayed: bool
    ended_by: MonitorEndedBy | Literal["still watching"]
    gpus: tuple[MonitorGpu, ...]
    gpu_count: int | Absent
    host: MonitorHost
    hints: tuple[MonitorHint, ...]
    notes: tuple[str, ...] = ()
    kernel: tuple[KernelSeen, ...] = ()  # worst first

    @property
    def at_fault(self) -> bool:
        """A GPU that answers no more, a hint of a fault that held, or a fault in the kernel's log."""
        hinted = any(held.hint.severity == "fault" for held in self.hints)
        hinted = hinted or any(seen.event.severity == "fault" for seen in self.kernel)
        return hinted or any(isinstance(gpu.gone, Gone) for gpu in self.gpus)
