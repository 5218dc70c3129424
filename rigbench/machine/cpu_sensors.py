"""How much energy has the CPU package used, and how hot is it?"""

from __future__ import annotations

import re

from rigbench.core.record import Absent
from rigbench.machine.sysfs import Sysfs

POWERCAP = "sys/class/powercap"
HWMON = "sys/class/hwmon"
PACKAGE = re.compile(r"intel-rapl:\d+")  # AMD's packages carry this name too
CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class CpuSensors:
    """Finds the host's sensors once; each reading then costs a file per package."""

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        self._packages = [_Package(sysfs, zone) for zone in _names(sysfs, POWERCAP) if _is_package(sysfs, zone)]
        self._temperatures = _temperature_files(sysfs)

    def energy_joules(self) -> float | Absent:
        """Joules of all packages together since the first reading; the counters' wrap-around is undone."""
        if not self._packages:
            return Absent("no package energy counter")
        total = 0.0
        for package in self._packages:
            joules = package.joules()
            if isinstance(joules, Absent):
                return joules
            total += joules
        return total

    def temperature_celsius(self) -> float | Absent:
        """The hottest package."""
        readings = [self._sysfs.read_int(path) for path in self._temperatures]
        degrees = [reading / 1000 for reading in readings if not isinstance(reading, Absent)]
        return max(degrees, default=readings[0] if readings else Absent("no CPU temperature sensor"))


class _Package:
    """One energy counter, which starts again at 0 after `max_energy_range_uj`."""

    def __init__(self, sysfs: Sysfs, zone: str) -> None:
        self._sysfs = sysfs
        self._counter = f"{POWERCAP}/{zone}/energy_uj"
        self._range = sysfs.read_int(f"{POWERCAP}/{zone}/max_energy_range_uj")
        self._last: int | None = None
        self._microjoules = 0

    def joules(self) -> float | Absent:
        now = self._sysfs.read_int(self._counter)
        if isinstance(now, Absent):
            return Absent("no permission (energy_uj is for root)") if now.reason == "no permission" else now
        step = 0 if self._last is None else now - self._last
        if step < 0:
            if isinstance(self._range, Absent):
                return Absent("the energy counter went backwards")
            step += self._range
        self._last = now
        self._microjoules += step
        return self._microjoules / 1e6


def _is_package(sysfs: Sysfs, zone: str) -> bool:
    return bool(PACKAGE.fullmatch(zone)) and str(sysfs.read_text(f"{POWERCAP}/{zone}/name")).startswith("package")


def _temperature_files(sysfs: Sysfs) -> list[str]:
    """The package sensor of every CPU chip: the first, temp1, is Tctl on AMD and "Package id N" on Intel."""
    chips = [chip for chip in _names(sysfs, HWMON) if sysfs.read_text(f"{HWMON}/{chip}/name") in CPU_CHIPS]
    return [f"{HWMON}/{chip}/temp1_input" for chip in chips]


def _names(sysfs: Sysfs, path: str) -> tuple[str, ...]:
    names = sysfs.list_dir(path)
    return () if isinstance(names, Absent) else names
