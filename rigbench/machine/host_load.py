"""How busy is the host right now: its cores, its memory, its disks, and the processes that feed the GPUs?

Counters become rates between two readings: the first reading has none. Formats are those of proc(5).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rigbench.core.record import Absent
from rigbench.machine.disks import BLOCK, NOT_A_DISK, SECTOR_BYTES
from rigbench.machine.host import parse_meminfo
from rigbench.machine.sysfs import Sysfs

AT_ITS_LIMIT = 0.95  # of a core's time
FIRST = Absent("needs two readings")
MOST_CHILDREN = 256  # of one process; a loader has a handful


class HostReading(NamedTuple):
    """`busy_share` and `iowait_share` are of all cores' time; `cores_at_limit` counts those hardly ever idle.

    The names are those of HostTick.
    """

    busy_share: float | Absent
    iowait_share: float | Absent
    cores_at_limit: int | Absent
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
        self._sysfs = sysfs
        self._clock = clock
        self._cores: dict[str, CoreTimes] = {}
        self._disks: tuple[float, int, int] | None = None
        names = sysfs.list_dir(BLOCK)
        self._names = frozenset(() if isinstance(names, Absent) else (n for n in names if not NOT_A_DISK.match(n)))

    def read(self) -> HostReading:
        memory, swap = self._memory()
        reads, writes = self._disk_rates()
        return HostReading(*self._core_shares(), self._load_average(), memory, swap, reads, writes)

    def memory_total_bytes(self) -> int | Absent:
        return self._meminfo().get("MemTotal", Absent("not reported"))

    def core_count(self) -> int | Absent:
        stat = self._sysfs.read_text("proc/stat")
        return stat if isinstance(stat, Absent) else len(parse_stat(stat)) - 1 or Absent("not reported")

    def _core_shares(self) -> tuple[float | Absent, float | Absent, int | Absent]:
        stat = self._sysfs.read_text("proc/stat")
        if isinstance(stat, Absent):
            return stat, stat, stat
        before, self._cores = self._cores, parse_stat(stat)
        steps = {name: _since(before[name], now) for name, now in self._cores.items() if name in before}
        whole = steps.pop("cpu", None)
        if whole is None or whole.total <= 0:
            return FIRST, FIRST, FIRST
        full = sum(step.total > 0 and step.busy >= AT_ITS_LIMIT * step.total for step in steps.values())
        return whole.busy / whole.total, whole.iowait / whole.total, full

    def _load_average(self) -> float | Absent:
        text = self._sysfs.read_text("proc/loadavg")
        if isinstance(text, Absent):
            return text
        first = text.partition(" ")[0]
        return float(first) if re.fullmatch(r"\d{1,9}\.\d+", first) else Absent("not a number")

    def _meminfo(self) -> dict[str, int]:
        text = self._sysfs.read_text("proc/meminfo")
        return {} if isinstance(text, Absent) else parse_meminfo(text)

    def _memory(self) -> tuple[int | Absent, int | Absent]:
        """Memory that could not be had by a new process, and swap in use."""
        facts = self._meminfo()
        used, swap = (
            facts[total] - facts[free] if total in facts and free in facts else Absent("not reported")
            for total, free in (("MemTotal", "MemAvailable"), ("SwapTotal", "SwapFree"))
        )
        return used, swap

    def _disk_rates(self) -> tuple[float | Absent, float | Absent]:
        """Bytes per second of all disks together. Network file systems are not in these counters."""
        text = self._sysfs.read_text("proc/diskstats")
        if isinstance(text, Absent):
            return text, text
        if not self._names:
            return Absent("no disk of this machine's own"), Absent("no disk of this machine's own")
        before, now = self._disks, (self._clock(), *parse_diskstats(text, self._names))
        self._disks = now
        if before is None or now[0] <= before[0]:
            return FIRST, FIRST
        seconds = now[0] - before[0]
        return max(0, now[1] - before[1]) / seconds, max(0, now[2] - before[2]) / seconds


class ProcessLoad(NamedTuple):
    """A process with all its children: how many there are, how many cores they use, how many of them use a whole one.

    A rate is Absent until there are two readings.
    """

    children: int
    cores: float | Absent
    children_at_limit: int | Absent


class ProcessLoads:
    """The processor time of processes and of their children, between one reading and the next."""

    def __init__(self, sysfs: Sysfs, clock: Callable[[], float] = time.perf_counter) -> None:
        self._sysfs = sysfs
        self._clock = clock
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
        children = self._children(pid)
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

    def _children(self, pid: int) -> list[int]:
        """All below a process, those that its first thread started; a loader's workers are among them."""
        found: list[int] = []
        to_ask = [pid]
        while to_ask and len(found) < MOST_CHILDREN:
            one = to_ask.pop()
            text = self._sysfs.read_text(f"proc/{one}/task/{one}/children")
            below = [] if isinstance(text, Absent) else [int(word) for word in text.split() if word.isdigit()]
            found += below
            to_ask += below
        return found[:MOST_CHILDREN]

    def _ticks(self, pid: int) -> int | Absent:
        text = self._sysfs.read_text(f"proc/{pid}/stat")
        return text if isinstance(text, Absent) else parse_process_ticks(text)


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


def _since(before: CoreTimes, now: CoreTimes) -> CoreTimes:
    return CoreTimes(*(max(0, later - earlier) for earlier, later in zip(before, now, strict=True)))
