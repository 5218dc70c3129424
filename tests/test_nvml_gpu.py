"""Is every fact about one GPU read, on cards and drivers that tell more, less or otherwise?"""

from __future__ import annotations

from pathlib import Path

from two_gpus import library, replay

from rigbench.core.record import Absent
from rigbench.machine.nvml import Nvml
from rigbench.machine.record import Gpu, GpuProcess, MigDevice

RIGS = Path(__file__).parent / "rigs"
NOT_SUPPORTED = Absent("not supported")


def test_a_recorded_gpu_is_read_whole() -> None:
    gpus = Nvml.replay(RIGS / "dual-rtx4080s-x8x8" / "nvml.txt").gpus()
    assert isinstance(gpus, tuple)
    assert gpus[1] == Gpu(
        index=1,
        name="NVIDIA GeForce RTX 4080 SUPER",
        uuid="GPU-00000000-0000-0000-0000-000000000001",
        pci_bus_id="0000:03:00.0",
        pci_device_id="2702",
        profile=Absent("not looked up"),
        compute_capability="8.9",
        memory_total_bytes=17171480576,
        memory_used_bytes=624951296,
        bar1_total_bytes=17179869184,
        temperature_celsius=41.0,
        power_watts=27.74,
        power_limit_watts=320.0,
        power_limit_default_watts=320.0,
        link_generation_now=1,
        link_generation_max=4,
        link_width_now_lanes=8,
        link_width_max_lanes=16,
        performance_state=8,
        numa_node=Absent("not in the PCI tree"),
        link_generation_awake=Absent("not read under load"),
        bar1_covers_memory=True,
        cpu_affinity=Absent("not in the PCI tree"),
        utilisation_share=0.0,
        throttle_bits=1,
        fan_share=0.0,
        memory_temperature_celsius=NOT_SUPPORTED,
        target_celsius=84.0,
        slowdown_celsius=96.0,
        margin_celsius=NOT_SUPPORTED,
        slowdown_at_margin_celsius=NOT_SUPPORTED,
        power_limit_min_watts=150.0,
        power_limit_max_watts=400.0,
        persistence=False,
        compute_mode="default",
        display_active=False,
        mig_enabled=NOT_SUPPORTED,
        ecc_enabled=NOT_SUPPORTED,
        ecc_corrected_errors=NOT_SUPPORTED,
        ecc_uncorrected_errors=NOT_SUPPORTED,
        ecc_uncorrected_errors_since_load=NOT_SUPPORTED,
        remapped_rows_corrected=NOT_SUPPORTED,
        remapped_rows_uncorrected=NOT_SUPPORTED,
        row_remap_pending=NOT_SUPPORTED,
        row_remap_failed=NOT_SUPPORTED,
        pcie_replays=0,
        processes=(),
        mig_devices=(),
    )


def test_a_data_centre_card_tells_its_limits_as_margins() -> None:
    gpu = Nvml.replay(RIGS / "h100-80gb-hbm3-driver-590.48.01" / "nvml.txt").gpu(0)
    assert (gpu.slowdown_celsius, gpu.memory_temperature_celsius) == (NOT_SUPPORTED, 48.0)
    assert (gpu.slowdown_at_margin_celsius, gpu.pcie_replays, gpu.ecc_enabled) == (-2.0, 9, True)


def test_a_card_with_ecc_off_is_not_asked_for_its_errors() -> None:
    nvml = replay("* nvmlDeviceGetEccMode = 0 0 0", "* nvmlDeviceGetRemappedRows = 0 3 1 0 1")
    gpu = nvml.gpu(0)
    assert gpu.ecc_uncorrected_errors == Absent("ECC is off")
    assert (gpu.remapped_rows_corrected, gpu.remapped_rows_uncorrected) == (3, 1)
    assert (gpu.row_remap_pending, gpu.row_remap_failed) == (False, True)
    assert not [key for _, key, _ in library(nvml).log if "TotalEcc" in key]


def test_errors_are_counted_over_the_life_and_since_the_driver_was_loaded() -> None:
    gpu = replay(
        "* nvmlDeviceGetEccMode = 0 1 1",
        "* nvmlDeviceGetTotalEccErrors/0/1 = 0 12",
        "* nvmlDeviceGetTotalEccErrors/1/1 = 0 2",
        "* nvmlDeviceGetTotalEccErrors/1/0 = 0 1",
    ).gpu(0)
    assert (gpu.ecc_corrected_errors, gpu.ecc_uncorrected_errors) == (12, 2)
    assert gpu.ecc_uncorrected_errors_since_load == 1


def test_processes_of_an_older_driver_are_found_under_the_older_name() -> None:
    nvml = replay(
        "* nvmlDeviceGetComputeRunningProcesses_v3 = 13", "* nvmlDeviceGetComputeRunningProcesses_v2 = 0 99 4096"
    )
    assert nvml.gpu(0).processes == (GpuProcess(99, "compute", Absent("not looked up"), 4096),)
    assert replay().gpu(0).processes == NOT_SUPPORTED


def test_the_parts_of_a_gpu_in_mig_mode_are_listed() -> None:
    gpu = replay(
        "0 nvmlDeviceGetMigMode = 0 1 1",
        "0 nvmlDeviceGetMaxMigDeviceCount = 0 7",
        "0 nvmlDeviceGetMigDeviceHandleByIndex/0 = 6",
        "0 nvmlDeviceGetMigDeviceHandleByIndex/1 = 0 100",
        '100 nvmlDeviceGetUUID = 0 "MIG-1234"',
        '100 nvmlDeviceGetName = 0 "NVIDIA H100 MIG 1g.10gb"',
        "100 nvmlDeviceGetMemoryInfo = 0 10468982784 10468982784 0",
    ).gpu(0)
    assert gpu.mig_enabled is True
    assert gpu.mig_devices == (MigDevice(1, "MIG-1234", "NVIDIA H100 MIG 1g.10gb", 10468982784),)


def test_p2p_is_asked_with_plain_numbers() -> None:
    nvml = Nvml.replay(RIGS / "dual-rtx4080s-x8x8" / "nvml.txt")
    assert [nvml.p2p_code(0, 1, capability) for capability in range(5)] == [1, 1, 5, 1, 1]
    assert nvml.p2p_code(0, 5, 0) == Absent("invalid argument")


def test_a_unified_memory_part_still_tells_the_rest() -> None:
    gpu = replay("* nvmlDeviceGetMemoryInfo_v2 = 3", "* nvmlDeviceGetMemoryInfo = 3").gpu(0)
    assert gpu.memory_total_bytes == gpu.bar1_covers_memory == NOT_SUPPORTED
    assert (gpu.name, gpu.temperature_celsius) == ("NVIDIA GeForce RTX 4080 SUPER", 43.0)
