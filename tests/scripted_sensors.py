"""What do the tests of the sensors share: rigs from a few lines, a clock that moves when told, series by hand?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rigbench.core.record import Absent, SensorSeries, Telemetry
from rigbench.machine.nvml import Nvml
from rigbench.machine.replay import ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.machine.sysfs import RecordedSysfs
from rigbench.work.sensors import Sampler

RIGS = Path(__file__).parent / "rigs"
HOT_CARDS = RIGS / "dual-rtx4080s-throttling" / "load.nvml.txt"  # 240 ticks, a second apart, as they heat up
NOT_SUPPORTED, LOST = Absent("not supported"), Absent("GPU is lost")


def rig(*lines: str, count: int = 1, files: dict[str, str] | None = None) -> Rig:
    text = "\n".join([f"sys nvmlDeviceGetCount_v2 = 0 {count}", *lines])
    return Rig(RecordedSysfs(files or {}, {}), Nvml(ReplayedDriver(parse_recording(text))))


def cpu_only(files: dict[str, str]) -> Rig:
    return Rig(RecordedSysfs(files, {}), Nvml(Absent("no driver")))


def replayed(text: str) -> Rig:
    return Rig(RecordedSysfs({}, {}), Nvml(ReplayedDriver(parse_recording(text))))


def asked(machine: Rig) -> list[tuple[str, str]]:
    """The calls since the last time, (whose, which)."""
    library = machine.nvml.driver
    assert isinstance(library, ReplayedDriver)
    calls = [(scope, key) for scope, key, _ in library.log]
    library.log.clear()
    return calls


def sampled_once(machine: Rig, **options: Any) -> Telemetry:
    sampler = Sampler(machine, **options)
    sampler.tick()
    return sampler.record()


class Script:
    """A clock that moves when the sampler waits, and says stop after a number of waits."""

    def __init__(self, waits: int) -> None:
        self.now, self.waits = 100.0, waits

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.waits -= 1
        return self.waits < 0


def sampled(machine: Rig, waits: int, period_seconds: float = 1.0) -> Telemetry:
    script = Script(waits)
    sampler = Sampler(machine, period_seconds, clock=script.clock, wait=script.wait)
    with sampler:
        assert sampler._thread is not None
        sampler._thread.join(5)
    return sampler.record()


def telemetry(at_seconds: Sequence[float], *series: SensorSeries) -> Telemetry:
    return Telemetry(period_seconds=1.0, at_seconds=tuple(at_seconds), series=series)


def series(device: str = "GPU0", **columns: object) -> SensorSeries:
    absent = Absent("not supported")
    names = ("power_watts", "temperature_celsius", "sm_clock_hertz", "utilisation_share", "energy_joules")
    facts = dict.fromkeys(names, absent) | {"throttle_bits": absent, "throttle_share": {}} | columns
    return SensorSeries(device=device, uuid=absent, **facts)  # type: ignore[arg-type]
