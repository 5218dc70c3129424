"""Is a machine that was somebody else's while a probe ran called so, and one that was left alone not? What follows?"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from fake_probe import Options, Result

from rigbench import store
from rigbench.budget import training
from rigbench.core import stats, units
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, SensorSeries, Telemetry
from rigbench.document import Run
from rigbench.everything import plan
from rigbench.job import Job
from rigbench.machine.nvml import Nvml
from rigbench.machine.replay import ReplayedDriver, parse_recording
from rigbench.machine.rig import Rig
from rigbench.matmul import command as matmul
from rigbench.work import process, verdict, watch
from rigbench.work.record import Disturbance, GpuBeside
from rigbench.work.watch import Counts, GpuLook, Totals, Watch

RIG = Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8"
# Two threads for ten seconds on a machine of two processors that nobody else uses.
QUIET = Disturbance(
    room="matmul",
    wall_seconds=10.0,
    running_seconds=19.5,
    waiting_seconds=0.3,
    others_seconds=0.4,
    busy_seconds=20.0,
    stolen_seconds=0.1,
    paused_seconds=0.0,
)
GPU = GpuBeside(device="GPU1", others_share=0.0, before_share=0.02, throttle_share={"sw_power_cap": 0.9})


def of(**changes: object) -> tuple[str, ...]:
    """The evidence in a quiet reading with some figures changed."""
    gpu = {name: changes.pop(name) for name in list(changes) if name in GpuBeside.__struct_fields__}
    gpus = (msgspec.structs.replace(GPU, **gpu),)
    return verdict.judged(msgspec.structs.replace(QUIET, gpus=gpus, **changes)).evidence


LEFT_ALONE = {
    "nobody else": {},
    "a probe that starts more threads than there are processors waits for itself": {"waiting_seconds": 30.0},
    "daemons": {"waiting_seconds": 1.0, "others_seconds": 1.0},
    "a neighbour on other cores": {"others_seconds": 300.0},
    "a probe that mostly sleeps while a GPU works": {"running_seconds": 0.4, "waiting_seconds": 0.02},
    "a rented machine on a good day": {"stolen_seconds": 1.0},
    "a look by a debugger": {"paused_seconds": 0.15},
    "a desktop on the card": {"others": ("Xorg (pid 3)",), "others_share": 0.03, "before_share": 0.04},
    "a card that is warm, and says so": {"throttle_share": {"sw_thermal": 0.58, "sw_power_cap": 1.0}},
    "a heat test that reaches the limits": {"room": "thermals", "throttle_share": {"hw_thermal": 0.5}},
    "a kernel that reports nothing": {
        name: Absent("the kernel does not report it")
        for name in QUIET.__struct_fields__
        if name.endswith("ing_seconds")
    },
}
DISTURBED = {
    "threads of the probe waited 34 % of the time for a processor": {
        "running_seconds": 13.2,
        "waiting_seconds": 6.8,
        "others_seconds": 6.9,
    },
    "in 50 % of the time a thread of the probe waited for a processor": {
        "running_seconds": 320.0,
        "waiting_seconds": 5.0,
        "others_seconds": 5.2,
    },
    "the hypervisor withheld 20 % of the processor time": {"stolen_seconds": 5.0},
    "the probe was stopped for 30 % of its time": {"paused_seconds": 3.0},
    "GPU1 was used 40 % of the time by python (pid 9)": {"others": ("python (pid 9)",), "others_share": 0.4},
    "GPU1 was 37 % busy before the probe began": {"before_share": 0.37},
    "GPU1 was slowed down by its hardware power brake 25 % of the time": {"throttle_share": {"hw_power_brake": 0.25}},
}


@pytest.mark.parametrize("changes", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_a_machine_that_left_the_probe_alone_is_not_accused(changes):
    assert of(**changes) == ()


@pytest.mark.parametrize(("sentence", "changes"), DISTURBED.items(), ids=DISTURBED)
def test_each_disturbance_is_called_by_its_name(sentence, changes):
    assert of(**changes) == (sentence,)


def test_the_worst_of_several_comes_first():
    found = of(paused_seconds=3.0, stolen_seconds=5.0, waiting_seconds=5.0, others_seconds=5.0)
    assert [sentence.split()[0] for sentence in found] == ["the", "threads", "the"]
    assert "stopped" in found[0]


def live(act: str, during: Callable[[], object] = lambda: None) -> Disturbance:
    """What this machine's own counters say of a probe, judged."""
    with Watch(Rig.live(ask_driver=False)) as beside:
        thread = threading.Thread(target=during)
        thread.start()
        outcome = process.call("fake_probe", Options(act), Result, limit_seconds=30.0)
        thread.join()
    assert outcome.result
    return verdict.judged(beside.disturbance("matmul", 0, 1))


@pytest.fixture
def on_one_core(monkeypatch):
    """This process and all that it starts."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_a_probe_beside_a_busy_loop_on_its_core_is_seen_to_wait(on_one_core):
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        its = live("spin")
    finally:
        loop.kill()
        loop.wait()
    assert any(sentence.startswith("threads of the probe waited") for sentence in its.evidence), its


def test_a_stopped_probe_is_seen_to_be_stopped(on_one_core):
    def stop() -> None:
        while not process.RUNNING:
            time.sleep(0.01)
        [pid] = process.RUNNING
        time.sleep(0.5)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)

    its = live("spin", stop)
    assert any(sentence.startswith("the probe was stopped") for sentence in its.evidence), its


# What the kernel counted at successive moments: (second, {thread: (ran, waited)}, stopped, (busy, stolen)).
def totals(*moments: tuple[float, dict[str, tuple[float, float]], bool, tuple[float, float]]) -> Totals:
    made = Totals()
    for at, threads, is_stopped, machine in moments:
        made.add(Counts(at, threads, is_stopped, 0.0, machine))
    return made


def test_threads_that_came_and_went_are_counted_as_long_as_they_were_seen():
    facts = totals(
        (0.0, {"1": (5.0, 1.0)}, False, (100.0, 1.0)),
        (1.0, {"1": (5.5, 1.5), "2": (0.8, 0.1)}, False, (102.0, 1.0)),
        (2.0, {"1": (6.0, 2.0)}, False, (104.0, 1.5)),
    ).facts()
    assert facts["running_seconds"] == pytest.approx(1.8)
    assert facts["waiting_seconds"] == pytest.approx(1.1)
    assert facts["others_seconds"] == pytest.approx(2.2)
    assert facts["stolen_seconds"] == 0.5
    assert facts["paused_seconds"] == 0


def test_a_stopped_process_and_a_frozen_machine_are_told_from_one_that_waits_for_a_gpu():
    still = {"1": (5.0, 1.0)}
    stopped = totals((0.0, still, False, (0, 0)), (0.2, still, True, (0, 0)), (0.4, still, True, (0, 0)))
    assert stopped.paused == pytest.approx(0.4)
    waits_for_a_gpu = totals((0.0, still, False, (0, 0)), (0.2, still, False, (0, 0)), (0.4, still, False, (0, 0)))
    assert waits_for_a_gpu.paused == 0
    frozen = totals((0.0, still, False, (0, 0)), (5.0, still, False, (0, 0)))
    assert frozen.paused == 5.0
    parent_stopped_alone = totals((0.0, still, False, (0, 0)), (5.0, {"1": (9.9, 1.0)}, False, (5, 0)))
    assert parent_stopped_alone.paused == 0


def test_a_kernel_without_counters_is_not_taken_for_a_quiet_machine():
    nothing = Totals()
    nothing.add(Counts(0.0, {}, False, 0.0, Absent("no such file")))
    nothing.add(Counts(1.0, {}, False, 0.0, Absent("no such file")))
    assert all(isinstance(value, Absent) for name, value in nothing.facts().items() if name != "wall_seconds")


RECORDED = """0 nvmlDeviceGetComputeRunningProcesses_v3 = 0 7 1000 9 2000
0 nvmlDeviceGetProcessUtilization/0 = 0 9 1001 40 5 0 0 9 1002 20 5 0 0 7 1002 60 9 0 0
1 nvmlDeviceGetComputeRunningProcesses_v3 = 0
1 nvmlDeviceGetProcessUtilization/0 = 6 ; 0 9 1002 50 0 0 0
"""


def test_the_driver_tells_who_computes_on_a_card_and_for_how_long():
    """A sample is a process, its moment in microseconds, percent of multiprocessors, memory and codecs (nvml.h)."""
    text = "# rigbench nvml 1\nsys nvmlInitWithFlags = 0\nsys nvmlDeviceGetCount_v2 = 0 2\n" + "".join(
        f"{index} nvmlDeviceGetHandleByIndex_v2 = 0\n" for index in range(2)
    )
    nvml = Nvml(ReplayedDriver(parse_recording(text + RECORDED, "a test")))
    reader = watch.Reader(replace(Rig.replay(RIG), nvml=nvml, replayed=False))
    first = reader.gpus()
    assert list(first["GPU0"].listed) == [7, 9]
    assert first["GPU0"].busy == pytest.approx({9: 0.3, 7: 0.6})
    assert (list(first["GPU1"].listed), first["GPU1"].busy) == ([], {})  # not found: nobody used it lately
    second = reader.gpus()
    assert second["GPU0"].busy == {}  # the same samples say nothing new
    assert second["GPU1"].busy == {9: 0.5}  # on another card they do


class Scripted(watch.Reader):
    """A reader whose GPUs say what a test wants."""

    def __init__(self, rig: Rig, looks: list[tuple[float, GpuLook | dict[str, GpuLook]]], before: float = 0.0) -> None:
        super().__init__(rig)
        self.looks, self.before = looks, before

    def watched(self, ours: set[int], monkeypatch, cards: tuple[int, ...] | None = None) -> list[GpuBeside]:
        monkeypatch.setattr(process, "EVER", ours)
        made = Watch(Rig.replay(RIG), reader=self, cards=cards)
        made._began, made._is_replayed, made._name = 10.0, False, lambda path: "python"
        for at, look in self.looks:
            made._saw(at, look if isinstance(look, dict) else {"GPU0": look})
        columns = ("power_watts", "energy_joules", "temperature_celsius", "sm_clock_hertz", "throttle_bits")
        readings = tuple(self.before if at < 10 else 0.99 for at in range(20))
        absent = dict.fromkeys(columns, Absent("not read"))
        series = SensorSeries(device="GPU0", uuid="u", utilisation_share=readings, throttle_share={}, **absent)
        return list(made._gpus(Telemetry(1.0, tuple(map(float, range(20))), (series,))))


def gpu_of(monkeypatch, *looks: tuple[float, GpuLook], before: float = 0.0, ours: tuple[int, ...] = (7,)) -> GpuBeside:
    [it] = Scripted(Rig.replay(RIG), list(looks), before).watched(set(ours), monkeypatch)
    return it


UNTOLD = Absent("not supported")


def test_the_probes_own_process_is_no_neighbour(monkeypatch):
    looks = ((5.0, GpuLook([], {})), (11.0, GpuLook([7], {7: 0.98})), (12.0, GpuLook([7], {7: 0.99})))
    assert gpu_of(monkeypatch, *looks).others_share == 0


def test_in_a_container_the_probe_under_a_foreign_number_is_no_neighbour(monkeypatch):
    looks = ((5.0, GpuLook([], {})), (11.0, GpuLook([81234], {81234: 0.98})))
    assert gpu_of(monkeypatch, *looks).others == ()
    assert gpu_of(monkeypatch, *((at, look._replace(busy=UNTOLD)) for at, look in looks)).others == ()


def test_a_neighbour_that_was_there_before_or_comes_later_is_one(monkeypatch):
    looks = ((5.0, GpuLook([9], {9: 0.4})), (11.0, GpuLook([7, 9], {7: 0.6, 9: 0.4})))
    it = gpu_of(monkeypatch, *looks, before=0.4)
    assert (it.others, it.others_share, it.before_share) == (("python (pid 9)",), 0.4, pytest.approx(0.4))
    later = ((5.0, GpuLook([], {})), (11.0, GpuLook([7], {7: 1.0})), (12.0, GpuLook([7, 9], {7: 0.5, 9: 0.5})))
    assert gpu_of(monkeypatch, *later).others_share == 0.25


def test_a_card_that_the_probe_neither_uses_nor_may_use_does_not_count(monkeypatch):
    busy = [(5.0, GpuLook([9], {9: 0.9})), (11.0, GpuLook([9], {9: 0.9}))]
    reader = Scripted(Rig.replay(RIG), busy)
    assert reader.watched({7}, monkeypatch, cards=(1,)) == []
    assert [it.others_share for it in reader.watched({7}, monkeypatch, cards=(0, 1))] == [0.9]
    elsewhere = {"GPU0": GpuLook([9], {9: 0.9}), "GPU1": GpuLook([7], {7: 0.9})}  # as the driver tells it
    assert Scripted(Rig.replay(RIG), [(11.0, elsewhere)]).watched({7}, monkeypatch, cards=(0, 1)) == []


def test_one_that_only_holds_memory_uses_nothing(monkeypatch):
    looks = ((5.0, GpuLook([9], {})), (11.0, GpuLook([7, 9], {7: 1.0})))
    assert gpu_of(monkeypatch, *looks).others_share == 0
    untold = tuple((at, look._replace(busy=UNTOLD)) for at, look in looks)
    assert gpu_of(monkeypatch, *untold).others_share == 0  # the card stood still before the probe began
    assert gpu_of(monkeypatch, *untold, before=0.3).others_share == 0.3


BUSY = msgspec.structs.replace(QUIET, waiting_seconds=10.0, others_seconds=10.0)
BUSIER = msgspec.structs.replace(QUIET, waiting_seconds=19.5, others_seconds=19.5)


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    return Job(store.Store(tmp_path), Rig.replay(RIG), "matmul", Silent())


def measured(job: Job, monkeypatch, *said: Disturbance, stands: bool = False) -> list[Disturbance]:
    left = list(said)

    def disturbance(_: Watch, room: str, place: int, attempt: int) -> Disturbance:
        return verdict.judged(msgspec.structs.replace(left.pop(0), room=room, place=place, attempt=attempt))

    monkeypatch.setattr(Watch, "disturbance", disturbance)
    outcome, _ = job.undisturbed(
        "matmul",
        lambda beside: process.call("fake_probe", Options("finish"), Result, limit_seconds=30.0),
        stands=lambda result: stands,
    )
    assert outcome.result
    assert not left
    return list(job.run.disturbances)


def test_a_quiet_probe_is_measured_once(job, monkeypatch):
    assert [(it.attempt, it.kept) for it in measured(job, monkeypatch, QUIET)] == [(1, True)]
    assert job.run.disturbed() == ()


def test_a_disturbed_probe_is_measured_once_more_and_is_then_fine(job, monkeypatch):
    assert [(it.attempt, it.kept) for it in measured(job, monkeypatch, BUSY, QUIET)] == [(1, False), (2, True)]
    assert job.run.disturbed() == ()


def test_of_two_disturbed_tries_the_better_is_kept_and_called_disturbed(job, monkeypatch):
    assert [it.kept for it in measured(job, monkeypatch, BUSY, BUSIER)] == [True, False]
    assert [it.attempt for it in job.run.disturbances if it.kept and it.evidence] == [1]


def test_wrong_data_is_not_measured_once_more_until_it_is_right(job, monkeypatch):
    assert [it.kept for it in measured(job, monkeypatch, BUSY, stands=True)] == [True]


STORED = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
SENTENCE = "threads of the probe waited 34 % of the time for a processor"
FIRST = f"NOT USABLE: this machine was busy: {SENTENCE}"


def disturbed(room: str, place: int = 0) -> Disturbance:
    """As the first of two tries was, the better one."""
    its = msgspec.structs.replace(QUIET, running_seconds=13.2, waiting_seconds=6.8, others_seconds=6.9)
    return verdict.judged(msgspec.structs.replace(its, room=room, place=place))


def stored(home: Path, *of: Disturbance, rig: object = None, run_id: str = "20260101-000000-aaaa") -> Run:
    run = store.read(STORED)
    again = [msgspec.structs.replace(it, attempt=2, kept=False) for it in of]
    run = msgspec.structs.replace(run, id=run_id, rig=rig or run.rig, disturbances=(*of, *again))
    store.Store(home).save(run)
    return run


def test_a_report_of_a_busy_machine_says_so_first_and_gives_no_hours(rigbench, tmp_path):
    run = stored(tmp_path / "home", disturbed("slices", 2))
    code, out, _ = rigbench("report", "-v", run.id)
    lines = out.splitlines()
    assert code == 3
    assert lines[0] == FIRST
    assert lines[1].strip().startswith("training 120M, the better of 2 tries: threads of the probe waited 34 %")
    assert "budget skipped: this machine was busy while it was measured" in out
    assert f"training 120M skipped: this machine was busy: {SENTENCE}" in " ".join(out.split())
    assert "matmul: " in out  # which nothing disturbed
    assert "whole run" not in out
    assert "190 tokens" not in out  # of 120M
    code, out, _ = rigbench("report", "-v", run.id, "--keep-disturbed")
    assert (code, out.splitlines()[0]) == (0, FIRST)
    assert "whole run" in out
    assert "190" in out


def test_a_whole_run_says_how_quiet_the_machine_was(rigbench, tmp_path):
    """Threads that wait for each other wait for nobody else: of 0.5 s those 0.1 count in which others ran."""
    alone = msgspec.structs.replace(QUIET, running_seconds=9.5, waiting_seconds=0.5, others_seconds=0.1)
    desktop = GpuBeside(device="GPU0", others_share=0.021)
    for place, (its, row) in enumerate(
        (
            (alone, "ok quiet probes waited up to 1.0 % of the time for a processor"),
            (
                msgspec.structs.replace(alone, gpus=(desktop,)),
                "ok quiet probes waited up to 1.0 % of the time for a processor, others used a GPU up to 2.1 % of the "
                "time",
            ),
            (
                msgspec.structs.replace(alone, gpus=(GpuBeside(device="GPU0", others_share=0.0),)),
                "ok quiet probes waited up to 1.0 % of the time for a processor, nobody else used a GPU",
            ),
            (Disturbance(room="matmul"), "note quiet no reading says how busy the machine was"),
            (disturbed("slices", 2), "warn quiet this machine was busy"),
        )
    ):
        run = stored(tmp_path / "home", its, run_id=f"20260101-00000{place}-aaaa")
        out = " ".join(rigbench("report", run.id, "--keep-disturbed")[1].split())
        assert row in out
    assert "quiet" not in rigbench("report", str(STORED))[1]  # an older one, beside which nothing was read


def test_a_run_that_was_left_alone_is_shown_as_ever(rigbench, tmp_path):
    run = stored(tmp_path / "home", msgspec.structs.replace(disturbed("slices", 2), kept=False))
    code, out, _ = rigbench("report", run.id)
    assert (code, out.split()[:2]) == (0, ["rigbench", "run"])


@pytest.mark.parametrize(("words", "exit_code"), [((), 3), (("--keep-disturbed",), 0), (("--json",), 3)])
def test_a_probe_that_stays_disturbed_ends_with_3_and_its_file_has_everything(
    words, exit_code, rigbench, tmp_path, monkeypatch
):
    its = store.read(STORED).matmul

    def run(job: Job, options: object) -> None:
        job.note(disturbed("matmul"))
        job.keep(matmul=its)

    monkeypatch.setattr(matmul, "run", run)
    code, out, _ = rigbench("matmul", *words)
    [kept] = [store.read(path) for path in store.Store(tmp_path / "home").paths()]
    assert (code, kept.matmul, len(kept.disturbed())) == (exit_code, its, 1)
    if "--json" in words:
        assert msgspec.json.decode(out, type=Run) == kept
        return
    assert out.splitlines()[0] == FIRST
    assert ("GFLOP/s" in out) == bool(words)
    assert f"`rigbench report {kept.id} --keep-disturbed`" in out.replace("\n", " ") or words


def test_a_fault_is_a_fault_on_a_busy_machine_too(rigbench, monkeypatch):
    def run(job: Job, options: object) -> None:
        job.note(disturbed("matmul"))
        job.keep(matmul=store.read(STORED).matmul)
        job.faults.append("matmul bf16 gave a wrong result")

    monkeypatch.setattr(matmul, "run", run)
    assert rigbench("matmul")[0] == 1


@pytest.mark.parametrize("words", [(), ("--keep-disturbed",)])
def test_a_whole_run_on_a_busy_machine_has_no_hours(words, rigbench, monkeypatch):
    def slices(job: Job) -> None:
        job.note(disturbed("slices", 1))
        job.keep(slices=store.read(STORED).slices)

    monkeypatch.setattr(plan, "whole_run", lambda *asked: [plan.Stage("slices", slices)])
    code, out, _ = rigbench("run", "--quick", *words)
    assert (code, out.splitlines()[0]) == (0 if words else 3, FIRST)
    assert ("in all" in out) == bool(words)


def test_a_budget_leaves_disturbed_slices_out_and_says_so(rigbench, tmp_path):
    rig = Job(store.Store(tmp_path / "home"), Rig.live(), "budget", Silent()).run.rig
    stored(tmp_path / "home", disturbed("slices", 2), rig=rig)
    code, out, _ = rigbench("budget", "-v", "--flops", "1e15", "--params", "60M,120M")
    assert code == 0
    assert re.search(r"^ *120M .*predicted *$", out, re.M)
    left_out = f"1 short run of 120M: the machine was busy meanwhile ({SENTENCE})"
    assert left_out in " ".join(out.split())
    code, out, _ = rigbench("budget", "-v", "--flops", "1e15", "--params", "60M,120M", "--keep-disturbed")
    assert code == 0
    assert re.search(r"^ *120M .*measured *$", out, re.M)


def test_a_budget_that_measures_on_a_busy_machine_has_no_hours(rigbench, monkeypatch):
    def slices(job: Job, *asked: object) -> None:
        job.note(disturbed("slices", 1))
        job.keep(slices=store.read(STORED).slices)

    monkeypatch.setattr(training, "train_slices", slices)
    code, out, _ = rigbench("budget", "--flops", "1e15")
    assert (code, out.splitlines()[0]) == (3, FIRST)
    assert "whole run" not in out


def of_steps(run: Run, name: str, seconds: tuple[float, ...]) -> Run:
    """With so many steady steps in one of its slices, and no others."""
    changed = []
    for its in run.slices:
        if its.model.name == name:
            columns = {column: seconds for column in its.steps.__struct_fields__ if "enqueue" not in column}
            steps = msgspec.structs.replace(its.steps, **columns)
            rate = stats.rate_estimate(its.items_per_step, seconds)
            its = msgspec.structs.replace(its, steps=steps, steady_from=0, items_per_s=rate)
        changed.append(its)
    return msgspec.structs.replace(run, slices=tuple(changed))


# What a slice's headline is, by its steady steps of 1,024 tokens each.
HEADLINES = {
    (5.0, 5.1, 5.0, 4.9, 5.0): "205 tokens/s",
    (5.0, 10.0): "100 to 200 tokens/s",  # two steps are a range
    (16.3, 2.0, 23.1, 3.0, 18.1): "48 to 290 tokens/s",  # over ±50 %
    (20.0,): "1,024 tokens in 20.0 s",
}


@pytest.mark.parametrize(("seconds", "headline"), HEADLINES.items(), ids=[f"{len(it)} steps" for it in HEADLINES])
def test_what_too_few_or_too_unlike_steps_measured_is_a_range_without_a_middle(seconds, headline, rigbench, tmp_path):
    run = of_steps(stored(tmp_path / "home"), "120M", seconds)
    store.Store(tmp_path / "home").save(run)
    code, out, error = rigbench("report", "-v", run.id)
    assert code == 0, error
    lines = out.splitlines()
    shown = lines[next(number for number, line in enumerate(lines) if line.startswith("120M on")) + 1]
    assert shown.strip().startswith(headline)
    rate = run.slices[2].items_per_s
    shows_middle = units.format_rate(rate.value).removesuffix(" tokens/s") in shown.split()
    assert shows_middle == (len(seconds) == 5 and rate.has_middle)


def test_a_budget_from_such_a_slice_is_a_range_too(rigbench, tmp_path):
    rig = Job(store.Store(tmp_path / "home"), Rig.live(), "budget", Silent()).run.rig
    run = of_steps(stored(tmp_path / "home", rig=rig), "120M", (16.3, 2.0, 23.1, 3.0, 18.1))
    store.Store(tmp_path / "home").save(run)
    _, out, _ = rigbench("budget", "-v", "--flops", "1e15", "--params", "120M")
    headline = out.splitlines()[0]
    assert re.search(r": [\d.]+ to [\d.]+ h$", headline), headline
    [row] = [line for line in out.splitlines() if line.split()[:1] == ["120M"] and "measured" in line]
    assert re.search(r"[\d.]+ to [\d.]+ .* [\d.]+ to [\d.]+ +measured", row), row
