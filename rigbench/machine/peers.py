"""May two GPUs read and write each other's memory, and what else bears on that?

The driver's code does not tell the card, the board and the driver apart, so the other facts stand beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rigbench.core.record import Absent
from rigbench.machine import nccl
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Gpu, GpuPair, Isolation

READ, WRITE, NVLINK, ATOMICS, PCIE = range(5)  # nvml.h, nvmlGpuP2PCapsIndex_t
# nvmlGpuP2PStatus_t, and what each was seen to mean (driver source 595.45, p2p_caps.c, and published rigs).
MEANINGS = {
    1: "the chipset is not in the driver's table, or the driver withholds P2P from GeForce cards",
    2: "the card's own P2P property is off",
    3: "an old Intel host bridge cannot carry it between root ports",
    4: "a registry key of the driver turns it off",
    5: "the cards are not of one kind, or the PCI topology could not be read",
    6: "the driver does not know",
}


def pairs(
    nvml: Nvml,
    gpus: Sequence[Gpu],
    labels: Mapping[tuple[int, int], str],
    driver_labels: Mapping[tuple[int, int], str | Absent],
    cpu_vendor: str | Absent,
    rig_facts: Sequence[str],
) -> tuple[GpuPair, ...]:
    """Every two GPUs once; `labels` and `driver_labels` are the matrix as the tree and as the driver have it."""
    found = []
    for one, other in itertools.combinations(gpus, 2):
        place = one.index, other.index
        codes = {which: worse(nvml, *place, which) for which in (READ, WRITE, ATOMICS, NVLINK, PCIE)}
        label = labels.get(place, "n/a")
        found.append(
            GpuPair(
                one=one.index,
                other=other.index,
                label=label,
                driver_label=driver_labels.get(place, Absent("not asked")),
                nvlinks=int(label[2:]) if label.startswith("NV") else 0,
                read_code=codes[READ],
                write_code=codes[WRITE],
                atomics_code=codes[ATOMICS],
                nvlink_code=codes[NVLINK],
                pcie_code=codes[PCIE],
                facts=(*pair_facts(one, other, codes[READ], codes[WRITE]), *rig_facts),
                nccl=nccl.choice(label, codes[READ], codes[WRITE], len(gpus), cpu_vendor),
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
        facts.append(f"driver registry words: {overrides}")
    if isinstance(guest_of, str):
        facts.append("a virtual machine, which decides this itself")
    return facts
