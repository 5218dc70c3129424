"""How much of this machine may this process use? The container's limits, in cgroup v1, v2 or both at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from rigbench.core.record import Absent
from rigbench.machine.sysfs import Sysfs, parse_int

NO_LIMIT = Absent("no limit")


def cpu_limit(sysfs: Sysfs) -> float | Absent:
    """CPUs' worth of time that the tightest quota on the way up allows."""
    limits = [quota for folder in folders(sysfs, "cpu") if (quota := _quota_cpus(sysfs, folder)) is not None]
    return min(limits, default=NO_LIMIT)


def memory_limit(sysfs: Sysfs, total_bytes: int | Absent) -> tuple[int | Absent, int | Absent]:
    """(limit, what is used of it without the page cache that can be dropped), of the tightest group on the way up.

    A limit at or above physical memory is no limit: v1 writes 2^63 rounded to a page where there is none.
    """
    ceiling = (1 << 62) if isinstance(total_bytes, Absent) else total_bytes
    limits: list[tuple[int, str]] = []
    for folder in folders(sysfs, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = sysfs.read_int(f"{folder}/{name}")
            if not isinstance(limit, Absent) and 0 < limit < ceiling:
                limits.append((limit, folder))
    if not limits:
        return NO_LIMIT, NO_LIMIT
    limit, folder = min(limits)
    return limit, _used_bytes(sysfs, folder)


def folders(sysfs: Sysfs, controller: str) -> Iterator[str]:
    """The folders of this process's group for a controller, from its own up to the top that is visible here."""
    groups = parse_groups(_text(sysfs, "proc/self/cgroup"))
    for mount in parse_mounts(_text(sysfs, "proc/self/mountinfo")):
        if controller in mount["controllers"].split(","):
            group = groups.get(controller)
        elif mount["kind"] == "cgroup2":
            group = groups.get("")
        else:
            continue
        if group is not None:
            yield from _upwards(mount["point"], _below(mount["root"], group))


def parse_groups(text: str) -> dict[str, str]:
    """`/proc/self/cgroup` as {controller: group}; the v2 line `0::/group` is under ""."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _number, _, rest = line.partition(":")
        controllers, separator, group = rest.partition(":")
        if separator:
            groups.update(dict.fromkeys(controllers.split(","), group))
    return groups


def parse_mounts(text: str) -> Iterator[dict[str, str]]:
    """The cgroup mounts of `/proc/self/mountinfo` (proc(5)): fields 4 and 5 are the root within it and the point."""
    for line in text.splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields, kind = mount.split(), filesystem.split()
        if len(fields) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            controllers = kind[2] if kind[0] == "cgroup" else ""
            root, point = _unescape(fields[3]), _unescape(fields[4])
            yield {"root": root, "point": point, "kind": kind[0], "controllers": controllers}


def _below(root: str, group: str) -> str:
    """A group's path under a mount that shows only the part below `root`; its top where the group lies outside."""
    if root == "/":
        return "" if ".." in group.split("/") else group.strip("/")
    return group[len(root) :].strip("/") if f"{group}/".startswith(f"{root}/") else ""


def _upwards(point: str, group: str) -> Iterator[str]:
    path = PurePosixPath(group)
    for part in (path, *path.parents):
        yield f"{point.strip('/')}/{part}"


def _quota_cpus(sysfs: Sysfs, folder: str) -> float | None:
    quota, _, period = _text(sysfs, f"{folder}/cpu.max").partition(" ")
    if not period:
        quota, period = _text(sysfs, f"{folder}/cpu.cfs_quota_us"), _text(sysfs, f"{folder}/cpu.cfs_period_us")
    microseconds, of = parse_int(quota), parse_int(period)
    if isinstance(microseconds, Absent) or isinstance(of, Absent) or microseconds <= 0 or of <= 0:
        return None  # v2 writes "max", v1 writes -1
    return microseconds / of


def _used_bytes(sysfs: Sysfs, folder: str) -> int | Absent:
    used = sysfs.read_int(f"{folder}/memory.current")
    if isinstance(used, Absent):
        used = sysfs.read_int(f"{folder}/memory.usage_in_bytes")
    if isinstance(used, Absent):
        return used
    stat = dict(re.findall(r"^(\w+) (\d{1,18})$", _text(sysfs, f"{folder}/memory.stat"), re.MULTILINE))
    droppable = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"  # total_ is v1's with its children
    return max(0, used - int(droppable))


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _text(sysfs: Sysfs, path: str) -> str:
    text = sysfs.read_text(path)
    return "" if isinstance(text, Absent) else text
