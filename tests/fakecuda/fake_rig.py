"""The variables that put a process on a fake rig: a recording's driver, and CUDA devices that agree with it.

python tests/fakecuda/fake_rig.py [RIG] prints them for a shell; RIG is a folder of tests/rigs.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from build import HERE, SHIM, built, why_not

REPOSITORY = HERE.parents[1]
RIGS = REPOSITORY / "tests/rigs"
DUAL_4080 = "dual-rtx4080s-x8x8"
# A slice of a second, of a model whose step takes milliseconds.
SLICE = shlex.split("train-probe --params 5M --layers 2 --width 64 --vocab 512 --seq 32 --micro-batch 2 --seconds 1s")
OLD_MEMORY = re.compile(r"nvmlDeviceGetMemoryInfo = 0 (\d+) \d+ (\d+)")
FOREIGN = ("RIGBENCH_", "FAKE", "CUDA_", "NCCL_", "TORCH", "PYTORCH", "GLOO_", "OMP_", "MASTER_", "WORLD_")


def variables(recording: Path, folder: Path) -> dict[str, str]:
    """For a recording (an nvml.txt) and the folder with the built libraries."""
    text = recording.read_text()
    uuids = re.findall(r"^\d+ nvmlDeviceGetUUID.*?(GPU-[0-9a-f-]+)", text, re.MULTILINE)
    names = re.findall(r'^\d+ nvmlDeviceGetName.*?"([^"]+)"', text, re.MULTILINE)
    p2p = re.findall(r"^\d+ nvmlDeviceGetP2PStatus/\d+/[01] = (.*)$", text, re.MULTILINE)
    memory = re.findall(r"nvmlDeviceGetMemoryInfo_v2 = 0 (\d+) (\d+) \d+ (\d+)", text)
    # CUDA's total is without what the driver keeps for itself, and that is nobody's use of it.
    rooms = [(int(total) - int(reserved), int(used)) for total, reserved, used in memory]
    rooms = rooms or [(int(total), int(used)) for total, used in OLD_MEMORY.findall(text)]
    return {
        "LD_LIBRARY_PATH": str(folder),
        "FAKE_NVML_FILE": str(recording),
        "FAKECUDA": "1",
        "FAKECUDA_BUILD": str(folder),
        "FAKECUDA_DEVICES": str(len(uuids)),
        "FAKECUDA_UUIDS": ",".join(uuids),
        "FAKECUDA_NAME": ",".join(names),
        "FAKECUDA_PEERS": "1" if p2p and set(p2p) == {"0 0"} else "0",
        **({"FAKECUDA_MEMORY_MIB": ",".join(str(total >> 20) for total, _ in rooms)} if rooms else {}),
        **({"FAKECUDA_OTHERS_MIB": ",".join(str(used >> 20) for _, used in rooms)} if rooms else {}),
        "RIGBENCH_KERNEL_LOG": os.devnull,  # that of the machine beneath is not this rig's
        "OMP_NUM_THREADS": "1",  # several processes share few cores, and the threads of OpenMP wait by spinning
        "PYTHONPATH": f"{SHIM}{os.pathsep}{REPOSITORY}",
    }


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what a person may have set that rigbench, torch or NCCL would obey."""
    return {name: value for name, value in environment.items() if not name.startswith(FOREIGN)}


def main() -> None:
    if why := why_not():
        sys.exit(why)
    recording = RIGS / (sys.argv[1] if len(sys.argv) > 1 else DUAL_4080) / "nvml.txt"
    for name, value in variables(recording, built()).items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
