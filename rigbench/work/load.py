"""What does the driver say while every card works? Idle links rest at gen 1; a load of our own shows what they can."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.machine.replay import Recording, RecordingDriver, ReplayedDriver
from rigbench.machine.rig import Rig
from rigbench.work import copy_load, process
from rigbench.work.sensors import FASTEST_SECONDS, Sampler

AWAKE_AFTER_SECONDS = 0.5  # links take up to about 0.2 s of load to wake
TICKS_UNDER_LOAD = 10
START_WITHIN_SECONDS = 60.0  # loading torch and opening a context on every card


def awake(rig: Rig, read: Callable[[Rig], object]) -> Rig:
    """The same rig, beside what its driver said under load. The load is over when this returns."""
    recording = under_load(rig, read)
    if isinstance(recording, Absent):
        return dataclasses.replace(rig, load=Nvml(recording))
    return dataclasses.replace(rig, load=Nvml(ReplayedDriver(recording)))


def under_load(rig: Rig, read: Callable[[Rig], object]) -> Recording | Absent:
    """What the driver answers to `read`, and to a second of sensor ticks, while every card copies."""
    if isinstance(rig.nvml.driver, Absent) or rig.nvml.absent is not None:
        return rig.nvml.absent or Absent("no driver")
    if not rig.nvml.gpu_count():
        return Absent("the NVIDIA driver lists no GPU")
    load = _Load(AWAKE_AFTER_SECONDS + TICKS_UNDER_LOAD * FASTEST_SECONDS * 2)
    refusal = load.start()
    if refusal:
        return Absent(f"the cards could not be kept busy ({refusal})")
    time.sleep(AWAKE_AFTER_SECONDS)
    driver = RecordingDriver(rig.nvml.driver)
    busy = dataclasses.replace(rig, nvml=Nvml(driver))
    read(busy)
    sampler = Sampler(busy)
    for _ in range(TICKS_UNDER_LOAD):
        sampler.tick()
        time.sleep(FASTEST_SECONDS)
    load.join()
    return driver.recording()


class _Load:
    """The copy probe in a worker of its own, waited for on a thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun = threading.Event()
        self._refusal = "no copy began"
        self._thread = threading.Thread(target=self._work, name="rigbench-load", daemon=True)

    def start(self) -> str:
        """Returns once every card copies, with nothing; or with why none does."""
        self._thread.start()
        self._begun.wait(START_WITHIN_SECONDS)
        return self._refusal

    def join(self) -> None:
        self._thread.join(START_WITHIN_SECONDS)

    def _work(self) -> None:
        try:
            outcome = process.call(
                "rigbench.work.copy_load",
                copy_load.Options(seconds=self._seconds),
                copy_load.CopyLoad,
                limit_seconds=START_WITHIN_SECONDS + self._seconds,
                on_progress=self._on_progress,
            )
            self._refusal = self._refusal and outcome.reason
        except RigbenchError as error:
            self._refusal = error.what_happened
        self._begun.set()

    def _on_progress(self, share: float, text: str) -> None:
        self._refusal = ""
        self._begun.set()
