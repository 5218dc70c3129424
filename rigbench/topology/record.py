"""How a rig is built: CPU, memory, NUMA, the PCI tree and its links, disks, GPUs."""

from __future__ import annotations

from typing import Annotated

from rigbench.core.options import Option
from rigbench.core.record import Absent, Record, Telemetry
from rigbench.machine.record import (
    Cpu,
    Disk,
    Gpu,
    GpuPair,
    Isolation,
    KernelEvent,
    Memory,
    NumaNode,
    PciDevice,
    PciPath,
)


class Options(Record, frozen=True):
    load: Annotated[bool, Option(None, "Also read the links while every GPU copies, for about 10 s.")] = False


class Topology(Record, frozen=True):
    """The rig as sysfs and the driver report it."""

    method: int
    started_at: str
    seconds: float
    virtual_machine: str | Absent
    cpu: Cpu
    memory: Memory
    numa_nodes: tuple[NumaNode, ...]
    pci: tuple[PciDevice, ...]
    disks: tuple[Disk, ...]
    driver_gpus: int | Absent  # how many GPUs the driver lists, or why it lists none
    gpus: tuple[Gpu, ...]  # those of the driver, else those that the PCI tree shows
    matrix: dict[str, tuple[str, ...]]  # {label: row} over GPUs and RDMA network cards, in the vendor tool's labels
    matrix_bus_ids: dict[str, str]  # which card a label stands for
    driver_version: str | Absent
    cuda_version: str | Absent  # the newest that the driver serves
    kernel: str | Absent
    driver_flavour: str | Absent  # "open" or "closed"
    driver_overrides: str | Absent  # the registry words that its module was given
    isolation: Isolation
    paths: tuple[PciPath, ...]  # to GPUs, NVMe drives and network cards
    pairs: tuple[GpuPair, ...]  # every two GPUs
    warnings: tuple[str, ...] = ()
    kernel_events: tuple[KernelEvent, ...] | Absent = Absent("not read")  # of the kernel's log, alike ones as one
    load: Telemetry | Absent = Absent("not read under load")  # of the sensors, while every card worked

    @property
    def is_virtual(self) -> bool:
        return isinstance(self.virtual_machine, str)

    @property
    def pairs_over_pcie(self) -> list[GpuPair]:
        """Those whose traffic does not go over NVLink."""
        return [pair for pair in self.pairs if not pair.label.startswith("NV")]


def is_integrated(gpu: Gpu) -> bool:
    """A chip that shares the CPU's memory: its driver has no memory of its own to tell, and it sits in no slot."""
    untold = (gpu.memory_total_bytes, gpu.bar1_total_bytes)
    named = isinstance(gpu.name, str) and bool({"GB10", "Orin", "Thor", "Xavier"} & set(gpu.name.split()))
    return named and all(isinstance(it, Absent) and it.reason == "not supported" for it in untold)
