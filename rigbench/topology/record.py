"""How a rig is built: CPU, memory, NUMA, the PCI tree and its links, disks, GPUs."""

from __future__ import annotations

import msgspec

from rigbench.core.record import Absent, Record
from rigbench.machine.record import Cpu, Disk, Gpu, GpuPair, Isolation, Memory, NumaNode, PciDevice, PciPath


class Topology(Record, frozen=True):
    """The rig as sysfs and the driver tell it.

    `matrix` is {label: row} over GPUs and RDMA network cards, in the vendor tool's labels; `matrix_bus_ids` says which
    card a label stands for. `gpus_absent` is why the driver lists no GPU; `gpus` may then still hold those that the PCI
    tree shows. `driver_version` and `cuda_version` are the driver's own, `driver_flavour` is "open" or "closed",
    `driver_overrides` the registry words that its module was given. `paths` are the ways to GPUs, NVMe drives and
    network cards, `pairs` every two GPUs.
    """

    method: int
    started_at: str
    seconds: float
    virtual_machine: str | Absent
    cpu: Cpu
    memory: Memory
    numa_nodes: tuple[NumaNode, ...]
    pci: tuple[PciDevice, ...]
    disks: tuple[Disk, ...]
    gpus: tuple[Gpu, ...]
    matrix: dict[str, tuple[str, ...]]
    matrix_bus_ids: dict[str, str]
    driver_version: str | Absent
    cuda_version: str | Absent
    kernel: str | Absent
    driver_flavour: str | Absent
    driver_overrides: str | Absent
    isolation: Isolation
    paths: tuple[PciPath, ...]
    pairs: tuple[GpuPair, ...]
    gpus_absent: Absent | msgspec.UnsetType = msgspec.UNSET
    warnings: tuple[str, ...] = ()
