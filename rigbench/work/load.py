"""Reads what the driver says while every card copies: idle links rest at gen 1, a load shows what they can."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.machine.replay import Recording, RecordingDriver, ReplayedDriver
from rigbench.machine.rig import Rig
from rigbench.work.process import Crew
from rigbench.work.record import CopyLoad, LoadOptions
from rigbench.work.sensors import FASTEST_SECONDS, Sampler

PROBE = "rigbench.work.copy_load"
AWAKE_AFTER_SECONDS = 0.5  # links take up to about 0.2 s of load to wake
TICKS_UNDER_LOAD = 10
START_WITHIN_SECONDS = 60.0  # loading torch and opening a context on every card


def awake(rig: Rig, read: Callable[[Rig], object]) -> Rig:
    """The same rig, beside what its driver said under load. The load is over when this returns."""
    recording = under_load(rig, read)
    driver = recording if isinstance(recording, Absent) else ReplayedDriver(recording)
    return dataclasses.replace(rig, load=Nvml(driver))


def under_load(rig: Rig, read: Callable[[Rig], object]) -> Recording | Absent:
    """What the driver answers to `read`, and to a second of sensor ticks, while every card copies."""
    if isinstance(rig.nvml.driver, Absent) or rig.nvml.absent is not None:
        return rig.nvml.absent or Absent("no driver")
    if not rig.nvml.gpu_count():
        return Absent("the NVIDIA driver lists no GPU")
    busy: list[str] = []
    with Crew(
        PROBE, {"": LoadOptions()}, CopyLoad, START_WITHIN_SECONDS, on_progress=lambda share, text: busy.append(text)
    ) as crew:
        why = "no copy began"
        try:
            while crew.working() and not busy:
                crew.listen(0.1)
            why = next((outcome.reason for outcome in crew.outcomes.values()), why)
        except RigbenchError as error:
            why = error.what_happened
        if not busy:
            return Absent(f"the cards could not be kept busy ({why})")
        time.sleep(AWAKE_AFTER_SECONDS)
        driver = RecordingDriver(rig.nvml.driver)
        rig = dataclasses.replace(rig, nvml=Nvml(driver))
        read(rig)
        sampler = Sampler(rig)
        for _ in range(TICKS_UNDER_LOAD):
            sampler.tick()
            time.sleep(FASTEST_SECONDS)
    return driver.recording()
