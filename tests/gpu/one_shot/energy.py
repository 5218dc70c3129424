"""Do the energy counter and the integrated power agree: read here, and by rigbench's sensors beside it?"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pynvml as nvml
import torch

from one_shot.piece import Piece
from rigbench.core.record import Absent, Energy, Telemetry
from rigbench.machine.rig import Rig
from rigbench.work import telemetry
from rigbench.work.sensors import Sampler

WITHIN = 0.05
PERIOD_SECONDS = 0.05


class Watts:
    """(seconds, joules or None, watts or None) of a card every PERIOD_SECONDS, on a thread."""

    def __init__(self, uuid: str) -> None:
        nvml.nvmlInit()
        self.card = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self.readings: list[tuple[float, float | None, float | None]] = []
        self.errors: set[str] = set()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def ask(self, question: Callable[[Any], int]) -> float | None:
        try:
            return question(self.card) / 1000
        except nvml.NVMLError as error:
            self.errors.add(f"{question.__name__}: {error}")
            return None

    def run(self) -> None:
        while not self.stop.wait(PERIOD_SECONDS):
            joules, watts = self.ask(nvml.nvmlDeviceGetTotalEnergyConsumption), self.ask(nvml.nvmlDeviceGetPowerUsage)
            self.readings.append((time.perf_counter(), joules, watts))

    def between(self, start: float, end: float) -> tuple[float | None, float | None]:
        """Mean watts by the counter, and by power over time (trapezoids)."""
        inside = [it for it in self.readings if start <= it[0] <= end]
        counted = [(at, joules) for at, joules, _ in inside if joules is not None]
        drawn = [(at, watts) for at, _, watts in inside if watts is not None]
        by_counter = by_power = None
        if len(counted) > 1 and counted[-1][1] > counted[0][1]:
            by_counter = (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])
        if len(drawn) > 1:
            pairs = itertools.pairwise(drawn)
            by_power = sum((b - a) * (p + q) / 2 for (a, p), (b, q) in pairs) / (drawn[-1][0] - drawn[0][0])
        return by_counter, by_power


def busy(seconds: float, side: int) -> None:
    one, other = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(one)
    ended = time.perf_counter() + seconds
    while time.perf_counter() < ended:
        for _ in range(20):
            torch.mm(one, other, out=out)
        torch.cuda.synchronize()


def by_rigbench(record: Telemetry, uuid: str, start: float, end: float) -> dict[str, float | str]:
    """Mean watts by each of its two methods, or why not."""
    found: dict[str, float | str] = {}
    own = tuple(one for one in record.series if one.uuid == uuid)
    without = tuple(msgspec.structs.replace(one, energy_joules=Absent("left out")) for one in own)
    for name, series in (("counter", own), ("integrated", without)):
        used = telemetry.energy(msgspec.structs.replace(record, series=series), start, end)
        is_so = isinstance(used, Energy) and used.method == name
        found[name] = used.watts if is_so else getattr(used, "reason", f"it used {getattr(used, 'method', 'none')}")
    return found


def main() -> int:
    piece = Piece("energy")
    side, warm, measured = (64, 0.2, 2.5) if piece.tiny else (8192, 2.0, 8.0)
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    watts = Watts(uuid)
    with Sampler(Rig.live(), 0.1) as sampler:
        busy(warm, side)  # an average over a second must not remember idleness
        start = time.perf_counter()
        busy(measured, side)
        end = time.perf_counter()
        busy(0.3, side)
    watts.stop.set()
    watts.thread.join()
    counter, power = watts.between(start, end)
    theirs = by_rigbench(sampler.record(), uuid, start, end)
    named = {"NVML's counter": counter, "NVML's power over time": power}
    named |= {f"rigbench by {name}": told for name, told in theirs.items()}
    piece.row(seconds=end - start, watts=named, readings=watts.readings, errors=sorted(watts.errors))
    known = {name: told for name, told in named.items() if isinstance(told, float)}
    for name, told in named.items():
        if name not in known:
            piece.learn(f"{name}: {told or 'no answer that moves'}; {'; '.join(sorted(watts.errors)) or 'no error'}")
    if not known:
        piece.learn("no watts at all", off=True)
        return piece.end()
    least, most = min(known.values()), max(known.values())
    words = "; ".join(f"{name} {told:.1f} W" for name, told in known.items())
    piece.learn(f"{words}; apart by {most / least - 1:.1%}", off=most / least - 1 > WITHIN or len(known) < len(named))
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
