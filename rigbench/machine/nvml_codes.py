"""What do the driver's return codes mean, in plain words, and what cures those that stop it from starting?"""

from __future__ import annotations

# nvml.h, nvmlReturn_t. Numbers newer than this table are told as they are.
REASONS = {
    1: "driver library not initialised",
    2: "invalid argument",
    3: "not supported",
    4: "no permission",
    6: "not found",
    7: "answer too long",
    8: "external power cable not attached",
    9: "driver not loaded",
    10: "driver timed out",
    11: "interrupt problem",
    12: "driver library not found",
    13: "function not found in this driver",
    14: "corrupted infoROM",
    15: "GPU is lost",
    16: "GPU needs a reset",
    17: "blocked by the operating system",
    18: "driver and library versions differ",
    19: "in use",
    20: "driver out of memory",
    21: "no data",
    22: "not supported with vGPU ECC",
    23: "insufficient resources",
    24: "frequency not supported",
    25: "structure version not known to this driver",
    26: "deprecated in this driver",
    27: "not ready",
    28: "GPU not found",
    29: "invalid state",
    30: "reset type not supported",
    999: "unknown driver error",
}
CURES = {
    4: "no permission to open the NVIDIA driver; check /dev/nvidiactl, or the container's device access",
    9: "the NVIDIA driver's kernel module is not loaded; load it (modprobe nvidia) or reinstall the driver",
    13: "the NVIDIA driver is too old for this pynvml; update the driver",
    18: "the NVIDIA driver and its library differ in version; restart after the update",
}
# A renamed or versioned call is worth another try after these; after any other answer it is not.
NOT_KNOWN = {REASONS[code] for code in (13, 25, 26)} | {"function not found in this pynvml"}
TRY_THE_OTHER_CALL = {REASONS[2], REASONS[3]} | NOT_KNOWN
