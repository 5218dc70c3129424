"""Reads what NCCL chose and why, in a log that it wrote with NCCL_DEBUG=INFO.

Its words are those of NCCL 2.13 to 2.30: init.cc, graph/paths.cc, misc/param.cc and shmutils.cc, and transport/.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from rigbench.core.errors import RigbenchError
from rigbench.core.finding import Finding, finding
from rigbench.core.screen import counted

MOST_PAIRS = 8
NOT_TOLD = "a log names transports, not times"
CHANNEL = re.compile(
    r"Channel \d{1,3}(?:/\d{1,3})? : (\d{1,5})\[\w{1,12}\] -> (\d{1,5})\[\w{1,12}\] (?:\[\w{1,9}\] )?via ([\w/]{1,60})"
)
DISABLED = re.compile(r"P2P is disabled between (?:NVLINK )?connected GPUs (\d{1,3}) and (\d{1,3})")
SETTING = re.compile(r"(NCCL_\w{1,40}) set (?:by environment )?to ([\w.,:^=/-]{1,60}?)\.?$")
NETWORK = re.compile(r"Using network (\S{1,40})")
SEGMENT = re.compile(r"Error while creating shared memory segment /dev/shm/\S{1,40} \(size (\d{1,15})\)")
# Settings that take a faster way from NCCL, the values with which they do, and the way.
TAKES_AWAY = {
    "NCCL_P2P_DISABLE": ("1", "P2P between cards"),
    "NCCL_P2P_LEVEL": ("LOC", "P2P between cards"),
    "NCCL_SHM_DISABLE": ("1", "shared memory between processes"),
    "NCCL_IB_DISABLE": ("1", "InfiniBand and RoCE between hosts"),
}


def diagnose(text: str, name: str) -> Iterator[Finding]:
    """What was chosen, and each reason that stands in the log.

    Raises:
        RigbenchError: NCCL wrote nothing in it.
    """
    lines = [line[:1000].rstrip() for line in text.splitlines() if "NCCL " in line[:1000]]
    if not any("NCCL INFO" in line or "NCCL WARN" in line for line in lines):
        raise RigbenchError(
            f"{name} holds no line of NCCL", "run the training with NCCL_DEBUG=INFO, and give its output"
        )
    ways: Counter[tuple[int, int, str]] = Counter()
    settings: dict[str, str] = {}
    disabled, networks, segments = set[tuple[int, int]](), set[str](), list[int]()
    for line in lines:
        if match := CHANNEL.search(line):
            ways[int(match[1]), int(match[2]), match[3]] += 1
        elif match := DISABLED.search(line):
            one, other = sorted(map(int, match.groups()))
            disabled.add((one, other))
        elif match := SETTING.search(line):
            settings[match[1]] = match[2]
        elif match := NETWORK.search(line):
            networks.add(match[1])
        elif match := SEGMENT.search(line):
            segments.append(int(match[1]))
    yield from _chosen(ways, networks, settings)
    for key, value in settings.items():
        if TAKES_AWAY.get(key, ("", ""))[0] == value:
            evidence = [f"{key}={value} is in the environment", f"it takes {TAKES_AWAY[key][1]} away"]
            yield finding("nccl-setting", "warning", evidence, [], NOT_TOLD, [f"unset {key}"], detail=f"{key}={value}")
    if disabled:
        pairs = [f"GPU{one}-GPU{other}" for one, other in sorted(disabled)]
        evidence = [f"NCCL: P2P is disabled between connected GPUs, {', '.join(pairs[:MOST_PAIRS])}"]
        yield finding("nccl-no-p2p", "information", evidence, pairs[:MOST_PAIRS], NOT_TOLD, ["rigbench p2p"])
    if "Socket" in networks and any(way.startswith("NET/Socket") for *_, way in ways):
        missing = any("NET/IB : No device found" in line for line in lines)
        why = "NET/IB: no device found" if missing else "NET/IB is not named"
        yield finding("nccl-socket", "warning", [f"NCCL: Using network Socket; {why}"], [], NOT_TOLD, detail=why)
    if segments:
        evidence = [f"NCCL: could not make a shared memory segment of {max(segments):,} bytes in /dev/shm"]
        yield finding("nccl-shared-memory", "fault", evidence, [], NOT_TOLD, ["df -h /dev/shm"])


def _chosen(ways: Counter[tuple[int, int, str]], networks: set[str], settings: dict[str, str]) -> Iterator[Finding]:
    kinds: dict[str, list[str]] = {}
    for (one, other, way), channels in sorted(ways.items()):
        kinds.setdefault(way, []).append(f"{one} to {other} ({counted(channels, 'channel')})")
    evidence = [f"{way}: {', '.join(pairs[:MOST_PAIRS])}" for way, pairs in kinds.items()]
    evidence += [f"network {', '.join(sorted(networks))}"] if networks else []
    evidence += [f"{key}={value}" for key, value in settings.items()]
    if evidence:
        chosen = ", ".join(f"{way} for {counted(len(pairs), 'pair')}" for way, pairs in kinds.items())
        yield finding("nccl-chose", "information", evidence, [], NOT_TOLD, detail=chosen or evidence[0])
