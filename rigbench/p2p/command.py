"""The command p2p: every setting tried in processes of its own, P2P off first, then in turns; then judged."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import msgspec

from rigbench.command import Common, command, say
from rigbench.core import profiles
from rigbench.core.errors import FINE, NOTHING
from rigbench.core.home import scratch
from rigbench.core.record import Absent, Tally
from rigbench.job import Interrupted, Job
from rigbench.machine import cuda_map, peers
from rigbench.machine.cuda_map import Cards
from rigbench.machine.record import GpuPair
from rigbench.p2p import arms as p2p_arms
from rigbench.p2p import verdict as p2p_verdict
from rigbench.p2p.arms import AS_IT_IS, OFF, Setting
from rigbench.p2p.record import ArmOptions, Options, P2p, P2pArm, P2pRank
from rigbench.topology import survey
from rigbench.topology.record import Topology
from rigbench.topology.verdict import worst_first
from rigbench.work import ranks
from rigbench.work.process import Outcome
from rigbench.work.watch import Watch

PROBE = "rigbench.p2p.probe"
LIMIT_SECONDS, LIMIT_A_PAIR_SECONDS = 120.0, 3.0  # loading torch, making contexts and communicators; then the checks
ARM_SECONDS, ARM_A_PAIR_SECONDS = 12.0, 2.0  # for the progress bar


@command("keep_disturbed")
def p2p(common: Common, options: Options) -> int:
    """Does P2P between GPUs work, is it faster, and what is to be exported?

    Every write is read back by the GPU that holds it, collectives are checked by value, P2P off is the control.

    Exit code 0: P2P works, is not available, or there are fewer than two GPUs: nothing is broken. 1: it is broken
    (wrong data, or hung, with P2P on alone). 3: inconclusive, since the control fails too or it was not finished.

        rigbench p2p
        rigbench p2p --times 5      each setting five times
        rigbench p2p --json         for a script
    """
    results: list[P2p] = []
    code = common.answer(lambda job: results.append(run(job, options)))
    if code == FINE and results and results[0].verdict == "inconclusive":
        say("inconclusive: nothing is known of P2P on this rig")
        return NOTHING
    return code


def run(job: Job, options: Options, device: str | None = None) -> P2p:
    """The verdict, the speeds and the advice; what is broken is a fault."""
    cards = job.cards(device)
    trial = _Trial(job, options, cards)
    names = ", ".join(str(gpu.name) for gpu in job.gpus)
    if len(cards.gpus) < 2:
        why = f"this machine has one ({names})" if names else "the driver lists none"
        why = f"{cards.why} ({names})" if cards.hidden else "the CPU was asked for" if device == "cpu" else why
        no_advice = Absent("there is nothing to set for fewer than two GPUs")
        trial.keep(verdict="not applicable", reason=f"fewer than two GPUs: {why}", advice=no_advice)
        return trial.result
    try:
        trial.run()
    finally:
        findings = p2p_verdict.diagnose(trial.result)
        job.keep(findings=worst_first((*findings, *job.run.findings)))
        faults = [item for item in findings if item.severity == "fault"]
        job.faults += [f"{', '.join(item.where)}: {item.title} ({item.code})" for item in faults]
    return trial.result


class _Trial:
    """One answer in the making; every arm is judged and kept as soon as there is one."""

    def __init__(self, job: Job, options: Options, cards: Cards) -> None:
        self.job, self.options, self.started = job, options, time.perf_counter()
        self.names = tuple(gpu.label for gpu in cards.gpus)
        self.inherited = p2p_arms.inherited(os.environ)
        self.pairs: tuple[GpuPair, ...] = ()
        names = tuple(str(gpu.name) for gpu in cards.gpus)
        self.result = P2p(devices=self.names, device_names=names)

    def run(self) -> None:
        """Each setting in turn, there and back; one that hangs or corrupts data is not tried again."""
        self.job.progress.stage("p2p: reading the rig", 1)
        known = self.job.run.topology
        topology = known if isinstance(known, Topology) else survey.run(self.job.rig, profiles.match_gpu)
        self.pairs = topology.pairs
        for name, value in self.inherited.items():
            self.job.warn(f"this shell sets {name}={value}; the measurement ran without it")
        settings = [OFF, AS_IT_IS]
        for setting in settings:
            self._try(setting, 0)
        version = p2p_arms.parse_version(self.result.nccl_version)
        if not any(arm.right for arm in self._arms(OFF)):  # which part of the way through the host is it?
            for setting in p2p_arms.rescues(version):
                if self._try(setting, 0).right:
                    return
            return
        listed = [pair.facts for pair in self.result.pairs if isinstance(pair.facts, GpuPair)]
        for setting in list(p2p_arms.others(self.result.arms, listed, version)):
            self._try(setting, 0)
            settings.append(setting)
        for number in range(1, self.options.times):
            going = [it for it in settings if all(arm.ended != "hung" and not arm.wrong for arm in self._arms(it))]
            if all(setting.control for setting in going):
                return
            for setting in going if number % 2 == 0 else going[::-1]:
                self._try(setting, number)

    def _arms(self, setting: Setting) -> list[P2pArm]:
        return [arm for arm in self.result.arms if arm.setting == setting.name]

    def _try(self, setting: Setting, number: int) -> P2pArm:
        """One setting once, judged and kept."""
        count = len(self.names)
        pairs = count * (count - 1) // 2
        limit = self.options.limit_seconds
        if isinstance(limit, Absent):
            limit = LIMIT_SECONDS + LIMIT_A_PAIR_SECONDS * pairs
        self.job.progress.stage(f"p2p: {setting.name}", ARM_SECONDS + ARM_A_PAIR_SECONDS * pairs)
        began, expected = time.perf_counter(), self._labels(())

        def start(beside: Watch) -> Outcome[P2pRank]:
            def told(share: float, text: str) -> None:
                self.job.progress.update(share, p2p_arms.renamed(text, expected))

            return ranks.call(
                PROBE,
                # Copies between GPUs do not depend on what NCCL is told: once with access and once without will do.
                ArmOptions(devices=count, peer_access=not setting.control, copies=setting in (OFF, AS_IT_IS)),
                P2pRank,
                world_size=count,
                limit_seconds=limit,
                on_progress=beside.heard(told),
                environment=p2p_arms.environment(setting, self.inherited, f"{logs}/%p.log"),
            )

        with scratch() as logs:
            outcome, _ = self.job.undisturbed(
                "p2p",
                start,
                place=len(self.result.arms),
                repeat=False,  # settings are tried in turns anyway, and one that failed once must not be forgotten
            )
            log = "\n".join(file.read_text(errors="replace") for file in sorted(logs.iterdir()))
        results = [result for result in outcome.results if result is not None]
        labels = self._labels(results)
        transports = Tally(peers.nccl_transports(log)) if log else Absent("NCCL wrote no log")
        arm = p2p_arms.assembled(setting, number, outcome, labels, time.perf_counter() - began, transports)
        self.keep(
            arms=(*self.result.arms, arm),
            devices=tuple(labels.values()),
            nccl_version=next((result.nccl_version for result in results), self.result.nccl_version),
        )
        if outcome.ended == "interrupted":
            raise Interrupted
        return arm

    def _labels(self, results: Sequence[P2pRank]) -> dict[str, str]:
        """{"cuda:0": "GPU1"}: CUDA's order is not the driver's; a device says by its UUID which it is."""
        labels = {f"cuda:{rank}": name for rank, name in enumerate(self.names)}
        for result in results:
            uuid = result.device.uuid
            index = cuda_map.nvml_index(self.job.gpus, uuid, None) if isinstance(uuid, str) else uuid
            if isinstance(index, int):
                labels[f"cuda:{result.rank}"] = f"GPU{index}"
        return labels

    def keep(self, **facts: object) -> None:
        """Judge what there is, and save it."""
        result = msgspec.structs.replace(self.result, seconds=time.perf_counter() - self.started, **facts)
        self.result = p2p_verdict.judged(result, self.pairs, self.inherited) if result.arms else result
        self.job.keep(p2p=self.result)
