"""One run under way: the machine, the document so far, the file it is kept in, and how a probe is run for it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TypeVar

import msgspec

from rigbench import __version__, store
from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Progress
from rigbench.core.record import Absent, Device, Figure, Record, Skipped, Telemetry
from rigbench.document import Run
from rigbench.index import Entry, Index
from rigbench.machine import cuda_map, host
from rigbench.machine.record import Gpu, Software
from rigbench.machine.rig import Rig
from rigbench.train.record import Slice, StoredSlice
from rigbench.work import process
from rigbench.work.process import Outcome
from rigbench.work.sensors import Sampler

# Variables that change how fast torch computes or how much memory it takes.
CONDITIONS: tuple[str, ...] = ("CUDA_", "DNNL_", "GLIBC_TUNABLES", "GOMP_", "KMP_", "LD_PRELOAD", "MALLOC_", "MKL_")
CONDITIONS += ("NCCL_", "OMP_", "ONEDNN_", "PYTORCH_", "THP_MEM_ALLOC_ENABLE", "TORCH_")
T = TypeVar("T", bound=Record)


class Interrupted(Exception):
    """The user said stop; what was measured is already saved."""


class Job:
    """One run under way: the machine, the document so far, and the file it is kept in."""

    def __init__(self, home: store.Store, rig: Rig, command: str, progress: Progress) -> None:
        self.store, self.rig, self.progress = home, rig, progress
        self.trouble: RigbenchError | None = None
        self.faults: list[str] = []
        count = rig.nvml.gpu_count()
        cards = [
            (rig.nvml.reading(i, "uuid"), rig.nvml.reading(i, "name"))
            for i in range(0 if isinstance(count, Absent) else count)
        ]
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

    @property
    def visible_gpus(self) -> tuple[int, ...]:
        """The driver's numbers of the GPUs that CUDA shows, in CUDA's order."""
        environment = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")
        return cuda_map.visible(self.gpus, *environment).indices

    @cached_property
    def index(self) -> Index:
        """Of all runs that are stored, read once."""
        return self.store.index(self.progress)

    @cached_property
    def earlier(self) -> tuple[Entry, ...]:
        """The stored runs of this rig, newest first: the one notion of the same rig is its fingerprint."""
        return tuple(entry for entry in self.index.entries(self.run.rig.fingerprint) if entry.id != self.run.id)

    def slices(self) -> list[StoredSlice]:
        """This run's slices, then those of earlier runs of this rig, newest first, without their raw samples."""
        here = [StoredSlice.of(self.run.id, item) for item in self.run.slices if isinstance(item, Slice)]
        return [*here, *(stored for entry in self.earlier for stored in entry.slices)]

    def holding(self, room: str) -> Iterator[Run]:
        """This run if it holds the room, then those stored of this rig that do, newest first, each read when needed."""
        if room in self.run.rooms():
            yield self.run
        for entry in self.earlier:
            if room in entry.rooms:
                with contextlib.suppress(RigbenchError):  # gone since
                    yield self.store.load(entry.id)

    def newest(self, *rooms: str) -> list[Run]:
        """The newest runs of this rig in which each of these rooms was really measured, newest first."""
        runs: dict[str, Run] = {}
        for room in rooms:
            run = next((run for run in self.holding(room) if not isinstance(getattr(run, room), Skipped)), None)
            if run:
                runs[run.id] = run
        return sorted(runs.values(), key=lambda run: run.id, reverse=True)

    def datasheet(self, device: Device) -> dict[str, Figure]:
        """Published peaks per dtype of this GPU, by PCI id or exact name; none for a CPU or an unknown card."""
        gpu = next((gpu for gpu in self.gpus if device.kind == "cuda" and gpu.uuid == device.uuid), None)
        if gpu is None:
            return {}
        facts = (gpu.pci_device_id, gpu.name, gpu.memory_total_bytes)
        profile = profiles.match_gpu(*(None if isinstance(fact, Absent) else fact for fact in facts))  # type: ignore[arg-type]
        return {} if isinstance(profile, Absent) else profiles.peaks(profile)

    def isolated(
        self,
        probe: str,
        options: Record,
        result_type: type[T],
        *,
        limit_seconds: float,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[Outcome[T], Telemetry]:
        """Run a probe in a process of its own; the sensors are read here, in the parent, which is idle."""
        with Sampler(self.rig) as sampler:
            outcome = process.call(
                probe,
                options,
                result_type,
                limit_seconds=limit_seconds,
                on_progress=self.progress.update,
                environment=environment,
            )
        return outcome, sampler.record()

    def measure(
        self,
        probe: str,
        options: Record,
        result_type: type[T],
        *,
        limit_seconds: float,
        environment: Mapping[str, str] | None = None,
        room: str = "",
        complete: Callable[[T], T] = lambda result: result,
    ) -> T | Skipped:
        """Run a probe in a process of its own and keep its record in a room of the document; "" keeps nothing.

        The record gets the sensors' telemetry, and `complete` adds what else only the parent knows. A process that
        died or hung is a fault; what it had handed over before is kept.

        Raises:
            Interrupted: the user said stop; what was measured is kept.
            RigbenchError: the probe refused its options or its input.
        """
        outcome, telemetry = self.isolated(
            probe, options, result_type, limit_seconds=limit_seconds, environment=environment
        )
        name = probe.removeprefix("rigbench.").partition(".")[0]
        result: T | Skipped = Skipped(name, outcome.reason or "stopped before anything was measured")
        interrupted, broken = outcome.ended == "interrupted", outcome.ended in ("died", "hung")
        if broken:
            self.faults.append(f"{name}: {outcome.reason}")
        if outcome.result is not None:
            facts = {"telemetry": telemetry, "events": (*getattr(outcome.result, "events", ()), outcome.reason)}
            wanted = ("telemetry", "events") if broken else ("telemetry",)
            facts = {field: facts[field] for field in wanted if field in result_type.__struct_fields__}
            result = msgspec.structs.replace(outcome.result, **facts)
            try:
                result = complete(result)
            except KeyboardInterrupt:
                interrupted = True
        if room:
            filled = getattr(self.run, room)
            self.keep(**{room: (*filled, result) if isinstance(filled, tuple) else result})
        if interrupted:
            raise Interrupted
        return result

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
        if self.rig.nvml.trouble:
            self.warn(f"{self.rig.nvml.trouble.reason}; no GPU was read from then on (see dmesg, or restart)")
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
