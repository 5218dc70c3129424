"""What is this rig: its host, all that is in it, and the few facts that make it the same rig tomorrow?"""

from __future__ import annotations

import msgspec

from rigbench.core.record import Absent, Record
from rigbench.machine.gpu_record import Gpu
from rigbench.machine.pci_record import GpuPair, Isolation, PciDevice, PciPath


class Software(Record, frozen=True):
    """Versions at the time of the run. A changed driver or torch is a warning, not another rig.

    `environment` holds the variables that change speed or memory (allocator, threads, NCCL), as they were set.
    """

    rigbench: str
    python: str
    torch: str | Absent
    bitsandbytes: str | Absent
    nvidia_driver: str | Absent
    cuda_driver: str | Absent
    kernel: str | Absent
    environment: dict[str, str] = msgspec.field(default_factory=dict)


class RigId(Record, frozen=True):
    """What makes a rig the same rig: GPU UUIDs, CPU model and physical memory. Never a host name.

    `fingerprint` is the first 12 hex digits of the SHA-256 over those three, memory rounded to GiB.
    """

    fingerprint: str
    cpu_model: str | Absent
    memory_total_bytes: int | Absent
    gpu_uuids: tuple[str, ...]
    gpu_names: tuple[str, ...]


class NumaNode(Record, frozen=True):
    node: int
    cpus: str
    memory_total_bytes: int | Absent


class Cpu(Record, frozen=True):
    """The processor and how much of it this process may use.

    `usable_cpus` is what the scheduler affinity and the cgroup quota leave, which is what a training run gets.
    `l2_bytes` and `l3_bytes` are all caches of that level together. Counts are Absent where a recording lacks them.
    """

    model: str | Absent
    vendor: str | Absent
    architecture: str | Absent
    logical_cpus: int | Absent
    physical_cores: int | Absent
    sockets: int | Absent
    affinity_cpus: int | Absent
    cgroup_limit_cpus: float | Absent
    usable_cpus: float | Absent
    l2_bytes: int | Absent
    l3_bytes: int | Absent
    instruction_sets: tuple[str, ...]


class Memory(Record, frozen=True):
    """Host memory; `usable_bytes` is the smaller of what is available now and what the cgroup leaves.

    `cgroup_used_bytes` leaves out the page cache that the kernel would drop.
    """

    total_bytes: int | Absent
    available_bytes: int | Absent
    swap_total_bytes: int | Absent
    cgroup_limit_bytes: int | Absent
    cgroup_used_bytes: int | Absent
    usable_bytes: int | Absent


class Disk(Record, frozen=True):
    name: str
    model: str | Absent
    size_bytes: int | Absent
    rotational: bool | Absent
    transport: str
    pci_bus_id: str | Absent


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
