"""Judges what the kernel's log told: errors of GPUs, PCIe links, host and disks, with when and how often."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rigbench.core.finding import WORST_FIRST, Finding, finding, unique
from rigbench.core.record import Absent
from rigbench.machine.record import KernelEvent
from rigbench.topology.record import Topology

# What an event's code begins with, the finding that it belongs to, and what that costs, in words.
KINDS = {
    "kernel-gpu": (("xid-", "gpu-lost", "driver"), "the program that it hit, and maybe the card"),
    "kernel-pcie": (("aer", "link-down"), "what is sent again takes time; a link that goes down ends the program"),
    "kernel-host": (("cpu-hot", "critical-heat", "memory-", "machine-check", "hung", "lockup"), "speed, and trust"),
    "kernel-oom": (("oom",), "the program that was ended"),
    "kernel-disk": (("disk", "filesystem"), "data and checkpoints on it"),
}
MOST_LINES = 4


def kernel_events(topology: Topology) -> Iterator[Finding]:
    """A finding for each kind and place, as bad as the worst of its events; what is only information is left out."""
    told = () if isinstance(topology.kernel_events, Absent) else topology.kernel_events
    for code, (starts, cost) in KINDS.items():
        ours = [event for event in told if event.code.startswith(starts) and event.severity != "information"]
        for place in unique(_place(event) for event in ours):
            here = [event for event in ours if _place(event) == place]
            worst = min((event.severity for event in here), key=WORST_FIRST.index)
            lines = [_line(event) for event in here[:MOST_LINES]]
            if len(here) > MOST_LINES:
                lines.append(f"other kinds of error beside them: {len(here) - MOST_LINES}")
            where = [place] if place else []
            detail = _times(here[0]) if code == "kernel-oom" else f"{here[0].title}, {_times(here[0])}"
            yield finding(code, worst, lines, where, cost, detail=detail, do=here[0].do)


def _place(event: KernelEvent) -> str:
    label, device = event.label, event.device
    return label if not isinstance(label, Absent) else "" if isinstance(device, Absent) else device


def _line(event: KernelEvent) -> str:
    place = "" if isinstance(event.device, Absent) else f" ({event.device})"
    return f"{event.title}{place}, {_times(event)}: {event.text}"


def _times(event: KernelEvent) -> str:
    """How often, and when for the last time: "12 times, last on 2026-11-28 at 23:09 UTC"."""
    wall, first, last = event.wall_seconds, event.monotonic_seconds, event.last_monotonic_seconds
    often = f"{event.count} times, last" if event.count > 1 else "once,"
    if not isinstance(wall, Absent) and not isinstance(first, Absent) and not isinstance(last, Absent):
        wall += last - first
    if isinstance(wall, Absent):
        return often.partition(",")[0]
    return f"{often} on {datetime.fromtimestamp(wall, UTC):%Y-%m-%d at %H:%M UTC}"
