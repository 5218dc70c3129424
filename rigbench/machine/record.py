"""What a machine reports: its host, its PCI tree, its GPUs, and the few facts that make it the same rig tomorrow."""

from __future__ import annotations

import msgspec

from rigbench.core.finding import Severity
from rigbench.core.record import Absent, Figure, Record, Source

# How the reasons begin where the driver answers no more (rigbench.machine.driver).
NO_MORE = ("the driver does not answer", "the driver's library crashed ", "the process that asks the driver ended ")


class Software(Record, frozen=True):
    """Versions at the time of the run. A changed driver or torch is a warning, not another rig."""

    rigbench: str
    python: str
    torch: str | Absent
    bitsandbytes: str | Absent
    nvidia_driver: str | Absent
    cuda_driver: str | Absent
    kernel: str | Absent
    environment: dict[str, str] = msgspec.field(default_factory=dict)  # what changes speed or memory, as it was set


class RigId(Record, frozen=True):
    """What makes a rig the same rig: GPU UUIDs, CPU model and physical memory. Never a host name."""

    fingerprint: str  # the first 12 hex digits of the SHA-256 over those three, memory rounded to GiB
    cpu_model: str | Absent
    memory_total_bytes: int | Absent
    gpu_uuids: tuple[str, ...]
    gpu_names: tuple[str, ...]


class NumaNode(Record, frozen=True):
    node: int
    cpus: str
    memory_total_bytes: int | Absent


class Cpu(Record, frozen=True):
    """The processor and how much of it this process may use."""

    model: str | Absent
    vendor: str | Absent
    architecture: str | Absent
    logical_cpus: int | Absent
    physical_cores: int | Absent
    sockets: int | Absent
    affinity_cpus: int | Absent
    cgroup_limit_cpus: float | Absent
    usable_cpus: float | Absent  # what affinity and quota leave, which is what a training run gets
    l2_bytes: int | Absent  # of all caches of that level together
    l3_bytes: int | Absent
    instruction_sets: tuple[str, ...]


class Memory(Record, frozen=True):
    total_bytes: int | Absent
    available_bytes: int | Absent
    swap_total_bytes: int | Absent
    cgroup_limit_bytes: int | Absent
    cgroup_used_bytes: int | Absent  # without the page cache that the kernel would drop
    usable_bytes: int | Absent  # the smaller of what is available now and what the cgroup leaves


class Disk(Record, frozen=True):
    name: str
    model: str | Absent
    size_bytes: int | Absent
    rotational: bool | Absent
    transport: str
    pci_bus_id: str | Absent


class GpuProcess(Record, frozen=True):
    """A process that holds memory or a context on a GPU."""

    pid: int
    kind: str  # "compute", "graphics" or "MPS"
    name: str | Absent
    memory_bytes: int | Absent


class MigDevice(Record, frozen=True):
    """A part of a GPU in MIG mode; it has no place of its own in the PCI tree and no peers."""

    index: int
    uuid: str | Absent
    name: str | Absent
    memory_total_bytes: int | Absent


class Gpu(Record, frozen=True):
    """One GPU as the driver reports it. Counts of errors are over its life, `_since_load` since the driver started."""

    index: int  # NVML's order, which need not be CUDA's
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
    link_generation_now: int | Absent  # an idle card's may be 1
    link_generation_max: int | Absent  # what card and slot can do together
    link_width_now_lanes: int | Absent
    link_width_max_lanes: int | Absent
    performance_state: int | Absent
    numa_node: int | Absent
    link_generation_awake: int | Absent  # the best seen while the card worked
    bar1_covers_memory: bool | Absent  # what ReBAR is for
    cpu_affinity: str | Absent
    utilisation_share: float | Absent
    throttle_bits: int | Absent
    fan_share: float | Absent
    memory_temperature_celsius: float | Absent
    target_celsius: float | Absent
    slowdown_celsius: float | Absent  # cards since Ada give margins instead
    margin_celsius: float | Absent  # how far it is from its operating limit (T.Limit)
    slowdown_at_margin_celsius: float | Absent  # the margin at which it slows down
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
    """One PCI function. Rates are theoretical, one way, by generation, lanes and encoding."""

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
    acs: tuple[str, ...] | Absent  # the control register as lspci prints it ("ReqRedir+"), which only root may read
    iommu_group: int | Absent
    bar1_possible_bytes: tuple[int, ...] | Absent


class PciHop(Record, frozen=True):
    """One link of the way: what it runs at, what it ran at while the card worked, what both of its ends could do."""

    port: str | Absent  # the function above the link
    device: str  # the one below
    generation_now: int | Absent
    generation_awake: int | Absent
    generation_best: int | Absent
    width_now_lanes: int | Absent
    width_best_lanes: int | Absent
    now_bytes_per_s: float | Absent
    awake_bytes_per_s: float | Absent
    best_bytes_per_s: float | Absent
    limits: tuple[str, ...]  # in words, where the two ends differ
    tunnelled: bool = False  # over Thunderbolt or USB4: what its ends report is not its speed


class PciPath(Record, frozen=True):
    """The way from the host bridge to a card, and its minimum in theory, one way."""

    label: str
    kind: str
    bus_id: str | Absent
    hops: tuple[PciHop, ...]
    hops_unknown: int  # links whose speed nobody told: the minimum is then an upper bound
    now_bytes_per_s: float | Absent
    awake_bytes_per_s: float | Absent
    best_bytes_per_s: float | Absent
    narrowest: str | Absent  # the device of the hop that sets best_bytes_per_s
    narrowest_awake: str | Absent
    shared_with: tuple[str, ...]  # other cards of this kind that cross the narrowest hop
    chipset: str | Absent
    expected: Figure | Absent  # what pinned copies should reach of the awake minimum, else of the best one


class NcclChoice(Record, frozen=True):
    """The path that NCCL should take by default between two GPUs, why, and what would change it."""

    transport: str
    reason: str
    change: str | Absent
    source: Source = "predicted"


class GpuPair(Record, frozen=True):
    """What two GPUs are to each other. A code is nvmlGpuP2PStatus_t; 0, OK, is permission, not proof."""

    one: int
    other: int
    label: str  # from the PCI tree and NVLink
    driver_label: str | Absent  # the driver's own answer
    nvlinks: int
    read_code: int | Absent
    write_code: int | Absent
    atomics_code: int | Absent
    nvlink_code: int | Absent
    facts: tuple[str, ...]  # what else bears on it, since a code does not tell card, board and driver apart
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
    """What stands between devices and memory: the IOMMU, and ACS bits that send peer traffic up to the host bridge."""

    iommu: str | Absent  # "off", "translating" or "passthrough"
    iommu_type: str | Absent  # the kernel's word for it (DMA, DMA-FQ, identity)
    acs_redirecting: tuple[str, ...] | Absent  # bridges above GPUs with ReqRedir+ or CmpltRedir+
    acs_readable: int  # bridges whose bits could be read
    acs_separated: tuple[tuple[str, str], ...]  # GPUs below one switch whom the IOMMU groups keep apart, as ACS does
    kernel_words: tuple[str, ...]


class KernelEvent(Record, frozen=True, kw_only=True):
    """A line of the kernel's log that bears on GPUs, PCIe, memory, heat or disks, and what it means.

    `code` is one of kernel_events.toml's kinds, as "aer-corrected", or "xid-79". Of a storm of alike lines the first
    is kept, with their count and the last one's time.
    """

    code: str
    severity: Severity
    title: str  # what happened, in a few words
    meaning: str
    do: str
    device: str | Absent  # "0000:01:00.0", "nvme0n1", "CPU3"
    label: str | Absent  # "GPU0", or the GPUs behind a bridge
    pid: int | Absent
    process: str | Absent
    text: str  # the line itself, shortened, printable
    monotonic_seconds: float | Absent  # since the machine started
    wall_seconds: float | Absent  # since 1970
    count: int = 1
    last_monotonic_seconds: float | Absent = Absent("it came once")

    @property
    def where(self) -> str:
        """ "GPU0 (0000:01:00.0)"."""
        if isinstance(self.device, Absent):
            return ""
        return self.device if isinstance(self.label, Absent) else f"{self.label} ({self.device})"
