"""Keeps this process on the CPUs near a device, and says by which network interfaces it talks to others."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator

from rigbench.core.record import Absent, Tally
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


def connections(ignored_port: int) -> Tally | Absent:
    """{"eth0 10.0.0.1 to 10.0.0.2": 3}: this process's TCP connections, but those from or to one port."""
    import psutil

    try:
        listed = psutil.Process().net_connections("tcp")
    except psutil.Error as error:
        return Absent(f"the system does not list this process's connections ({type(error).__name__})")
    names = _interfaces()
    counts: Counter[str] = Counter()
    for it in listed:
        if it.status == psutil.CONN_ESTABLISHED and ignored_port not in (it.laddr.port, it.raddr.port):
            here, there = _plain(it.laddr.ip), _plain(it.raddr.ip)
            counts[f"{names.get(here, 'unknown interface')} {here} to {there}"] += 1
    return Tally(dict(sorted(counts.items()))) if counts else Absent("no connection to another process was found")


def interface_towards(address: str, port: int) -> str | Absent:
    """The interface that the system's routes choose for this address; nothing is sent."""
    try:
        family, _, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.connect(target)
            own = str(trial.getsockname()[0])
    except OSError as error:
        return Absent(f"no way to {address} ({(error.strerror or type(error).__name__).lower()})")
    return _interfaces().get(_plain(own), Absent(f"no interface has the address {own}"))


def _interfaces() -> dict[str, str]:
    """The name of the interface that has an address."""
    import psutil

    return {_plain(it.address): name for name, listed in psutil.net_if_addrs().items() for it in listed}


def _plain(address: str) -> str:
    """Without the zone of a link-local address, and an IPv4 address as such where it comes in an IPv6 one."""
    return address.partition("%")[0].removeprefix("::ffff:")
