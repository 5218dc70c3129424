"""The host of a recorded rig as files: its PCI tree, and what of /proc and /sys tells a processor and its memory."""

from __future__ import annotations

from pathlib import Path

import build  # noqa: F401, which puts tests/ on the path
from fakenvml import expand_sysfs

CPU = """processor	: {number}
vendor_id	: {vendor}
cpu family	: 6
model name	: {model}
flags		: fpu sse2 avx2 fma f16c
"""
MODELS = {"GenuineIntel": "13th Gen Intel(R) Core(TM) i7-13700K", "AuthenticAMD": "AMD EPYC 7502 32-Core Processor"}
CPUS = 16
MEMORY = """MemTotal:       65536000 kB
MemFree:        60000000 kB
MemAvailable:   60000000 kB
SwapTotal:             0 kB
SwapFree:              0 kB
"""


def tree(recording: Path, folder: Path) -> Path:
    """Below `folder`, for FAKE_SYSFS."""
    expand_sysfs.expand_recording(recording, folder)
    vendor = "AuthenticAMD" if "epyc" in recording.name else "GenuineIntel"
    cpus = (CPU.format(number=number, vendor=vendor, model=MODELS[vendor]) for number in range(CPUS))
    files = {
        "proc/cpuinfo": "\n".join(cpus),
        "proc/meminfo": MEMORY,
        "proc/cmdline": "quiet",
        "proc/sys/kernel/osrelease": "6.8.0-generic",
        "sys/devices/system/cpu/online": f"0-{CPUS - 1}",
        "sys/devices/system/node/online": "0",
        "sys/devices/system/node/node0/cpulist": f"0-{CPUS - 1}",
        "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 65536000 kB",
    }
    for number in range(CPUS):
        topology = f"sys/devices/system/cpu/cpu{number}/topology"
        files |= {f"{topology}/core_id": str(number // 2), f"{topology}/physical_package_id": "0"}
    expand_sysfs.write(folder, files)
    return folder
