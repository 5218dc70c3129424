"""Is any card about to be too hot, lost, or no longer heard? Sensors beside a soak, looked at tick by tick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.machine.nvml_answers import number
from rigbench.machine.readings import LOST, Reading
from rigbench.machine.record import Gpu
from rigbench.machine.rig import Rig
from rigbench.work.sensors import CPU, Sampler

SAFE_CELSIUS = 2.0  # below its own slowdown limit a card's load is ended
MARGIN_EVERY_SECONDS = 0.5
SILENT_SECONDS = 10.0


class Limit(NamedTuple):
    """Where a card slows itself down: in degrees, else as the margin at which it does. None: it does not tell."""

    gpu: int
    slowdown_celsius: float | None
    at_margin_celsius: float | None


class HeatWatch(Sampler):
    """A sampler that keeps the last readings at hand, and says which cards must not go on.

    `curves` holds per device the moments and readings so far, `too_hot` and `lost` the reason for each such card. The
    margin of a card that tells no degrees is asked on the sampler's thread, as all of the driver is.
    """

    def __init__(
        self,
        rig: Rig,
        limits: Mapping[str, Limit],
        period_seconds: float,
        gpus: Iterable[int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(rig, period_seconds, gpus, clock)
        self._limits = limits
        self._driver: Nvml = rig.nvml
        self._began = self._heard = clock()
        self._margin_at: dict[str, float] = {}
        self.curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
        self.too_hot: dict[str, str] = {}
        self.lost: dict[str, str] = {}

    def tick(self) -> None:
        super().tick()
        at, readings = self._ticks[-1]
        for name, reading in readings.items():
            self._note(name, at, reading)
        self._heard = self._clock()

    def silent_seconds(self) -> float:
        """Since a tick was whole: a driver that hangs answers no more."""
        return self._clock() - self._heard

    def _note(self, name: str, at: float, reading: Reading) -> None:
        own = self.curves.setdefault(name, {"temperature": [], "clock": [], "power": []})
        answers = (reading.temperature_celsius, reading.sm_clock_hertz, reading.power_watts)
        for curve, answer in zip(own.values(), answers, strict=True):
            if not isinstance(answer, Absent):
                curve.append((at, answer))
        if any(isinstance(answer, Absent) and answer.reason == LOST for answer in answers):
            self.lost.setdefault(name, LOST)
        if name != CPU and name not in self.too_hot:
            hot = self._hot(name, at, reading.temperature_celsius)
            if hot:
                self.too_hot[name] = hot

    def _hot(self, name: str, at: float, celsius: float | Absent) -> str:
        limit = self._limits.get(name)
        if limit is None:
            return ""
        if limit.slowdown_celsius is not None:
            return too_hot(celsius, limit.slowdown_celsius)
        if limit.at_margin_celsius is None or at - self._margin_at.get(name, -1e9) < MARGIN_EVERY_SECONDS:
            return ""
        self._margin_at[name] = at
        margin = number(self._driver.ask(limit.gpu, "nvmlDeviceGetMarginTemperature"))
        if isinstance(margin, Absent) or margin > limit.at_margin_celsius + SAFE_CELSIUS:
            return ""
        return f"its margin was {margin:g} °C, and it slows down at {limit.at_margin_celsius:g}"


def too_hot(celsius: float | Absent, slowdown_celsius: float) -> str:
    """Why a load must end at this temperature; nothing where it need not."""
    if isinstance(celsius, Absent) or celsius < slowdown_celsius - SAFE_CELSIUS:
        return ""
    return f"it reached {celsius:g} °C, and slows down at {slowdown_celsius:g}"


def limit_of(gpu: Gpu) -> Limit:
    absolute, margin = gpu.slowdown_celsius, gpu.slowdown_at_margin_celsius
    return Limit(
        gpu.index,
        None if isinstance(absolute, Absent) else absolute,
        None if isinstance(margin, Absent) else margin,
    )
