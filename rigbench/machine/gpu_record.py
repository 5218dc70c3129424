"""What is this GPU: its identity, its limits, its state, its health, and who else is on it?"""

from __future__ import annotations

from rigbench.core.record import Absent, Record


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
    vbios_version: str | Absent
    link_generation_awake: int | Absent
    link_generation_card_max: int | Absent
    bar1_covers_memory: bool | Absent
    cpu_affinity: str | Absent
    utilisation_share: float | Absent
    throttle_bits: int | Absent
    fan_share: float | Absent
    memory_temperature_celsius: float | Absent
    target_celsius: float | Absent
    max_celsius: float | Absent
    slowdown_celsius: float | Absent
    shutdown_celsius: float | Absent
    margin_celsius: float | Absent
    max_at_margin_celsius: float | Absent
    memory_max_at_margin_celsius: float | Absent
    slowdown_at_margin_celsius: float | Absent
    shutdown_at_margin_celsius: float | Absent
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
