"""How is a capture made: what is read, and what is written?"""

from __future__ import annotations

from pathlib import Path

from rigbench.capture.record import CaptureSummary
from rigbench.core import profiles
from rigbench.core.record import Absent
from rigbench.machine import capture
from rigbench.machine.replay import Recording, ReplayedDriver
from rigbench.machine.rig import Rig
from rigbench.monitor.readings import SlowBeat
from rigbench.monitor.record import SLOW_SECONDS
from rigbench.topology import survey as topology
from rigbench.work import load as waking
from rigbench.work.sensors import Sampler

LOAD_FILE = "load.nvml.txt"


def run(folder: Path, replayed: Path | None, load: bool, force: bool) -> CaptureSummary:
    """Reads the rig, live or replayed, and writes what was read, redacted.

    Raises:
        RigbenchError: the recording cannot be read, or the folder not be written.
    """
    capture.check_folder(folder, force, replayed)
    rig = Rig.replay(replayed) if replayed else Rig.live()

    def read_busy(rig: Rig) -> Recording | Absent:
        if replayed:
            driver = rig.load.driver
            return driver.recording if isinstance(driver, ReplayedDriver) else Absent("the recording holds none")
        return waking.under_load(rig, read_everything) if load else Absent("not asked for")

    captured = capture.record(rig, read_everything, read_busy)
    capture.write(folder, captured.files)
    count = rig.nvml.gpu_count()
    return CaptureSummary(
        folder=str(folder),
        files={name: len(text.encode()) for name, text in captured.files.items()},
        gpus=0 if isinstance(count, Absent) else count,
        redacted=captured.redacted,
        left_out=captured.left_out,
        load=captured.no_load or LOAD_FILE,
    )


def read_everything(rig: Rig) -> None:
    """Every reading that rigbench takes of a machine at rest."""
    topology.run(rig, profiles.match_gpu)
    Sampler(rig).tick()
    SlowBeat(rig, SLOW_SECONDS).read_once()
