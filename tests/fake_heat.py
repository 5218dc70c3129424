"""A heat load without heat: a window every 50 ms. FAKE_HEAT tells it to refuse, to die, or to ignore the stop."""

import os
import signal
import time

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Device
from rigbench.thermals.record import HeatLoad
from rigbench.thermals.record import LoadOptions as Options

__all__ = ["Options", "run"]


def run(options: Options, report) -> HeatLoad:
    act = os.environ.get("FAKE_HEAT", "")
    whose, _, how = act.partition(" ")
    how = how if whose == options.device else ""
    if how == "refuse" or act == "all refuse":
        raise RigbenchError(f"{options.device} is too old for this torch", "install another", exit_code=3)
    began = time.perf_counter()
    ended: list[float] = []

    def record() -> HeatLoad:
        kind = "cpu" if options.device == "cpu" else "cuda"
        device = Device(kind, f"a fake {kind}", Absent("fake"), 1, Absent("fake"))
        count = len(ended)
        return HeatLoad(
            device=device,
            dtype="bf16",
            m=1000,
            n=1000,
            k=1000,
            began_at_seconds=began,
            ended_at_seconds=tuple(ended),
            products=(500,) * count,
            seconds=(0.05,) * count,
            checks=(),
            trials={},
        )

    report.progress(0.1, "under load")
    while time.perf_counter() - began < options.seconds and (how == "deaf" or not report.should_stop()):
        time.sleep(0.05)
        ended.append(time.perf_counter())
        report.partial(record(), at_once=True)
        if how == "die" and len(ended) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    return record()
