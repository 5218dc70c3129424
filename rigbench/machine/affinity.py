"""How does a process stay on the CPUs next to a device, so that the memory it takes lies there too?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from rigbench.core.record import Absent
from rigbench.machine.sysfs import Sysfs, parse_cpu_list


@contextlib.contextmanager
def near(sysfs: Sysfs, cpus: str | Absent) -> Iterator[str | Absent]:
    """Every thread of this process on those of `cpus` ("0-15,32") that it may use; undone at the end.

    Linux takes a page from the node of the CPU that first writes it, and a thread begins where its maker was allowed:
    memory and threads made inside are near. Gives the CPUs that it stays on, or why it stays nowhere.
    """
    if isinstance(cpus, Absent):
        yield cpus
        return
    before = {thread: os.sched_getaffinity(thread) for thread in _threads(sysfs)}
    allowed = parse_cpu_list(cpus) & os.sched_getaffinity(0)
    if not allowed:
        yield Absent(f"this process may use none of the CPUs {cpus}")
        return
    try:
        for thread in before:
            _put(thread, allowed)
        yield cpu_list(allowed)
    finally:
        back = before.get(os.getpid(), os.sched_getaffinity(0))
        for thread in _threads(sysfs):
            _put(thread, before.get(thread, back))


def cpu_list(cpus: frozenset[int] | set[int]) -> str:
    """{0, 1, 2, 8} is "0-2,8", as the kernel writes it."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _threads(sysfs: Sysfs) -> list[int]:
    names = sysfs.list_dir("proc/self/task")
    return [os.getpid()] if isinstance(names, Absent) else [int(name) for name in names if name.isdigit()]


def _put(thread: int, cpus: frozenset[int] | set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        os.sched_setaffinity(thread, cpus)
