"""What is the host: its processor, its memory, its NUMA nodes, and is it a virtual machine?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from rigbench.core.record import Absent
from rigbench.machine import cgroup
from rigbench.machine.record import Cpu, Memory, NumaNode, RigId
from rigbench.machine.sysfs import Sysfs, parse_cpu_list

CPUS = "sys/devices/system/cpu"
NODES = "sys/devices/system/node"
NOT_REPORTED = Absent("not reported")

# The instructions that decide how fast fp32, bf16 and int8 matrix products can be (x86 flags, Arm features).
INSTRUCTION_SETS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16"),
)
HYPERVISORS = ("QEMU", "KVM", "VMware", "VirtualBox", "Xen", "Amazon EC2", "Google", "Parallels", "Bochs", "OpenStack")


def cpu(sysfs: Sysfs) -> Cpu:
    blocks = parse_cpuinfo(_text(sysfs, "proc/cpuinfo"))
    first = blocks[0] if blocks else {}
    online = parse_cpu_list(_text(sysfs, f"{CPUS}/online"))
    logical = len(online) or sum("processor" in block for block in blocks) or NOT_REPORTED
    allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)", _text(sysfs, "proc/self/status"), re.MULTILINE)
    affinity = len(parse_cpu_list(allowed[1])) if allowed else NOT_REPORTED
    quota = cgroup.cpu_limit(sysfs)
    limits = [float(limit) for limit in (logical, affinity, quota) if not isinstance(limit, Absent)]
    packages, cores = _packages_and_cores(sysfs, blocks, sorted(online))
    return Cpu(
        model=_model(sysfs, first),
        vendor=_known(first, "vendor_id", "CPU implementer"),
        architecture=_architecture(sysfs, first),
        logical_cpus=logical,
        physical_cores=cores,
        sockets=packages,
        affinity_cpus=affinity,
        cgroup_limit_cpus=quota,
        usable_cpus=min(limits, default=NOT_REPORTED),
        l2_bytes=_cache_bytes(sysfs, 2, sorted(online)),
        l3_bytes=_cache_bytes(sysfs, 3, sorted(online)),
        instruction_sets=_instruction_sets(first),
    )


def memory(sysfs: Sysfs) -> Memory:
    meminfo = parse_meminfo(_text(sysfs, "proc/meminfo"))
    total, available = (meminfo.get(key, NOT_REPORTED) for key in ("MemTotal", "MemAvailable"))
    limit, used = cgroup.memory_limit(sysfs, total)
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
    names = sysfs.list_dir(NODES)
    numbers = (
        [] if isinstance(names, Absent) else [int(name[4:]) for name in names if re.fullmatch(r"node\d{1,4}", name)]
    )
    return tuple(_numa_node(sysfs, number) for number in sorted(numbers))


def kernel(sysfs: Sysfs) -> str | Absent:
    return sysfs.read_text("proc/sys/kernel/osrelease")


def virtual_machine(sysfs: Sysfs) -> str | Absent:
    """What machine this is a guest of; Absent on real hardware. A container is not a virtual machine."""
    if "microsoft" in str(kernel(sysfs)).lower():
        return "WSL2"
    blocks = parse_cpuinfo(_text(sysfs, "proc/cpuinfo"))
    flagged = bool(blocks) and "hypervisor" in blocks[0].get("flags", "").split()
    names = [sysfs.read_text(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    maker = " ".join(name for name in names if isinstance(name, str) and name)
    if flagged:
        return maker or "a hypervisor that gives no name"
    on_arm = blocks and "flags" not in blocks[0]  # Arm has no such flag: the firmware's name is all there is
    if on_arm and any(name.lower() in maker.lower() for name in HYPERVISORS):
        return maker
    return Absent("no sign of a hypervisor")


def process_peak_bytes(sysfs: Sysfs, pid: int | None = None) -> int | Absent:
    """The most resident memory that a process (this one, if None) has had."""
    return _process_bytes(sysfs, pid, "VmHWM")


def process_resident_bytes(sysfs: Sysfs, pid: int | None = None) -> int | Absent:
    """The memory that a process (this one, if None) has now."""
    return _process_bytes(sysfs, pid, "VmRSS")


def rig_id(cpu: Cpu, memory: Memory, cards: Iterable[tuple[str | Absent, str | Absent]]) -> RigId:
    """The identity behind "the same rig". `cards` are (UUID, name), sorted, because their order may change at boot."""
    known = sorted((uuid, _or_empty(name)) for uuid, name in cards if isinstance(uuid, str))
    gib = "" if isinstance(memory.total_bytes, Absent) else str(round(memory.total_bytes / (1 << 30)))
    text = "\n".join([*(uuid for uuid, _ in known), _or_empty(cpu.model), gib])
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


def _model(sysfs: Sysfs, block: dict[str, str]) -> str | Absent:
    model = _known(block, "model name", "Model", "cpu")
    if isinstance(model, Absent):
        model = sysfs.read_text("proc/device-tree/model")  # Arm boards name themselves here
    return model if isinstance(model, str) and model else NOT_REPORTED


def _architecture(sysfs: Sysfs, block: dict[str, str]) -> str | Absent:
    named = sysfs.read_text("proc/sys/kernel/arch")  # since Linux 6.1
    if isinstance(named, str) and named:
        return named
    if "lm" in block.get("flags", "").split():  # long mode: 64-bit x86
        return "x86_64"
    return "aarch64" if block.get("CPU architecture") == "8" else NOT_REPORTED


def _instruction_sets(block: dict[str, str]) -> tuple[str, ...]:
    present = set(f"{block.get('flags', '')} {block.get('Features', '')}".split())
    return tuple(name for name in INSTRUCTION_SETS if name in present)


def _packages_and_cores(
    sysfs: Sysfs, blocks: list[dict[str, str]], online: Sequence[int]
) -> tuple[int | Absent, int | Absent]:
    """(sockets, physical cores): x86 tells both in cpuinfo, others per CPU in sysfs."""
    places = {(block.get("physical id", ""), block.get("core id", "")) for block in blocks}
    if not all(core for _, core in places):
        folders = [f"{CPUS}/cpu{number}/topology" for number in online]
        places = {(_text(sysfs, f"{path}/physical_package_id"), _text(sysfs, f"{path}/core_id")) for path in folders}
    if not places or not all(core for _, core in places):
        return NOT_REPORTED, NOT_REPORTED
    return len({package for package, _ in places}), len(places)


def _cache_bytes(sysfs: Sysfs, level: int, online: Sequence[int]) -> int | Absent:
    """All caches of a level together. Each is shared by the CPUs that it lists, so those are asked once."""
    total, counted = 0, set[int]()
    for number in online:
        if number in counted:
            continue
        index = next((path for path in _cache_folders(sysfs, number) if sysfs.read_int(f"{path}/level") == level), None)
        size = parse_size(_text(sysfs, f"{index}/size")) if index else NOT_REPORTED
        if isinstance(size, Absent):
            return size
        total += size
        counted |= parse_cpu_list(_text(sysfs, f"{index}/shared_cpu_list")) | {number}
    return total or NOT_REPORTED


def _cache_folders(sysfs: Sysfs, number: int) -> list[str]:
    """A CPU's caches, the largest first: index3 is L3, index2 is L2 on every CPU seen so far."""
    folder = f"{CPUS}/cpu{number}/cache"
    names = sysfs.list_dir(folder)
    return (
        []
        if isinstance(names, Absent)
        else [f"{folder}/{name}" for name in reversed(names) if name.startswith("index")]
    )


def _numa_node(sysfs: Sysfs, number: int) -> NumaNode:
    text = re.sub(r"(?m)^Node \d+ ", "", _text(sysfs, f"{NODES}/node{number}/meminfo"))
    return NumaNode(
        node=number,
        cpus=_text(sysfs, f"{NODES}/node{number}/cpulist"),
        memory_total_bytes=parse_meminfo(text).get("MemTotal", NOT_REPORTED),
    )


def _process_bytes(sysfs: Sysfs, pid: int | None, key: str) -> int | Absent:
    status = sysfs.read_text(f"proc/{'self' if pid is None else pid}/status")
    return status if isinstance(status, Absent) else parse_meminfo(status).get(key, NOT_REPORTED)


def _known(block: dict[str, str], *keys: str) -> str | Absent:
    return next((block[key] for key in keys if block.get(key)), NOT_REPORTED)


def _or_empty(text: str | Absent) -> str:
    return "" if isinstance(text, Absent) else text


def _text(sysfs: Sysfs, path: str) -> str:
    return _or_empty(sysfs.read_text(path))
