"""What is this rig: its host, its GPUs, its PCI tree, and the few facts that make it the same rig tomorrow?"""

from __future__ import annotations

import msgspec

from rigbench.records.base import Absent, Record


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


class Gpu(Record, frozen=True):
    """One GPU as the driver reports it; `index` is NVML's order, which need not be CUDA's."""

    index: int
    name: str | Absent
    uuid: str | Absent
    pci_bus_id: str | Absent
    pci_device_id: str | Absent
    profile: str | Absent
    compute_capability: str | Absent
    memory_total_bytes: int | Absent
    memory_used_bytes: int | Absent
    bar1_total_bytes: int | Absent
    temperature_celsius: float | Absent
    power_watts: float | Absent
    power_limit_watts: float | Absent
    power_limit_default_watts: float | Absent
    link_generation_now: int | Absent
    link_generation_max: int | Absent
    link_width_now_lanes: int | Absent
    link_width_max_lanes: int | Absent
    performance_state: int | Absent
    numa_node: int | Absent


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


class PciDevice(Record, frozen=True):
    """One PCI function. Speeds are transfers per second (16e9 for PCIe 4.0); widths are lanes.

    `link_bytes_per_s` is theoretical, one way, from the current speed and width and the generation's encoding.
    `link_max_bytes_per_s` the same from what the function could do.
    """

    bus_id: str
    parent: str | Absent
    root: str
    class_code: str
    kind: str
    vendor_id: str
    device_id: str
    name: str | Absent
    numa_node: int | Absent
    link_generation: int | Absent
    link_max_generation: int | Absent
    link_transfers_per_s: float | Absent
    link_max_transfers_per_s: float | Absent
    link_width_lanes: int | Absent
    link_max_width_lanes: int | Absent
    link_bytes_per_s: float | Absent
    link_max_bytes_per_s: float | Absent


class Topology(Record, frozen=True):
    """The rig as sysfs and the driver tell it.

    `matrix` is {label: row} over GPUs and RDMA network cards, in the vendor tool's labels; `matrix_bus_ids` says which
    card a label stands for. `gpus_absent` is why the driver lists no GPU; `gpus` may then still hold those that the PCI
    tree shows. `driver_version` and `cuda_version` are the driver's own.
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
    gpus_absent: Absent | msgspec.UnsetType = msgspec.UNSET
    warnings: tuple[str, ...] = ()
