"""One run under way: the machine, the document so far, the file it is kept in, and the conditions it was made under."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

import msgspec

from rigbench import __version__, store
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.document import Run
from rigbench.machine import host
from rigbench.machine.record import Gpu, Software
from rigbench.machine.rig import Rig

# Variables that change how fast torch computes or how much memory it takes.
CONDITIONS = (
    "CUDA_",
    "DNNL_",
    "GLIBC_TUNABLES",
    "GOMP_",
    "KMP_",
    "LD_PRELOAD",
    "MALLOC_",
    "MKL_",
    "NCCL_",
    "OMP_",
    "ONEDNN_",
    "PYTORCH_",
    "THP_MEM_ALLOC_ENABLE",
    "TORCH_",
)


class Progress(Protocol):
    """Where the stages tell how far they are."""

    def stage(self, text: str, weight_seconds: float) -> None: ...

    def update(self, share: float, text: str) -> None: ...

    def close(self) -> None: ...


class Interrupted(Exception):
    """The user said stop; what was measured is already saved."""


class Job:
    """One run under way: the machine, the document so far, and the file it is kept in."""

    def __init__(self, home: store.Store, rig: Rig, command: str, progress: Progress) -> None:
        self.store, self.rig, self.progress = home, rig, progress
        self.trouble: RigbenchError | None = None
        self.faults: list[str] = []
        count = rig.nvml.gpu_count()
        cards = [(rig.nvml.uuid(i), rig.nvml.name(i)) for i in range(0 if isinstance(count, Absent) else count)]
        self.run = Run(
            id=store.new_run_id(),
            started_at=store.now(),
            command=command,
            status="running",
            rig=host.rig_id(host.cpu(rig.sysfs), host.memory(rig.sysfs), cards),
            software=_software(rig),
        )

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The driver's facts of every GPU, read when first asked for."""
        facts = self.rig.nvml.gpus()
        return () if isinstance(facts, Absent) else facts

    def keep(self, **rooms: object) -> None:
        """Add to the document and save it. A disk that refuses is remembered, told at the end, and stops nothing."""
        self.run = msgspec.structs.replace(self.run, **rooms)
        try:
            self.store.save(self.run)
            self.trouble = None
        except RigbenchError as error:
            self.trouble = error

    def warn(self, line: str) -> None:
        if line not in self.run.warnings:
            self.run = msgspec.structs.replace(self.run, warnings=(*self.run.warnings, line))

    def finish(self, status: str) -> None:
        self.keep(status=status)

    @property
    def measured(self) -> bool:
        """Whether there is anything in the document worth keeping."""
        return bool(self.run.rooms())


def _software(rig: Rig) -> Software:
    """Of a replayed rig only what the recording tells: the packages here are not that rig's."""
    return Software(
        rigbench=__version__,
        python=platform.python_version(),
        torch=_version("torch", rig),
        bitsandbytes=_version("bitsandbytes", rig),
        nvidia_driver=rig.nvml.driver_version(),
        cuda_driver=rig.nvml.cuda_driver_version(),
        kernel=host.kernel(rig.sysfs),
        environment={} if rig.replayed else _environment(os.environ),
    )


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What of the environment changes speed or memory; libraries by their name, since folders may name people."""
    named = {key: value for key, value in variables.items() if key.startswith(CONDITIONS)}
    return {key: " ".join(os.path.basename(part) for part in value.split()) for key, value in sorted(named.items())}


def _version(package: str, rig: Rig) -> str | Absent:
    if rig.replayed:
        return Absent("a replayed rig")
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return Absent("not installed")
