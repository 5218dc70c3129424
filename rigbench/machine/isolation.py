"""What stands between a card and memory, or another card: the IOMMU, ACS redirection, the kernel's words?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from rigbench.core.record import Absent
from rigbench.machine import pci
from rigbench.machine.record import Isolation, PciDevice
from rigbench.machine.sysfs import Sysfs

GROUPS = "sys/kernel/iommu_groups"
REDIRECTS = {"ReqRedir+", "CmpltRedir+"}  # SrcValid+ alone is harmless
# Documentation/ABI/testing/sysfs-kernel-iommu_groups: a group's default domain.
MODES = {"DMA": "translating", "DMA-FQ": "translating", "identity": "passthrough", "blocked": "translating"}
KERNEL_WORDS = ("iommu", "intel_iommu", "amd_iommu", "pcie_acs_override", "pci", "pcie_aspm", "pcie_ports")


def isolation(sysfs: Sysfs, tree: Mapping[str, PciDevice], gpu_bus_ids: Sequence[str]) -> Isolation:
    above = {bridge for bus_id in gpu_bus_ids for bridge in pci.path_to(tree, bus_id)[:-1] if bridge in tree}
    readable = {bus_id: acs for bus_id in sorted(above) if isinstance(acs := tree[bus_id].acs, tuple)}
    unread = [acs for bus_id in sorted(above) if isinstance(acs := tree[bus_id].acs, Absent)]
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
    found = []
    for one, other in itertools.combinations(gpu_bus_ids, 2):
        groups = [tree[bus_id].iommu_group for bus_id in (one, other) if bus_id in tree]
        known = len(groups) == 2 and all(isinstance(group, int) for group in groups)
        if known and groups[0] != groups[1] and pci.label(tree, one, other) in ("PIX", "PXB"):
            found.append((one, other))
    return tuple(found)


def kernel_words(sysfs: Sysfs) -> tuple[str, ...]:
    """The words of the kernel's command line that bear on PCI; the others may hold names and are left out."""
    text = sysfs.read_text("proc/cmdline")
    words = [] if isinstance(text, Absent) else text.split()
    return tuple(word for word in words if word.partition("=")[0] in KERNEL_WORDS)
