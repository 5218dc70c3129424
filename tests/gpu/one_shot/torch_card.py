"""What torch sees of the card, and what torch.compile needs of the machine, as JSON. Exit 1: no CUDA device."""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device")
    its = torch.cuda.get_device_properties(0)
    found = {
        "device": its.name,
        "devices": torch.cuda.device_count(),
        "capability": [its.major, its.minor],
        "multiprocessors": its.multi_processor_count,
        "memory_bytes": its.total_memory,
        "l2_bytes": getattr(its, "L2_cache_size", 0),
        "cuda": torch.version.cuda,
        "nccl": list(torch.cuda.nccl.version()),
        "compiler": os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or "none",
        "python_headers": (Path(sysconfig.get_path("include")) / "Python.h").exists(),
    }
    print(json.dumps(found))
