"""What does the driver know about one GPU: identity, limits, state, health, processes?

Each fact is one call with the names that older and newer drivers know it by. A card that does not tell, or is lost
midway, gives its reason in that field and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rigbench.core.record import Absent
from rigbench.machine.nvml_answers import member, number, over, performance_state, positive, switch, text
from rigbench.machine.record import Gpu, GpuProcess, MigDevice

if TYPE_CHECKING:
    from rigbench.machine.nvml import Nvml

# nvml.h, NVML_FI_DEV_*
MEMORY_TEMPERATURE_FIELD = 82
SHUTDOWN_MARGIN_FIELD, SLOWDOWN_MARGIN_FIELD, MEMORY_MAX_MARGIN_FIELD, MAX_MARGIN_FIELD = 193, 194, 195, 196
# nvml.h, nvmlTemperatureThresholds_t
SHUTDOWN, SLOWDOWN, GPU_MAX, ACOUSTIC_CURRENT = 0, 1, 3, 5
CORRECTED, UNCORRECTED = 0, 1
SINCE_LOAD, LIFETIME = 0, 1

COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}
PROCESS_KINDS = {"Compute": "compute", "Graphics": "graphics", "MPSCompute": "MPS"}
WORKING_STATE = 2  # GeForce cards compute in P2, others in P0
AWAKE_READINGS = 3  # a link that was asleep may take a reading or two to show that it woke
MOST_MIG_DEVICES = 16


def read_gpu(nvml: Nvml, index: int) -> Gpu:
    facts: dict[str, Any] = {"index": index, "profile": Absent("not looked up")}
    for part in (_identity, _memory, _link, _temperatures, _power, _state, _errors):
        facts |= part(nvml, index)
    facts |= dict.fromkeys(("numa_node", "cpu_affinity"), Absent("not in the PCI tree"))
    return Gpu(**facts, processes=processes(nvml, index), mig_devices=mig_devices(nvml, index, facts))


def _identity(nvml: Nvml, index: int) -> dict[str, Any]:
    bus_id, device_id = nvml.pci_ids(index)
    capability = nvml.ask(index, "nvmlDeviceGetCudaComputeCapability")
    return {
        "name": text(nvml.ask(index, "nvmlDeviceGetName")),
        "uuid": nvml.uuid(index),
        "pci_bus_id": bus_id,
        "pci_device_id": device_id,
        "compute_capability": capability if isinstance(capability, Absent) else f"{capability[0]}.{capability[1]}",
        "vbios_version": text(nvml.ask(index, "nvmlDeviceGetVbiosVersion")),
    }


def _memory(nvml: Nvml, index: int) -> dict[str, Any]:
    total, used = nvml.memory_bytes(index)
    window = number(member(nvml.ask(index, "nvmlDeviceGetBAR1MemoryInfo"), "bar1Total"))
    missing = next((fact for fact in (window, total) if isinstance(fact, Absent)), None)
    return {
        "memory_total_bytes": total,
        "memory_used_bytes": used,
        "bar1_total_bytes": window,
        "bar1_covers_memory": missing if missing else window >= total,  # type: ignore[operator]
    }


def _link(nvml: Nvml, index: int) -> dict[str, Any]:
    card_max = positive(nvml.ask(index, "nvmlDeviceGetGpuMaxPcieLinkGeneration"))
    return {
        "link_generation_now": positive(nvml.ask(index, "nvmlDeviceGetCurrPcieLinkGeneration")),
        "link_generation_max": positive(nvml.ask(index, "nvmlDeviceGetMaxPcieLinkGeneration")),
        "link_width_now_lanes": positive(nvml.ask(index, "nvmlDeviceGetCurrPcieLinkWidth")),
        "link_width_max_lanes": positive(nvml.ask(index, "nvmlDeviceGetMaxPcieLinkWidth")),
        "link_generation_card_max": card_max,
        "link_generation_awake": Absent("not read under load"),
        "pcie_replays": number(nvml.ask(index, "nvmlDeviceGetPcieReplayCounter")),
    }


def generation_awake(nvml: Nvml, index: int) -> int | Absent:
    """The best generation of a few readings, of a driver that is asked while its cards work."""
    readings = []
    for _ in range(AWAKE_READINGS):
        generation = positive(nvml.ask(index, "nvmlDeviceGetCurrPcieLinkGeneration"))
        if isinstance(generation, Absent):
            return generation
        readings.append(generation)
    state = performance_state(nvml.ask(index, "nvmlDeviceGetPerformanceState"))
    if not isinstance(state, Absent) and state > WORKING_STATE:
        return Absent(f"the load left it in P{state}")
    return max(readings)


def _temperatures(nvml: Nvml, index: int) -> dict[str, Any]:
    memory = nvml.field(index, MEMORY_TEMPERATURE_FIELD)
    return {
        "temperature_celsius": nvml.temperature_celsius(index),
        "memory_temperature_celsius": over(memory, 1),
        "fan_share": over(_fan(nvml, index), 100),
        "target_celsius": _threshold(nvml, index, ACOUSTIC_CURRENT),
        "max_celsius": _threshold(nvml, index, GPU_MAX),
        "slowdown_celsius": _threshold(nvml, index, SLOWDOWN),
        "shutdown_celsius": _threshold(nvml, index, SHUTDOWN),
        "margin_celsius": over(nvml.ask(index, "nvmlDeviceGetMarginTemperature"), 1),
        "max_at_margin_celsius": over(nvml.field(index, MAX_MARGIN_FIELD), 1),
        "memory_max_at_margin_celsius": over(nvml.field(index, MEMORY_MAX_MARGIN_FIELD), 1),
        "slowdown_at_margin_celsius": over(nvml.field(index, SLOWDOWN_MARGIN_FIELD), 1),
        "shutdown_at_margin_celsius": over(nvml.field(index, SHUTDOWN_MARGIN_FIELD), 1),
    }


def _threshold(nvml: Nvml, index: int, which: int) -> float | Absent:
    return over(positive(nvml.ask(index, "nvmlDeviceGetTemperatureThreshold", which)), 1)


def _fan(nvml: Nvml, index: int) -> int | Absent:
    """Percent of the first fan; 0 is a fan at rest."""
    return number(nvml.first(index, ("nvmlDeviceGetFanSpeed",), ("nvmlDeviceGetFanSpeed_v2", 0)))


def _power(nvml: Nvml, index: int) -> dict[str, Any]:
    bounds = nvml.ask(index, "nvmlDeviceGetPowerManagementLimitConstraints")
    low, high = (bounds, bounds) if isinstance(bounds, Absent) else bounds
    return {
        "power_watts": nvml.power_watts(index),
        "power_limit_watts": over(nvml.ask(index, "nvmlDeviceGetEnforcedPowerLimit"), 1000),
        "power_limit_default_watts": over(nvml.ask(index, "nvmlDeviceGetPowerManagementDefaultLimit"), 1000),
        "power_limit_min_watts": over(low, 1000),
        "power_limit_max_watts": over(high, 1000),
    }


def _state(nvml: Nvml, index: int) -> dict[str, Any]:
    mode = number(nvml.ask(index, "nvmlDeviceGetComputeMode"))
    mig = nvml.ask(index, "nvmlDeviceGetMigMode")
    return {
        "performance_state": performance_state(nvml.ask(index, "nvmlDeviceGetPerformanceState")),
        "utilisation_share": nvml.utilisation_share(index),
        "throttle_bits": nvml.throttle_bits(index),
        "persistence": switch(nvml.ask(index, "nvmlDeviceGetPersistenceMode")),
        "compute_mode": mode if isinstance(mode, Absent) else COMPUTE_MODES.get(mode, f"mode {mode}"),
        "display_active": switch(nvml.ask(index, "nvmlDeviceGetDisplayActive")),
        "mig_enabled": switch(mig if isinstance(mig, Absent) else mig[0]),
    }


def _errors(nvml: Nvml, index: int) -> dict[str, Any]:
    """Cards without ECC memory are not asked for its counts."""
    ecc = nvml.ask(index, "nvmlDeviceGetEccMode")
    enabled = switch(ecc if isinstance(ecc, Absent) else ecc[0])
    rows = nvml.ask(index, "nvmlDeviceGetRemappedRows")
    corrected, uncorrected, pending, failed = [rows] * 4 if isinstance(rows, Absent) else rows
    asked = {"corrected_errors": (CORRECTED, LIFETIME), "uncorrected_errors": (UNCORRECTED, LIFETIME)}
    asked |= {"uncorrected_errors_since_load": (UNCORRECTED, SINCE_LOAD)}
    no_ecc = enabled if isinstance(enabled, Absent) else None if enabled else Absent("ECC is off")
    return {
        "ecc_enabled": enabled,
        "remapped_rows_corrected": number(corrected),
        "remapped_rows_uncorrected": number(uncorrected),
        "row_remap_pending": switch(pending),
        "row_remap_failed": switch(failed),
        **{
            f"ecc_{name}": no_ecc or number(nvml.ask(index, "nvmlDeviceGetTotalEccErrors", *which))
            for name, which in asked.items()
        },
    }


def processes(nvml: Nvml, index: int) -> tuple[GpuProcess, ...] | Absent:
    """Every process that the driver lists once, by its first kind; the reason where it lists none of any kind."""
    found: dict[int, GpuProcess] = {}
    answers = {}
    for call, kind in PROCESS_KINDS.items():
        name = f"nvmlDeviceGet{call}RunningProcesses"
        answers[kind] = answer = nvml.first(index, (f"{name}_v3",), (f"{name}_v2",))
        for process in () if isinstance(answer, Absent) else answer:
            memory = process.usedGpuMemory
            used = Absent("not reported") if memory is None else int(memory)
            unnamed = Absent("not looked up")
            found.setdefault(int(process.pid), GpuProcess(int(process.pid), kind, unnamed, used))
    silent = answers["compute"] if isinstance(answers["compute"], Absent) else None
    return silent if silent and not found else tuple(found.values())


def mig_devices(nvml: Nvml, index: int, facts: dict[str, Any]) -> tuple[MigDevice, ...] | Absent:
    if facts["mig_enabled"] is not True:
        return ()
    count = number(nvml.ask(index, "nvmlDeviceGetMaxMigDeviceCount"))
    if isinstance(count, Absent):
        return count
    found = []
    for place in range(min(count, MOST_MIG_DEVICES)):
        handle = nvml.ask(index, "nvmlDeviceGetMigDeviceHandleByIndex", place)
        if isinstance(handle, Absent):
            continue  # places that hold no device answer "not found"
        memory = nvml.call("nvmlDeviceGetMemoryInfo", handle)
        name, uuid = (text(nvml.call(f"nvmlDeviceGet{what}", handle)) for what in ("Name", "UUID"))
        found.append(MigDevice(place, uuid, name, positive(member(memory, "total"))))
    return tuple(found)
