"""Does the command say honestly whether loading holds training back, and what would change it?"""

import io
import json
import math
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
from budget_slices import CPU, GPU, M5, M15, stored
from rich.console import Console

from rigbench import __main__, store
from rigbench.core.estimate import Estimate
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Figure
from rigbench.dataloader import command, verdict
from rigbench.dataloader import screen as render
from rigbench.dataloader.record import Dataloader, DiskReads, LoadedData, Loading, Options, Sweep
from rigbench.document import run_schema
from rigbench.job import Job
from rigbench.machine.rig import Rig

TINY = Path(__file__).parent / "profiles"


def estimate(value: float, share: float = 0.1, level: float = 0.9) -> Estimate:
    return Estimate(value, value * (1 - share), value * (1 + share), level, "made up", 9)


def loading(path: str, workers: int, rate: float, **changes) -> Loading:
    facts = Loading(
        path=path,
        workers=workers,
        temperature="warm",
        pinned=False,
        to_device=False,
        cached_share=1.0,
        startup_seconds=0.05 * (workers + 1),
        batches_per_sample=2,
        tokens=(16384, 16384),
        seconds=(32768 / rate / 2,) * 2,
        steady_from=0,
        tokens_per_s=estimate(rate),
        restarts=0,
        ended_by="interval",
    )
    return msgspec.structs.replace(facts, **changes)


def sweep(path: str, rates: dict[int, float], knee: int, **changes) -> Sweep:
    facts = Sweep(
        path=path,
        of="the data",
        rows=tuple(loading(path, workers, rate) for workers, rate in rates.items()),
        knee_workers=knee,
        unpinned=Absent("no CUDA device to pin memory for"),
        cold=Absent("not asked"),
    )
    return msgspec.structs.replace(facts, **changes)


NOTHING = Absent("none")


def result(sweeps, demand=NOTHING, **changes) -> Dataloader:
    facts = Dataloader(
        method=1,
        started_at="2026-11-21T00:00:00Z",
        seconds=10.0,
        device=CPU,
        data=LoadedData(
            kind="jsonl",
            name="corpus.jsonl",
            size_bytes=3 << 30,
            used_bytes=64 << 20,
            tokens=Absent("not counted"),
            item_bytes=Absent("text"),
            tokenizer="tok.json",
            bad_lines=3,
        ),
        micro_batch=8,
        sequence=1024,
        usable_cpus=2.0,
        sweeps=tuple(sweeps),
        disk=Absent("this file system does not allow direct reads"),
        ended_by="finished",
    )
    return verdict.completed(msgspec.structs.replace(facts, **changes), demand, virtual_machine=False)


JSONL = sweep("jsonl", {0: 1e6, 1: 1.05e6, 2: 1.9e6, 4: 1.2e6}, 2, cold=loading("jsonl", 2, 1e6, temperature="cold"))
PACKED = [
    sweep("own loader", {0: 150e6}, 0, of="a packed sample"),
    sweep("memory map", {0: 30e6}, 0, of="a packed sample"),
]


def needed(value: float, share: float = 0.05) -> Figure:
    basis = "the slice 5M of run r1, on cpu"
    return Figure(value=value, source="measured", basis=basis, low=value * (1 - share), high=value * (1 + share))


def test_one_sample_answers_nothing():
    assert verdict.bound(estimate(19.0, level=0.0)) == "cannot be told"
    assert [verdict.bound(estimate(times)) for times in (0.5, 1.05, 1.2)] == ["yes", "cannot be told", "no"]


def test_the_cold_answer_stands_beside_the_warm_one():
    warm, cold = result([JSONL], needed(1.2e6, 0.0)).headrooms
    assert (warm.temperature, warm.io_bound) == ("warm", "no")
    assert (cold.temperature, cold.io_bound, cold.times.value) == ("cold", "yes", pytest.approx(1 / 1.2))


def test_the_path_that_the_data_stands_for_is_answered_first():
    ours, mapped = sweep("own loader", {0: 100e6}, 0), sweep("memory map", {0: 20e6, 1: 4e6}, 0)
    found = result([ours, mapped], needed(1e6)).headrooms
    assert [one.path for one in found] == ["memory map", "own loader"]


def test_gains_are_the_measured_ratios():
    found = {gain.change: gain.times for gain in result([JSONL, *PACKED]).gains}
    assert {change: round(times.value, 3) for change, times in found.items()} == {
        "`rigbench pack`, then the same DataLoader on a memory map": 15.789,
        "`rigbench pack`, then whole batches gathered at once": 78.947,
        "jsonl: 2 workers, not 0": 1.9,
        "jsonl: 4 workers, not 2": 0.632,
        "jsonl: the file in memory, not on the disk": 1.9,
    }
    times = found["jsonl: 2 workers, not 0"]
    apart = math.exp(math.hypot(math.log(1.1), math.log(0.9)))  # both rates ±10 %, squares of logarithms added
    assert (times.low, times.high) == pytest.approx((1.9 / apart, 1.9 * apart))


def test_a_change_that_cannot_be_told_from_none_is_not_called_a_gain():
    out = io.StringIO()
    shown = result([sweep("jsonl", {0: 1e6}, 0, cold=loading("jsonl", 0, 0.95e6, temperature="cold"))])
    render.show(shown, Console(file=out, width=120, color_system=None))
    assert "the file in memory, not on the disk: no difference beyond noise (0.91 to 1.2 times)" in out.getvalue()


def test_workers_that_slow_a_memory_map_down_are_said():
    ours, mapped = sweep("own loader", {0: 100e6}, 0), sweep("memory map", {0: 20e6, 1: 4e6, 8: 3e6}, 0)
    found = result([ours, mapped])
    assert "workers make this memory map slower" in " ".join(found.notes)
    assert "8 workers were more than the 2 CPUs there are to use" in found.notes
    faster = result([ours, sweep("memory map", {0: 20e6, 1: 21e6}, 0)])
    assert "slower" not in " ".join(faster.notes)


def test_pinned_memory_is_compared_where_there_is_a_gpu():
    rows = {0: 20e6}
    mapped = sweep("memory map", rows, 0, unpinned=loading("memory map", 0, 10e6, to_device=True))
    gains = {gain.change: gain.times.value for gain in result([mapped], device=GPU).gains}
    assert gains == {"memory map: pinned memory, not pageable": 2.0}


SCREEN = """\
ok    dataloader: the loader is 3.8 times (3.4 to 4.2) as fast as training needs
  on cpu: corpus.jsonl, 3 GiB, tokenizer tok.json, 3 bad lines left out (--skip-bad); 8 × 1,024
tokens a batch, no GPU to copy to
 path                workers  memory  M tokens/s  90 % interval  a batch  first batch  ended by
 jsonl                     0  warm          1.00   0.90 to 1.10  8.19 ms      50.0 ms  interval
 jsonl                     1  warm          1.05   0.94 to 1.16  7.80 ms       100 ms  interval
 jsonl                     2  warm          1.90   1.71 to 2.09  4.31 ms       150 ms  interval
 jsonl                     4  warm          1.20   1.08 to 1.32  6.83 ms       250 ms  interval
 jsonl                     2  cold          1.00   0.90 to 1.10  8.19 ms       150 ms  interval
 own loader, packed        0  warm           150     135 to 165  54.6 µs      50.0 ms  interval
 memory map, packed        0  warm            30       27 to 33   273 µs      50.0 ms  interval
  enough  the fewest workers as fast as the best: jsonl 2 workers
  disk    past the page cache 1.00 GB/s (0.90 to 1.10) in order, 4 MiB at a time
  demand  500,000 tokens/s (measured: the slice 5M of run r1, on cpu)
  change  `rigbench pack`, then the same DataLoader on a memory map: 16 times (14 to 18) as many
          tokens/s
  change  `rigbench pack`, then whole batches gathered at once: 79 times (68 to 91) as many tokens/s
  change  jsonl: 2 workers, not 0: 1.9 times (1.6 to 2.2) as many tokens/s
  change  jsonl: 4 workers, not 2: 0.63 times (0.55 to 0.73) as many tokens/s
  change  jsonl: the file in memory, not on the disk: 1.9 times (1.6 to 2.2) as many tokens/s
  note    warm numbers are of memory, not of a disk: its first 64 MiB was in it
  note    4 workers were more than the 2 CPUs there are to use
  note    on a CPU the two share the cores: a loader N times as fast as training needs takes up to
          1/N of the time
  not run: jsonl, 16 workers: no room
"""


def test_the_whole_screen():
    out = io.StringIO()
    disk = (DiskReads("in order", 4 << 20, (0.004,), estimate(1e9)),)
    shown = result([JSONL, *PACKED], needed(5e5), disk=disk, not_run=("jsonl, 16 workers: no room",))
    render.show(shown, Console(file=out, width=100, highlight=False, color_system=None))
    assert "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n" == SCREEN


@pytest.mark.parametrize(
    ("cpus", "counts"),
    [
        (0.5, (0, 1)),
        (1.0, (0, 1)),
        (2.0, (0, 1, 2)),
        (6.0, (0, 1, 2, 4, 6)),
        (12.0, (0, 1, 2, 4, 8, 12)),
        (256.0, (0, 1, 2, 4, 8, 16)),
    ],
)
def test_worker_counts_double_up_to_the_cpus_there_are(cpus, counts):
    assert Options().worker_counts(cpus) == counts


def test_training_eats_what_the_newest_slice_of_this_rig_on_this_kind_of_device_trained(tmp_path):
    home = store.Store(tmp_path)
    job = Job(home, Rig.live(), "dataloader", Silent())
    nothing, _ = command.needed(job, "cpu")
    assert "rigbench train-probe" in nothing.reason

    def keep(run_id: str, item, fingerprint: str, *more) -> None:
        rig = msgspec.structs.replace(job.run.rig, fingerprint=fingerprint)
        slices = (item.slice, *(other.slice for other in more))
        home.save(msgspec.structs.replace(job.run, id=run_id, rig=rig, slices=slices))

    own = job.run.rig.fingerprint
    keep("20260101-000000-aaaa", stored(M5, 1000.0, started_at="2026-01-01T00:00:00Z"), own)
    keep("20260102-000000-bbbb", stored(M15, 400.0, started_at="2026-01-02T00:00:00Z"), own)
    keep("20260103-000000-cccc", stored(M5, 9e6, started_at="2026-01-03T00:00:00Z"), "another")
    keep("20260104-000000-dddd", stored(M5, 8e6, started_at="2026-01-04T00:00:00Z", device=GPU), own)
    found, loaders = command.needed(Job(home, Rig.live(), "dataloader", Silent()), "cpu")
    assert (found.value, found.low, found.high, loaders) == pytest.approx((400.0, 396.0, 404.0, 1))
    assert found.basis == "15M as trained in run 20260102-000000-bbbb, on cpu"
    # Of four cards' slices each rank's loader gives a quarter; the single card beside them is no full run.
    together = {"device": GPU, "strategy": "ddp", "ranks": 4}
    alone = stored(M15, 1e6, started_at="2026-01-05T00:10:00Z", device=GPU)
    keep("20260105-000000-eeee", stored(M15, 2e6, started_at="2026-01-05T00:00:00Z", **together), own, alone)
    found, loaders = command.needed(Job(home, Rig.live(), "dataloader", Silent()), "cuda")
    assert (found.value, loaders) == (pytest.approx(5e5), 4)
    assert found.basis.endswith("on cuda, each of 4 ranks")


def test_of_several_ranks_loaders_a_fast_one_alone_does_not_tell_that_all_keep_up():
    def answers(rate: float, **changes):
        shown = result([JSONL], needed(rate), loaders=2, **changes)
        return [one.io_bound for one in shown.headrooms], render.verdict(shown)

    # 2 workers a loader; the cold file gives half of the warm one.
    assert answers(1e5)[0] == ["no", "no"]  # one loader could feed both
    assert answers(6e5, usable_cpus=8.0)[0] == ["no", "cannot be told"]
    crowded, (mark, sentence) = answers(1.2e6)
    assert crowded == ["cannot be told", "yes"]
    assert (mark, sentence) == (
        "note",
        "the loader is 1.6 times (1.4 to 1.8) as fast as each of 2 ranks needs, alone: whether 2 at once keep up "
        "is not clear",
    )
    assert answers(3e6)[0] == ["yes", "yes"]


@pytest.fixture
def rigbench(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIGBENCH_PROFILES", str(TINY))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        return (code, *capsys.readouterr())

    return call


REFUSED = {
    "--workers x": "--workers 'x' is not a whole number from 0 to 256",
    "--workers 1,,2": "--workers '' is not a whole number",
    "--workers -1": "--workers '-1' is not a whole number",
    "--micro-batch 0": "--micro-batch '0' is not a whole number from 1",
    "--seq 3": "--seq '3' is not a whole number from 8",
    "--seconds 0": "--seconds '0' is zero",
    "--tokens-per-second 0": "--tokens-per-second '0' is zero",
    "--tokens-per-second fast": "--tokens-per-second 'fast' is not a number",
    "--data a.bin --dataset m:f": "--data and --dataset exclude each other",
    "--data-dtype int8": "'int8' is not one of 'auto', 'uint16', 'uint32'",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_words_get_one_line_and_exit_code_2(rigbench, typed):
    code, out, err = rigbench("dataloader", *typed.split())
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert REFUSED[typed] in err


def test_the_command_loads_stores_and_prints_its_document(rigbench, tmp_path):
    words = ("--seconds", "100ms", "--workers", "0,1", "--tokens-per-second", "1K", "--device", "cpu")
    code, out, err = rigbench("dataloader", "--json", *words)
    assert (code, err) == (0, "")
    assert out == next((tmp_path / "home" / "runs").glob("*.json")).read_text()
    document = json.loads(out)
    jsonschema.validate(document, json.loads(run_schema()))
    first = document["dataloader"]["headrooms"][0]
    assert (first["path"], first["io_bound"]) == ("memory map", "no")
    code, out, err = rigbench("report")
    assert code == 0
    assert "as fast as training needs" in " ".join(out.split())


def test_a_bad_token_file_is_one_line_from_the_worker_too(rigbench, tmp_path):
    (tmp_path / "odd.bin").write_bytes(b"\x00\xff\x01")
    code, out, err = rigbench("dataloader", "--quiet", "--data", str(tmp_path / "odd.bin"))
    assert (code, out) == (2, "")
    assert "odd.bin holds 3 bytes, not a whole number of uint16 ids" in err
    assert err.count("\n") == 1
