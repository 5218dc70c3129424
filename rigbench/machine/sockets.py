"""By which network interface does this process really talk to others, and by which would it?"""

from __future__ import annotations

import socket
from collections import Counter

from rigbench.core.record import Absent, Tally


def peers(ignored_port: int) -> Tally | Absent:
    """{"eth0 10.0.0.1 to 10.0.0.2": 3}: this process's TCP connections, but those from or to one port."""
    import psutil

    try:
        connections = psutil.Process().net_connections("tcp")
    except psutil.Error as error:
        return Absent(f"the system does not list this process's connections ({type(error).__name__})")
    names = _interfaces()
    found: Counter[str] = Counter()
    for it in connections:
        if it.status == psutil.CONN_ESTABLISHED and ignored_port not in (it.laddr.port, it.raddr.port):
            here, there = _plain(it.laddr.ip), _plain(it.raddr.ip)
            found[f"{names.get(here, 'unknown interface')} {here} to {there}"] += 1
    return Tally(dict(sorted(found.items()))) if found else Absent("no connection to another process was found")


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
