"""How is the rig wired: PCI functions, the links on the way to each card, and what two GPUs are to each other?"""

from __future__ import annotations

from rigbench.core.record import Absent, Figure, Record, Source


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
    link_transfers_per_s: float | Absent
    link_max_transfers_per_s: float | Absent
    link_width_lanes: int | Absent
    link_max_width_lanes: int | Absent
    link_bytes_per_s: float | Absent
    link_max_bytes_per_s: float | Absent
    local_cpus: str | Absent
    port_type: str | Absent
    acs: tuple[str, ...] | Absent
    iommu_group: int | Absent
    bar_bytes: dict[str, int]
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
    pcie_code: int | Absent
    facts: tuple[str, ...]
    nccl: NcclChoice | Absent


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
