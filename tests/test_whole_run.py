"""Does a whole run say how far it is, do what is asked alone, choose sizes it can measure, and go on after a kill?"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import msgspec
import pytest
import scripted_sensors
import test_thermals_screens as heat
import test_topology as rigs
from rich.console import Console
from test_monitor_screens import Terminal, terminal

from rigbench import store
from rigbench.budget.training import STEPS_NEEDED, in_their_time
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import SILENT, Lines
from rigbench.core.record import Absent, Skipped
from rigbench.doctor import no_limit
from rigbench.document import Run
from rigbench.everything import plan
from rigbench.everything.progress import Overall
from rigbench.job import Interrupted, Job
from rigbench.machine.rig import Rig
from rigbench.model.recipe import Recipe
from rigbench.model.shape import series
from rigbench.predict import ceilings, steptime
from rigbench.report import first_screen, screen
from rigbench.train.record import Exchange
from rigbench.train.record import Options as SliceOptions
from rigbench.work.record import NOTHING_DECLARED, Disturbance

__all__ = ["terminal"]
STORED = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
MODELS = tuple(entry.model for entry in series("diy").models)


class Heard(Lines):
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[str] = []
        self.updates: list[tuple[float, str]] = []
        self.lines: list[str] = []

    def stage(self, text, weight_seconds):
        self.stages.append(text)

    def update(self, share, text):
        self.updates.append((share, text))

    def line(self, text, style=""):
        self.lines.append(text)


def test_stages_are_counted_and_what_is_left_follows_the_pace_so_far():
    now, heard = [0.0], Heard()
    overall = Overall(heard, [("topology", 10.0), ("matmul", 20.0), ("slices", 70.0)], clock=lambda: now[0])
    overall.begin("topology")
    assert heard.stages == ["1/3 topology, 0:00 of about 1:40"]
    now[0] = 20.0  # twice as long as planned
    overall.begin("matmul")
    assert heard.stages[-1] == "2/3 matmul, 0:20 of about 3:20"
    overall.stage("matmul", 18.0)
    now[0] = 30.0
    overall.update(0.9, "bf16 512³")
    share, text = heard.updates[-1]
    assert share == pytest.approx((10 + 10) / 100)
    assert text == "0:30 of about 3:20, matmul: bf16 512³"
    now[0] = 3600.0
    overall.update(0.9, "")
    assert heard.updates[-1][0] == pytest.approx(0.29)  # never done before it ends
    overall.end("matmul", ("warn", "slow\x1b[31m"))
    assert heard.lines == ["warn  matmul      slow\ufffd[31m"]


def test_only_the_stages_asked_for_are_run():
    stages = plan.whole_run(MODELS, True, "cpu", NOTHING_DECLARED)
    names = [stage.room for stage in stages]
    assert names == ["topology", "bandwidth", "p2p", "collectives", "matmul", "slices", "dataloader"]
    assert [stage.room for stage in plan.chosen(stages, ("slices", "matmul"), ())] == ["matmul", "slices"]
    assert [stage.room for stage in plan.chosen(stages, ("training",), ())] == ["slices"]  # as screens call it
    assert "p2p" not in [stage.room for stage in plan.chosen(stages, (), ("p2p",))]
    for only, skip, words in (
        (("matmull",), (), "--only 'matmull' is no stage"),
        ((), ("thermals",), "--skip 'thermals' is no stage"),
        (("matmul",), ("matmul",), "leave nothing to do"),
    ):
        with pytest.raises(RigbenchError, match=words):
            plan.chosen(stages, only, skip)


@pytest.fixture
def job(tmp_path) -> Job:
    return Job(store.Store(tmp_path / "home"), Rig.live(ask_driver=False), "run", SILENT)


def test_sizes_are_the_largest_that_make_enough_steps_and_the_others_are_named(job):
    """On a processor of which the stored run says how slow it is, made slower until the largest cannot."""
    measured = ceilings.from_runs([store.read(STORED)])
    assert not isinstance(measured, Absent)
    rate = max(measured.matmul_flops_per_s.values(), key=lambda it: it.value)
    slices = [SliceOptions(model=MODELS[place], device="cpu", seconds=60.0) for place in (0, 2, 4)]

    def slowed(factor: float):
        def slower(figure):
            return msgspec.structs.replace(figure, value=figure.value / factor)

        rates, memory = {"bf16": slower(rate)}, slower(measured.memory_bytes_per_s)
        return msgspec.structs.replace(
            measured, matmul_flops_per_s=rates, memory_bytes_per_s=memory, products=(), data_tokens_per_s=Absent("")
        )

    def steps_in_a_minute(model, ceiling) -> float:
        return 60.0 / steptime.predict(model, Recipe(precision="bf16", micro_batch=1), ceiling).seconds.value

    quick = slowed(1e-3)
    assert in_their_time(job, slices, MODELS, quick) == slices
    assert job.run.warnings == ()
    factor = next(
        it for it in (2.0**k for k in range(-8, 16)) if steps_in_a_minute(MODELS[4], slowed(it)) < STEPS_NEEDED
    )
    slow = slowed(factor)
    fitting = [model for model in MODELS if steps_in_a_minute(model, slow) >= STEPS_NEEDED]
    chosen = [it.model for it in in_their_time(job, slices, MODELS, slow)]
    assert MODELS[0] in chosen
    assert fitting[-1] in chosen
    assert set(chosen) <= set(fitting)
    [line] = job.run.warnings
    assert line.startswith("120M: predicted to make fewer than 5 steps")
    assert line.endswith("the rates of the others come from the step model")


def test_without_a_ceiling_the_sizes_stay_as_they_are(job):
    slices = [SliceOptions(model=model, device="cpu") for model in MODELS]
    assert in_their_time(job, slices, MODELS, Absent("nothing measured")) == slices
    assert job.run.warnings == ()


def test_a_run_that_was_cut_short_goes_on_after_its_last_whole_stage(job, rigbench, monkeypatch, tmp_path):
    """In process: three scripted stages of which the second is interrupted, then the same command with --resume."""
    done: list[str] = []

    def stage(name: str, ends: bool = True):
        def run(job: Job) -> None:
            done.append(name)
            if not ends:
                raise Interrupted
            job.keep(**{name: Skipped(name, "scripted")})

        return plan.Stage(name, run, 1.0)

    monkeypatch.setattr(plan, "whole_run", lambda *_: [stage("bandwidth"), stage("p2p", ends=False), stage("matmul")])
    code, _, err = rigbench("run", "-q")
    assert (code, done) == (130, ["bandwidth", "p2p"]), err
    [cut] = (tmp_path / "home/runs").glob("*.json")
    first = json.loads(cut.read_text())["took_seconds"]
    monkeypatch.setattr(plan, "whole_run", lambda *_: [stage("bandwidth"), stage("p2p"), stage("matmul")])
    code, out, err = rigbench("run", "--resume", "--json")
    document = json.loads(out)
    assert done == ["bandwidth", "p2p", "p2p", "matmul"]
    assert document["ended"] == ["bandwidth", "p2p", "matmul", "budget"]
    assert document["took_seconds"] > first > 0
    assert document["status"] == "finished"
    code, _, err = rigbench("run", "--resume")
    assert (code, err.count("\n")) == (3, 1)
    assert "no whole run of this rig was cut short" in err


def test_a_claim_of_hours_is_judged_as_budget_does(rigbench, monkeypatch):
    asked = []
    monkeypatch.setattr(plan, "whole_run", lambda *_: [plan.Stage("p2p", lambda job: None, 1.0)])
    monkeypatch.setattr("rigbench.budget.command.run", lambda job, request, device: asked.append(request))
    rigbench("run", "--hours", "48")
    assert (asked[0].declared_hours, asked[0].amount, asked[0].kind) == (48.0, 1.2e18, "flops")


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_the_first_screen_of_a_whole_run_answers_in_forty_lines(width):
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, color_system=None)
    screen.show(store.read(STORED), console, whole=False)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert len(lines) <= (40 if width >= 100 else 60)
    head = " ".join(" ".join(lines[:5]).split())
    assert "no fault found; 1.2 EFLOP on Intel Xeon" in head
    assert "108 days (99 to 125)" in head
    for number in ("2,500", "3.9 (3.6 to 4.3)", "191", "51 (48 to 55)", "108 (99 to 125)"):
        assert number in "\n".join(lines)


def test_a_whole_run_on_a_screen_of_a_hundred_columns():
    out = io.StringIO()
    screen.show(store.read(STORED), Console(file=out, width=100, highlight=False, color_system=None), whole=False)
    assert [line.rstrip() for line in out.getvalue().splitlines()] == WHOLE.splitlines()


WHOLE = """\
rigbench run   Intel Xeon @ 2.50GHz · torch 2.13.0+cpu · 2026-11-21 07:44 UTC
ok    verdict: no fault found; 1.2 EFLOP on Intel Xeon @ 2.50GHz, 2 threads: 108 days (99 to 125)
 model      tokens/s                 days  known from
 5M            2,500     3.9 (3.6 to 4.3)  measured
 15M           1,150     8.5 (7.6 to 9.5)  predicted
 30M             650  15.0 (14.0 to 15.9)  measured
 60M             350        28 (25 to 31)  predicted
 120M            191        51 (48 to 55)  measured
 overheads                    0.70 to 9.3  mostly assumed
 in all                   108 (99 to 125)
      not a limit: data loader (over 100 times as fast as training needs)
checked
  note  topology    no GPU: Intel(R) Xeon(R) Processor @ 2.50GHz, 23.5 GiB
  note  bandwidth   this host's memory copies at 21.5 GB/s (21.2 to 21.6)
  note  p2p         P2P is not applicable: fewer than two GPUs: the driver lists none
  ok    collectives all_reduce 1.0 GB/s (0.9 to 2.0, 88 %) at 16 MiB between 2 processes on the CPU
  ok    matmul      bf16 49.7 GFLOP/s (49.1 to 50.3) sustained, no datasheet to hold it against
  ok    dataloader  the loader is over 100 times as fast as training needs
  ok    training    5M 2,490 tokens/s, 30M 650 tokens/s, 120M 191 tokens/s
  models    5M to 120M with 846.7M tokens each
  how sure  90 % intervals; 3 of 5 sizes measured
  more      rigbench report 20261121-074413-f877 PROBE shows one whole, --verbose all of it
"""


def two_cards(watts=(210.0, 240.0), bits=(0, 0), shares=None, replays=0, ecc=0) -> Run:
    """The stored run on two recorded cards with a limit of 320 W, whose sensors beside the products are scripted."""
    stored = store.read(STORED)
    topology = rigs.read(Rig.replay(Path(__file__).parent / "rigs/dual-rtx4080s-x8x8"))
    gpus = tuple(
        msgspec.structs.replace(gpu, pcie_replays=0, ecc_uncorrected_errors_since_load=ecc) for gpu in topology.gpus
    )
    columns = {"power_watts": watts, "throttle_bits": bits, "pcie_replays": (0, replays)}
    beside = scripted_sensors.telemetry(
        (0.0, 1.0),
        scripted_sensors.series("GPU0", throttle_share={}, **columns),
        scripted_sensors.series("GPU1", throttle_share=shares or {}, **columns),
    )
    return msgspec.structs.replace(
        stored,
        topology=msgspec.structs.replace(topology, gpus=gpus),
        matmul=msgspec.structs.replace(stored.matmul, telemetry=beside),
    )


LOADER = "data loader (over 100 times as fast as training needs)"
POWER, PCIE, ECC = "power limit (at most 240 of 320 W)", "PCIe errors (no replay)", "ECC (no uncorrected error)"


@pytest.mark.parametrize(
    ("scripted", "fine"),
    [
        ({}, [LOADER, POWER, PCIE, ECC]),
        ({"watts": (210.0, 320.0)}, [LOADER, PCIE, ECC]),
        ({"shares": {"sw_power_cap": 0.5}}, [LOADER, PCIE, ECC]),
        ({"bits": (Absent("gone"), Absent("gone"))}, [LOADER, PCIE, ECC]),  # nobody answered whether it was held down
        ({"watts": Absent("not supported")}, [LOADER, PCIE, ECC]),
        ({"replays": 3}, [LOADER, POWER, ECC]),  # only while it worked
        ({"ecc": Absent("not supported")}, [LOADER, POWER, PCIE]),
        ({"ecc": 1}, [LOADER, POWER, PCIE]),
    ],
)
def test_what_is_no_limit_is_said_only_where_every_card_answered(scripted, fine):
    assert list(no_limit.words(two_cards(**scripted))) == fine


def test_what_is_no_limit_stands_below_what_is():
    out = io.StringIO()
    screen.show(two_cards(), Console(file=out, width=100, highlight=False, color_system=None), whole=False)
    assert (
        " in all                   108 (99 to 125)                 \n"
        "      not a limit: data loader (over 100 times as fast as training needs); power limit (at most 240\n"
        "        of 320 W); PCIe errors (no replay); ECC (no uncorrected error)\n"
        "checked\n"
    ) in out.getvalue()


def test_a_loader_that_is_too_slow_and_a_run_without_one_are_not_called_fine():
    run = store.read(STORED)
    slow = tuple(msgspec.structs.replace(it, io_bound="yes") for it in run.dataloader.headrooms)
    slow_run = msgspec.structs.replace(run, dataloader=msgspec.structs.replace(run.dataloader, headrooms=slow))
    assert list(no_limit.words(slow_run)) == []
    assert list(no_limit.words(msgspec.structs.replace(run, dataloader=Absent("not asked for")))) == []
    beside = Disturbance(room="matmul", evidence=("its threads waited 84 % of the time",))
    assert list(no_limit.words(msgspec.structs.replace(run, disturbances=(beside,)))) == []


def test_heat_is_no_limit_of_cards_that_settled_without_it(tmp_path):
    """Of the recorded rig whose GPU1 slows itself down, and of its GPU0, which only power held down."""
    soak = heat.replayed(heat.RECORDINGS["heat"], tmp_path)
    settled = [
        msgspec.structs.replace(it, settled=msgspec.structs.replace(it.settled, settled=True)) for it in soak.cards
    ]

    def said(*cards) -> list[str]:
        thermals = msgspec.structs.replace(soak, cards=cards)
        return list(no_limit.words(msgspec.structs.replace(two_cards(), thermals=thermals)))

    assert said(settled[0]) == [LOADER, "heat (at most 72 °C, settled)", PCIE, ECC]
    assert said(soak.cards[0]) == said(*settled) == [LOADER, PCIE, ECC]


def test_gradients_are_no_limit_where_a_step_surely_loses_little():
    run = store.read(STORED)
    none = Absent("not asked")

    def said(*exposed_seconds: float) -> list[str]:
        waits = [
            Exchange(
                method="in turn", hosts=("a", "a"), exposed=msgspec.structs.replace(it.step_seconds, high=high),
                alone_seconds=none, shared_seconds=none, imbalance_seconds=0.0, unexplained_seconds=0.0,
                efficiency=none, steps_by_rank=(), with_samples=(), without_samples=(), alone_samples=(),
            )
            for it, high in zip(run.slices, exposed_seconds, strict=False)
        ]  # fmt: skip
        slices = tuple(msgspec.structs.replace(it, exchange=its) for it, its in zip(run.slices, waits, strict=False))
        return list(no_limit.words(msgspec.structs.replace(run, slices=slices)))

    step = [it.step_seconds.value for it in run.slices]
    assert said(0.004 * step[0], 0.012 * step[1]) == [LOADER, "gradient sync (at most 1.2 % of a step)"]
    assert said(0.004 * step[0], 0.03 * step[1]) == [LOADER]


def test_the_head_says_how_long_a_run_took():
    run = store.read(STORED)
    assert first_screen.head(run).endswith("· 2026-11-21 07:44 UTC")
    took = msgspec.structs.replace(run, took_seconds=173.2)
    assert first_screen.head(took).endswith("· 2 min 53 s, 2026-11-21 07:44 UTC")


def test_gpus_are_opened_before_anything_is_measured_and_a_blocked_one_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    rig = Rig.replay(Path(__file__).parent / "rigs/dual-rtx4080s-x8x8")
    job, asked = Job(store.Store(tmp_path), rig, "run", SILENT), []
    stages = [plan.Stage("topology", lambda job: None), plan.Stage("matmul", lambda job: None)]
    answer = RigbenchError("cuda:1 has no memory left", "end what holds it", exit_code=3)

    def measure(probe, options, kind, limit_seconds):
        asked.append((probe, options.device))
        if isinstance(answer, RigbenchError):
            raise answer
        return answer

    monkeypatch.setattr(job, "measure", measure)
    plan.refuse_blocked(job, "cpu", stages)
    plan.refuse_blocked(job, None, stages[:1])  # topology loads no torch
    assert asked == []
    with pytest.raises(RigbenchError, match="no memory left"):
        plan.refuse_blocked(job, "cuda:1", stages)
    assert asked == [("rigbench.everything.probe", "cuda:1")]
    answer = Skipped("everything", "its process was ended by SIGSEGV")
    with pytest.raises(RigbenchError, match="the GPUs could not be opened: its process was ended by SIGSEGV") as caught:
        plan.refuse_blocked(job, None, stages)
    assert caught.value.exit_code == 3


def test_a_machine_without_gpus_loads_no_torch_for_that(tmp_path, monkeypatch):
    job = Job(store.Store(tmp_path), Rig.replay(Path(__file__).parent / "rigs/dual-rtx4080s-x8x8"), "run", SILENT)
    monkeypatch.setitem(job.__dict__, "gpus", ())
    monkeypatch.setattr(plan.pci, "devices", lambda sysfs: ())
    monkeypatch.setattr(job, "measure", lambda *_, **__: pytest.fail("nothing to open"))
    stages = [plan.Stage("matmul", lambda job: None)]
    plan.refuse_blocked(job, None, stages)
    monkeypatch.setattr(job, "measure", lambda *_, **__: Skipped("open", "torch sees 0 CUDA devices"))
    with pytest.raises(RigbenchError, match="torch sees 0 CUDA devices"):  # before any stage is tried without them
        plan.refuse_blocked(job, "cuda", stages)


LIVE = {
    100: """\
note  topology    no GPU: Intel(R) Xeon(R) Processor @ 2.50GHz, 23.5 GiB
note  bandwidth   this host's memory copies at 21.5 GB/s (21.2 to 21.6)
3/4 matmul ━━━━━━━━━━━━━━━━╺━━━━━━━ 0:46 of about 1:26 matmul: bf16: mlp down weight gradient, 4,0…
""",
    60: """\
note  topology    no GPU: Intel(R) Xeon(R) Processor @ 2.50G
Hz, 23.5 GiB
note  bandwidth   this host's memory copies at 21.5 GB/s (21
.2 to 21.6)
3/4 matmul ━━━━━━━━━━╺━━━━ 0:46 of about 1:26 matmul: bf16…
""",
}


@pytest.mark.parametrize("width", LIVE)
def test_the_progress_of_a_run_is_one_line_of_any_terminal(terminal: Terminal, tmp_path: Path, width: int):
    """A stage's number, how long of about how long, and what it does now; a line stays of each that has ended."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    settings = f"RIGBENCH_HOME={tmp_path}/home LC_ALL=C.UTF-8 PATH='{os.environ['PATH']}'"
    path = f"PYTHONPATH='{os.environ['PYTHONPATH']}:{Path(__file__).parents[1]}'"
    program = f"'{sys.executable}' '{Path(__file__).parent / 'run_in_terminal.py'}' {pipe}"
    terminal.start(width, 30, f"env -u COLUMNS {settings} {path} {program}; sleep 60")
    terminal.wait_for("2/4 bandwidth")
    pipe.write_text("go on\n")
    terminal.wait_for("3/4 matmul")
    seen = terminal.wait_for("matmul: bf16")
    assert "".join(f"{line.rstrip()}\n" for line in seen.splitlines() if line.strip()) == LIVE[width]
    pipe.write_text("go on\n")
    after = terminal.wait_for("saved as")
    assert "verdict: no hours: no short training run of this rig is stored" in " ".join(after.split())
    assert "━" not in after


def test_a_run_that_goes_on_counts_its_own_pace():
    now, heard = [0.0], Heard()
    overall = Overall(heard, [("topology", 10.0), ("matmul", 20.0), ("slices", 70.0)], clock=lambda: now[0])
    overall.begin("matmul")
    assert heard.stages == ["2/3 matmul, 0:00 of about 1:30"]
    now[0] = 40.0
    overall.begin("slices")
    assert heard.stages[-1] == "3/3 slices, 0:40 of about 3:00"
