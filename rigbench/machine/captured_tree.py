"""What did the kernel's files say of this rig, in the terms of a capture? The inverse of `recording`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from rigbench.core.record import Absent
from rigbench.machine import host, pci, peers
from rigbench.machine.recorders import RecordingSysfs
from rigbench.machine.recording import RecordedFiles, RecordedFunction, RecordedHost, recorded_tree
from rigbench.machine.redact import Redaction
from rigbench.machine.sysfs import RecordedSysfs

# What may be kept; anything else that was read is told as left out.
KEPT = re.compile(
    r"sys/(?:bus/pci|block|class/(?:block|nvme|infiniband|net|hwmon|powercap|iommu|dmi/id)|devices|module/nvidia\w*"
    r"|kernel/iommu_groups)(?:/.*)?"
    r"|proc/(?:cpuinfo|meminfo|cmdline|self/status|sys/kernel/(?:osrelease|arch)|device-tree/model"
    r"|driver/nvidia(?:/.*)?)"
)
NEVER = re.compile(
    r".*/(?:config|uevent|vpd|\w*serial\w*|\w*uuid|wwid|nguid|eui|address|\w*guid|unique_id|gids(?:/.*)?)"
)
CPU_KEYS = ("processor", "model name", "vendor_id", "physical id", "core id", "Model", "cpu", "CPU implementer")
CPU_ARCHITECTURE, FEATURES = "CPU architecture", ("flags", "Features")
MEMORY_KEYS = ("MemTotal", "MemAvailable", "SwapTotal")
IN_RIG_JSON = ("proc/cmdline", "proc/sys/kernel/osrelease")  # without what names a machine
NUMBERED = re.compile(r"(?<=/)\d+(?=/|$)")

Meaning = Callable[[str], object]


def describe(
    sysfs: RecordingSysfs, redaction: Redaction
) -> tuple[dict[str, Any], dict[str, dict[str, Any]] | None, dict[str, Any]]:
    """(rig.json, pci.json if there is a PCI bus, files.json) of what was read."""
    known, functions = _host(sysfs, redaction), _functions(sysfs)
    more = RecordedFiles()
    tree = recorded_tree(known, functions or {}, more)
    more.links.update(_links(sysfs, tree))
    tree = recorded_tree(known, functions or {}, more)
    more.files.update(_files(sysfs, tree, redaction))
    files, folders = _names(sysfs, recorded_tree(known, functions or {}, more))
    more.files.update(files)
    document = msgspec.to_builtins(RecordedFiles(dict(sorted(more.files.items())), more.links, tuple(folders)))
    as_written = None if functions is None else {bus_id: _plain(function) for bus_id, function in functions.items()}
    return _described(known), as_written, {key: value for key, value in document.items() if value}


def left_out(sysfs: RecordingSysfs) -> tuple[str, ...]:
    """The files that were read and are in no form in the capture, without the numbers and names in their paths."""
    paths = [path for path, text in sysfs.texts.items() if isinstance(text, str) and not _kept(path)]
    told = (NUMBERED.sub("N", path) if path.startswith("proc/") else "/".join(path.split("/")[:3]) for path in paths)
    return tuple(dict.fromkeys(told))


def _host(sysfs: RecordingSysfs, redaction: Redaction) -> RecordedHost:
    blocks = host.parse_cpuinfo(_text(sysfs, "proc/cpuinfo"))
    first = blocks[0] if blocks else {}
    nodes = {
        match[1]: text
        for path, text in sysfs.texts.items()
        if isinstance(text, str) and (match := re.fullmatch(rf"{host.NODES}/node(\d+)/cpulist", path))
    }
    flavour, overrides = host.driver_flavour(sysfs), host.driver_overrides(sysfs)
    return RecordedHost(
        kernel=redaction.text(_text(sysfs, "proc/sys/kernel/osrelease")),
        cmdline=redaction.kernel_words(_text(sysfs, "proc/cmdline")),
        iommu=_iommu(sysfs),
        driver_flavour=flavour if isinstance(flavour, str) else "",
        driver_overrides=overrides if isinstance(overrides, str) else "",
        virtual="hypervisor" in first.get("flags", "").split(),
        cpu=first.get("model name", ""),
        cpu_vendor=first.get("vendor_id", ""),
        nodes=nodes,
    )


def _described(known: RecordedHost) -> dict[str, Any]:
    """rig.json beside the driver's version: what the format always names, then what there is besides."""
    document: dict[str, Any] = msgspec.to_builtins(known)
    always = ("kernel", "cmdline", "virtual", "cpu", "cpu_vendor", "nodes", "iommu")
    also = (key for key in document if key not in (*always, "driver", "rigbench_capture"))
    return {key: document[key] for key in always} | {key: document[key] for key in also if document[key]}


def _iommu(sysfs: RecordingSysfs) -> str | None:
    """The kernel's word for how memory accesses go; "off" where there is no group, None where none was looked for."""
    if sysfs.listings.get(peers.GROUPS) == ():
        return "off"
    kinds = {_text(sysfs, path) for path in sysfs.texts if re.fullmatch(rf"{peers.GROUPS}/\d+/type", path)} - {""}
    return min(kinds, key=lambda kind: (kind == "identity", kind), default=None)


def _functions(sysfs: RecordingSysfs) -> dict[str, RecordedFunction] | None:
    names = sysfs.listings.get(pci.DEVICES, Absent("not read"))
    if isinstance(names, Absent):
        return None
    return {name: _function(sysfs, name) for name in names if pci.BUS_ID.fullmatch(name)}


def _function(sysfs: RecordingSysfs, bus_id: str) -> RecordedFunction:
    folder = f"{pci.DEVICES}/{bus_id}"
    root, parent = pci.parse_place(sysfs.places.get(folder, Absent("not read")), bus_id)
    config = pci.configuration(sysfs, folder) if f"{folder}/config" in sysfs.contents else Absent("not read")
    port_type, acs = (config, config) if isinstance(config, Absent) else config
    group = pci.parse_group(sysfs.places.get(f"{folder}/iommu_group", Absent("not read")))
    bars = pci.parse_bars(sysfs.texts.get(f"{folder}/resource", Absent("not read")))
    numa = _text(sysfs, f"{folder}/numa_node")
    return RecordedFunction(
        root=root,
        parent=parent if isinstance(parent, str) else None,
        class_code=_text(sysfs, f"{folder}/class"),
        vendor=_text(sysfs, f"{folder}/vendor"),
        device=_text(sysfs, f"{folder}/device"),
        numa=int(numa) if re.fullmatch(r"\d{1,4}", numa) else -1,
        cur_speed=_speed(_text(sysfs, f"{folder}/current_link_speed")),
        max_speed=_speed(_text(sysfs, f"{folder}/max_link_speed")),
        cur_width=_width(_text(sysfs, f"{folder}/current_link_width")),
        max_width=_width(_text(sysfs, f"{folder}/max_link_width")),
        port_type=port_type if isinstance(port_type, str) else None,
        acs=acs if isinstance(acs, tuple) else None,
        iommu_group=group if isinstance(group, int) else None,
        bars=bars if isinstance(bars, dict) else None,
        bar1_resize=_text(sysfs, f"{folder}/resource1_resize"),
    )


def _plain(function: RecordedFunction) -> dict[str, Any]:
    """A function as pci.json has it: where it hangs, then what is known."""
    fields: dict[str, Any] = msgspec.to_builtins(function)
    place = {"parent": fields.pop("parent"), "root": fields.pop("root")}
    return place | {name: value for name, value in fields.items() if value not in (None, "")}


def _speed(text: str) -> float | str | None:
    """`16.0 GT/s PCIe` is 16.0; any other wording is kept as it is."""
    match = re.fullmatch(r"(\d{1,3}\.\d) GT/s PCIe", text)
    return float(match[1]) if match else text or None


def _width(text: str) -> int | None:
    return int(text) if re.fullmatch(r"0|[1-9]\d{0,2}", text) else None


def _links(sysfs: RecordingSysfs, tree: RecordedSysfs) -> dict[str, str]:
    """Where links led that a replay would not follow there."""
    links = {}
    for path, place in sysfs.places.items():
        target = _replayed(sysfs, tree, place) if isinstance(place, str) and _kept(path) else path
        if target != path and tree.real_path(path) != target:
            links[path] = target
    return links


def _files(sysfs: RecordingSysfs, tree: RecordedSysfs, redaction: Redaction) -> dict[str, str]:
    """The texts that a replay would not give back."""
    files = {}
    for path, text in sysfs.texts.items():
        if isinstance(text, Absent) or not _kept(path) or path in IN_RIG_JSON:
            continue
        meaning, replayed = _meaning(path), tree.read_text(path)
        if isinstance(replayed, Absent) or meaning(replayed) != meaning(text):
            kept = meaning(text)
            files[_replayed(sysfs, tree, path)] = redaction.text(kept if isinstance(kept, str) else text)
    return files


def _names(sysfs: RecordingSysfs, tree: RecordedSysfs) -> tuple[dict[str, str], list[str]]:
    """(files, folders) that were there though nobody read them."""
    files, folders = dict[str, str](), list[str]()
    for path, names in sysfs.listings.items():
        if isinstance(names, tuple) and _kept(path) and isinstance(tree.list_dir(path), Absent):
            files |= {_replayed(sysfs, tree, f"{path}/{name}"): "" for name in names}
            folders += [] if names else [_replayed(sysfs, tree, path)]
    for path, exists in sysfs.existing.items():
        if exists and _kept(path) and not tree.exists(path):
            files[_replayed(sysfs, tree, path)] = ""
    return files, folders


def _replayed(sysfs: RecordingSysfs, tree: RecordedSysfs, path: str) -> str:
    """A path as a replay arrives at it, which places every PCI function below the function above it."""
    for above in reversed(path.split("/")):
        place = tree.real_path(f"{pci.DEVICES}/{above}") if pci.BUS_ID.fullmatch(above) else Absent("no function")
        if isinstance(place, str):
            return (
                place + path.partition(f"/{above}")[2] if path.count(above) == 1 else place + path.rpartition(above)[2]
            )
    parts = path.split("/")
    for depth in range(len(parts), 0, -1):
        place = sysfs.places.get("/".join(parts[:depth]), Absent("no link"))
        if isinstance(place, str) and place != "/".join(parts[:depth]):
            return _replayed(sysfs, tree, "/".join([place, *parts[depth:]]))
    return path


def _meaning(path: str) -> Meaning:
    """What of a file's text rigbench understands: texts of one meaning need not be kept twice."""
    name = path.rpartition("/")[2]
    if path.startswith(pci.DEVICES) and name == "resource":
        return lambda text: pci.parse_bars(text)
    if path == f"{host.NVIDIA_MODULE}/version":
        return host.parse_flavour
    if path == f"{host.NVIDIA_MODULE}/params":
        return lambda text: "\n".join(line for line in text.splitlines() if line.startswith("RegistryDwords"))
    if path == "proc/cpuinfo":
        return processors
    if name == "status":
        return lambda text: "\n".join(line for line in text.splitlines() if line.startswith("Cpus_allowed_list"))
    if name == "meminfo":
        keys = "|".join(MEMORY_KEYS)
        return lambda text: "\n".join(re.findall(rf"(?m)^(?:Node \d+ )?(?:{keys}):.*$", text))
    return lambda text: text


def processors(text: str) -> str:
    """`/proc/cpuinfo` by what is understood of it; only the first processor's features are."""
    lines = []
    for place, block in enumerate(host.parse_cpuinfo(text)):
        lines += [f"{key}: {block[key]}" for key in (*CPU_KEYS, CPU_ARCHITECTURE) if block.get(key)]
        for key in FEATURES if place == 0 else ():
            known = set(block.get(key, "").split()) & {*host.INSTRUCTION_SETS, "lm", "hypervisor"}
            lines += [f"{key}: {' '.join(sorted(known))}".rstrip()] if key in block else []
        lines.append("")
    return "\n".join(lines).strip()


def _kept(path: str) -> bool:
    return KEPT.fullmatch(path) is not None and NEVER.fullmatch(path) is None


def _text(sysfs: RecordingSysfs, path: str) -> str:
    text = sysfs.texts.get(path, "")
    return text if isinstance(text, str) else ""
