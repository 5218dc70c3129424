"""How is a capture made: what is read, how are the cards kept busy meanwhile, what is written?"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

from rigbench import profiles
from rigbench.errors import RigbenchError
from rigbench.hardware import capture
from rigbench.hardware.nvml import Nvml
from rigbench.hardware.nvml_replay import Recording
from rigbench.hardware.recorders import RecordingLibrary
from rigbench.hardware.rig import Rig
from rigbench.measure import workers
from rigbench.measure.telemetry import FASTEST_SECONDS, Sampler
from rigbench.probes import copy_load, topology
from rigbench.records import Absent
from rigbench.records.capture import CaptureSummary

LOAD_FILE = "load.nvml.txt"
AWAKE_AFTER_SECONDS = 0.5  # links take up to about 0.2 s of load to wake
TICKS_UNDER_LOAD = 10
START_WITHIN_SECONDS = 60.0  # loading torch and opening a context on every card


def run(folder: Path, replayed: Path | None, load: bool, force: bool) -> CaptureSummary:
    """Reads the rig, live or replayed, and writes what was read, redacted.

    Raises:
        RigbenchError: the recording cannot be read, or the folder not be written.
    """
    capture.check_folder(folder, force, replayed)
    rig = Rig.replay(replayed) if replayed else Rig.live()

    def read_busy(rig: Rig) -> Recording | Absent:
        if replayed:
            return capture.recording_at(replayed / LOAD_FILE) or Absent("the recording holds none")
        return _under_load(rig) if load else Absent("not asked for")

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


def _under_load(rig: Rig) -> Recording | Absent:
    """The same readings, then a second of ticks, while every card copies."""
    if isinstance(rig.nvml.library, Absent) or rig.nvml.absent is not None:
        return rig.nvml.absent or Absent("no driver")
    if not rig.nvml.gpu_count():
        return Absent("the NVIDIA driver lists no GPU")
    started, refusal = threading.Event(), list[str]()

    def work() -> None:
        seconds = AWAKE_AFTER_SECONDS + TICKS_UNDER_LOAD * FASTEST_SECONDS * 2
        try:
            outcome = workers.call(
                "rigbench.probes.copy_load",
                copy_load.Options(seconds=seconds),
                copy_load.CopyLoad,
                limit_seconds=START_WITHIN_SECONDS + seconds,
                on_progress=lambda share, text: started.set(),
            )
            refusal.append(outcome.reason)
        except RigbenchError as error:
            refusal.append(error.what_happened)
        started.set()

    loader = threading.Thread(target=work, name="rigbench-load", daemon=True)
    loader.start()
    started.wait(START_WITHIN_SECONDS)
    if refusal or not started.is_set():
        return Absent(f"the cards could not be kept busy ({refusal[0] if refusal else 'no copy began'})")
    time.sleep(AWAKE_AFTER_SECONDS)
    library = RecordingLibrary(rig.nvml.library)
    busy = dataclasses.replace(rig, nvml=Nvml(library))
    read_everything(busy)
    sampler = Sampler(busy)
    for _ in range(TICKS_UNDER_LOAD):
        sampler.tick()
        time.sleep(FASTEST_SECONDS)
    loader.join(START_WITHIN_SECONDS)
    return library.recording()
