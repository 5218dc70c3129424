"""Does capacity say what fits, never less with more memory, in words that a stranger can read?"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import recipe
from rich.console import Console

from rigbench import __main__
from rigbench.command import Common
from rigbench.core import profiles
from rigbench.core.record import Absent, Figure
from rigbench.document import run_schema
from rigbench.machine.record import Gpu, Memory
from rigbench.model import counts
from rigbench.model.record import Shape
from rigbench.model.shape import series
from rigbench.predict import capacity as fitting
from rigbench.predict import cards, inference, memory, traces
from rigbench.predict import screen as render
from rigbench.predict.record import Capacity, CapacityRow, Largest

TINY = Path(__file__).parent / "profiles"
GIB = 1 << 30
SMALL = counts.describe(
    Shape(
        style="gpt2",
        layers=4,
        width=256,
        heads=4,
        kv_heads=4,
        ffn_width=1024,
        vocabulary=5000,
        sequence=256,
        tied_head=True,
        biases=True,
    ),
    "small",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One home for all commands here, so that a step is recorded once."""
    return tmp_path_factory.mktemp("home")


def own_sizes(series):
    """The models of a series and none between or beyond: those of the tiny series would be absurdly deep."""
    return tuple(counts.describe(model.shape, model.name) for model in series.models)


@pytest.fixture
def rigbench(monkeypatch, home, capsys):
    monkeypatch.setattr(fitting, "sizes", own_sizes)
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", (1,))  # half the table, in half the time
    monkeypatch.setenv("RIGBENCH_HOME", str(home))
    monkeypatch.setenv("RIGBENCH_PROFILES", str(TINY))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, out, err

    return call


def capacity_of(out):
    document = json.loads(out)
    jsonschema.validate(document, json.loads(run_schema()))
    return document["capacity"]


def values(found):
    return [row[name].get("value", 0) for row in found["rows"] for name in ("micro_batch", "sequence", "model")]


@pytest.mark.slow
def test_a_larger_card_fits_more_of_everything_and_every_figure_is_a_prediction(rigbench):
    words = ("capacity", "--series", "tiny", "--seq", "128", "--optimizer", "adamw", "--json")
    found = {}
    for card in ("rtx-3060", "rtx-3090", "2xrtx-3090"):
        code, out, err = rigbench(*words, "--on", card)
        assert (code, err) == (0, "")
        found[card] = capacity_of(out)
    small, large, pair = found.values()
    assert all(a <= b for a, b in zip(values(small), values(large), strict=True))
    assert values(small)[0] < values(large)[0]
    assert all(a <= b for a, b in zip(values(pair), values(large), strict=True))  # DDP adds buckets to each card
    assert [it["rows"][0]["recipe"]["strategy"] for it in (small, pair)] == ["single", "ddp"]
    for capacity in found.values():
        assert len(capacity["rows"]) == 2
        for row in capacity["rows"]:
            prediction = row["micro_batch"]["prediction"]
            assert {prediction["source"], prediction["process"]["source"], capacity["source"]} == {"predicted"}
            assert prediction["fits"]
            assert row["micro_batch"]["next_short_bytes"] > 0
            assert prediction["process"]["high"] <= prediction["target"]["usable"]["value"]


@pytest.mark.slow
def test_a_second_answer_needs_no_torch_and_report_shows_it_again(rigbench, home):
    words = ["capacity", "--series", "tiny", "--seq", "128", "--optimizer", "adamw", "--on", "rtx-4080", "--quiet"]
    first = rigbench(*words)[1]
    code = (
        f"import sys; sys.argv = {['rigbench', *words]!r}; sys.path.append({str(Path(__file__).parent)!r})\n"
        "from rigbench.predict import capacity as fitting; from test_capacity import own_sizes\n"
        "fitting.sizes, fitting.CHECKPOINT_EVERY = own_sizes, (1,)\n"
        "from rigbench.__main__ import _run\n"
        "code = _run(); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    again = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "RIGBENCH_HOME": str(home), "RIGBENCH_PROFILES": str(TINY)},
    )
    assert (again.returncode, again.stdout) == (0, first), again.stderr
    assert first.strip() in rigbench("report")[1]


SMALL_CARD = """
[[gpu]]
id = "my-card"
names = ["My Card"]
architecture = "Ada"
compute_capability = "8.9"
memory_gib = [0.3]
multiprocessors = 10
memory_bandwidth_gb_per_s = 1
bf16_tflop_per_s = 1
fp32_tflop_per_s = 1
pcie_generation = 4
pcie_lanes = 16
nvlink_gb_per_s_per_direction = 0
p2p_over_pcie = "no"
peak_basis = "a test"
"""


def test_a_model_that_fits_nowhere_here_is_told_what_would_do(rigbench, tmp_path, monkeypatch):
    (tmp_path / "gpus.toml").write_text(SMALL_CARD)
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "tiny.toml").write_text((TINY / "series" / "tiny.toml").read_text())
    monkeypatch.setenv("RIGBENCH_PROFILES", str(tmp_path))
    words = (
        "capacity",
        "--series",
        "tiny",
        "--seq",
        "128",
        "--optimizer",
        "adamw",
        "--on",
        "my-card",
        "--compile",
        "off",
    )
    code, out, _ = rigbench(*words)
    assert code == 0
    assert out.startswith("warn  capacity: large does not fit my-card with any of these choices\n")
    assert out.count("does not fit") == 3
    assert "one sequence takes 2" in out
    assert "at least, with adamw" in out
    assert "that way it would fit with --on rtx-a2000 (6 GiB)" in out  # the smallest of the shipped cards


def test_without_a_gpu_the_hosts_memory_is_asked_and_named(rigbench):
    code, out, _ = rigbench("capacity", "--series", "tiny", "--seq", "128", "--optimizer", "adamw", "--quiet")
    assert code == 0
    assert "fits this host's memory (cpu) with " in out
    assert "less 400 MiB" not in out
    code, out, _ = rigbench("report", "--verbose")
    assert "of host memory, now available, less 400 MiB for the process itself" in " ".join(out.split())
    assert "freed and kept by the heap" in out


def test_inference_keeps_weights_and_a_cache_of_the_stated_length(rigbench):
    words = ("capacity", "--inference", "--context", "1024", "--series", "tiny", "--on", "rtx-3060")
    capacity = capacity_of(rigbench(*words, "--json")[1])
    rows = {row["weights"]: row for row in capacity["inference"]}
    model = capacity["model"]
    shape = model["shape"]
    assert rows["bf16"]["weights_bytes"] == 2 * model["total_parameters"]
    assert rows["bf16"]["cache_bytes"] == 1024 * 2 * 2 * shape["layers"] * shape["width"]
    assert rows["4-bit"]["weights_bytes"] < rows["8-bit"]["weights_bytes"] < rows["bf16"]["weights_bytes"]
    for name in ("largest_batch", "longest_context"):
        assert rows["bf16"][name] <= rows["8-bit"][name] <= rows["4-bit"][name]
    shown = rigbench(*words, "--verbose")[1]
    assert "generating with" in shown
    assert "beyond the 32 positions that this model learns" in " ".join(shown.split())


def test_the_model_asked_about_may_be_published_ones_own_or_changed_beside_a_series(rigbench, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'style = "gpt2"\nlayers = 2\nwidth = 64\nheads = 2\nvocabulary = 500\nsequence = 32\n'
    )
    words = ("capacity", "--series", "tiny", "--inference", "--context", "1024", "--on", "rtx-3060")
    code, out, err = rigbench(*words, "--model", str(tmp_path / "mine.toml"), "--layers", "1", "--json")
    assert (code, err) == (0, "")
    found = capacity_of(out)
    # By hand: 12 d² + 13 d a layer with its biases and norms, final norm, table and positions.
    assert found["model"]["total_parameters"] == 12 * 64**2 + 13 * 64 + 2 * 64 + 532 * 64
    assert (found["series"], found["model"]["name"], found["model"]["shape"]["layers"]) == ("tiny", "84,160", 1)
    code, out, _ = rigbench(*words, "--model", "GPT-2", "--verbose")
    assert code == 0
    assert "generating with gpt2 (124.4M parameters), a cache of 1,024 tokens" in " ".join(out.split())


REFUSED = {
    "--on rtx-9999": "no rig or GPU profile 'rtx-9999' for --on",
    "--on 2xrtx-408": "did you mean 2xrtx-4080",
    "--on rtx-3090 --device cpu": "--on and --device exclude each other",
    "--on rtx-3090 --strategy ddp": "--strategy ddp needs several cards, and rtx-3090 is one",
    "--on rtx-3090 --params 12_apples": "unit that I do not know",
    "--on rtx-3090 --params 1e30": "more than a trillion parameters",
    "--on rtx-3090 --seq 3": "--seq '3' is not a whole number from 8",
    "--on rtx-3090 --series none": "no series 'none'",
    "--on rtx-3090 --model gpt3": "no published model has that name; did you mean gpt2",
    "--on rtx-3090 --model gpt2 --params 5M": "--model and --params exclude each other",
    "--on rtx-3090 --model none.toml": "--model none.toml: cannot read it (no such file or directory)",
    "--on rtx-3090 --heads 5": "--heads 5 does not divide the width of",
    "--on rtx-3090 --layers many": "--layers 'many' is not a whole number from 1 to 1,000",
    "--on rtx-3090 --optimizer sgd": "'sgd' is not one of them; use adamw, adamw-foreach, adamw8bit,",
    "--on rtx-3090 --precision fp8": "'fp8' is not one of them; use auto, bf16",
    "--on rtx-3090 --context 4096": "--context is the length of an inference's cache; add --inference",
    "--on rtx-3090 --inference --context 0": "--context '0' is not a whole number from 1",
    "--on rtx-3090 --inference --context 1e3": "--context '1e3' is not a whole number from 1",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_gets_one_line_and_exit_code_2(rigbench, typed):
    code, out, err = rigbench("capacity", *(word.replace("_", " ") for word in typed.split()))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert REFUSED[typed] in err


@pytest.mark.parametrize(
    ("other", "refused"),
    [("--device", "--on and --device exclude each other"), ("--replay", "--on and --replay exclude each other")],
)
def test_on_stands_alone(rigbench, other, refused):
    code, _, err = rigbench("--on", "rtx-3090", other, "cpu", "capacity")
    assert code == 2
    assert refused in err
    with pytest.raises(fitting.RigbenchError, match=f"--on and {other} exclude each other"):
        Common("capacity", {"on": "rtx-3090", other.removeprefix("--"): "cpu"})


@pytest.fixture(scope="module")
def predictor():
    return memory.Predictor(traces.Traces(None))


def card(usable_bytes):
    like = cards.of_profile(profiles.gpu("rtx-3060"), "card")
    return msgspec.structs.replace(like, usable=Figure(float(usable_bytes), "declared", "a test"))


@settings(max_examples=8, deadline=None)
@given(st.integers(380 << 20, 2 * GIB), st.integers(0, GIB // 4), st.sampled_from([0, 1]))
def test_more_memory_never_fits_less_of_a_model(predictor, usable, more, every):
    its = SMALL, recipe(checkpoint_every=every)
    for question in (predictor.largest_micro_batch, predictor.longest_sequence):
        small, large = (question(*its, card(size)) for size in (usable, usable + more))
        assert (0 if isinstance(small, Absent) else small.value) <= (0 if isinstance(large, Absent) else large.value)


def test_the_largest_micro_batch_fits_and_one_more_does_not(predictor):
    target = card(3 * GIB)
    for every in (0, 1):
        its = SMALL, recipe(checkpoint_every=every)
        largest = predictor.largest_micro_batch(*its, target)
        fits, not_any_more = (
            predictor.predict(SMALL, msgspec.structs.replace(its[1], micro_batch=size), target)
            for size in (largest.value, largest.value + 1)
        )
        assert fits == largest.prediction
        assert fits.fits
        assert not not_any_more.fits
        assert 0 < not_any_more.short_bytes == largest.next_short_bytes
        assert fits.reserved_bytes <= fits.room_bytes < not_any_more.reserved_bytes


def test_two_wishes_for_one_card_are_the_series_own_and_a_quarter_apart():
    found = fitting.sizes(series("diy"))
    totals = [model.total_parameters for model in found]
    assert {model.name for model in found} >= {"5M", "15M", "30M", "60M", "120M"}
    assert all(a < b for a, b in itertools.pairwise(totals))
    assert max(b / a for a, b in itertools.pairwise(totals[5:])) < 1.4
    assert totals[-1] > 9e10


@pytest.mark.parametrize(
    ("card_id", "precision"),
    [("rtx-3090", "bf16"), ("t4", "fp16"), ("v100-pcie-32gb", "fp16"), ("gtx-1080-ti", "fp32")],
)
def test_the_precision_is_the_best_that_the_card_has(card_id, precision):
    assert fitting.arm_precision("auto", cards.of_profile(profiles.gpu(card_id), card_id)) == precision


def test_a_chip_that_computes_in_the_cpus_memory_has_what_the_system_leaves():
    """A DGX Spark's nvidia-smi and torch report 121.7 GiB of its 128."""
    shared = cards.of_profile(profiles.gpu("gb10"), "gb10")
    assert shared.usable.value == pytest.approx(121.7 * GIB)


def gpu(**facts):
    names = dict.fromkeys((field for field in Gpu.__struct_fields__), Absent("not read"))
    return Gpu(**{**names, "index": 0, "name": "NVIDIA GeForce RTX 3090", **facts})


def test_a_live_card_gives_what_its_other_processes_leave():
    known = {"memory_total_bytes": 24 * GIB, "profile": "rtx-3090"}
    idle, busy = gpu(**known, memory_used_bytes=GIB // 4), gpu(**known, memory_used_bytes=4 * GIB, index=1)
    assert cards.of_gpus((idle, idle)).count == 2
    assert cards.of_gpus((idle,)).usable.value == 23.5 * GIB
    less = "the driver's total less what is in use now"
    assert cards.of_gpus((busy,)).usable == Figure(20.0 * GIB, "measured", less)
    which = f"{less}, on GPU1 (NVIDIA GeForce RTX 3090), which has the least"
    assert cards.of_gpus((idle, busy)).usable == Figure(20.0 * GIB, "measured", which)
    unknown = cards.of_gpus((gpu(memory_total_bytes=24 * GIB),))
    assert isinstance(unknown.gpu, Absent)
    assert unknown.context.low < unknown.context.value < unknown.context.high
    with pytest.raises(ValueError, match="not read"):
        cards.of_gpus((gpu(),))


def test_unlike_cards_have_the_smallest_ones_memory_and_the_slowest_ones_arithmetic():
    """A 2080 Ti of 11 GiB beside a 3080 of 10 GiB: fp16, as the older one has no bf16."""
    old = gpu(name="NVIDIA GeForce RTX 2080 Ti", memory_total_bytes=11 * GIB, profile="rtx-2080-ti")
    small = gpu(name="NVIDIA GeForce RTX 3080", memory_total_bytes=10 * GIB, profile="rtx-3080", index=1)
    both = cards.of_gpus((old, small))
    assert both.memory_bytes == 10 * GIB
    assert "on GPU1 (NVIDIA GeForce RTX 3080), which has the least" in both.usable.basis
    assert fitting.arm_precision("auto", both) == "fp16"
    assert both.context == cards.of_gpus((small,)).context


def test_a_host_that_does_not_tell_its_memory_is_not_guessed():
    silent = Memory(*(Absent("not reported") for _ in range(6)))
    with pytest.raises(ValueError, match="does not report"):
        cards.of_host(silent)


def test_quantized_weights_shrink_only_the_blocks_matrices():
    table, matrix = ("tokens.weight", (5000, 256)), ("blocks.0.mlp.up.weight", (1024, 256))
    sizes = {
        name: [inference.weight_bytes(name, *one) for one in (table, matrix)] for name in ("bf16", "8-bit", "4-bit")
    }
    assert sizes == {
        "bf16": [2 * 5000 * 256, 2 * 1024 * 256],
        "8-bit": [2 * 5000 * 256, 1024 * 256 + 4 * 1024],
        "4-bit": [2 * 5000 * 256, 1024 * 256 // 2 + 4 * 1024 * 256 // 64 + 64],
    }


def test_a_cpu_holds_more_than_is_live_as_measured_slices_did(predictor):
    target = cards.of_host(Memory(16 * GIB, 12 * GIB, 0, 0, 0, 12 * GIB))
    prediction = predictor.predict(SMALL, recipe(precision="fp32"), target)
    live = prediction.allocated_bytes
    assert isinstance(prediction.reserved_bytes, Absent)
    assert (prediction.process.value, prediction.process.low, prediction.process.high) == tuple(
        pytest.approx(share * live + process * 2**20, abs=1)
        for share, process in zip((1.7, 1.0, 2.0), (400, 300, 600), strict=True)
    )
    assert memory.HOST_HELD == (1.0, 1.7, 2.0)


# By hand: logits are 12 bytes x 5,000 x 12 x 256 tokens, AdamW's states 8 bytes x 4,504,832 and a step per tensor, and
# the context 220 + 2.1 x 28 MiB.
SCREEN = """\
what fits on rtx-3060, predicted: 12 GiB, 11.7 GiB usable (between the published totals of 8 and 16
GB cards), less 279 MiB for CUDA context
  small (4.5M parameters), sequence 256, bf16 autocast, eager, single
 optimizer  checkpointing  loss         micro-batch of small  its longest sequence  largest of diy
 adamw      off            plain                          12                  none            4.5M
 adamw8bit  on             in 8 chunks          does not fit                  none            none

  the peak at micro-batch 12 with adamw, bf16:
  CUDA context                       279 MiB   38 %  ███████████████
  logits                             176 MiB   24 %  █████████
  activations                        113 MiB   15 %  ██████
  rounding and cached blocks          98 MiB   13 %  █████
  optimizer states                  34.4 MiB  4.6 %  ██
  weights, and their 16-bit copies  25.6 MiB  3.5 %  █
  workspace of kernels              17.2 MiB  2.3 %  █
  allocated 369 MiB, reserved 464 MiB, CUDA context 279 MiB, process 740 MiB (670 to 810); what runs
out first: reserved and context, on the device
  one more lacks 5 MiB
  longest sequence and largest model: at micro-batch 1
  the model's code on fake tensors, a replica of torch's allocator; eager, ±6 % assumed, as such
peaks were read on one card alone, within 2 %
  it would fit elsewhere"""


def test_the_screen_shows_the_table_and_what_fills_the_memory(predictor, capsys):
    target = cards.of_profile(profiles.gpu("rtx-3060"), "rtx-3060")
    prediction = predictor.predict(SMALL, recipe(micro_batch=12), target)
    largest = Largest(12, prediction, 5 << 20)
    rows = (
        CapacityRow(
            recipe=recipe(),
            micro_batch=largest,
            sequence=Absent("-"),
            model=Largest(4_500_000, prediction, Absent("-")),
        ),
        CapacityRow(
            recipe=recipe(optimizer="adamw8bit", checkpoint_every=1, loss_chunks=8),
            micro_batch=Absent("-"),
            sequence=Absent("-"),
            model=Absent("-"),
        ),
    )
    result = Capacity(
        method=1,
        started_at="2026-01-01T00:00:00Z",
        seconds=1.0,
        target=target,
        series="diy",
        model=SMALL,
        rows=rows,
        would_fit=("it would fit elsewhere",),
    )
    render.show(result, Console(width=100))
    shown = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert shown == SCREEN
