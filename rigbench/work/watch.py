"""Watches a probe from its parent: how its threads got their processors, who else ran, who else used the GPUs.

Counters of the kernel, read a few times a second: what a thread ran and waited (proc(5), /proc/PID/task/TID/schedstat),
processor and stolen time of the machine (/proc/stat), whether a process is stopped (/proc/PID/stat).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, Self

import msgspec

from rigbench.core.record import Absent, Telemetry
from rigbench.machine.host_load import descendants, parse_processor_seconds, parse_schedstat
from rigbench.machine.rig import Rig
from rigbench.work import process, verdict
from rigbench.work.process import OnProgress
from rigbench.work.record import NOT_WATCHED, Disturbance, GpuBeside
from rigbench.work.sensors import CPU, Sampler

PERIOD_SECONDS, TIMES_TO_READ = 0.2, 50  # a reading takes a fiftieth of one processor's time at most
GAP_SECONDS = 1.0  # that a reading came late: this process could not run, or nothing could
GPU_PERIOD_SECONDS = 1.0
SETTLED_SECONDS, FEWEST_TICKS = 1.0, 3  # of a GPU's utilisation, which is a mean over up to a second
PRESENT_SHARE = 0.5  # of the looks at a GPU's processes: one of ours that was ended may be listed a moment longer
NOTHING_RAN = 0.01  # of that time, all threads together
MOST_PROCESSES = 512


class Counts(NamedTuple):
    """The kernel's counters at one moment, in seconds."""

    at: float
    threads: Mapping[str, tuple[float, float]]  # of the probe's, by id: what each ran, what it waited
    is_stopped: bool  # whether one of its processes is
    own: float  # processor time of this process
    machine: tuple[float, float] | Absent  # processor time of all processes; withheld by the hypervisor


class GpuLook(NamedTuple):
    """Who computes on a GPU at one moment."""

    listed: Collection[int]  # process ids, of the probe's own too
    busy: Mapping[int, float] | Absent  # of each that used it lately, the share of time that it kept it busy


class Reader:
    """Reads the machine, live: a recorded one has no processes."""

    def __init__(self, rig: Rig, clock: Callable[[], float] = time.perf_counter) -> None:
        self._sysfs, self._nvml, self._clock = rig.sysfs, rig.nvml, clock
        self._is_live = not rig.replayed
        self._newest: dict[int, int] = {}  # of each GPU's samples

    def counts(self) -> Counts:
        at, read = self._clock(), self._sysfs.text
        threads: dict[str, tuple[float, float]] = {}
        is_stopped = False
        for pid in self.processes():
            state = read(f"proc/{pid}/stat").rpartition(")")[2].split()
            is_stopped = is_stopped or state[:1] in (["T"], ["t"])
            for thread in self._sysfs.names(f"proc/{pid}/task"):
                its = parse_schedstat(read(f"proc/{pid}/task/{thread}/schedstat"))
                if not isinstance(its, Absent):
                    threads[thread] = its
        return Counts(at, threads, is_stopped, time.process_time(), parse_processor_seconds(read("proc/stat")))

    def processes(self) -> list[int]:
        """The probe's, and all that they started."""
        children = list(process.RUNNING)
        return children + descendants(self._sysfs, children, MOST_PROCESSES)

    def gpus(self) -> dict[str, GpuLook]:
        count = self._nvml.gpu_count() if self._is_live and self._nvml.absent is None else 0
        return {f"GPU{index}": self._look(index) for index in range(0 if isinstance(count, Absent) else count)}

    def _look(self, index: int) -> GpuLook:
        listed = self._nvml.reading(index, "compute_processes")
        samples = self._nvml.reading(index, "process_utilisation")
        pids = [] if isinstance(listed, Absent) else [pid for pid, _ in listed]
        if isinstance(samples, Absent):
            return GpuLook(pids, {} if samples.reason == "not found" else samples)  # not found: nobody used it lately
        newest = self._newest.get(index, 0)
        fresh = [(pid, share) for pid, at, share in samples if at > newest]
        self._newest[index] = max((at for _, at, _ in samples), default=newest)
        ticks = Counter(pid for pid, _ in fresh)
        return GpuLook(pids, {pid: sum(it for own, it in fresh if own == pid) / ticks[pid] for pid in ticks})


class Watch:
    """Watches the probes that run inside a `with`, and says what disturbed them.

    What is read before the first progress of the probe, as it loads torch, tells how busy the GPUs were without it.
    """

    def __init__(
        self,
        rig: Rig,
        sampler: Sampler | None = None,
        reader: Reader | None = None,
        cards: Collection[int] | None = None,
    ) -> None:
        """A watch is made anew for each attempt.

        `sampler` is one that reads the sensors already. `cards` are the driver's numbers of those that the probe may
        use, all if None: where the driver tells which it does use, only those count.
        """
        self._cards = None if cards is None else {f"GPU{index}" for index in cards}
        self.sampler, self._reader, self._clock = sampler or Sampler(rig), reader or Reader(rig), time.perf_counter
        self._owns_sampler, self._is_replayed, self._name = sampler is None, rig.replayed, rig.sysfs.text
        self._has_gpus = rig.nvml.absent is None and not rig.replayed
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._started = self._began = 0.0
        self._totals = Totals()
        self._looks: list[tuple[float, dict[str, GpuLook], int]] = []  # the first of so many that were alike
        self._own: set[int] = set()

    def __enter__(self) -> Self:
        if self._owns_sampler:
            self.sampler.start()
        self._started = self._clock()
        threading.Thread(target=self._run, name="rigbench-watch", daemon=True).start()
        if self._has_gpus:  # a driver that hangs holds up this thread alone
            threading.Thread(target=self._run_gpus, name="rigbench-watch-gpus", daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopped.set()
        if self._owns_sampler:
            self.sampler.stop()

    def heard(self, on_progress: OnProgress) -> OnProgress:
        """The same, noting the probe's first word: what came before was Python loading torch."""

        def hear(share: float, text: str) -> None:
            if not self._began:
                self._began = self._clock()
                counts = self._reader.counts()
                with self._lock:
                    self._totals = Totals()
                    self._totals.add(counts)
            on_progress(share, text)

        return hear

    def telemetry(self) -> Telemetry:
        return self.sampler.record()

    def disturbance(self, room: str, place: int, attempt: int) -> Disturbance:
        with self._lock:
            totals = self._totals
        read = Disturbance(room=room, place=place, attempt=attempt, gpus=tuple(self._gpus(self.telemetry())))
        return verdict.judged(msgspec.structs.replace(read, **totals.facts()))

    def _run(self) -> None:
        wait = PERIOD_SECONDS
        while not self._stopped.wait(wait):
            began = time.thread_time()
            counts = self._reader.counts()
            if counts.threads:  # none before the probe was started, and after it has ended
                with self._lock:
                    self._totals.add(counts, wait)
            wait = max(PERIOD_SECONDS, TIMES_TO_READ * (time.thread_time() - began))

    def _run_gpus(self) -> None:
        while not self._stopped.is_set():
            self._own.update(self._reader.processes())
            self._saw(self._clock(), self._reader.gpus())
            self._stopped.wait(GPU_PERIOD_SECONDS)

    def _saw(self, at: float, look: dict[str, GpuLook]) -> None:
        first, last, times = self._looks[-1] if self._looks else (0.0, None, 0)
        if last == look and first >= self._began:  # as a rule, for hours
            self._looks[-1] = first, last, times + 1
        else:
            self._looks.append((at, look, 1))

    def _gpus(self, sensors: Telemetry) -> Iterator[GpuBeside]:
        began = self._began or self._started
        ours = self._own | process.EVER
        looks = [gpus for _, gpus, _ in self._looks]
        used = {device for gpus in looks for device, look in gpus.items() if not ours.isdisjoint(look.listed)}
        counted = used or self._cards
        for series in sensors.series if not self._is_replayed else ():
            if series.device == CPU or (counted is not None and series.device not in counted):
                continue
            column = () if isinstance(series.utilisation_share, Absent) else series.utilisation_share
            ticks = zip(sensors.at_seconds, column, strict=False)
            before = [
                it for at, it in ticks if self._started + SETTLED_SECONDS <= at < began and not isinstance(it, Absent)
            ]
            idle = sum(before) / len(before) if len(before) >= FEWEST_TICKS else Absent("too few readings")
            others, share = self._others(series.device, began, idle)
            yield GpuBeside(
                device=series.device,
                others=others,
                others_share=share,
                before_share=idle,
                throttle_share=series.throttle_share,
            )

    def _others(self, device: str, began: float, idle: float | Absent) -> tuple[tuple[str, ...], float | Absent]:
        """Who else computed on a GPU, and for which share of its time.

        In a container the driver may name processes as the host does: unless it names one of ours as we do, only those
        that were there before the probe touched the card are surely not ours.
        """
        looks = [(at, gpus[device], times) for at, gpus, times in self._looks if device in gpus]
        after = [(look, times) for at, look, times in looks if at >= began]
        if not after:
            return (), Absent("the driver lists no other process")
        ours = self._own | process.EVER
        earlier = {pid for at, look, _ in looks if at < began for pid in look.listed} - ours
        is_known = any(pid in ours for _, look, _ in looks for pid in look.listed)
        others = {pid for look, _ in after for pid in look.listed if pid not in ours and (is_known or pid in earlier)}
        enough = max(1, PRESENT_SHARE * sum(times for _, times in after))
        present = {pid for pid in others if sum(times for look, times in after if pid in look.listed) >= enough}
        names = tuple(f"{self._name(f'proc/{pid}/comm') or 'a process'} (pid {pid})" for pid in sorted(present))
        told = [(look.busy, times) for look, times in after if not isinstance(look.busy, Absent)]
        if told:
            kept = sum(times * sum(share for pid, share in busy.items() if pid in others) for busy, times in told)
            kept /= sum(times for _, times in told)
            return names, min(1.0, kept)
        if not present:
            return (), Absent("the driver lists no other process")
        if isinstance(idle, Absent):
            return names, 1.0  # it may have computed all the time
        return names, idle


class Totals:
    """Sums of the steps between readings. A thread that is new began since the last one; what one did between its last
    reading and its end is not seen."""

    def __init__(self) -> None:
        self.last: Counts | None = None
        self.wall = self.running = self.waiting = self.busy = self.stolen = self.own = self.paused = 0.0
        self.unread: Absent | None = None  # why the machine's counters are not known

    def add(self, counts: Counts, planned_seconds: float = PERIOD_SECONDS) -> None:
        before, self.last = self.last, counts
        if before is None:
            return
        step, ran, waited = counts.at - before.at, 0.0, 0.0
        for thread, (running, waiting) in counts.threads.items():
            earlier = before.threads.get(thread, (0.0, 0.0))
            ran += max(0.0, running - earlier[0])
            waited += max(0.0, waiting - earlier[1])
        self.wall += step
        self.own += counts.own - before.own
        self.running += ran
        self.waiting += waited
        is_frozen = step > planned_seconds + GAP_SECONDS and ran + waited < NOTHING_RAN * step
        self.paused += step if counts.is_stopped or is_frozen else 0.0
        if isinstance(counts.machine, Absent) or isinstance(before.machine, Absent):
            self.unread = counts.machine if isinstance(counts.machine, Absent) else self.unread
        else:
            self.busy += max(0.0, counts.machine[0] - before.machine[0])
            self.stolen += max(0.0, counts.machine[1] - before.machine[1])

    def facts(self) -> dict[str, float | Absent]:
        threads = None if self.running else Absent("the kernel does not report it")
        machine = self.unread
        if self.last is None:
            threads = NOT_WATCHED
        return {
            "wall_seconds": self.wall,
            "running_seconds": threads or self.running,
            "waiting_seconds": threads or self.waiting,
            "others_seconds": threads or machine or max(0.0, self.busy - self.running - self.own),
            "busy_seconds": threads or machine or self.busy,
            "stolen_seconds": threads or machine or self.stolen,
            "paused_seconds": threads or self.paused,
        }
