"""Keeps what the kernel's files say of a rig in the terms of a capture, and plays it back.

The terms are those of rig.json and pci.json; files.json holds the texts that a replay would not give back from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason
from rigbench.core.record import Absent
from rigbench.machine import host, pci, peers
from rigbench.machine.redact import Redaction
from rigbench.machine.sysfs import RecordedSysfs, Sysfs, parse_cpu_list

FORMAT = 1
MOST_BUSES, MOST_CPUS = 32, 8192  # one below another; as many as the kernel can have
CAPTURE_AGAIN = "capture the rig again with rigbench capture"
NOT_READ = Absent("not read")

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
ALWAYS_IN_RIG_JSON = ("kernel", "cmdline", "virtual", "cpu", "cpu_vendor", "nodes", "iommu")
NUMBERED = re.compile(r"(?<=/)\d+(?=/|$)")


class RecordedHost(msgspec.Struct, forbid_unknown_fields=False):
    """`rig.json`: the few facts about the host that a capture keeps."""

    rigbench_capture: int = 1
    kernel: str = ""
    cmdline: str = ""
    iommu: str | None = None
    driver: str = ""
    driver_flavour: str = ""
    driver_overrides: str = ""
    virtual: bool | None = False  # None: nothing tells
    cpu: str = ""
    cpu_vendor: str = ""
    nodes: dict[str, str] = msgspec.field(default_factory=dict)
    note: str = ""  # by hand: "composed: …" where no machine ever was so


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
    known = _read(folder / "rig.json", RecordedHost) or RecordedHost()
    if known.rigbench_capture != FORMAT:
        what = f"rig.json is a capture of format {known.rigbench_capture}, this rigbench reads {FORMAT}"
        raise RigbenchError(what, "update")
    functions = _read(folder / "pci.json", dict[str, RecordedFunction])
    return recorded_tree(known, functions or {}, _read(folder / "files.json", RecordedFiles) or RecordedFiles())


def recorded_note(folder: Path, beginning: str = "composed") -> str:
    """What a recording says of how it was put together by hand; "" of one that a machine gave."""
    known = _read(folder / "rig.json", RecordedHost)
    return known.note if known and known.note.startswith(beginning) else ""


def _read(path: Path, kind: Any) -> Any:
    """A JSON file as its type; None where there is no such file."""
    try:
        return msgspec.json.decode(read_regular(path), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RigbenchError(f"{path.name} cannot be read ({reason(error)})", CAPTURE_AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise RigbenchError(f"{path.name} is not what a capture writes ({error})", CAPTURE_AGAIN) from error


def recorded_tree(known: RecordedHost, functions: dict[str, RecordedFunction], more: RecordedFiles) -> RecordedSysfs:
    """The tree in memory that these three describe."""
    files, links = _host_files(known), dict[str, str]()
    groups = set[int]()
    for bus_id, function in functions.items():
        # `sys/devices/<host bridge>/<port>/…/<function>`; a missing parent, a ring of them, or more than a domain has
        # buses, ends the way up.
        path = [bus_id]
        while (parent := functions[path[0]].parent) in functions and parent not in path and len(path) < MOST_BUSES:
            path.insert(0, parent)
        place = "/".join(["sys/devices", functions[path[0]].root.replace("/", "_"), *path])
        links[f"{pci.DEVICES}/{bus_id}"] = place
        cpus = known.nodes.get(str(function.numa), "")
        files |= {f"{place}/{name}": text for name, text in function_files(function, cpus).items()}
        if function.iommu_group is not None:
            groups.add(function.iommu_group)
            group = f"{peers.GROUPS}/{function.iommu_group}"
            links[f"{place}/iommu_group"] = group
            files[f"{group}/devices/{bus_id}"] = ""
    if known.iommu not in (None, "", "off"):  # one type was recorded for the whole rig
        files |= {f"{peers.GROUPS}/{number}/type": known.iommu or "" for number in groups or {0}}
    folders = [*more.folders, *more.links.values(), *([peers.GROUPS] if known.iommu == "off" else [])]
    return RecordedSysfs(files | more.files, links | more.links, folders)


def _host_files(known: RecordedHost) -> dict[str, str]:
    cpus = sorted(frozenset[int]().union(*map(parse_cpu_list, known.nodes.values())))[:MOST_CPUS]
    flags = "flags: hypervisor\n" if known.virtual else "" if known.virtual is None else "flags:\n"
    processor = f"model name: {known.cpu}\nvendor_id: {known.cpu_vendor}\n{flags}"
    module = "Open Kernel Module" if known.driver_flavour == "open" else "Kernel Module"
    texts = {
        f"{host.CPUS}/online": ",".join(map(str, cpus)),
        "proc/sys/kernel/osrelease": known.kernel,
        "proc/cmdline": known.cmdline,
    }
    files = {path: text for path, text in texts.items() if text}
    files["proc/cpuinfo"] = "\n".join(f"processor: {cpu}\n{processor}" for cpu in cpus) or processor
    if known.driver_flavour:
        files[f"{host.NVIDIA_MODULE}/version"] = f"NVRM version: NVIDIA UNIX {module}  {known.driver}"
    if known.driver_overrides:
        files[f"{host.NVIDIA_MODULE}/params"] = f'RegistryDwords: "{known.driver_overrides}"'
    return files | {f"{host.NODES}/node{node}/cpulist": cpu_list for node, cpu_list in known.nodes.items()}


def function_files(function: RecordedFunction, local_cpus: str = "") -> dict[str, str]:
    """One PCI function's folder, as the kernel writes it."""
    configured = function.port_type is not None or function.acs is not None
    speed, most = (
        f"{it:.1f} GT/s PCIe" if isinstance(it, float) else it or "" for it in (function.cur_speed, function.max_speed)
    )
    config = pci.compose_configuration(function.port_type, function.acs).decode("latin-1") if configured else ""
    texts = {
        "class": function.class_code,
        "vendor": function.vendor,
        "device": function.device,
        "numa_node": str(function.numa),
        "current_link_speed": speed,
        "max_link_speed": most,
        "current_link_width": "" if function.cur_width is None else str(function.cur_width),
        "max_link_width": "" if function.max_width is None else str(function.max_width),
        "local_cpulist": local_cpus,
        "resource1_resize": function.bar1_resize,
        "config": config,
    }
    return {name: text for name, text in texts.items() if text}


class RecordingSysfs(Sysfs):
    """Passes every reading on to another tree and keeps it, by its path."""

    def __init__(self, sysfs: Sysfs) -> None:
        self._sysfs = sysfs
        self.texts: dict[str, str | Absent] = {}
        self.contents: dict[str, bytes | Absent] = {}
        self.listings: dict[str, tuple[str, ...] | Absent] = {}
        self.places: dict[str, str | Absent] = {}
        self.existing: dict[str, bool] = {}

    def read_text(self, path: str) -> str | Absent:
        return self.texts.setdefault(path, self._sysfs.read_text(path))

    def read_bytes(self, path: str) -> bytes | Absent:
        return self.contents.setdefault(path, self._sysfs.read_bytes(path))

    def list_dir(self, path: str) -> tuple[str, ...] | Absent:
        return self.listings.setdefault(path, self._sysfs.list_dir(path))

    def real_path(self, path: str) -> str | Absent:
        return self.places.setdefault(path, self._sysfs.real_path(path))

    def exists(self, path: str) -> bool:
        return self.existing.setdefault(path, self._sysfs.exists(path))

    def kept(self, path: str) -> str:
        """A text as it was read, "" where there was none."""
        text = self.texts.get(path, "")
        return text if isinstance(text, str) else ""

    def left_out(self) -> tuple[str, ...]:
        """The files that are in no form in a capture, without the numbers and names in their paths."""
        paths = [path for path, text in self.texts.items() if isinstance(text, str) and not _may_be_kept(path)]
        plain = (NUMBERED.sub("N", it) if it.startswith("proc/") else "/".join(it.split("/")[:3]) for it in paths)
        return tuple(dict.fromkeys(plain))


def _may_be_kept(path: str) -> bool:
    return KEPT.fullmatch(path) is not None and NEVER.fullmatch(path) is None


def describe(
    sysfs: RecordingSysfs, redaction: Redaction
) -> tuple[dict[str, Any], dict[str, dict[str, Any]] | None, dict[str, Any]]:
    """(rig.json, pci.json if there is a PCI bus, files.json) of what was read: the inverse of `recorded_tree`."""
    known, listed = _host(sysfs, redaction), sysfs.listings.get(pci.DEVICES, NOT_READ)
    names = () if isinstance(listed, Absent) else tuple(name for name in listed if pci.BUS_ID.fullmatch(name))
    functions = {name: _function(sysfs, name) for name in names}
    more = RecordedFiles()
    # Each of these three is what a replay of what is known so far would not give back: first where links led,
    tree = recorded_tree(known, functions, more)
    for path, place in sysfs.places.items():
        target = _replayed(sysfs, tree, place) if isinstance(place, str) and _may_be_kept(path) else path
        if target != path and tree.real_path(path) != target:
            more.links[path] = target
    # then texts, by what is understood of them,
    tree = recorded_tree(known, functions, more)
    for path, text in sysfs.texts.items():
        if isinstance(text, Absent) or not _may_be_kept(path) or path in IN_RIG_JSON:
            continue
        meaning, replayed = _meaning(path), tree.read_text(path)
        if isinstance(replayed, Absent) or meaning(replayed) != meaning(text):
            kept = meaning(text)
            words = redaction.text(kept if isinstance(kept, str) else text)
            is_disk = path.endswith("/device/model")
            more.files[_replayed(sysfs, tree, path)] = redaction.disk_model(words) if is_disk else words
    # then files and folders that were there though nobody read them.
    tree, folders = recorded_tree(known, functions, more), list[str]()
    for path, children in sysfs.listings.items():
        if isinstance(children, tuple) and _may_be_kept(path) and isinstance(tree.list_dir(path), Absent):
            more.files.update({_replayed(sysfs, tree, f"{path}/{name}"): "" for name in children})
            folders += [] if children else [_replayed(sysfs, tree, path)]
    for path, exists in sysfs.existing.items():
        if exists and _may_be_kept(path) and not tree.exists(path):
            more.files[_replayed(sysfs, tree, path)] = ""
    host_document: dict[str, Any] = msgspec.to_builtins(known)
    also = (key for key in host_document if key not in (*ALWAYS_IN_RIG_JSON, "driver", "rigbench_capture"))
    rig_json = {key: host_document[key] for key in ALWAYS_IN_RIG_JSON}
    rig_json |= {key: host_document[key] for key in also if host_document[key]}
    pci_json = dict[str, dict[str, Any]]()
    for bus_id, function in functions.items():
        fields = msgspec.to_builtins(function)  # where it hangs comes first, then what is known
        pci_json[bus_id] = {"parent": fields.pop("parent"), "root": fields.pop("root")}
        pci_json[bus_id] |= {name: value for name, value in fields.items() if value not in (None, "")}
    document = msgspec.to_builtins(RecordedFiles(dict(sorted(more.files.items())), more.links, tuple(folders)))
    return (
        rig_json,
        None if isinstance(listed, Absent) else pci_json,
        {key: value for key, value in document.items() if value},
    )


def _host(sysfs: RecordingSysfs, redaction: Redaction) -> RecordedHost:
    blocks = host.parse_cpuinfo(sysfs.kept("proc/cpuinfo"))
    first = blocks[0] if blocks else {}
    flavour, overrides = host.driver_flavour(sysfs), host.driver_overrides(sysfs)
    kinds = {sysfs.kept(it) for it in sysfs.texts if re.fullmatch(rf"{peers.GROUPS}/\d+/type", it)} - {""}
    iommu = min(kinds, key=lambda kind: (kind == "identity", kind), default=None)  # None: none was looked for
    return RecordedHost(
        kernel=redaction.text(sysfs.kept("proc/sys/kernel/osrelease")),
        cmdline=redaction.kernel_words(sysfs.kept("proc/cmdline")),
        iommu="off" if sysfs.listings.get(peers.GROUPS) == () else iommu,
        driver_flavour=flavour if isinstance(flavour, str) else "",
        driver_overrides=redaction.registry_words(overrides) if isinstance(overrides, str) else "",
        virtual="hypervisor" in first.get("flags", "").split(),
        cpu=first.get("model name", ""),
        cpu_vendor=first.get("vendor_id", ""),
        nodes={
            match[1]: text
            for path, text in sysfs.texts.items()
            if isinstance(text, str) and (match := re.fullmatch(rf"{host.NODES}/node(\d+)/cpulist", path))
        },
    )


def _function(sysfs: RecordingSysfs, bus_id: str) -> RecordedFunction:
    folder = f"{pci.DEVICES}/{bus_id}"
    root, parent = pci.parse_place(sysfs.places.get(folder, NOT_READ), bus_id)
    config = pci.configuration(sysfs, folder) if f"{folder}/config" in sysfs.contents else NOT_READ
    port_type, acs = (config, config) if isinstance(config, Absent) else config
    group = pci.parse_group(sysfs.places.get(f"{folder}/iommu_group", NOT_READ))
    numa = sysfs.kept(f"{folder}/numa_node")
    return RecordedFunction(
        root=root,
        parent=parent if isinstance(parent, str) else None,
        class_code=sysfs.kept(f"{folder}/class"),
        vendor=sysfs.kept(f"{folder}/vendor"),
        device=sysfs.kept(f"{folder}/device"),
        numa=int(numa) if re.fullmatch(r"\d{1,4}", numa) else -1,
        cur_speed=_speed(sysfs.kept(f"{folder}/current_link_speed")),
        max_speed=_speed(sysfs.kept(f"{folder}/max_link_speed")),
        cur_width=_number(sysfs.kept(f"{folder}/current_link_width")),
        max_width=_number(sysfs.kept(f"{folder}/max_link_width")),
        port_type=port_type if isinstance(port_type, str) else None,
        acs=acs if isinstance(acs, tuple) else None,
        iommu_group=group if isinstance(group, int) else None,
        bar1_resize=sysfs.kept(f"{folder}/resource1_resize"),
    )


def _speed(text: str) -> float | str | None:
    """`16.0 GT/s PCIe` is 16.0; any other wording is kept as it is."""
    match = re.fullmatch(r"(\d{1,3}\.\d) GT/s PCIe", text)
    return float(match[1]) if match else text or None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"0|[1-9]\d{0,2}", text) else None


def _replayed(sysfs: RecordingSysfs, tree: RecordedSysfs, path: str) -> str:
    """A path as a replay arrives at it, which places every PCI function below the function above it."""
    for above in reversed(path.split("/")):
        place = tree.real_path(f"{pci.DEVICES}/{above}") if pci.BUS_ID.fullmatch(above) else Absent("no function")
        if isinstance(place, str):
            below = path.partition(f"/{above}")[2] if path.count(above) == 1 else path.rpartition(above)[2]
            return place + below
    parts = path.split("/")
    for depth in range(len(parts), 0, -1):
        link = "/".join(parts[:depth])
        place = sysfs.places.get(link, Absent("no link"))
        if isinstance(place, str) and place != link:
            return _replayed(sysfs, tree, "/".join([place, *parts[depth:]]))
    return path


def _meaning(path: str) -> Callable[[str], object]:
    """What of a file's text rigbench understands: texts of one meaning need not be kept twice."""
    name = path.rpartition("/")[2]
    if path == f"{host.NVIDIA_MODULE}/version":
        return host.parse_flavour
    if path == "proc/cpuinfo":
        return processors
    if path == f"{host.NVIDIA_MODULE}/params":
        lines = r"^RegistryDwords.*$"
    elif name == "status":
        lines = r"^Cpus_allowed_list.*$"
    elif name == "meminfo":
        lines = rf"^(?:Node \d+ )?(?:{'|'.join(MEMORY_KEYS)}):.*$"
    else:
        return lambda text: text
    return lambda text: "\n".join(re.findall(lines, text, re.MULTILINE))


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
