"""The bandwidth probe for a command: a process per part, the links read awake, every rate held against its link."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

import msgspec

from rigbench.bandwidth import verdict as findings
from rigbench.bandwidth.probe import METHOD, Options
from rigbench.bandwidth.record import Bandwidth, BandwidthPart, Transfer
from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Device, Figure, Telemetry
from rigbench.job import Interrupted, Job
from rigbench.machine import cuda_map
from rigbench.store import now
from rigbench.topology import survey as topology_probe
from rigbench.topology.record import Topology
from rigbench.work import load as waking
from rigbench.work import telemetry

PROBE = "rigbench.bandwidth.probe"
# A part that takes this much longer than it was given hangs: loading torch, making the largest buffers, late rows.
GRACE_SECONDS, TIMES_ITS_SECONDS = 120.0, 2.0
LEAST_SECONDS, MOST_SECONDS = 1.0, 3600.0
LEAST_LARGEST, MOST_LARGEST = 1 << 20, 1 << 36
NOT_ASKED = Absent("not asked: no GPU's link is judged")


def options(seconds: str, largest: str, device: str | None) -> Options:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    budget, size = units.parse_seconds(seconds, "--seconds"), units.parse_bytes(largest, "--largest")
    if not LEAST_SECONDS <= budget <= MOST_SECONDS:
        raise RigbenchError(f"--seconds {seconds!r} is not between 1 s and 1 h", "a minute is usual: 60s")
    if not LEAST_LARGEST <= size <= MOST_LARGEST:
        raise RigbenchError(f"--largest {largest!r} is not between 1 MiB and 64 GiB", "512MiB is usual")
    return Options(device=device or "auto", seconds=budget, largest_bytes=size >> 20 << 20)


def run(job: Job, options: Options) -> Bandwidth:
    """Each part in a process of its own; one that hangs or dies is a fault, and the others go on.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: no such device.
    """
    measuring = _Measuring(job, options)
    first = measuring.part(options)
    on_cpu = options.device == "cpu" or any(device.kind == "cpu" for device in first.devices)
    count = 0 if on_cpu else len(first.devices) or len(measuring.visible)
    if on_cpu and measuring.visible and options.device != "cpu":
        job.warn(f"the driver lists {len(measuring.visible)} GPUs and torch sees none: the CPU was measured")
    if options.device == "auto" and count > 1:
        for index in range(1, count):
            measuring.part(msgspec.structs.replace(options, device=f"cuda:{index}"))
        for access in (True, False):
            measuring.part(msgspec.structs.replace(options, part="peers", peer_access=access))
        return measuring.result
    return measuring.without_peers(_why_no_peers(on_cpu, count))


class _Measuring:
    """One answer in the making; every part is judged and kept as soon as there is one."""

    def __init__(self, job: Job, options: Options) -> None:
        self.job, self.started = job, time.perf_counter()
        self.visible = () if options.device == "cpu" else job.visible_gpus
        topology = _awake(job) if self.visible else None
        self.gpus = topology.gpus if topology else ()
        self.seconds = options.seconds / _parts(options, len(self.visible))
        labels = {f"GPU{gpu.index}" for gpu in self.gpus}
        self.result = Bandwidth(
            method=METHOD,
            started_at=now(),
            seconds=0.0,
            verdict="unknown",
            parts=(),
            judged=(),
            virtual_machine=topology.virtual_machine if topology else NOT_ASKED,
            gpus=self.gpus,
            links=tuple(path for path in topology.paths if path.label in labels) if topology else (),
            pairs=topology.pairs if topology else (),
            memory_datasheet={f"GPU{gpu.index}": _memory_datasheet(gpu.profile) for gpu in self.gpus},
        )
        for line in _others_at_work(topology, self.visible):
            job.warn(line)

    def part(self, options: Options) -> BandwidthPart:
        """Measure one part, name its places as the rest of rigbench names its GPUs, and keep it.

        Raises:
            Interrupted: the user said stop.
        """
        name = f"peers, access {'on' if options.peer_access else 'off'}" if options.part == "peers" else options.device
        local = {str(gpu.uuid): gpu.cpu_affinity for gpu in self.gpus if isinstance(gpu.cpu_affinity, str)}
        options = msgspec.structs.replace(options, seconds=self.seconds, local_cpus=local)
        self.job.progress.stage(f"bandwidth {'' if name == 'auto' else name}".rstrip(), self.seconds + 5)
        limit = GRACE_SECONDS + TIMES_ITS_SECONDS * self.seconds
        began = time.perf_counter()
        outcome, sensors = self.job.isolated(PROBE, options, BandwidthPart, limit_seconds=limit)
        found = outcome.result
        empty = found is None or not found.transfers
        if outcome.ended == "interrupted" and empty:
            raise Interrupted
        if found is None:
            found = _nothing(name, time.perf_counter() - began, outcome.reason)
        found = self._completed(found, sensors)
        if outcome.ended != "finished":
            found = msgspec.structs.replace(found, ended=outcome.ended, reason=outcome.reason)
        if outcome.ended in ("died", "hung"):
            self.job.faults.append(f"bandwidth {found.name}: {outcome.reason}")
        self._keep(found)
        if outcome.ended == "interrupted":
            raise Interrupted
        return found

    def without_peers(self, why: str) -> Bandwidth:
        self.result = msgspec.structs.replace(self.result, peers_absent=Absent(why))
        self.job.keep(bandwidth=self.result)
        return self.result

    def _completed(self, part: BandwidthPart, sensors: Telemetry) -> BandwidthPart:
        labels = _labels(part.devices, self.gpus)
        if part.devices and part.devices[0].kind == "cpu":
            sensors = telemetry.of_device(sensors, part.devices[0])
        for line in _replays(part, sensors):
            self.job.warn(line)
        return msgspec.structs.replace(
            part,
            name=labels.get(part.name, part.name),
            transfers=tuple(_placed(transfer, labels) for transfer in part.transfers),
            not_run=tuple(_renamed(line, labels) for line in part.not_run),
            telemetry=sensors,
        )

    def _keep(self, part: BandwidthPart) -> None:
        self.job.faults += list(_wrong(part))
        seconds = time.perf_counter() - self.started
        result = msgspec.structs.replace(self.result, parts=(*self.result.parts, part), seconds=seconds)
        judged = findings.judged(result)
        verdict = findings.verdict(result, judged)
        self.result = msgspec.structs.replace(result, judged=judged, verdict=verdict)
        self.job.keep(bandwidth=self.result)


def _awake(job: Job) -> Topology:
    """The rig as it is while every GPU copies; this run's own topology, where it was read so."""
    known = job.run.topology
    if isinstance(known, Topology) and any(isinstance(gpu.link_generation_awake, int) for gpu in known.gpus):
        return known
    job.progress.stage("bandwidth: links under load", 10)
    rig = waking.awake(job.rig, lambda busy: topology_probe.run(busy, profiles.match_gpu))
    return topology_probe.run(rig, profiles.match_gpu)


def _parts(options: Options, gpus: int) -> int:
    if options.device != "auto" or gpus < 2:
        return 1
    return gpus + 2


def _why_no_peers(on_cpu: bool, count: int) -> str:
    if on_cpu:
        return "the CPU was measured: there are no peers"
    return "one GPU: a peer copy needs two" if count == 1 else "--device asked for one GPU: a peer copy needs two"


def _memory_datasheet(profile: str | Absent) -> Figure | Absent:
    return profile if isinstance(profile, Absent) else profiles.memory_bandwidth(profile)


def _others_at_work(topology: Topology | None, visible: tuple[int, ...]) -> Iterator[str]:
    """A neighbour on the card shares its links and its memory."""
    for gpu in topology.gpus if topology else ():
        held = gpu.processes if isinstance(gpu.processes, tuple) else ()
        busy = [process for process in held if process.kind == "compute" and process.pid != os.getpid()]
        if busy and gpu.index in visible:
            who = ", ".join(
                str(process.name) if isinstance(process.name, str) else str(process.pid) for process in busy
            )
            yield f"GPU{gpu.index} is in use by {who}: rates may be lower than the rig's own"


def _labels(devices: tuple[Device, ...], gpus: tuple[object, ...]) -> dict[str, str]:
    """{"cuda:0": "GPU1"}: CUDA's order is not the driver's. A device that the driver does not know keeps its name."""
    found = {}
    for place, device in enumerate(devices):
        uuid = device.uuid if isinstance(device.uuid, str) else None
        index = cuda_map.nvml_index(gpus, uuid, None) if device.kind == "cuda" else None  # type: ignore[arg-type]
        if isinstance(index, int):
            found[f"cuda:{place}"] = f"GPU{index}"
    return found


def _placed(transfer: Transfer, labels: Mapping[str, str]) -> Transfer:
    source, destination = (labels.get(place, place) for place in (transfer.source, transfer.destination))
    return msgspec.structs.replace(transfer, source=source, destination=destination)


def _renamed(line: str, labels: Mapping[str, str]) -> str:
    for name, label in sorted(labels.items(), reverse=True):
        line = line.replace(name, label)
    return line


def _nothing(name: str, seconds: float, reason: str) -> BandwidthPart:
    return BandwidthPart(
        name=name,
        devices=(),
        seconds=seconds,
        host_cpus=Absent("it ended before anything was measured"),
        transfers=(),
        not_run=(),
        ended="died",
        reason=reason,
    )


def _wrong(part: BandwidthPart) -> Iterator[str]:
    for row in part.transfers:
        if not row.check.correct:
            first = row.check.first_wrong_byte
            where = "" if isinstance(first, Absent) else f", the first at byte {first}"
            what = f"{row.operation} from {row.source} to {row.destination}, {units.format_bytes(row.size_bytes)}"
            counts = f"{row.check.wrong} of {row.check.checked} arrived wrong ({row.check.wrong_values} values{where})"
            yield f"bandwidth {what}: {counts}"


def _replays(part: BandwidthPart, sensors: Telemetry) -> Iterator[str]:
    """A counter of repeated packets that rises under load tells of a riser or a seat."""
    for series in sensors.series:
        counts = series.pcie_replays if isinstance(series.pcie_replays, tuple) else ()
        known = [count for count in counts if isinstance(count, int)]
        if known and known[-1] > known[0]:
            yield (
                f"{series.device} repeated {known[-1] - known[0]} PCIe packets during {part.name}: "
                "look at its riser and its seat"
            )
