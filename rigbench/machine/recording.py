"""What would the kernel's files have said on a recorded rig? `pci.json` and `rig.json` as a tree in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.machine import pci
from rigbench.machine.host import NVIDIA_MODULE as DRIVER
from rigbench.machine.peers import GROUPS
from rigbench.machine.sysfs import RecordedSysfs, parse_cpu_list

MOST_CPUS = 8192  # as many as the kernel can have
CAPTURE_AGAIN = "capture the rig again with rigbench capture"


class RecordedHost(msgspec.Struct, forbid_unknown_fields=False):
    """`rig.json`: the few facts about the host that a capture keeps."""

    rigbench_capture: int = 1
    kernel: str = ""
    cmdline: str = ""
    iommu: str | None = None
    driver: str = ""
    driver_flavour: str = ""
    driver_overrides: str = ""
    virtual: bool = False
    cpu: str = ""
    cpu_vendor: str = ""
    nodes: dict[str, str] = msgspec.field(default_factory=dict)


class RecordedFunction(msgspec.Struct, forbid_unknown_fields=False):
    """One entry of `pci.json`. Speeds are GT/s; `parent` None is the root bus."""

    root: str
    parent: str | None = None
    class_code: str = msgspec.field(name="class", default="")
    vendor: str = ""
    device: str = ""
    numa: int = -1
    cur_speed: float | str | None = None
    max_speed: float | str | None = None
    cur_width: int | None = None
    max_width: int | None = None
    port_type: str | None = None
    acs: tuple[str, ...] | None = None
    iommu_group: int | None = None
    bars: dict[str, int] | None = None
    bar1_resize: str = ""


class RecordedFiles(msgspec.Struct, forbid_unknown_fields=False):
    """`files.json`: what was read besides, by its path: texts, where links led, folders though empty."""

    files: dict[str, str] = msgspec.field(default_factory=dict)
    links: dict[str, str] = msgspec.field(default_factory=dict)
    folders: tuple[str, ...] = ()


def recorded_sysfs(folder: Path) -> RecordedSysfs:
    """The recording's tree. A folder without pci.json has no PCI tree, one without rig.json no host.

    Raises:
        RigbenchError: a file that is not what a capture writes.
    """
    host = _read(folder / "rig.json", RecordedHost) or RecordedHost()
    if host.rigbench_capture != 1:
        raise RigbenchError(f"rig.json is a capture of format {host.rigbench_capture}, this rigbench reads 1", "update")
    functions = _read(folder / "pci.json", dict[str, RecordedFunction])
    return recorded_tree(host, functions or {}, _read(folder / "files.json", RecordedFiles) or RecordedFiles())


def recorded_tree(host: RecordedHost, functions: dict[str, RecordedFunction], more: RecordedFiles) -> RecordedSysfs:
    files, links = host_files(host), dict[str, str]()
    for bus_id, function in functions.items():
        place = _place(functions, bus_id)
        links[f"sys/bus/pci/devices/{bus_id}"] = place
        cpus = host.nodes.get(str(function.numa), "")
        files |= {f"{place}/{name}": text for name, text in function_files(function, cpus).items()}
        if function.iommu_group is not None:
            group = f"{GROUPS}/{function.iommu_group}"
            links[f"{place}/iommu_group"] = group
            files[f"{group}/devices/{bus_id}"] = ""
    files |= {f"{group}/type": host.iommu or "" for group in _groups(host, functions)}
    folders = [*more.folders, *more.links.values(), *([GROUPS] if host.iommu == "off" else [])]
    return RecordedSysfs(files | more.files, links | more.links, folders)


def _groups(host: RecordedHost, functions: dict[str, RecordedFunction]) -> set[str]:
    """The IOMMU groups whose type was recorded, which is one for the whole rig."""
    if host.iommu in (None, "", "off"):
        return set()
    numbers = {function.iommu_group for function in functions.values()} - {None}
    return {f"{GROUPS}/{number}" for number in numbers or {0}}


def host_files(host: RecordedHost) -> dict[str, str]:
    cpus = sorted(frozenset[int]().union(*map(parse_cpu_list, host.nodes.values())))[:MOST_CPUS]
    flags = "flags: hypervisor\n" if host.virtual else "flags:\n"
    known = f"model name: {host.cpu}\nvendor_id: {host.cpu_vendor}\n{flags}"
    files = {"proc/cpuinfo": "\n".join(f"processor: {cpu}\n{known}" for cpu in cpus) or known}
    if cpus:
        files["sys/devices/system/cpu/online"] = ",".join(map(str, cpus))
    if host.kernel:
        files["proc/sys/kernel/osrelease"] = host.kernel
    if host.cmdline:
        files["proc/cmdline"] = host.cmdline
    if host.driver_flavour:
        module = "Open Kernel Module" if host.driver_flavour == "open" else "Kernel Module"
        files[f"{DRIVER}/version"] = f"NVRM version: NVIDIA UNIX {module}  {host.driver}"
    if host.driver_overrides:
        files[f"{DRIVER}/params"] = f'RegistryDwords: "{host.driver_overrides}"'
    for node, cpu_list in host.nodes.items():
        files[f"sys/devices/system/node/node{node}/cpulist"] = cpu_list
    return files


def function_files(function: RecordedFunction, local_cpus: str = "") -> dict[str, str]:
    """One PCI function's folder, as the kernel writes it."""
    configured = function.port_type is not None or function.acs is not None
    texts = {
        "class": function.class_code,
        "vendor": function.vendor,
        "device": function.device,
        "numa_node": str(function.numa),
        "current_link_speed": _speed(function.cur_speed),
        "max_link_speed": _speed(function.max_speed),
        "current_link_width": "" if function.cur_width is None else str(function.cur_width),
        "max_link_width": "" if function.max_width is None else str(function.max_width),
        "local_cpulist": local_cpus,
        "resource": "" if function.bars is None else _resource(function.bars),
        "resource1_resize": function.bar1_resize,
        "config": pci.compose_configuration(function.port_type, function.acs).decode("latin-1") if configured else "",
    }
    return {name: text for name, text in texts.items() if text}


def _resource(bars: dict[str, int]) -> str:
    """Start, end and flags of each register; the starts are ours, since a capture keeps sizes only."""
    start = 1 << 40
    ends = [start + max(0, bars.get(str(number), 0)) - 1 for number in range(6)]
    return "\n".join(f"{start:#018x} {end:#018x} 0x0" if end > start else "0x0 0x0 0x0" for end in ends)


def _speed(speed: float | str | None) -> str:
    if speed is None or isinstance(speed, str):
        return speed or ""
    return f"{speed:.1f} GT/s PCIe"


def _place(functions: dict[str, RecordedFunction], bus_id: str) -> str:
    """`sys/devices/<host bridge>/<port>/…/<function>`; a parent that is missing, or a ring of them, ends the way up."""
    path = [bus_id]
    while (parent := functions[path[0]].parent) is not None and parent in functions and parent not in path:
        path.insert(0, parent)
    return "/".join(["sys/devices", functions[path[0]].root.replace("/", "_"), *path])


def _read(path: Path, kind: Any) -> Any:
    """A JSON file as its type; None where there is no such file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RigbenchError(f"{path.name} cannot be read ({error.strerror})", CAPTURE_AGAIN) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RigbenchError(f"{path.name} is not what a capture writes ({error})", CAPTURE_AGAIN) from error
