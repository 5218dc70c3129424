"""Are lost, mirrored, stale and stray writes seen, and do real ranks that fail, hang or die give the right verdict?"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
from pathlib import Path

import jsonschema
import psutil
import pytest
import torch
from p2p_on_cpu import FaultyCards

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Tally
from rigbench.doctor import diagnosis
from rigbench.document import run_schema
from rigbench.job import Interrupted, Job
from rigbench.machine.accelerator import CpuAccelerator
from rigbench.machine.rig import Rig
from rigbench.p2p import checks, command, probe
from rigbench.p2p.arms import AS_IT_IS, OFF, Setting, assembled
from rigbench.p2p.checks import Exchange, TorchRanks, Writes, filled_like, sent_seed
from rigbench.p2p.record import ArmOptions, Options, P2p, P2pArm
from rigbench.p2p.verdict import _state, pair_verdict
from rigbench.work.copies import Budget
from rigbench.work.process import Outcome, Report
from rigbench.work.ranks import World

RIGS = Path(__file__).parent / "rigs"
DUAL = RIGS / "dual-rtx4080s-x8x8"
THERE, BOTH = ((0, 1),), ((0, 1), (1, 0))
VALUES = 8192  # of 64 KiB
COUNTS = ("checked", "wrong", "wrong_values", "unchanged_values", "earlier_values", "returned_values", "strayed_values")

# What three rounds of 64 KiB, one way, find of each fault: rounds, wrong ones, wrong values, and what lay there.
FOUND = {
    "": (3, 0, 0, 0, 0, 0, 0),
    "dropped write": (3, 3, 3 * VALUES, 3 * VALUES, 0, 0, 0),
    "mirrored write": (3, 3, 3 * VALUES, 3 * VALUES, 0, 3 * VALUES, 0),
    "stale write": (3, 2, 2 * VALUES, 0, 2 * VALUES, 0, 0),
    "flipped bit": (3, 3, 3, 0, 0, 0, 0),
    "stray write": (3, 3, 0, 0, 0, 0, 3),
}


@pytest.mark.parametrize("by", ["copy engine", "kernel"])
@pytest.mark.parametrize("kind", FOUND)
def test_each_fault_of_a_write_is_seen_and_told_apart(kind, by):
    cards = FaultyCards(kind)
    (check,) = checks.check_writes(cards, cards.copy, Writes(THERE, by, 64 << 10), rounds=3)
    assert tuple(getattr(check, name) for name in COUNTS) == FOUND[kind]
    assert check.correct == (kind == "")
    assert (check.sources, check.destination, check.both_ways) == (("cuda:0",), "cuda:1", False)


def test_the_first_wrong_byte_is_that_of_the_first_wrong_value():
    cards = FaultyCards("flipped bit")
    (check,) = checks.check_writes(cards, cards.copy, Writes(THERE, "copy engine", 64 << 10), rounds=1)
    assert check.first_wrong_byte == 64 * 1024 - 8


def test_writes_that_cross_each_other_are_judged_each_at_its_end():
    """Turned back both ways, each card's landing holds what it sent itself."""
    cards = FaultyCards("mirrored write")
    found = list(checks.check_writes(cards, cards.copy, Writes(BOTH, "copy engine", 64 << 10), rounds=3))
    assert [(check.sources, check.destination) for check in found] == [(("cuda:0",), "cuda:1"), (("cuda:1",), "cuda:0")]
    for check in found:
        assert tuple(getattr(check, name) for name in COUNTS) == (3, 3, 3 * VALUES, 0, 0, 3 * VALUES, 0)


def test_every_direction_size_and_kind_of_write_is_planned():
    planned = checks.planned_writes((0, 1), ("copy engine", "kernel"), (8, 4096))
    assert len(planned) == 2 * 2 * 3
    assert sum(len(writes.ways) for writes in planned) == 2 * 2 * 4
    assert {writes.ways for writes in planned} == {THERE, ((1, 0),), BOTH}


ROUNDS = 3


class OneOfTwo:
    """Rank 0, with a rank 1 that answers at once: rightly, or as `kind` says."""

    rank, count, device = 0, 2, "cpu"

    def __init__(self, kind: str = "") -> None:
        self.kind, self.calls, self.earlier = kind, 0, None

    def all_reduce(self, buffer):
        self._answer(buffer, buffer + filled_like(buffer, sent_seed(self.calls % ROUNDS, 1)))

    def exchange(self, sends, receives, peer):
        assert peer == 1
        self._answer(receives, sends if self.kind == "own" else filled_like(sends, sent_seed(self.calls % ROUNDS, 1)))

    def align(self):
        pass

    def _answer(self, buffer, right):
        if self.kind == "nothing":
            right = buffer.clone()
        if self.kind == "earlier" and self.earlier is not None:
            right, self.earlier = self.earlier, right
        self.earlier = right.clone() if self.earlier is None else self.earlier
        buffer.copy_(right)
        if self.kind == "off by one":
            buffer[-1] += 1
        self.calls += 1

    def agree(self, number):
        return number


@pytest.mark.parametrize("exchange", [Exchange(4096), Exchange(4096, (0, 1)), Exchange(4), Exchange(4, (0, 1))])
def test_a_collective_is_checked_by_value_in_every_round(exchange):
    values = exchange.size_bytes // 4
    right = checks.check_exchange(OneOfTwo(), exchange, rounds=3)
    assert right.correct
    assert right.checked == 3
    nothing = checks.check_exchange(OneOfTwo("nothing"), exchange, rounds=3)
    assert (nothing.wrong, nothing.wrong_values, nothing.unchanged_values) == (3, 3 * values, 3 * values)
    off = checks.check_exchange(OneOfTwo("off by one"), exchange, rounds=3)
    assert (off.wrong, off.wrong_values, off.first_wrong_byte) == (3, 3, exchange.size_bytes - 4)
    earlier = checks.check_exchange(OneOfTwo("earlier"), exchange, rounds=3)
    assert (earlier.wrong, earlier.wrong_values, earlier.earlier_values) == (2, 2 * values, 2 * values)


FAULTS = ["dropped write", "mirrored write", "stale write", "flipped bit", "stray write", "nothing", "off by one"]


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_makes_the_arm_wrong_and_the_pair_broken(kind):
    """The whole probe as rank 0 of two; what rank 1 would tell is left out."""
    options = ArmOptions(
        2, True, rounds=3, write_sizes=(65536,), reduce_sizes=(4096,), copy_bytes=4096, row_seconds=0.01
    )
    accelerator = CpuAccelerator("", Absent("none"), Absent("none"))

    def arm(setting: Setting, kind: str) -> P2pArm:
        found = probe.measure(options, Report(io.BytesIO()), FaultyCards(kind), OneOfTwo(kind), accelerator)
        outcome = Outcome((found,), "finished")
        return assembled(setting, 0, outcome, {"cuda:0": "GPU0", "cuda:1": "GPU1"}, 1.0, Absent("no log"))

    off, on = arm(OFF, ""), arm(AS_IT_IS, kind)
    assert off.right
    assert on.ended == "finished"
    assert pair_verdict(("GPU0", "GPU1"), [off, on], Absent("none")).verdict == "broken"
    assert pair_verdict(("GPU0", "GPU1"), [arm(OFF, kind), on], Absent("none")).verdict == "inconclusive"


def test_what_a_rank_sent_itself_is_no_answer():
    own = checks.check_exchange(OneOfTwo("own"), Exchange(4096, (0, 1)), rounds=1)
    assert (own.wrong_values, own.returned_values) == (1024, 1024)


def test_sums_of_sixteen_ranks_are_exact_in_float32():
    like = torch.empty(4096, dtype=torch.float32)
    total = checks.summed(like, 0, range(16))
    whole = sum(filled_like(like, sent_seed(0, rank)).to(torch.int64) for rank in range(16))
    assert torch.equal(total.to(torch.int64), whole)
    assert int(whole.abs().max()) < 2**24


def test_sums_in_place_stay_finite_for_any_number_of_ranks():
    for count in (2, 3, 4, 8, 16):
        assert 6.0 * float(count) ** checks.repeats_in_place(count) < torch.finfo(torch.float32).max


def test_gpus_that_torch_does_not_see_are_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(probe, "cuda_devices", tuple)
    with pytest.raises(RigbenchError, match="the driver lists 2 GPUs, torch sees 0; install a CUDA build") as caught:
        probe.run(ArmOptions(devices=2, peer_access=True), Report(io.BytesIO()), World(0, 2, 0, "127.0.0.1", 1))
    assert caught.value.exit_code == 3


class ScriptedAccelerator:
    """Writes down in what order a repeat's parts are called."""

    late = (True,)

    def __init__(self, ranks) -> None:
        self.ranks, self.said = ranks, []

    def timed(self, work, repeats, prepare=None, align=None):
        assert prepare is None  # the cache is flushed, at a pace of its own on each card: before the ranks align
        for index in range(repeats):
            align()
            work(index)
        self.said += [buffer.numel() for buffer in self.ranks.summed]
        self.ranks.summed.clear()
        self.late = (True,) * repeats
        return [0.001] * repeats


def test_ranks_align_before_each_timed_all_reduce_and_late_hosts_are_counted():
    ranks = TorchRanks.__new__(TorchRanks)
    ranks.rank, ranks.count, ranks.device, ranks.summed = 0, 2, "cpu", []
    ranks._token = torch.zeros(1)
    ranks.all_reduce = ranks.summed.append
    ranks.agree = lambda number: number
    accelerator = ScriptedAccelerator(ranks)
    budget = Budget(limit_seconds=0.05, target_half_width=0.01, should_stop=lambda: False)
    times = checks.time_reduces(ranks, accelerator, 4096, budget)
    assert accelerator.said == [1, 1024] * len(times.seconds)
    assert times.timing.late == len(times.timing.seconds) > 0


def test_want_of_memory_in_the_checks_is_not_taken_for_a_death(monkeypatch):
    def measure(*_):
        raise RuntimeError("NCCL error: unhandled cuda error. Last error:\nCuda failure 2 'out of memory'")

    monkeypatch.setattr(probe, "cuda_devices", lambda: (1, 2))
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    for name in ("open_device", "join", "TorchRanks"):
        monkeypatch.setattr(probe, name, lambda *_: None)
    monkeypatch.setattr(probe, "measure", measure)
    with pytest.raises(RigbenchError) as refused:
        probe.run(ArmOptions(devices=2, peer_access=True), Report(io.BytesIO()), World(1, 2, 1, "127.0.0.1", 1))
    outcome = Outcome((), "died", str(refused.value))
    arm = assembled(AS_IT_IS, 0, outcome, {"cuda:0": "GPU1", "cuda:1": "GPU0"}, 1.0, Absent("no log"))
    assert arm.reason.startswith("GPU0 ran out of memory")
    assert _state(arm, ("GPU0", "GPU1")) == "out of memory"


KNOWN: dict[str, object] = {}  # arms that were run for real, by what makes them differ: a control is the same in all


@pytest.fixture
def rig(monkeypatch, tmp_path) -> Path:
    """Two cards whose driver allows P2P, with the probe that has memory for cards and processes for ranks."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(command, "PROBE", "p2p_on_cpu")
    real = command.ranks.call

    def call(*words, environment, limit_seconds, **more):
        on = environment.get("NCCL_P2P_DISABLE") != "1"
        fault = (os.environ.get("P2P_FAULT") if on else None) or os.environ.get("P2P_FAULT_ALWAYS")
        key = fault or repr((on, words[1]))
        if key not in KNOWN:
            limit = limit_seconds if fault else 110.0  # only what is meant to hang has little time
            KNOWN[key] = real(*words, environment=environment, limit_seconds=limit, **more)
        return KNOWN[key]

    monkeypatch.setattr(command.ranks, "call", call)
    folder = tmp_path / "rig"
    shutil.copytree(DUAL, folder)
    recording = folder / "nvml.txt"
    recording.write_text(re.sub(r"(nvmlDeviceGetP2PStatus/\d/[0-4]) = 0 1", r"\1 = 0 0", recording.read_text()))
    replayed = Rig.replay(folder)
    monkeypatch.setattr(Rig, "live", lambda **_: replayed)
    return folder


def trial(rig: Path, progress: object = None, limit_seconds: float = 110.0, times: int = 1) -> tuple[P2p, Job]:
    job = Job(store.Store(rig.parent / "kept"), Rig.replay(rig), "p2p", progress or Silent())
    return command.run(job, Options(times=times, limit_seconds=limit_seconds)), job


def test_ranks_that_exchange_the_right_bytes_work_by_every_setting(rig):
    result, job = trial(rig)
    assert (result.verdict, job.faults) == ("works", [])
    assert [(arm.setting, arm.ended, arm.access) for arm in result.arms] == [
        (setting, "finished", {"GPU0 GPU1": True, "GPU1 GPU0": True})
        for setting in ("P2P off", "P2P as it is", "P2P at any distance")
    ]
    # Writes there, back and both at once (4) of two sizes, by copy engine and, with P2P on, by kernel; 8 collectives.
    assert [(len(arm.checks), arm.steps) for arm in result.arms] == [(16, 16), (24, 24), (8, 8)]
    assert {check.checked for arm in result.arms for check in arm.checks} == {3}
    assert [(copy.source, copy.destination, copy.both_ways) for copy in result.arms[1].copies] == [
        ("GPU0", "GPU1", False),
        ("GPU1", "GPU0", False),
        ("GPU0", "GPU1", True),
    ]
    for arm in result.arms:
        by_rank = {times.rank: times.seconds for times in arm.reduces if times.size_bytes == 1 << 20}
        assert len(by_rank[0]) == len(by_rank[1]) >= len(arm.reduce_seconds(1 << 20)) > 0
    assert result.arms[2].environment == {"NCCL_P2P_LEVEL": "PHB"}
    ways = [Tally({"SHM/direct": 2}), Tally({"SHM/direct": 2}), Tally({"P2P/CUMEM": 2})]
    assert [arm.transports for arm in result.arms] == ways
    assert {ratio.faster for ratio in result.speeds} == {"ambiguous"}  # one round of each says nothing of the spread
    assert store.read(next(job.store.runs.iterdir())).p2p == result


def test_wrong_data_with_p2p_on_alone_is_broken(rig, monkeypatch):
    monkeypatch.setenv("P2P_FAULT", "dropped write")
    result, job = trial(rig)
    assert (result.verdict, result.reason) == ("broken", "wrong data with P2P as it is, and not with P2P off")
    assert result.advice.environment == {"NCCL_P2P_DISABLE": "1"}
    assert job.faults == ["GPU0-GPU1: P2P between GPUs loses or corrupts data, or hangs (p2p-broken)"]
    assert len(result.arms) == 2  # what corrupts data is not tried again, nor anything that goes further


def test_a_hang_with_p2p_on_alone_is_broken_and_leaves_no_process(rig, monkeypatch):
    monkeypatch.setenv("P2P_FAULT", "hang")
    result, job = trial(rig, limit_seconds=8.0)
    assert (result.verdict, result.reason) == ("broken", "it hung with P2P as it is, and not with P2P off")
    assert [arm.ended for arm in result.arms] == ["finished", "hung"]
    assert len(job.faults) == 1
    assert psutil.Process().children(recursive=True) == []


def test_a_rank_that_dies_each_time_with_p2p_on_alone_is_broken(rig, monkeypatch):
    monkeypatch.setenv("P2P_FAULT", "death")
    result, _ = trial(rig, times=2)
    reason = "its processes died each of 2 times with P2P as it is, and not with P2P off"
    assert (result.verdict, result.reason) == ("broken", reason)
    assert [(arm.setting, arm.ended, arm.dead_ranks) for arm in result.arms] == [
        ("P2P off", "finished", ()),
        ("P2P as it is", "died", (1,)),
        ("P2P as it is", "died", (1,)),  # there and back: a drift of the machine is no setting's
        ("P2P off", "finished", ()),
    ]
    assert result.arms[1].at == "all_reduce, 1 MiB"
    assert result.arms[1].reason == "rank 1: its process was ended by SIGSEGV"


class StopsAt:
    """A progress bar that presses Ctrl-C when it is told of a step."""

    def __init__(self, text: str) -> None:
        self.text = text

    def stage(self, text: str, weight_seconds: float) -> None:
        return None

    def update(self, share: float, text: str) -> None:
        if self.text in text:
            os.kill(os.getpid(), signal.SIGINT)

    def close(self) -> None:
        return None


def test_ctrl_c_keeps_what_was_checked(rig, monkeypatch):
    monkeypatch.setenv("P2P_FAULT_ALWAYS", "none: only not the arm that others know")
    with pytest.raises(Interrupted):
        trial(rig, StopsAt("send/recv GPU0 ↔ GPU1, 4 B"))
    kept = store.read(next((rig.parent / "kept" / "runs").iterdir())).p2p
    assert [arm.ended for arm in kept.arms] == ["interrupted"]
    assert len(kept.arms[0].checks) >= 12
    assert kept.verdict == "inconclusive"
    assert kept.reason == "it ended before everything was checked with P2P on"


@pytest.fixture
def rigbench(rig, rigbench):
    """A command on that rig."""
    return rigbench


def test_a_script_can_tell_the_verdict_by_the_exit_code(rigbench, monkeypatch):
    once = ("p2p", "--times", "1", "-q")
    code, out, err = rigbench(*once)
    assert (code, err) == (0, "")
    assert out.startswith("ok    p2p: P2P works between GPU0 and GPU1")
    monkeypatch.setenv("P2P_FAULT", "dropped write")
    code, out, err = rigbench(*once)
    assert (code, out.partition(":")[0]) == (1, "fault p2p")
    assert "P2P is broken between GPU0 and GPU1" in out
    assert err == "rigbench: fault: GPU0-GPU1: P2P between GPUs loses or corrupts data, or hangs (p2p-broken)\n"
    monkeypatch.setenv("P2P_FAULT", "")
    monkeypatch.setenv("P2P_FAULT_ALWAYS", "death")
    code, out, err = rigbench(*once)
    assert code == 3
    assert out.startswith("warn  p2p: P2P is inconclusive between GPU0 and GPU1: ")
    assert err == "rigbench: inconclusive: nothing is known of P2P on this rig\n"
    assert "P2P off, through sockets" in out


def test_json_is_valid_and_the_stored_run_is_shown_and_diagnosed_again(rigbench, monkeypatch):
    monkeypatch.setenv("P2P_FAULT", "dropped write")
    code, out, _ = rigbench("p2p", "--times", "1", "--json")
    assert code == 1
    jsonschema.validate(json.loads(out), json.loads(run_schema()))
    run = store.read(next(Path(os.environ["RIGBENCH_HOME"], "runs").iterdir()))
    assert store.encode(run).decode() == out
    assert [finding.code for finding in run.findings] == ["p2p-broken"]
    assert [it.code for it in diagnosis.diagnosed(run).findings] == [it.code for it in run.findings]
    assert "P2P is broken between GPU0 and GPU1" in rigbench("report")[1]
    assert "p2p-broken" in rigbench("report", "-v")[1]
    assert rigbench("doctor", run.id)[0] == 1


def test_a_shells_own_variables_are_set_aside_and_told(rigbench, monkeypatch):
    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    code, out, err = rigbench("p2p", "--times", "1")
    assert code == 0
    assert "warning: this shell sets NCCL_P2P_DISABLE=1; the measurement ran without it" in err
    assert "this shell sets NCCL_P2P_DISABLE=1, which is not advised: unset it" in " ".join(out.split())


def test_fewer_than_two_gpus_is_no_error(rigbench, monkeypatch):
    card = "NVIDIA GeForce RTX 4080 SUPER"
    one = f"fewer than two GPUs: CUDA_VISIBLE_DEVICES=1 leaves 1 of 2 GPUs ({card}, {card})"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    code, out, _ = rigbench("p2p", "-q")
    assert (code, " ".join(out.split())) == (0, f"note p2p: P2P is not applicable: {one}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    replayed = Rig.replay(RIGS / "geforce-rtx-4080-super-driver-595.71.05")
    monkeypatch.setattr(Rig, "live", lambda **_: replayed)
    code, out, _ = rigbench("p2p", "-q")
    one = "fewer than two GPUs: this machine has one (NVIDIA GeForce RTX 4080 SUPER)"
    assert (code, " ".join(out.split())) == (0, f"note p2p: P2P is not applicable: {one}")


REFUSED = {
    "p2p --times 0": "--times '0' is not a whole number from 1",
    "p2p --times 1.5": "is not a whole number",
    "p2p --times 21": "--times '21' is not a whole number from 1 to 20",
    "p2p --limit 1s": "--limit '1s' is not between 5 s and 1 h",
    "p2p --limit nan": "is not a number",
    "p2p --limit soon": "--limit",
    "p2p --device cpu": "p2p does not take --device",
    "--device cpu p2p": "p2p does not take --device",
    "p2p GPU0": "unexpected extra argument",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_gets_one_line_and_exit_code_2(rigbench, typed):
    code, out, err = rigbench(*typed.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert REFUSED[typed] in err
