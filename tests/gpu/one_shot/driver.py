"""What NVML says of the card, by the name of its question, as JSON; an answer that fails is its error."""

from __future__ import annotations

import json
import os
from typing import Any

import pynvml as nvml


def of_torch() -> Any:
    """The card that is torch's first: of those that CUDA_VISIBLE_DEVICES leaves, else of all."""
    word = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return (
        nvml.nvmlDeviceGetHandleByUUID(word)
        if word.startswith("GPU-")
        else nvml.nvmlDeviceGetHandleByIndex(int(word or 0))
    )


def answers() -> dict[str, Any]:
    try:
        nvml.nvmlInit()
        card = of_torch()
    except nvml.NVMLError as error:
        return {"driver": str(error)}
    questions = {
        "name": lambda: nvml.nvmlDeviceGetName(card),
        "count": nvml.nvmlDeviceGetCount,
        "driver": nvml.nvmlSystemGetDriverVersion,
        "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(card).total,
        "used_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(card, version=nvml.nvmlMemory_v2).used,  # by programs
        "power_limit_mw": lambda: nvml.nvmlDeviceGetPowerManagementLimit(card),
        "power_limit_default_mw": lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(card),
        "persistence_mode": lambda: nvml.nvmlDeviceGetPersistenceMode(card),
        "compute_mode": lambda: nvml.nvmlDeviceGetComputeMode(card),
        "ecc_mode": lambda: nvml.nvmlDeviceGetEccMode(card),
        "mig_mode": lambda: nvml.nvmlDeviceGetMigMode(card),
        "sm_clock_wanted_mhz": lambda: nvml.nvmlDeviceGetApplicationsClock(card, nvml.NVML_CLOCK_SM),
        "memory_clock_wanted_mhz": lambda: nvml.nvmlDeviceGetApplicationsClock(card, nvml.NVML_CLOCK_MEM),
    }
    found: dict[str, Any] = {}
    for name, ask in questions.items():
        try:
            found[name] = ask()
        except (nvml.NVMLError, AttributeError) as error:
            found[name] = f"not told: {error}"
    return found


if __name__ == "__main__":
    print(json.dumps(answers()))
