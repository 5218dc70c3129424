"""Reads what stands between two GPUs: IOMMU, ACS, the driver's P2P codes; and predicts which way NCCL takes.

The driver's code does not tell the card, the board and the driver apart, so the other facts stand beside it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from rigbench.core.record import Absent
from rigbench.machine import pci
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Gpu, GpuPair, Isolation, NcclChoice, PciDevice
from rigbench.machine.sysfs import Sysfs

GROUPS = "sys/kernel/iommu_groups"
REDIRECTS = {"ReqRedir+", "CmpltRedir+"}  # SrcValid+ alone is harmless
# Documentation/ABI/testing/sysfs-kernel-iommu_groups: a group's default domain.
MODES = {"DMA": "translating", "DMA-FQ": "translating", "identity": "passthrough", "blocked": "translating"}
KERNEL_WORDS = ("iommu", "intel_iommu", "amd_iommu", "pcie_acs_override", "pci", "pcie_aspm", "pcie_ports")

READ, WRITE, NVLINK, ATOMICS = range(4)  # nvml.h, nvmlGpuP2PCapsIndex_t
OK = 0
# nvmlGpuP2PStatus_t, and what each was seen to mean (driver source 595.45, p2p_caps.c, and published rigs).
MEANINGS = {
    1: "the chipset is not in the driver's table, or the driver withholds P2P from GeForce cards",
    2: "the card's own P2P property is off",
    3: "an old Intel host bridge cannot carry it between root ports",
    4: "a registry key of the driver turns it off",
    5: "the cards are not of one kind, or the PCI topology could not be read",
    6: "the driver does not know",
}

# NCCL, paths.cc, ncclTopoCheckP2p (2.19 to 2.30): P2P up to level PXB; up to SYS on AMD processors with at most two
# GPUs; where the driver's P2P status for reads or writes is not OK, none. Otherwise shared memory of the host.
LEVELS = ("PIX", "PXB", "PHB", "NODE", "SYS")
DEFAULT_LEVEL = "PXB"
AMD_VENDOR, AMD_GPUS_AT_MOST = "AuthenticAMD", 2
# NCCL's log at NCCL_DEBUG=INFO (transport/p2p.cc, shm.cc and net.cc, 2.13 to 2.30): "Channel 00/0 : 0[0] -> 1[1] via
# P2P/CUMEM/read", "Channel 00 : 0[0] -> 1[1] via SHM/direct/direct", "… [send] via NET/Socket/0".
CHANNEL = re.compile(r"Channel \d+(?:/\d+)? : \S+ -> \S+ (?:\[send\] )?via ([A-Z0-9]+)/([^/\n]+)")


def isolation(sysfs: Sysfs, tree: Mapping[str, PciDevice], gpu_bus_ids: Sequence[str]) -> Isolation:
    above = sorted({bridge for bus_id in gpu_bus_ids for bridge in pci.path_to(tree, bus_id)[:-1] if bridge in tree})
    readable = {bus_id: acs for bus_id in above if isinstance(acs := tree[bus_id].acs, tuple)}
    unread = [acs for bus_id in above if isinstance(acs := tree[bus_id].acs, Absent)]
    why = unread[0] if unread else Absent("no bridge above a GPU is known")
    kind = iommu_type(sysfs, [tree[bus_id].iommu_group for bus_id in gpu_bus_ids if bus_id in tree])
    return Isolation(
        iommu=kind if isinstance(kind, Absent) else MODES.get(kind, kind),
        iommu_type=kind,
        acs_redirecting=tuple(bus_id for bus_id in readable if REDIRECTS & set(readable[bus_id])) if readable else why,
        acs_readable=len(readable),
        acs_separated=separated(tree, gpu_bus_ids),
        kernel_words=kernel_words(sysfs),
    )


def iommu_type(sysfs: Sysfs, groups: Sequence[int | Absent]) -> str | Absent:
    """The kernel's word for how the GPUs' memory accesses go: "DMA-FQ", "identity", …, or "off".

    Where GPUs are in no group that is known, all groups are asked; where they differ, translation is told.
    """
    names = sysfs.list_dir(GROUPS)
    if isinstance(names, Absent):
        return names
    if not names:
        return "off"
    known = [str(group) for group in groups if isinstance(group, int)]
    answers = [sysfs.read_text(f"{GROUPS}/{name}/type") for name in dict.fromkeys(known or names)]
    kinds = sorted({kind for kind in answers if isinstance(kind, str)}, key=lambda kind: (kind == "identity", kind))
    return kinds[0] if kinds else Absent("on; its mode is not reported")


def separated(tree: Mapping[str, PciDevice], gpu_bus_ids: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """GPUs below one switch in different IOMMU groups: only ACS makes a switch keep them apart."""
    pairs = []
    for one, other in itertools.combinations(gpu_bus_ids, 2):
        groups = [tree[bus_id].iommu_group for bus_id in (one, other) if bus_id in tree]
        known = len(groups) == 2 and all(isinstance(group, int) for group in groups)
        if known and groups[0] != groups[1] and pci.label(tree, one, other) in ("PIX", "PXB"):
            pairs.append((one, other))
    return tuple(pairs)


def kernel_words(sysfs: Sysfs) -> tuple[str, ...]:
    """The words of the kernel's command line that bear on PCI; the others may hold names and are left out."""
    return tuple(word for word in sysfs.text("proc/cmdline").split() if word.partition("=")[0] in KERNEL_WORDS)


def pairs(
    nvml: Nvml,
    gpus: Sequence[Gpu],
    labels: Mapping[tuple[str, str], str],
    driver_labels: Mapping[tuple[str, str], str | Absent],
    cpu_vendor: str | Absent,
    rig_facts: Sequence[str],
) -> tuple[GpuPair, ...]:
    """Every two GPUs once; `labels` and `driver_labels` are the matrix as the tree and as the driver have it."""
    found = []
    for one, other in itertools.combinations(gpus, 2):
        names = one.label, other.label
        codes = {which: worse(nvml, one.index, other.index, which) for which in (READ, WRITE, ATOMICS, NVLINK)}
        label = labels[names]
        found.append(
            GpuPair(
                one=one.index,
                other=other.index,
                label=label,
                driver_label=driver_labels[names],
                nvlinks=int(label[2:]) if label.startswith("NV") else 0,
                read_code=codes[READ],
                write_code=codes[WRITE],
                atomics_code=codes[ATOMICS],
                nvlink_code=codes[NVLINK],
                facts=(*pair_facts(one, other, codes[READ], codes[WRITE]), *rig_facts),
                nccl=nccl_choice(label, codes[READ], codes[WRITE], len(gpus), cpu_vendor),
            )
        )
    return tuple(found)


def worse(nvml: Nvml, one: int, other: int, capability: int) -> int | Absent:
    """The code of a pair, which is that of the direction refused where the two differ."""
    there, back = nvml.p2p_code(one, other, capability), nvml.p2p_code(other, one, capability)
    if isinstance(there, Absent) or isinstance(back, Absent):
        return back if isinstance(there, Absent) else there
    return there or back


def pair_facts(one: Gpu, other: Gpu, read_code: int | Absent, write_code: int | Absent) -> list[str]:
    codes = sorted({code for code in (read_code, write_code) if isinstance(code, int) and code})
    facts = [f"code {code} was seen where {MEANINGS.get(code, 'nobody has said why')}" for code in codes]
    names = [gpu.name if isinstance(gpu.name, str) else "a card without a name" for gpu in (one, other)]
    ids = {gpu.pci_device_id for gpu in (one, other) if isinstance(gpu.pci_device_id, str)}
    if len(ids) > 1:
        facts.append(f"cards of different kinds: {names[0]} and {names[1]}")
    elif len(ids) == 1:
        facts.append(f"cards of one kind: {names[0]}")
    small = [gpu.index for gpu in (one, other) if gpu.bar1_covers_memory is False]
    facts += [f"BAR1 of GPU{index} is smaller than its memory (ReBAR off)" for index in small]
    if one.bar1_covers_memory is True and other.bar1_covers_memory is True:
        facts.append("BAR1 covers the memory of both (ReBAR on)")
    return facts


def rig_facts(
    cpu_model: str | Absent,
    isolation: Isolation,
    flavour: str | Absent,
    overrides: str | Absent,
    guest_of: str | Absent,
) -> list[str]:
    """What bears on every pair alike."""
    facts = []
    if isinstance(cpu_model, str):
        facts.append(f"CPU: {cpu_model}")
    if isinstance(isolation.iommu, str):
        kind = "" if isolation.iommu == isolation.iommu_type else f" ({isolation.iommu_type})"
        facts.append(f"IOMMU: {isolation.iommu}{kind}")
    if isinstance(isolation.acs_redirecting, tuple) and isolation.acs_redirecting:
        facts.append(f"ACS redirects peer traffic at {', '.join(isolation.acs_redirecting)}")
    if isolation.acs_separated:
        facts.append("ACS isolates GPUs below one switch: their IOMMU groups differ")
    if isinstance(flavour, str):
        facts.append(f"driver: the {flavour} kernel module")
    if isinstance(overrides, str):
        facts.append(f"driver registry settings: {overrides}")
    if isinstance(guest_of, str):
        facts.append("a virtual machine, which decides this itself")
    return facts


def nccl_choice(
    label: str, read_code: int | Absent, write_code: int | Absent, gpus: int, cpu_vendor: str | Absent
) -> NcclChoice | Absent:
    """NCCL's default between two GPUs. `label` is the pair's cell of the matrix, `gpus` how many take part."""
    if label.startswith("NV"):
        off = "NCCL_P2P_DISABLE=1 turns it off"
        return NcclChoice("P2P over NVLink", f"{label[2:]} active NVLinks join them", off)
    if label not in LEVELS:
        return Absent("what lies between them is not known")
    codes = [code for code in (read_code, write_code) if isinstance(code, int)]
    if any(code != OK for code in codes):
        cure = Absent("no variable changes that while the driver refuses P2P")
        return NcclChoice("shared memory (SHM)", "the driver refuses P2P between them", cure)
    if gpus <= AMD_GPUS_AT_MOST and isinstance(cpu_vendor, Absent) and LEVELS.index(label) > 1:
        return Absent("it depends on the CPU's vendor, which is not known")
    if_allowed = "" if codes else ", if the driver allows it"
    amd_pair = gpus <= AMD_GPUS_AT_MOST and cpu_vendor == AMD_VENDOR
    if LEVELS.index(label) <= LEVELS.index("SYS" if amd_pair else DEFAULT_LEVEL):
        on_amd = "an AMD CPU with at most two GPUs allows any distance"
        why = on_amd if amd_pair else f"{label} is within PXB, the default limit"
        return NcclChoice(f"P2P over PCIe{if_allowed}", why, "NCCL_P2P_DISABLE=1 turns it off")
    change = f"NCCL_P2P_LEVEL={nccl_level(label)} allows P2P{if_allowed}; measure both"
    return NcclChoice("shared memory (SHM)", f"{label} is farther than PXB, the default limit for P2P", change)


def nccl_level(label: str) -> str:
    """What NCCL_P2P_LEVEL must be for P2P over a label beyond the default limit."""
    return "PHB" if label in ("PHB", "NODE") else "SYS"  # NCCL counts a NUMA node's host bridges as one


def nccl_transports(log: str) -> dict[str, int]:
    """{"P2P/CUMEM": 4}: channels by transport, each counted where it is sent from; empty where the log names none."""
    counts = Counter(f"{match[1]}/{match[2].strip()}" for match in CHANNEL.finditer(log))
    return dict(sorted(counts.items()))
