"""Reads how busy and how hot the host is: cores, memory, disks, CPU package energy, and the processes that feed GPUs.

Counters become rates between two readings: the first reading has none. Formats are those of proc(5).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rigbench.core.record import Absent
from rigbench.machine.host import SECTOR_BYTES, disk_names, parse_meminfo
from rigbench.machine.sysfs import Sysfs

AT_ITS_LIMIT = 0.95  # of a core's time
FIRST = Absent("needs two readings")
MOST_CHILDREN = 256  # of one process; a loader has a handful
POWERCAP = "sys/class/powercap"
HWMON = "sys/class/hwmon"
PACKAGE = re.compile(r"intel-rapl:\d+")  # AMD's packages carry this name too
CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class HostReading(NamedTuple):
    """The names are those of HostTick."""

    busy_share: float | Absent  # of all cores' time
    iowait_share: float | Absent
    cores_at_limit: int | Absent  # hardly ever idle
    load_average: float | Absent
    memory_used_bytes: int | Absent
    swap_used_bytes: int | Absent
    disk_read_bytes_per_s: float | Absent
    disk_write_bytes_per_s: float | Absent


class CoreTimes(NamedTuple):
    """Ticks since the machine started."""

    busy: int
    iowait: int
    total: int


class HostLoad:
    """Reads the host again and again; each reading costs four small files."""

    def __init__(self, sysfs: Sysfs, clock: Callable[[], float] = time.perf_counter) -> None:
        self._sysfs, self._clock = sysfs, clock
        self._cores: dict[str, CoreTimes] = {}
        self._transferred: tuple[float, int, int] | None = None  # when, bytes read, bytes written
        self._disks = frozenset(disk_names(sysfs))

    def read(self) -> HostReading:
        facts = parse_meminfo(self._sysfs.text("proc/meminfo"))
        memory, swap = (  # what could not be had by a new process, and swap in use
            facts[total] - facts[free] if total in facts and free in facts else Absent("not reported")
            for total, free in (("MemTotal", "MemAvailable"), ("SwapTotal", "SwapFree"))
        )
        load: str | float | Absent = self._sysfs.read_text("proc/loadavg")
        if isinstance(load, str):
            first = load.partition(" ")[0]
            load = float(first) if re.fullmatch(r"\d{1,9}\.\d+", first) else Absent("not a number")
        return HostReading(*self._core_shares(), load, memory, swap, *self._disk_rates())

    def memory_total_bytes(self) -> int | Absent:
        return parse_meminfo(self._sysfs.text("proc/meminfo")).get("MemTotal", Absent("not reported"))

    def core_count(self) -> int | Absent:
        stat = self._sysfs.read_text("proc/stat")
        return stat if isinstance(stat, Absent) else len(parse_stat(stat)) - 1 or Absent("not reported")

    def _core_shares(self) -> tuple[float | Absent, float | Absent, int | Absent]:
        stat = self._sysfs.read_text("proc/stat")
        if isinstance(stat, Absent):
            return stat, stat, stat
        before, self._cores = self._cores, parse_stat(stat)
        steps = {
            name: CoreTimes(*(max(0, later - earlier) for earlier, later in zip(before[name], now, strict=True)))
            for name, now in self._cores.items()
            if name in before
        }
        whole = steps.pop("cpu", None)
        if whole is None or whole.total <= 0:
            return FIRST, FIRST, FIRST
        full = sum(step.total > 0 and step.busy >= AT_ITS_LIMIT * step.total for step in steps.values())
        return whole.busy / whole.total, whole.iowait / whole.total, full

    def _disk_rates(self) -> tuple[float | Absent, float | Absent]:
        """Bytes per second of all disks together. Network file systems are not in these counters."""
        text = self._sysfs.read_text("proc/diskstats")
        if isinstance(text, Absent):
            return text, text
        if not self._disks:
            return Absent("no disk of this machine's own"), Absent("no disk of this machine's own")
        before, now = self._transferred, (self._clock(), *parse_diskstats(text, self._disks))
        self._transferred = now
        if before is None or now[0] <= before[0]:
            return FIRST, FIRST
        seconds = now[0] - before[0]
        return max(0, now[1] - before[1]) / seconds, max(0, now[2] - before[2]) / seconds


class ProcessLoad(NamedTuple):
    """A process with all its children. A rate is Absent until there are two readings."""

    children: int
    cores: float | Absent  # in use
    children_at_limit: int | Absent  # that use a whole core


class ProcessLoads:
    """The processor time of processes and of their children, between one reading and the next."""

    def __init__(self, sysfs: Sysfs, clock: Callable[[], float] = time.perf_counter) -> None:
        self._sysfs, self._clock = sysfs, clock
        self._before: dict[int, int] = {}
        self._at: float | None = None
        self._ticks_per_second = os.sysconf("SC_CLK_TCK")

    def read(self, pids: Iterable[int]) -> dict[int, ProcessLoad | Absent]:
        at, before = self._clock(), self._before
        seconds = 0.0 if self._at is None else at - self._at
        self._at, self._before = at, {}
        return {pid: self._of(pid, before, seconds) for pid in dict.fromkeys(pids)}

    def _of(self, pid: int, before: dict[int, int], seconds: float) -> ProcessLoad | Absent:
        own = self._ticks(pid)
        if isinstance(own, Absent):
            return Absent("not visible from here" if own.reason == "no such file" else own.reason)
        children = descendants(self._sysfs, [pid], MOST_CHILDREN)
        known = {child: ticks for child in children if isinstance(ticks := self._ticks(child), int)}
        self._before |= {pid: own, **known}
        if pid not in before or seconds <= 0:
            return ProcessLoad(len(children), FIRST, FIRST)
        used = {
            one: max(0, ticks - before[one]) / self._ticks_per_second / seconds
            for one, ticks in {pid: own, **known}.items()
            if one in before
        }
        at_limit = sum(cores >= AT_ITS_LIMIT for one, cores in used.items() if one != pid)
        return ProcessLoad(len(children), sum(used.values()), at_limit)

    def _ticks(self, pid: int) -> int | Absent:
        text = self._sysfs.read_text(f"proc/{pid}/stat")
        return text if isinstance(text, Absent) else parse_process_ticks(text)


def descendants(sysfs: Sysfs, pids: Iterable[int], most: int) -> list[int]:
    """All below some processes, those that each one's first thread started; a loader's workers are among them."""
    found: list[int] = []
    to_ask = list(pids)
    while to_ask and len(found) < most:
        one = to_ask.pop()
        below = [int(it) for it in sysfs.text(f"proc/{one}/task/{one}/children").split() if it.isdigit()]
        found += below
        to_ask += below
    return found[:most]


class CpuSensors:
    """How much energy the CPU packages have used, and how hot they are; a reading costs a file per package."""

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        zones = [f"{POWERCAP}/{zone}" for zone in sysfs.names(POWERCAP) if PACKAGE.fullmatch(zone)]
        self._packages = [_Package(sysfs, zone) for zone in zones if sysfs.text(f"{zone}/name").startswith("package")]
        # The package sensor of a CPU chip is its first, temp1: Tctl on AMD, "Package id N" on Intel.
        chips = [chip for chip in sysfs.names(HWMON) if sysfs.read_text(f"{HWMON}/{chip}/name") in CPU_CHIPS]
        self._temperatures = [f"{HWMON}/{chip}/temp1_input" for chip in chips]

    def energy_joules(self) -> float | Absent:
        """Joules of all packages together since the first reading; the counters' wrap-around is undone."""
        if not self._packages:
            return Absent("no package energy counter")
        total = 0.0
        for package in self._packages:
            joules = package.joules()
            if isinstance(joules, Absent):
                return joules
            total += joules
        return total

    def temperature_celsius(self) -> float | Absent:
        """The hottest package."""
        readings = [self._sysfs.read_int(path) for path in self._temperatures]
        degrees = [reading / 1000 for reading in readings if not isinstance(reading, Absent)]
        return max(degrees, default=readings[0] if readings else Absent("no CPU temperature sensor"))


class _Package:
    """One energy counter, which starts again at 0 after `max_energy_range_uj`."""

    def __init__(self, sysfs: Sysfs, zone: str) -> None:
        self._sysfs, self._counter = sysfs, f"{zone}/energy_uj"
        self._range = sysfs.read_int(f"{zone}/max_energy_range_uj")
        self._last: int | None = None
        self._microjoules = 0

    def joules(self) -> float | Absent:
        now = self._sysfs.read_int(self._counter)
        if isinstance(now, Absent):
            return Absent("no permission (energy_uj is for root)") if now.reason == "no permission" else now
        step = 0 if self._last is None else now - self._last
        if step < 0:
            if isinstance(self._range, Absent):
                return Absent("the energy counter went backwards")
            step += self._range
        self._last = now
        self._microjoules += step
        return self._microjoules / 1e6


def parse_stat(text: str) -> dict[str, CoreTimes]:
    """`cpu` is all cores together, `cpu0` the first one. Waiting for a disk is not work."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(cpu\d{0,4})((?: +\d{1,19}){5,})", line.strip())
        if match:
            ticks = [int(word) for word in match[2].split()][:8]  # guests are in user and nice already
            idle, iowait, total = ticks[3], ticks[4], sum(ticks)
            found[match[1]] = CoreTimes(total - idle - iowait, iowait, total)
    return found


def parse_diskstats(text: str, names: frozenset[str]) -> tuple[int, int]:
    """(bytes read, bytes written) by these disks since the machine started."""
    read = written = 0
    for line in text.splitlines():
        words = line.split()
        if len(words) > 9 and words[2] in names and words[5].isdigit() and words[9].isdigit():
            read += int(words[5]) * SECTOR_BYTES
            written += int(words[9]) * SECTOR_BYTES
    return read, written


def parse_process_ticks(text: str) -> int | Absent:
    """User and system time, fields 14 and 15; the name before them may hold anything, brackets too."""
    words = text.rpartition(")")[2].split()
    if len(words) < 13 or not (words[11].isdigit() and words[12].isdigit()):
        return Absent("not understood")
    return int(words[11]) + int(words[12])


def parse_schedstat(text: str) -> tuple[float, float] | Absent:
    """Seconds that a thread ran, and that it could have run and had to wait for a processor."""
    match = re.fullmatch(r"(\d{1,20}) (\d{1,20}) \d+", text)
    return (int(match[1]) / 1e9, int(match[2]) / 1e9) if match else Absent("not understood")


def parse_processor_seconds(text: str) -> tuple[float, float] | Absent:
    """Seconds of all processors together since the machine started: in work, and withheld by a hypervisor."""
    match = re.match(r"cpu +((?:\d{1,19} ?){5,})", text)
    if match is None:
        return Absent("not understood")
    user, nice, system, _, _, *rest = (int(word) / os.sysconf("SC_CLK_TCK") for word in match[1].split())
    interrupts, soft, stolen = (*rest, 0.0, 0.0, 0.0)[:3]
    return user + nice + system + interrupts + soft, stolen
