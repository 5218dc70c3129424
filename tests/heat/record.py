"""What would two RTX 4080 SUPER say under load, in known ways of being held down?  python tests/heat/record.py

Each folder is the recording tests/rigs/dual-rtx4080s-x8x8 with sequences of 300 readings, a second apart, in place of
the sensors' one. Temperatures follow one exponential with Gaussian noise of 0.4 °C and are whole degrees.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
BASE = HERE.parent / "rigs" / "dual-rtx4080s-x8x8"
READINGS, NOISE_CELSIUS = 300, 0.4
POWER_CAP, POWER_BRAKE, LOST = 0x4, 0x80, 15
AVERAGE = "nvmlDeviceGetPowerUsage"


class Truth(NamedTuple):
    start: float
    steady: float
    tau: float


TRUTHS = {
    "power-cap": (Truth(39.0, 68.3, 42.0), Truth(37.0, 73.6, 47.0)),
    "power-brake": (Truth(40.0, 66.2, 40.0), Truth(40.0, 66.2, 40.0)),
    "lost-midway": (Truth(38.0, 69.4, 44.0), Truth(41.0, 75.5, 30.0)),
}
LOST_AT = 120


class Tick(NamedTuple):
    power_watts: float
    clock_megahertz: int
    bits: int


def capped(tick: int, _index: int, draw: random.Random) -> Tick:
    """At its 320 W from the third second on, the clock a little lower the warmer it is."""
    clock = 2595 + round(45 * math.exp(-tick / 45))
    return Tick(320 + draw.gauss(0, 1.2), clock - draw.choice((0, 15)), POWER_CAP if tick > 2 else 0)


def braked(tick: int, index: int, draw: random.Random) -> Tick:
    """The second card loses two thirds of its power for 4 s in every 20, from the 90th second on."""
    if index == 1 and tick >= 90 and tick % 20 < 4:
        return Tick(110 + draw.gauss(0, 2), 1200, POWER_BRAKE)
    return Tick(290 + draw.gauss(0, 1.5), 2610, 0)


def plain(_tick: int, _index: int, draw: random.Random) -> Tick:
    return Tick(295 + draw.gauss(0, 1.5), 2610, 0)


WAYS: dict[str, Callable[[int, int, random.Random], Tick]] = {
    "power-cap": capped,
    "power-brake": braked,
    "lost-midway": plain,
}


def sequences(name: str, index: int) -> dict[str, str]:
    """What one card answers to each call, tick by tick."""
    draw = random.Random(f"{name} {index}")
    truth, way = TRUTHS[name][index], WAYS[name]
    answers: dict[str, list[str]] = {}
    end = LOST_AT if name == "lost-midway" and index == 1 else READINGS
    for number in range(end):
        tick = way(number, index, draw)
        celsius = truth.steady - (truth.steady - truth.start) * math.exp(-number / truth.tau)
        warm = round(celsius + draw.gauss(0, NOISE_CELSIUS))
        fan = max(0, min(100, 30 + 2 * (warm - 50)))
        readings = {
            "nvmlDeviceGetTemperature/0": warm,
            "nvmlDeviceGetFanSpeed": fan,
            AVERAGE: round(tick.power_watts * 1000),
            "nvmlDeviceGetClockInfo/1": tick.clock_megahertz,
            "nvmlDeviceGetCurrentClocksEventReasons": tick.bits,
        }
        for call, reading in readings.items():
            answers.setdefault(call, []).append(f"0 {reading}")
    if end < READINGS:
        answers = {call: [*told, str(LOST)] for call, told in answers.items()}
    return {call: " ; ".join(told) for call, told in answers.items()}


def recording(name: str) -> str:
    """The base's load.nvml.txt with both cards' sequences in place of what it says of those calls."""
    own = {index: sequences(name, index) for index in (0, 1)}
    kept = []
    for line in (BASE / "load.nvml.txt").read_text().splitlines():
        call = line.split(" ")[1] if not line.startswith("#") else ""
        if call not in own[0] and "GetFieldValues/18" not in call and "ThrottleReasons" not in call:
            kept.append(line)
    told = [f"{index} {call} = {answers}" for index in own for call, answers in own[index].items()]
    return "\n".join([*kept, *told]) + "\n"


def write(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("nvml.txt", "pci.json"):
        shutil.copy(BASE / file, folder / file)
    facts = json.loads((BASE / "rig.json").read_text())
    facts["note"] = f"{facts['note']}; under load by tests/heat/record.py, {name}"
    (folder / "rig.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "load.nvml.txt").write_text(recording(name))


if __name__ == "__main__":
    for each in WAYS:
        write(each, HERE / each)
