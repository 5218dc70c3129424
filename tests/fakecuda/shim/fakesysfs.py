"""The host of a fake rig: rigbench reads /sys, and whatever of /proc lies there, from a folder; the rest is live."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

MODULE, READS = "rigbench.machine.sysfs", ("read_bytes", "list_dir", "real_path", "exists")


class Hook:
    """Changes the module that reads the kernel's files once it is imported."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.loader
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            recorded = module.Sysfs(Path(self._folder))
            for read in READS:
                setattr(module.Sysfs, read, moved(getattr(module.Sysfs, read), recorded, self._folder))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def moved(read: Any, recorded: Any, folder: str) -> Any:
    def reading(self: Any, path: str) -> Any:
        is_its = path.lstrip("/").startswith("sys/") or os.path.exists(os.path.join(folder, path.lstrip("/")))
        return read(recorded if self._root == "/" and is_its else self, path)

    return reading


def enable(folder: str) -> None:
    sys.meta_path.insert(0, Hook(folder))
