"""A bandwidth probe that moves nothing: rates from a table; it dies, hangs or waits where its script says so.

The script is a JSON file that RIGBENCH_TEST_SCRIPT names: which devices there are, GB/s of each part's ways, and what
becomes of a part.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from rigbench.bandwidth.record import BandwidthPart, CopyCheck, Transfer
from rigbench.bandwidth.record import PartOptions as Options
from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device

__all__ = ["Options", "run", "transfer"]
MIB = 1 << 20
NOT_TOLD = Absent("not reported")


def run(options: Options, report) -> BandwidthPart:
    script = json.loads(Path(os.environ["RIGBENCH_TEST_SCRIPT"]).read_text())
    devices = tuple(device(index) for index in script["devices"]) or (cpu(),)
    name = options.device.replace("auto", script.get("first", "cuda:0") if script["devices"] else "CPU")
    if options.part == "peers":
        name = f"peers, access {'on' if options.peer_access else 'off'}"
    if why := script.get("refused", {}).get(name):
        raise RigbenchError(why, "install another torch", exit_code=3)
    rows = [
        transfer(way, rate, correct=way not in script.get("wrong", ()))
        for way, rate in script["GB/s"].get(name, {}).items()
    ]
    record = BandwidthPart(
        name=name,
        devices=devices,
        seconds=1.0,
        host_cpus=options.local_cpus.get(str(devices[0].uuid), NOT_TOLD) if options.part == "device" else NOT_TOLD,
        transfers=tuple(rows),
        not_run=tuple(script.get("not run", {}).get(name, ())),
        ended="finished",
    )
    act = script.get(name)
    if act == "die at once":
        os.kill(os.getpid(), signal.SIGKILL)
    report.partial(record)
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "wait":
        Path(os.environ["RIGBENCH_TEST_SCRIPT"] + ".waiting").touch()
    while act == "hang" or (act == "wait" and not report.should_stop()):
        time.sleep(0.01)
    return msgspec.structs.replace(record, ended="interrupted" if act == "wait" else "finished")


def transfer(way: str, gb_per_s: float, correct: bool = True, **changes: Any) -> Transfer:
    """ "host>cuda:0" is pinned, "host>cuda:0~" pageable, "host=>cuda:0" both ways; "cuda:0>cuda:1+" has peer access,
    "cuda:0>cuda:1-" has none; "@4096" at the end is the size, else 256 MiB.
    """
    way, _, size_text = way.partition("@")
    source, destination = way.rstrip("+-~").replace("=", "").split(">")
    both, inside, on_link = "=" in way, source == destination, "host" in (source, destination)
    size = int(size_text or 256 * MIB)
    counted = size * (2 if both or inside else 1)
    seconds = (counted / gb_per_s / 1e9,) * 3
    facts = {
        "operation": "copy",
        "source": source,
        "destination": destination,
        "both_ways": both,
        "host_memory": ("pageable" if "~" in way else "pinned") if on_link else Absent("host memory takes no part"),
        "peer_access": "-" not in way if not (inside or on_link) else Absent("no two GPUs take part"),
        "size_bytes": size,
        "counted_bytes": counted,
        "threads": 1,
        "warm": False,
        "clock": "device",
        "timing": Timing((), seconds, stats.median_estimate(seconds), 0.01, "interval", 0, Absent("3 samples")),
        "bytes_per_s": Estimate(gb_per_s * 1e9, gb_per_s * 0.99e9, gb_per_s * 1.01e9, 0.95, "given", 3),
        "check": CopyCheck(3, 0, 0, Absent("every value was right")) if correct else CopyCheck(3, 1, 2, 4096),
    }
    return Transfer(**facts | changes)


def device(index: int, **changes: Any) -> Device:
    facts = {
        "kind": "cuda",
        "name": "NVIDIA GeForce RTX 4080 SUPER",
        "uuid": f"GPU-00000000-0000-0000-0000-{index:012d}",
        "threads": 1,
        "memory_total_bytes": 17171480576,
    }
    return Device(**facts | changes)


def cpu(threads: int = 2) -> Device:
    reason = Absent("a CPU has no UUID")
    return Device(kind="cpu", name="Some CPU", uuid=reason, threads=threads, memory_total_bytes=1 << 34)
