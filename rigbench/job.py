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
from rigbench.document import ROOMS, Run
from rigbench.index import Entry, Index, entry_of
from rigbench.machine import cuda_map, host
from rigbench.machine.cuda_map import Cards
from rigbench.machine.record import Gpu, Software
from rigbench.machine.rig import Rig
from rigbench.train.record import StoredSlice
from rigbench.usable import usable
from rigbench.work import process, verdict
from rigbench.work.process import Outcome
from rigbench.work.record import Disturbance
from rigbench.work.watch import Watch

# Variables that change how fast torch computes or how much memory it takes.
CONDITIONS: tuple[str, ...] = ("CUDA_", "DNNL_", "GLIBC_TUNABLES", "GOMP_", "KMP_", "LD_PRELOAD", "MALLOC_", "MKL_")
CONDITIONS += ("NCCL_", "OMP_", "ONEDNN_", "PYTORCH_", "THP_MEM_ALLOC_ENABLE", "TORCH_")
T = TypeVar("T", bound=Record)


class Interrupted(Exception):
    """The user said stop; what was measured is already saved."""


class Job:
    """One run under way: the machine, the document so far, and the file it is kept in."""

    def __init__(
        self, home: store.Store, rig: Rig, command: str, progress: Progress, keep_disturbed: bool = False
    ) -> None:
        """`keep_disturbed`: what was measured while the machine was busy counts like everything else."""
        self.store, self.rig, self.progress, self.keep_disturbed = home, rig, progress, keep_disturbed
        self.trouble: RigbenchError | None = None
        self.faults: list[str] = []
        count = rig.nvml.gpu_count()
        cards = [
            (rig.nvml.reading(i, "uuid"), rig.nvml.reading(i, "name"))
            for i in range(0 if isinstance(count, Absent) else count)
        ]
        self.run = Run(
            id=home.new_run_id(),
            started_at=store.now(),
            command=command,
            status="running",
            rig=host.rig_id(host.cpu(rig.sysfs), host.memory(rig.sysfs), cards),
            software=_software(rig),
        )
        self.driver_trouble()

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The driver's facts of every GPU, read when first asked for."""
        facts = self.rig.nvml.gpus()
        if isinstance(facts, Absent):
            return ()
        return tuple(msgspec.structs.replace(gpu, profile=_profile(gpu)) for gpu in facts)

    def cards(self, device: str | None = None) -> Cards:
        """The GPUs that `--device` and the environment leave for this run, in CUDA's order; what is odd is said.

        Raises:
            RigbenchError: there is no such device.
        """
        environment = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")
        found = cuda_map.cards(() if device == "cpu" else self.gpus, device, *environment)
        if found.trouble:
            self.warn(found.trouble)
        return found

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
        slices = [*entry_of(self.run).slices, *(stored for entry in self.earlier for stored in entry.slices)]
        return [msgspec.structs.replace(it, disturbed="") for it in slices] if self.keep_disturbed else slices

    def holding(self, room: str) -> Iterator[Run]:
        """This run if it holds the room, then those stored of this rig that do, newest first, each read when needed.

        Without what was measured while the machine was busy.
        """
        if room in self.run.rooms():
            yield self.usable(self.run)
        for entry in self.earlier:
            if room in entry.rooms:
                with contextlib.suppress(RigbenchError):  # gone since
                    yield self.usable(self.store.load(entry.id))

    def usable(self, run: Run) -> Run:
        return run if self.keep_disturbed else usable(run)

    @property
    def has_no_answer(self) -> bool:
        """Whether what this run measured is not to be used, since the machine was busy."""
        return bool(self.run.disturbed()) and not self.keep_disturbed

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
        return {} if gpu is None or isinstance(gpu.profile, Absent) else profiles.peaks(gpu.profile)

    def undisturbed(
        self,
        room: str,
        start: Callable[[Watch], Outcome[T]],
        *,
        place: int = 0,
        repeat: bool = True,
        stands: Callable[[T], bool] = lambda result: False,
    ) -> tuple[Outcome[T], Telemetry]:
        """Start a probe and watch it; where the machine disturbed it, once more, and the better one counts.

        What was read beside every attempt is kept in the document under this room, "" keeps and repeats nothing. A
        result that `stands` is not repeated either: wrong data must not be hidden by right data. The sensors are read
        here, in the parent, which is idle.
        """
        tries: list[tuple[Outcome[T], Telemetry, Disturbance]] = []
        for attempt in (1, 2):
            try:
                with Watch(self.rig, cards=self.cards().indices) as beside:
                    outcome = start(beside)
            except RigbenchError:
                if not tries:
                    raise
                break
            its = beside.disturbance(room, place, attempt)
            tries.append((outcome, beside.telemetry(), its))
            wrong = outcome.result is not None and stands(outcome.result)
            if not repeat or not room or not its.evidence or outcome.ended != "finished" or wrong:
                break
            if attempt == 1:
                busy = f"this machine is busy ({its.evidence[0]}): measuring once more"
                self.progress.stage(busy, max(1.0, its.wall_seconds))
        last = tries[-1][0]
        if last.ended != "finished":  # the second try did not get there: the first is left, and how this one ended
            choice = tries[:1]
        elif last.result is not None and stands(last.result):
            choice = tries[-1:]
        else:
            choice = tries
        outcome, telemetry, kept = min(choice, key=lambda it: verdict.severity(it[2]))
        if room:
            self.note(*(msgspec.structs.replace(it, kept=it is kept) for _, _, it in tries))
        ended = {"ended": last.ended, "reason": last.reason, "dead_ranks": last.dead_ranks}
        return msgspec.structs.replace(outcome, **ended), telemetry

    def measure(
        self,
        probe: str,
        options: Record,
        result_type: type[T],
        *,
        limit_seconds: float,
        environment: Mapping[str, str] | None = None,
        room: str = "",
        stands: Callable[[T], bool] = lambda result: False,
        complete: Callable[[T], T] = lambda result: result,
    ) -> T | Skipped:
        """Run a probe in a process of its own and keep its record in a room of the document; "" keeps nothing.

        One that the machine disturbed is run once more, unless its result `stands`. The record gets the sensors'
        telemetry, and `complete` adds what else only the parent knows. A process that died or hung is a fault; what it
        had handed over before is kept.

        Raises:
            Interrupted: the user said stop; what was measured is kept.
            RigbenchError: the probe refused its options or its input.
        """

        def start(beside: Watch) -> Outcome[T]:
            return process.call(
                probe,
                options,
                result_type,
                limit_seconds=limit_seconds,
                on_progress=beside.heard(self.progress.update),
                environment=environment,
            )

        filled = getattr(self.run, room) if room else None
        place = len(filled) if isinstance(filled, tuple) else 0
        outcome, telemetry = self.undisturbed(room, start, place=place, stands=stands)
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
            self.keep(**{room: (*filled, result) if isinstance(filled, tuple) else result})
        if interrupted:
            raise Interrupted
        return result

    def note(self, *read: Disturbance) -> None:
        """What else the machine did beside a probe, for the document; it is saved with the probe's own record."""
        self.run = msgspec.structs.replace(self.run, disturbances=(*self.run.disturbances, *read))

    def keep(self, **rooms: object) -> None:
        """Add to the document and save it. A disk that refuses is remembered, told at the end, and stops nothing."""
        self.run = msgspec.structs.replace(self.run, **rooms)
        try:
            self.store.save(self.run)
            self.trouble = None
        except RigbenchError as error:
            self.trouble = error

    def forget(self) -> None:
        """Take this run out of the store: it has come to nothing."""
        empty = Run(id=self.run.id, started_at="", command="", status="", rig=self.run.rig, software=self.run.software)
        self.run = msgspec.structs.replace(self.run, **{name: getattr(empty, name) for name in ROOMS})
        with contextlib.suppress(RigbenchError):
            self.store.delete([self.run.id])

    def warn(self, line: str) -> None:
        if line not in self.run.warnings:
            self.run = msgspec.structs.replace(self.run, warnings=(*self.run.warnings, line))

    def driver_trouble(self) -> None:
        if self.rig.nvml.trouble:
            self.warn(self.rig.nvml.trouble_line)

    def finish(self, status: str) -> None:
        self.driver_trouble()
        self.keep(status=status)

    @property
    def measured(self) -> bool:
        """Whether there is anything in the document worth keeping."""
        return bool(self.run.rooms())


def _profile(gpu: Gpu) -> str | Absent:
    facts = (gpu.pci_device_id, gpu.name, gpu.memory_total_bytes)
    return profiles.match_gpu(*(None if isinstance(fact, Absent) else fact for fact in facts))  # type: ignore[arg-type]


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
