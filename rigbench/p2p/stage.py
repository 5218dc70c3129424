"""Does P2P work on this rig? Every setting tried in processes of its own, P2P off first, then in turns."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent, Tally
from rigbench.job import Interrupted, Job
from rigbench.machine import cuda_map, peers
from rigbench.machine.record import GpuPair
from rigbench.p2p import settings as p2p_settings
from rigbench.p2p import verdict as findings
from rigbench.p2p.arms import assembled, renamed
from rigbench.p2p.probe import METHOD, Options
from rigbench.p2p.record import P2p, P2pArm, P2pRank
from rigbench.p2p.settings import AS_IT_IS, OFF, Setting
from rigbench.p2p.writes import pairs_of
from rigbench.store import now
from rigbench.topology import survey as topology_probe
from rigbench.topology.record import Topology
from rigbench.topology.verdict import worst_first
from rigbench.work import ranks

PROBE = "rigbench.p2p.probe"
MOST_TIMES, LEAST_LIMIT_SECONDS, MOST_LIMIT_SECONDS = 20, 5.0, 3600.0
LIMIT_SECONDS, LIMIT_A_PAIR_SECONDS = 120.0, 3.0  # loading torch, making contexts and communicators; then the checks
ARM_SECONDS, ARM_A_PAIR_SECONDS = 12.0, 2.0  # for the progress bar
NOT_TOLD = Absent("no process came so far as to tell")


@dataclass(frozen=True)
class Asked:
    """`times` is how often each setting is tried, `limit_seconds` after how long one try counts as hung."""

    times: int
    limit_seconds: float | None


def options(times: str, limit: str | None) -> Asked:
    """
    Raises:
        RigbenchError: any of the words is not what its option takes.
    """
    hung = None if limit is None else units.parse_seconds(limit, "--limit")
    if hung is not None and not LEAST_LIMIT_SECONDS <= hung <= MOST_LIMIT_SECONDS:
        raise RigbenchError(f"--limit {limit!r} is not between 5 s and 1 h", "2 minutes are usual: 120s")
    return Asked(units.parse_whole(times, "--times", 1, MOST_TIMES), hung)


def run(job: Job, asked: Asked) -> P2p:
    """The verdict, the speeds and the advice; what is broken is a fault.

    Raises:
        Interrupted: the user said stop; what was found is saved.
        RigbenchError: torch does not see the GPUs that the driver lists.
    """
    trial = _Trial(job, asked, job.visible_gpus)
    if len(trial.names) < 2:
        trial.does_not_apply()
        return trial.result
    try:
        trial.run()
    finally:
        trial.tell()
    return trial.result


class _Trial:
    """One answer in the making; every arm is judged and kept as soon as there is one."""

    def __init__(self, job: Job, asked: Asked, indices: Sequence[int]) -> None:
        self.job, self.asked, self.started = job, asked, time.perf_counter()
        self.names = tuple(f"GPU{index}" for index in indices)
        self.inherited = p2p_settings.inherited(os.environ)
        self.facts: tuple[GpuPair, ...] = ()
        self.result = P2p(
            method=METHOD,
            started_at=now(),
            seconds=0.0,
            verdict="inconclusive",
            reason="nothing was tried",
            devices=self.names,
            device_names=tuple(str(gpu.name) for gpu in job.gpus if f"GPU{gpu.index}" in self.names),
            nccl_version=NOT_TOLD,
            pairs=(),
            arms=(),
            speeds=(),
            advice=Absent("nothing was tried"),
        )

    def does_not_apply(self) -> None:
        why = f"fewer than two GPUs: {_how_many(self.job, len(self.names))}"
        no_advice = Absent("there is nothing to set for fewer than two GPUs")
        self._keep(verdict="not applicable", reason=why, advice=no_advice)

    def run(self) -> None:
        """Each setting in turn, there and back; one that hangs or corrupts data is not tried again."""
        self.job.progress.stage("p2p: reading the rig", 1)
        known = self.job.run.topology
        rig = known if isinstance(known, Topology) else topology_probe.run(self.job.rig, profiles.match_gpu)
        self.facts = rig.pairs
        for name, value in self.inherited.items():
            self.job.warn(f"this shell sets {name}={value}; the measurement ran without it")
        settings = [OFF, AS_IT_IS]
        self._round(settings, 0)
        if not any(arm.right for arm in self._arms(OFF)):
            self._rescue()
            return
        more = list(p2p_settings.others(self.result.arms, self._known(), self._version()))
        self._round(more, 0)
        settings += more
        for number in range(1, self.asked.times):
            going = [setting for setting in settings if self._may_go_on(setting)]
            if all(setting.control for setting in going):
                return
            self._round(going if number % 2 == 0 else going[::-1], number)

    def tell(self) -> None:
        """What was found, as findings; a fault of them counts against the run."""
        found = findings.diagnose(self.result)
        self.job.keep(findings=worst_first((*found, *self.job.run.findings)))
        faults = [item for item in found if item.severity == "fault"]
        self.job.faults += [f"{', '.join(item.where)}: {item.title} ({item.code})" for item in faults]

    def _round(self, settings: Sequence[Setting], number: int) -> None:
        for setting in settings:
            self._try(setting, number)

    def _rescue(self) -> None:
        """P2P off fails: which part of the way through the host is it?"""
        for setting in p2p_settings.rescues(self._version()):
            if self._try(setting, 0).right:
                return

    def _may_go_on(self, setting: Setting) -> bool:
        return all(arm.ended != "hung" and not arm.wrong for arm in self._arms(setting))

    def _try(self, setting: Setting, number: int) -> P2pArm:
        """One setting once, judged and kept.

        Raises:
            Interrupted: the user said stop.
        """
        pairs = len(pairs_of(len(self.names)))
        self.job.progress.stage(f"p2p: {setting.name}", ARM_SECONDS + ARM_A_PAIR_SECONDS * pairs)
        began, expected = time.perf_counter(), self._named(())
        with tempfile.TemporaryDirectory(prefix="rigbench-nccl-") as logs:
            outcome = ranks.call(
                PROBE,
                self._options(setting),
                P2pRank,
                world_size=len(self.names),
                limit_seconds=self.asked.limit_seconds or LIMIT_SECONDS + LIMIT_A_PAIR_SECONDS * pairs,
                on_progress=lambda share, text: self.job.progress.update(share, renamed(text, expected)),
                environment=p2p_settings.environment(setting, self.inherited, f"{logs}/%p.log"),
            )
            log = "\n".join(file.read_text(errors="replace") for file in sorted(Path(logs).iterdir()))
        told = [result for result in outcome.results if result is not None]
        names = self._named(told)
        carried = Tally(peers.nccl_transports(log)) if log else Absent("NCCL wrote no log")
        arm = assembled(setting, number, outcome, names, time.perf_counter() - began, carried)
        self._keep(
            arms=(*self.result.arms, arm),
            devices=tuple(names.values()),
            nccl_version=next((result.nccl_version for result in told), self.result.nccl_version),
        )
        if outcome.ended == "interrupted":
            raise Interrupted
        return arm

    def _options(self, setting: Setting) -> Options:
        """Copies between GPUs do not depend on what NCCL is told: once with access and once without will do."""
        return Options(devices=len(self.names), peer_access=not setting.control, copies=setting in (OFF, AS_IT_IS))

    def _named(self, told: Sequence[P2pRank]) -> dict[str, str]:
        """{"cuda:0": "GPU1"}: CUDA's order is not the driver's; a device says by its UUID which it is."""
        names = {f"cuda:{rank}": name for rank, name in enumerate(self.names)}
        for result in told:
            uuid = result.device.uuid
            index = cuda_map.nvml_index(self.job.gpus, uuid, None) if isinstance(uuid, str) else uuid
            if isinstance(index, int):
                names[f"cuda:{result.rank}"] = f"GPU{index}"
        return names

    def _keep(self, **facts: object) -> None:
        """Judge what there is, and save it."""
        result = msgspec.structs.replace(self.result, seconds=time.perf_counter() - self.started, **facts)
        self.result = findings.judged(result, self.facts, self.inherited) if result.arms else result
        self.job.keep(p2p=self.result)

    def _arms(self, setting: Setting) -> list[P2pArm]:
        return [arm for arm in self.result.arms if arm.setting == setting.name]

    def _known(self) -> list[GpuPair]:
        return [pair.facts for pair in self.result.pairs if isinstance(pair.facts, GpuPair)]

    def _version(self) -> p2p_settings.Version | None:
        return p2p_settings.parse_version(self.result.nccl_version)


def _how_many(job: Job, visible: int) -> str:
    listed = len(job.gpus)
    if not listed:
        return "the driver lists none"
    names = ", ".join(str(gpu.name) for gpu in job.gpus)
    if visible < listed:
        return f"CUDA_VISIBLE_DEVICES leaves {visible} of {listed} ({names})"
    return f"this machine has one ({names})"
