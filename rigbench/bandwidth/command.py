"""The command bandwidth: a process per part, links read awake, every rate held against its link."""

from __future__ import annotations

import os
import time

import msgspec

from rigbench.bandwidth import verdict
from rigbench.bandwidth.record import METHOD, MIB, Bandwidth, BandwidthPart, Options, PartOptions
from rigbench.command import Common, command
from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Telemetry
from rigbench.job import Interrupted, Job
from rigbench.machine import cuda_map
from rigbench.machine.cuda_map import Cards
from rigbench.store import now
from rigbench.topology import survey
from rigbench.topology.record import Topology
from rigbench.work import load, process, telemetry
from rigbench.work.process import Outcome
from rigbench.work.watch import Watch

PROBE = "rigbench.bandwidth.probe"
LEAST_SHARE = 0.05  # of the time, for the parts that are left where the others took longer
# A part that takes this much longer than it was given hangs: loading torch, making the largest buffers, late rows.
GRACE_SECONDS, TIMES_ITS_SECONDS = 120.0, 2.0


@command("device", "keep_disturbed")
def bandwidth(common: Common, options: Options) -> int:
    """Copies to, from, inside and between GPUs, verified, against their links; without a GPU the CPU's memory.

    rigbench bandwidth
    rigbench bandwidth --seconds 10s      a shorter look
    rigbench bandwidth --device cuda:1    one GPU alone
    """
    return common.answer(lambda job: run(job, options, common.device or "auto"))


def run(job: Job, options: Options, device: str = "auto") -> Bandwidth:
    """Each part in a process of its own; one that hangs or dies is a fault, and the others go on."""
    cards = job.cards(device)
    measuring = _Measuring(job, options, cards)
    visible = cards.indices
    first = measuring.part(device=device)
    on_cpu = device == "cpu" or any(it.kind == "cpu" for it in first.devices)
    count = 0 if on_cpu else len(first.devices) or len(visible)
    if on_cpu and visible and device != "cpu":
        job.warn(f"the driver lists {len(visible)} GPUs and torch sees none: the CPU was measured")
    if device in ("auto", "cuda") and count > 1:
        for name in (f"cuda:{index}" for index in range(count)):
            if name != measuring.first:
                try:
                    measuring.part(device=name)
                except RigbenchError as refused:  # what torch has no kernels for does not end the others
                    job.warn(f"{refused.what_happened}: not measured; {refused.what_to_do}")
        try:
            for access in (True, False):
                measuring.part(part="peers", peer_access=access)
        except RigbenchError as refused:
            return measuring.keep(peers=Absent(refused.what_happened))
        return measuring.keep(peers="measured")
    why = f"{cards.why}: a peer copy needs two" if cards.hidden else "one GPU: a peer copy needs two"
    return measuring.keep(peers=Absent("the CPU was measured: there are no peers" if on_cpu else why))


class _Measuring:
    """One answer in the making; every part is judged and kept as soon as there is one."""

    def __init__(self, job: Job, options: Options, cards: Cards) -> None:
        self.job, self.started = job, time.perf_counter()
        self.first = "cuda:0"  # the card that "auto" chose, as torch names it
        topology = self._awake() if cards.gpus else None
        self.spent = time.perf_counter() - self.started  # of the time that was given
        self.gpus = topology.gpus if topology else ()
        self.parts_left = len(cards.gpus) + 2 if len(cards.gpus) > 1 else 1
        local = {str(gpu.uuid): gpu.cpu_affinity for gpu in self.gpus if isinstance(gpu.cpu_affinity, str)}
        largest = options.largest_bytes // MIB * MIB
        self.options = PartOptions(seconds=options.seconds, largest_bytes=largest, local_cpus=local)
        labels = {f"GPU{gpu.index}": gpu.profile for gpu in self.gpus}
        self.result = Bandwidth(
            method=METHOD,
            started_at=now(),
            seconds=0.0,
            verdict="unknown",
            parts=(),
            judged=(),
            virtual_machine=topology.virtual_machine if topology else Absent("not asked: no GPU's link is judged"),
            gpus=self.gpus,
            links=tuple(path for path in topology.paths if path.label in labels) if topology else (),
            pairs=topology.pairs if topology else (),
            memory_datasheet={
                label: profile if isinstance(profile, Absent) else profiles.memory_bandwidth(profile)
                for label, profile in labels.items()
            },
        )
        for gpu in self.gpus:  # a neighbour on the card shares its links and its memory
            held = gpu.processes if isinstance(gpu.processes, tuple) else ()
            busy = [process for process in held if process.kind == "compute" and process.pid != os.getpid()]
            if busy and gpu.index in cards.indices:
                who = ", ".join(it.name if isinstance(it.name, str) else str(it.pid) for it in busy)
                job.warn(f"GPU{gpu.index} is in use by {who}: rates may be lower than the rig's own")

    def _awake(self) -> Topology:
        """The rig as it is while every GPU copies; this run's own topology, where it was read so."""
        known = self.job.run.topology
        if isinstance(known, Topology) and any(isinstance(gpu.link_generation_awake, int) for gpu in known.gpus):
            return known
        self.job.progress.stage("bandwidth: links under load", 10)
        rig = load.awake(self.job.rig, lambda busy: survey.run(busy, profiles.match_gpu))
        return survey.run(rig, profiles.match_gpu)

    def part(self, **changes: str | bool) -> BandwidthPart:
        """Measure one part, name its places as the rest of rigbench names its GPUs, and keep it.

        It has its share of what the parts before, and the look at the links, left of the time.
        """
        left = max(self.options.seconds - self.spent, LEAST_SHARE * self.options.seconds)
        options = msgspec.structs.replace(self.options, seconds=left / max(1, self.parts_left), **changes)
        self.parts_left -= 1
        name = "" if options.name == "auto" else options.name
        self.job.progress.stage(f"bandwidth {name}".rstrip(), options.seconds + 5)
        limit = GRACE_SECONDS + TIMES_ITS_SECONDS * options.seconds
        began = time.perf_counter()

        def start(beside: Watch) -> Outcome[BandwidthPart]:
            heard = beside.heard(self.job.progress.update)
            return process.call(PROBE, options, BandwidthPart, limit_seconds=limit, on_progress=heard)

        outcome, sensors = self.job.undisturbed(
            "bandwidth", start, place=len(self.result.parts), stands=lambda part: any(verdict.wrong(part))
        )
        part = outcome.result
        self.spent += part.seconds if part else time.perf_counter() - began
        if outcome.ended == "interrupted" and (part is None or not part.transfers):
            raise Interrupted
        if part is None:
            part = BandwidthPart(
                name=options.name,
                devices=(),
                seconds=time.perf_counter() - began,
                host_cpus=Absent("it ended before anything was measured"),
                transfers=(),
                not_run=(),
                ended="died",
            )
        if options.part == "device" and options.device in ("auto", "cuda") and part.name.startswith("cuda:"):
            self.first = part.name
        part = self._placed(part, sensors)
        if outcome.ended != "finished":
            part = msgspec.structs.replace(part, ended=outcome.ended, reason=outcome.reason)
        if outcome.ended in ("died", "hung"):
            self.job.faults.append(f"bandwidth {part.name}: {outcome.reason}")
        self.job.faults += verdict.wrong(part)
        for line in verdict.replays(part):
            self.job.warn(line)
        self.keep(parts=(*self.result.parts, part))
        if outcome.ended == "interrupted":
            raise Interrupted
        return part

    def _placed(self, part: BandwidthPart, sensors: Telemetry) -> BandwidthPart:
        """CUDA's order is not the driver's; a device that the driver does not know keeps its name."""
        labels = {}
        for place, device in enumerate(part.devices):
            uuid = device.uuid if isinstance(device.uuid, str) else None
            index = cuda_map.nvml_index(self.gpus, uuid, None) if device.kind == "cuda" else None
            if isinstance(index, int):
                labels[f"cuda:{place}"] = f"GPU{index}"

        def named(line: str) -> str:
            for name, label in sorted(labels.items(), reverse=True):
                line = line.replace(name, label)
            return line

        if part.devices and part.devices[0].kind == "cpu":
            sensors = telemetry.of_device(sensors, part.devices[0])
        return msgspec.structs.replace(
            part,
            name=labels.get(part.name, part.name),
            transfers=tuple(
                msgspec.structs.replace(row, source=named(row.source), destination=named(row.destination))
                for row in part.transfers
            ),
            not_run=tuple(named(line) for line in part.not_run),
            telemetry=sensors,
        )

    def keep(self, **facts: object) -> Bandwidth:
        """Judge what there is, and save it."""
        seconds = time.perf_counter() - self.started
        result = msgspec.structs.replace(self.result, seconds=seconds, **facts)
        judged = verdict.judged(result)
        self.result = msgspec.structs.replace(result, judged=judged, verdict=verdict.verdict(result, judged))
        self.job.keep(bandwidth=self.result)
        return self.result
