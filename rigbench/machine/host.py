"""Reads the host: processor, memory, NUMA nodes, disks, hypervisor, container limits, and the NVIDIA kernel module."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from rigbench.core.record import Absent
from rigbench.machine.record import Cpu, Disk, Memory, NumaNode, RigId
from rigbench.machine.sysfs import Sysfs, parse_cpu_list, parse_int

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"
BLOCK = "sys/block"
NVIDIA_MODULE = "proc/driver/nvidia"
SECTOR_BYTES = 512  # /sys/block/*/size counts these, whatever the disk's own sectors are
NOT_A_DISK = re.compile(r"(loop|ram|zram|dm-|md|nbd|sr|fd|zd)\d")
PCI_BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
NOT_REPORTED, NO_LIMIT = Absent("not reported"), Absent("no limit")

# The instructions that decide how fast fp32, bf16 and int8 matrix products can be (x86 flags, Arm features).
INSTRUCTION_SETS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16"),
)
HYPERVISORS = ("QEMU", "KVM", "VMware", "VirtualBox", "Xen", "Amazon EC2", "Google", "Parallels", "Bochs", "OpenStack")


def cpu(sysfs: Sysfs) -> Cpu:
    blocks = parse_cpuinfo(sysfs.text("proc/cpuinfo"))
    first = blocks[0] if blocks else {}
    online = parse_cpu_list(sysfs.text(f"{CPUS}/online"))
    logical = len(online) or sum("processor" in block for block in blocks) or NOT_REPORTED
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", sysfs.text("proc/self/status"), re.MULTILINE)
    affinity = len(parse_cpu_list(allowed[1])) if allowed else NOT_REPORTED
    quota = cpu_limit(sysfs)
    limits = [float(limit) for limit in (logical, affinity, quota) if not isinstance(limit, Absent)]
    packages, cores = _packages_and_cores(sysfs, blocks, sorted(online))
    present = set(f"{first.get('flags', '')} {first.get('Features', '')}".split())
    return Cpu(
        model=_first(first, "model name", "Model", "cpu") or sysfs.text("proc/device-tree/model") or NOT_REPORTED,
        vendor=_first(first, "vendor_id", "CPU implementer") or NOT_REPORTED,
        architecture=_architecture(sysfs, first),
        logical_cpus=logical,
        physical_cores=cores,
        sockets=packages,
        affinity_cpus=affinity,
        cgroup_limit_cpus=quota,
        usable_cpus=min(limits, default=NOT_REPORTED),
        l2_bytes=_cache_bytes(sysfs, 2, sorted(online)),
        l3_bytes=_cache_bytes(sysfs, 3, sorted(online)),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in present),
    )


def memory(sysfs: Sysfs) -> Memory:
    meminfo = parse_meminfo(sysfs.text("proc/meminfo"))
    total, available = (meminfo.get(key, NOT_REPORTED) for key in ("MemTotal", "MemAvailable"))
    limit, used = memory_limit(sysfs, total)
    left = NOT_REPORTED if isinstance(limit, Absent) or isinstance(used, Absent) else max(0, limit - used)
    return Memory(
        total_bytes=total,
        available_bytes=available,
        swap_total_bytes=meminfo.get("SwapTotal", NOT_REPORTED),
        cgroup_limit_bytes=limit,
        cgroup_used_bytes=used,
        usable_bytes=min((n for n in (available, left) if not isinstance(n, Absent)), default=NOT_REPORTED),
    )


def numa_nodes(sysfs: Sysfs) -> tuple[NumaNode, ...]:
    nodes = []
    for number in sorted(int(name[4:]) for name in sysfs.names(NODES) if re.fullmatch(r"node\d{1,4}", name)):
        folder = f"{NODES}/node{number}"
        meminfo = parse_meminfo(re.sub(r"(?m)^Node \d+ ", "", sysfs.text(f"{folder}/meminfo")))
        nodes.append(NumaNode(number, sysfs.text(f"{folder}/cpulist"), meminfo.get("MemTotal", NOT_REPORTED)))
    return tuple(nodes)


def kernel(sysfs: Sysfs) -> str | Absent:
    return sysfs.read_text("proc/sys/kernel/osrelease")


def virtual_machine(sysfs: Sysfs) -> str | Absent:
    """What machine this is a guest of; Absent on real hardware. A container is not a virtual machine."""
    if "microsoft" in str(kernel(sysfs)).lower():
        return "WSL2"
    blocks = parse_cpuinfo(sysfs.text("proc/cpuinfo"))
    flagged = bool(blocks) and "hypervisor" in blocks[0].get("flags", "").split()
    names = [sysfs.text(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    maker = " ".join(name for name in names if name)
    if flagged:
        return maker or "a hypervisor that gives no name"
    on_arm = blocks and "flags" not in blocks[0]  # Arm has no such flag: the firmware's name is all there is
    if on_arm and any(name.lower() in maker.lower() for name in HYPERVISORS):
        return maker
    told = blocks and blocks[0].keys() & {"flags", "Features"}
    return Absent("no sign of a hypervisor" if told else "the processor's flags, which tell it, are not known")


def process_peak_bytes(sysfs: Sysfs) -> int | Absent:
    """The most resident memory that this process has had."""
    return process_bytes(sysfs, "VmHWM")


def process_resident_bytes(sysfs: Sysfs) -> int | Absent:
    """The memory that this process has now."""
    return process_bytes(sysfs, "VmRSS")


def process_bytes(sysfs: Sysfs, key: str) -> int | Absent:
    """A line of this process's status, as VmData."""
    status = sysfs.read_text("proc/self/status")
    return status if isinstance(status, Absent) else parse_meminfo(status).get(key, NOT_REPORTED)


def rig_id(cpu: Cpu, memory: Memory, cards: Iterable[tuple[str | Absent, str | Absent]]) -> RigId:
    """The identity behind "the same rig". `cards` are (UUID, name), sorted, because their order may change at boot."""
    known = sorted((uuid, "" if isinstance(name, Absent) else name) for uuid, name in cards if isinstance(uuid, str))
    model = "" if isinstance(cpu.model, Absent) else cpu.model
    gib = "" if isinstance(memory.total_bytes, Absent) else str(round(memory.total_bytes / (1 << 30)))
    text = "\n".join([*(uuid for uuid, _ in known), model, gib])
    return RigId(
        fingerprint=hashlib.sha256(text.encode()).hexdigest()[:12],
        cpu_model=cpu.model,
        memory_total_bytes=memory.total_bytes,
        gpu_uuids=tuple(uuid for uuid, _ in known),
        gpu_names=tuple(name for _, name in known),
    )


def parse_cpuinfo(text: str) -> list[dict[str, str]]:
    """`/proc/cpuinfo` as one mapping per logical CPU. Some kernels add a block about the board: it is left out."""
    blocks = []
    for paragraph in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in paragraph.splitlines())
        block = {key.strip(): value.strip() for key, _, value in pairs}
        if {"processor", "model name"} & block.keys():
            blocks.append(block)
    return blocks


def parse_meminfo(text: str) -> dict[str, int]:
    """Lines like `MemTotal:  24684096 kB`, in bytes. The kernel's kB is 1024 bytes; other units are left out."""
    return {key: int(value) << 10 for key, value in re.findall(r"^(\w+):\s+(\d{1,15}) kB$", text, re.MULTILINE)}


def parse_size(text: str) -> int | Absent:
    """A cache's `1024K` or `32M`, in bytes."""
    match = re.fullmatch(r"(\d{1,9})([KMG]?)", text)
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]] if match else NOT_REPORTED


def _architecture(sysfs: Sysfs, block: dict[str, str]) -> str | Absent:
    named = sysfs.text("proc/sys/kernel/arch")  # since Linux 6.1
    if named:
        return named
    if "lm" in block.get("flags", "").split():  # long mode: 64-bit x86
        return "x86_64"
    return "aarch64" if block.get("CPU architecture") == "8" else NOT_REPORTED


def _packages_and_cores(
    sysfs: Sysfs, blocks: list[dict[str, str]], online: Sequence[int]
) -> tuple[int | Absent, int | Absent]:
    """(sockets, physical cores): x86 tells both in cpuinfo, others per CPU in sysfs."""
    places = {(block.get("physical id", ""), block.get("core id", "")) for block in blocks}
    if not all(core for _, core in places):
        folders = [f"{CPUS}/cpu{number}/topology" for number in online]
        places = {(sysfs.text(f"{path}/physical_package_id"), sysfs.text(f"{path}/core_id")) for path in folders}
    if not places or not all(core for _, core in places):
        return NOT_REPORTED, NOT_REPORTED
    return len({package for package, _ in places}), len(places)


def _cache_bytes(sysfs: Sysfs, level: int, online: Sequence[int]) -> int | Absent:
    """All caches of a level together. Each is shared by the CPUs that it lists, so those are asked once."""
    total, counted = 0, set[int]()
    for number in online:
        if number in counted:
            continue
        folder = f"{CPUS}/cpu{number}/cache"  # index3 is L3, index2 is L2 on every CPU seen so far
        caches = [f"{folder}/{name}" for name in reversed(sysfs.names(folder)) if name.startswith("index")]
        cache = next((path for path in caches if sysfs.read_int(f"{path}/level") == level), None)
        size = parse_size(sysfs.text(f"{cache}/size")) if cache else NOT_REPORTED
        if isinstance(size, Absent):
            return size
        total += size
        counted |= parse_cpu_list(sysfs.text(f"{cache}/shared_cpu_list")) | {number}
    return total or NOT_REPORTED


# The container's limits, in cgroup v1, v2 or both at once.
def cpu_limit(sysfs: Sysfs) -> float | Absent:
    """CPUs' worth of time that the tightest quota on the way up allows."""
    limits = []
    for folder in cgroup_folders(sysfs, "cpu"):
        quota, _, period = sysfs.text(f"{folder}/cpu.max").partition(" ")
        if not period:
            quota, period = (sysfs.text(f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
        microseconds, of = parse_int(quota), parse_int(period)
        if isinstance(microseconds, int) and isinstance(of, int) and microseconds > 0 and of > 0:
            limits.append(microseconds / of)  # where there is none, v2 writes "max", v1 writes -1
    return min(limits, default=NO_LIMIT)


def memory_limit(sysfs: Sysfs, total_bytes: int | Absent) -> tuple[int | Absent, int | Absent]:
    """(limit, what is used of it without the page cache that can be dropped), of the tightest group on the way up.

    A limit at or above physical memory is no limit: v1 writes 2^63 rounded to a page where there is none.
    """
    ceiling = (1 << 62) if isinstance(total_bytes, Absent) else total_bytes
    limits: list[tuple[int, str]] = []
    for folder in cgroup_folders(sysfs, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = sysfs.read_int(f"{folder}/{name}")
            if not isinstance(limit, Absent) and 0 < limit < ceiling:
                limits.append((limit, folder))
    if not limits:
        return NO_LIMIT, NO_LIMIT
    limit, folder = min(limits)
    used = sysfs.read_int(f"{folder}/memory.current")
    if isinstance(used, Absent):
        used = sysfs.read_int(f"{folder}/memory.usage_in_bytes")
    if isinstance(used, Absent):
        return limit, used
    stat = dict(re.findall(r"^(\w+) (\d{1,18})$", sysfs.text(f"{folder}/memory.stat"), re.MULTILINE))
    droppable = stat.get("total_inactive_file") or stat.get("inactive_file") or "0"  # total_ is v1's with its children
    return limit, max(0, used - int(droppable))


def cgroup_folders(sysfs: Sysfs, controller: str) -> Iterator[str]:
    """The folders of this process's group for a controller, from its own up to the top that is visible here."""
    groups = parse_groups(sysfs.text("proc/self/cgroup"))
    for mount in parse_mounts(sysfs.text("proc/self/mountinfo")):
        if controller in mount["controllers"].split(","):
            group = groups.get(controller)
        else:
            group = groups.get("") if mount["kind"] == "cgroup2" else None
        if group is None:
            continue
        root = mount["root"]  # the mount may show only the part below it; a group outside is taken for its top
        if root == "/":
            below = "" if ".." in group.split("/") else group.strip("/")
        else:
            below = group[len(root) :].strip("/") if f"{group}/".startswith(f"{root}/") else ""
        path = PurePosixPath(below)
        yield from (f"{mount['point'].strip('/')}/{part}" for part in (path, *path.parents))


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
            root, point = (re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), it) for it in fields[3:5])
            yield {"root": root, "point": point, "kind": kind[0], "controllers": controllers}


def disk_names(sysfs: Sysfs) -> tuple[str, ...]:
    """Whole disks of this machine, which could feed a training run."""
    return tuple(name for name in sysfs.names(BLOCK) if not NOT_A_DISK.match(name))


def disks(sysfs: Sysfs) -> tuple[Disk, ...]:
    return tuple(_disk(sysfs, name) for name in disk_names(sysfs))


def _disk(sysfs: Sysfs, name: str) -> Disk:
    path = sysfs.real_path(f"{BLOCK}/{name}")
    transport = transport_of(name, "" if isinstance(path, Absent) else path)
    sectors = sysfs.read_int(f"{BLOCK}/{name}/size")
    rotational = sysfs.read_text(f"{BLOCK}/{name}/queue/rotational")
    if transport == "virtio":
        rotational = Absent("a virtual disk does not report it")
    controller = re.match(r"nvme\d+", name)  # a multipath NVMe disk hangs elsewhere: its controller tells
    paths = [path, sysfs.real_path(f"sys/class/nvme/{controller[0]}")] if controller else [path]
    places = [PCI_BUS_ID.findall(candidate) for candidate in paths if isinstance(candidate, str)]
    return Disk(
        name=name,
        model=sysfs.text(f"{BLOCK}/{name}/device/model") or NOT_REPORTED,
        size_bytes=sectors if isinstance(sectors, Absent) else sectors * SECTOR_BYTES,
        rotational=rotational if isinstance(rotational, Absent) else rotational == "1",
        transport=transport,
        pci_bus_id=next((place[-1] for place in places if place), Absent("not on a PCI bus")),
    )


def transport_of(name: str, path: str) -> str:
    """How a disk is attached, from its name and where it hangs in the device tree."""
    if name.startswith("nvme"):
        return "nvme"
    if name.startswith("mmcblk"):
        return "mmc"
    for part, transport in (("/usb", "usb"), ("/virtio", "virtio"), ("/ata", "sata"), ("/vmbus", "hyper-v")):
        if part in path.lower():
            return transport
    return "scsi" if "/host" in path else "unknown"


def driver_flavour(sysfs: Sysfs) -> str | Absent:
    """ "open" or "closed": the two builds of NVIDIA's kernel module differ in what they allow between GPUs."""
    version = sysfs.read_text(f"{NVIDIA_MODULE}/version")
    return version if isinstance(version, Absent) else parse_flavour(version)


def parse_flavour(version: str) -> str | Absent:
    if "Open Kernel Module" in version:
        return "open"
    return "closed" if "Kernel Module" in version else Absent("not reported by this driver")


def driver_overrides(sysfs: Sysfs) -> str | Absent:
    """The registry words that the module was given, such as `ForceP2P=17`."""
    text = sysfs.read_text(f"{NVIDIA_MODULE}/params")
    if isinstance(text, Absent):
        return text
    words = re.search(r'^RegistryDwords: "(.*)"$', text, re.MULTILINE)
    return (words[1] if words else "") or Absent("none")


def _first(block: dict[str, str], *keys: str) -> str:
    return next((block[key] for key in keys if block.get(key)), "")
