"""What is this rig: its host, all that is in it, and the few facts that make it the same rig tomorrow?"""

from __future__ import annotations

import msgspec

from rigbench.core.record import Absent, Figure, Record, Source


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


class GpuProcess(Record, frozen=True):
    """A process that holds memory or a context on a GPU. `kind` is "compute", "graphics" or "MPS"."""

    pid: int
    kind: str
    name: str | Absent
    memory_bytes: int | Absent


class MigDevice(Record, frozen=True):
    """A part of a GPU in MIG mode; it has no place of its own in the PCI tree and no peers."""

    index: int
    uuid: str | Absent
    name: str | Absent
    memory_total_bytes: int | Absent


class Gpu(Record, frozen=True):
    """One GPU as the driver reports it; `index` is NVML's order, which need not be CUDA's.

    Generations: `link_generation_now` may be an idle card's 1; `_awake` is the best seen while the card worked; `_max`
    what card and slot can do together, `_card_max` the card alone. `bar1_covers_memory` is what ReBAR is for.
    A `_margin_celsius` is how far the card is from its operating limit (T.Limit); a `_at_margin_celsius` is the margin
    at which it slows down or shuts down. Cards since Ada give margins, older ones degrees. Counts of errors are over
    the card's life, `_since_load` since the driver was loaded.
    """

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
    link_generation_awake: int | Absent
    bar1_covers_memory: bool | Absent
    cpu_affinity: str | Absent
    utilisation_share: float | Absent
    throttle_bits: int | Absent
    fan_share: float | Absent
    memory_temperature_celsius: float | Absent
    target_celsius: float | Absent
    slowdown_celsius: float | Absent
    margin_celsius: float | Absent
    slowdown_at_margin_celsius: float | Absent
    power_limit_min_watts: float | Absent
    power_limit_max_watts: float | Absent
    persistence: bool | Absent
    compute_mode: str | Absent
    display_active: bool | Absent
    mig_enabled: bool | Absent
    ecc_enabled: bool | Absent
    ecc_corrected_errors: int | Absent
    ecc_uncorrected_errors: int | Absent
    ecc_uncorrected_errors_since_load: int | Absent
    remapped_rows_corrected: int | Absent
    remapped_rows_uncorrected: int | Absent
    row_remap_pending: bool | Absent
    row_remap_failed: bool | Absent
    pcie_replays: int | Absent
    processes: tuple[GpuProcess, ...] | Absent
    mig_devices: tuple[MigDevice, ...] | Absent

    @property
    def label(self) -> str:
        return f"GPU{self.index}"


class PciDevice(Record, frozen=True):
    """One PCI function. Speeds are transfers per second (16e9 for PCIe 4.0); widths are lanes.

    `link_bytes_per_s` is theoretical, one way, from the current speed and width and the generation's encoding.
    `link_max_bytes_per_s` the same from what the function could do. `bar_bytes` maps a base address register to its
    size, and is empty where none could be read. `acs` is the ACS control register as lspci prints it ("ReqRedir+"),
    which only root may read.
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
    link_width_lanes: int | Absent
    link_max_width_lanes: int | Absent
    link_bytes_per_s: float | Absent
    link_max_bytes_per_s: float | Absent
    local_cpus: str | Absent
    port_type: str | Absent
    acs: tuple[str, ...] | Absent
    iommu_group: int | Absent
    bar1_possible_bytes: tuple[int, ...] | Absent


class PciHop(Record, frozen=True):
    """One link of the way: what it runs at, what it ran at while the card worked, what both of its ends could do.

    `port` is the function above the link, `device` the one below. `limits` says in words where the two ends differ.
    """

    port: str | Absent
    device: str
    generation_now: int | Absent
    generation_awake: int | Absent
    generation_best: int | Absent
    width_now_lanes: int | Absent
    width_best_lanes: int | Absent
    now_bytes_per_s: float | Absent
    awake_bytes_per_s: float | Absent
    best_bytes_per_s: float | Absent
    limits: tuple[str, ...]


class PciPath(Record, frozen=True):
    """The way from the host bridge to a card, and its minimum in theory, one way.

    `narrowest` is the `device` of the hop that sets `best_bytes_per_s`, `narrowest_awake` of the one that sets
    `awake_bytes_per_s`. `shared_with` are the other cards of this kind that cross the narrowest hop.
    `hops_unknown` counts links whose speed nobody told: the minimum is then an upper bound. `expected` is what copies
    of pinned memory should reach of the awake minimum, or of the best one where no awake reading exists.
    """

    label: str
    kind: str
    bus_id: str | Absent
    hops: tuple[PciHop, ...]
    hops_unknown: int
    now_bytes_per_s: float | Absent
    awake_bytes_per_s: float | Absent
    best_bytes_per_s: float | Absent
    narrowest: str | Absent
    narrowest_awake: str | Absent
    shared_with: tuple[str, ...]
    chipset: str | Absent
    expected: Figure | Absent


class NcclChoice(Record, frozen=True):
    """The path that NCCL should take by default between two GPUs, why, and what would change it."""

    transport: str
    reason: str
    change: str | Absent
    source: Source = "predicted"


class GpuPair(Record, frozen=True):
    """What two GPUs are to each other: `label` from the PCI tree and NVLink, `driver_label` the driver's own answer.

    A `_code` is nvmlGpuP2PStatus_t: 0 OK, 1 CNS, 2 GNS, 3 TNS, 4 DR, 5 NS, 6 unknown. OK is permission, not proof.
    `facts` are what else is known and bears on it, since a code does not tell card, board and driver apart.
    """

    one: int
    other: int
    label: str
    driver_label: str | Absent
    nvlinks: int
    read_code: int | Absent
    write_code: int | Absent
    atomics_code: int | Absent
    nvlink_code: int | Absent
    facts: tuple[str, ...]
    nccl: NcclChoice | Absent

    @property
    def names(self) -> str:
        return f"GPU{self.one}-GPU{self.other}"

    @property
    def codes(self) -> list[int]:
        """What the driver answered for reads and writes; 6 is no answer."""
        return [code for code in (self.read_code, self.write_code) if isinstance(code, int) and code != 6]

    @property
    def is_allowed(self) -> bool:
        return bool(self.codes) and not any(self.codes)

    @property
    def is_refused(self) -> bool:
        return any(self.codes)


class Isolation(Record, frozen=True):
    """What stands between devices and memory: the IOMMU, and ACS bits that send peer traffic up to the host bridge.

    `iommu` is "off", "translating" or "passthrough"; `iommu_type` the kernel's word for it (DMA, DMA-FQ, identity).
    `acs_redirecting` are bridges above GPUs with ReqRedir+ or CmpltRedir+, of `acs_readable` bridges whose bits could
    be read. `acs_separated` are pairs of GPUs below one switch whom the IOMMU groups keep apart, which ACS does.
    """

    iommu: str | Absent
    iommu_type: str | Absent
    acs_redirecting: tuple[str, ...] | Absent
    acs_readable: int
    acs_separated: tuple[tuple[str, str], ...]
    kernel_words: tuple[str, ...]
