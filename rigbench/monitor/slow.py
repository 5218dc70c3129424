"""What is read on a slower beat: PCIe traffic, the processes on each GPU, and what a card is?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rigbench.core.record import Absent
from rigbench.machine import nvml_gpu
from rigbench.machine.host_load import ProcessLoad, ProcessLoads
from rigbench.machine.nvml_answers import over
from rigbench.machine.readings import LOST
from rigbench.machine.record import GpuProcess
from rigbench.machine.rig import Rig
from rigbench.monitor.record import GpuSlow, MonitorProcess

# nvml.h, nvmlPcieUtilCounter_t: as the card sees it. The answer is in KB/s, over 20 ms.
TRANSMITTED, RECEIVED = 0, 1
BYTES_PER_KB = 1000


class SlowReading(NamedTuple):
    """`cards` are facts of those that are new or have changed, as keywords of MonitorCard."""

    cards: tuple[dict[str, Any], ...]
    gpus: dict[str, GpuSlow]


class SlowBeat:
    """Reads on a thread of its own between `start` and `stop`, or whenever told with `read_once`.

    `facts` is who is asked what a card is, where that is not the rig itself.
    """

    def __init__(
        self,
        rig: Rig,
        period_seconds: float,
        facts: Rig | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._rig, self._facts = rig, facts or rig
        self._period = period_seconds
        self._loads = ProcessLoads(rig.sysfs, clock)
        self._known: dict[str, dict[str, Any]] = {}
        self._lost: set[int] = set()
        self._fresh: SlowReading | None = None
        self._read_some = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._run, name="rigbench-slow-beat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def first(self, seconds: float) -> None:
        """Waits for the first reading, or so long."""
        self._read_some.wait(seconds)

    def take(self) -> SlowReading | None:
        """What was read since the last time."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh

    def read_once(self) -> None:
        """Traffic and company of every card, and the facts that changed."""
        count = self._rig.nvml.gpu_count() if self._rig.nvml.absent is None else 0
        indices = [] if isinstance(count, Absent) else range(count)
        cards = tuple(card for index in indices for card in self._changed(index))
        listed = {index: self._processes(index) for index in indices}
        pids = [one.pid for found in listed.values() if not isinstance(found, Absent) for one in found]
        loads = self._loads.read(pids)
        gpus = {
            f"GPU{index}": GpuSlow(
                to_gpu_bytes_per_s=self._traffic(index, RECEIVED),
                from_gpu_bytes_per_s=self._traffic(index, TRANSMITTED),
                processes=found if isinstance(found, Absent) else tuple(self._with_load(it, loads) for it in found),
            )
            for index, found in listed.items()
        }
        with self._lock:
            before = self._fresh.cards if self._fresh else ()
            self._fresh = SlowReading((*before, *cards), gpus)
        self._read_some.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.read_once()
            self._stopped.wait(self._period)

    def _changed(self, index: int) -> list[dict[str, Any]]:
        device, nvml = f"GPU{index}", self._facts.nvml
        if device not in self._known:
            total, _ = nvml.memory_bytes(index)
            self._known[device] = {
                "device": device,
                "name": nvml.name(index),
                "uuid": nvml.uuid(index),
                "memory_total_bytes": total,
                "power_limit_watts": Absent("not asked yet"),
            }
        limit = over(nvml.ask(index, "nvmlDeviceGetEnforcedPowerLimit"), 1000)
        before = self._known[device]["power_limit_watts"]
        if limit == before or (isinstance(limit, Absent) and not isinstance(before, Absent)):
            return []  # a card that is lost keeps the limit that it had
        self._known[device] |= {"power_limit_watts": limit}
        return [dict(self._known[device])]

    def _traffic(self, index: int, counter: int) -> float | Absent:
        if index in self._lost:
            return Absent(LOST)
        found = over(self._rig.nvml.ask(index, "nvmlDeviceGetPcieThroughput", counter), 1)
        if isinstance(found, Absent):
            if found.reason == LOST:
                self._lost.add(index)
            return found
        return found * BYTES_PER_KB

    def _processes(self, index: int) -> tuple[GpuProcess, ...] | Absent:
        return Absent(LOST) if index in self._lost else nvml_gpu.processes(self._rig.nvml, index)

    def _with_load(self, process: GpuProcess, loads: dict[int, ProcessLoad | Absent]) -> MonitorProcess:
        load = loads[process.pid]
        children, cores, at_limit = (load, load, load) if isinstance(load, Absent) else load
        return MonitorProcess(
            pid=process.pid,
            kind=process.kind,
            name=self._rig.sysfs.read_text(f"proc/{process.pid}/comm"),
            memory_bytes=process.memory_bytes,
            children=children,
            cores=cores,
            children_at_limit=at_limit,
        )
