"""Do all ways of training run on CUDA devices, and count every card that works?"""

import importlib.util

import pytest
from fake_rig import SLICE

from rigbench.train.record import Arms, Slice

ONE_CARD_WATTS, TWO_CARDS_WATTS = 25.9, 25.9 + 21.4  # as the recorded cards report
SEQUENCE, MICRO_BATCH = 32, 2
OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))

    def forward(self, images, labels):
        return nn.functional.cross_entropy(self.layers(images), labels)

def make():
    return Net(), lambda count: (torch.randn(count, 3, 8, 8), torch.randint(10, (count,)))
"""


def slice_of(done) -> Slice:
    (found,) = done.run.slices
    assert isinstance(found, Slice), found
    return found


@pytest.mark.parametrize(
    ("strategy", "ranks"), [("single", 1), ("ddp", 2), ("fsdp2", 2), ("fsdp2-offload", 2), ("data-parallel", 1)]
)
def test_a_strategy_trains_in_bf16_on_all_its_cards_and_bills_their_watts(rig, strategy, ranks):
    found = slice_of(rig.run(*SLICE, "--strategy", strategy).ended(0))
    assert (found.recipe.strategy, found.recipe.ranks, found.recipe.precision) == (strategy, ranks, "bf16")
    assert found.items_per_step == ranks * MICRO_BATCH * SEQUENCE
    watts = ONE_CARD_WATTS if strategy == "single" else TWO_CARDS_WATTS
    assert found.energy.watts == pytest.approx(watts, rel=0.02)
    assert all(isinstance(loss, float) for loss in found.steps.loss)
    assert found.memory.allocated_bytes < 64 << 20  # nothing but the slice: no buffer that flushes a cache


@pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="accelerate is not installed")
def test_accelerate_trains_on_both_cards(rig):
    found = slice_of(rig.run(*SLICE, "--strategy", "accelerate").ended(0))
    assert (found.recipe.strategy, found.recipe.ranks) == ("accelerate", 2)


def test_every_variant_is_a_row_and_those_without_a_library_say_so(rig, golden):
    done = rig.run(*SLICE, "--arms", "all", "--strategy", "single")
    arms = done.run.arms
    assert isinstance(arms, Arms)
    outcomes = {row.label: row.outcome for row in arms.rows}
    skipped = {row.label: row.reason for row in arms.rows if row.outcome == "skipped"}
    assert outcomes["adamw, bf16"] == "measured"
    assert {row.recipe.strategy for row in arms.rows if row.outcome == "measured"} >= {
        *("single", "ddp", "fsdp2", "fsdp2-offload", "data-parallel")
    }
    # bitsandbytes has no kernels for a device that is none: it is refused before it trains.
    assert set(skipped) <= {"adamw8bit", "paged-adamw8bit", "accelerate on 2"}
    done.ended(0)
    golden("arms", rig.screen())


def test_both_cards_train_together_by_themselves_and_one_alone_is_a_row(rig):
    done = rig.run(*SLICE, "--arms", "usual").ended(0)
    measured = [(row.label, row.recipe.ranks) for row in done.run.arms.rows if row.outcome == "measured"]
    assert measured == [("adamw, bf16, ddp on 2", 2), ("checkpointing", 2), ("single", 1)]
    found = done.run.slices[-1]  # the baseline once more
    assert found.energy.watts == pytest.approx(TWO_CARDS_WATTS, rel=0.02)
    assert found.exchange.alone_seconds.reason.startswith("not timed in a table of variants")


def test_a_program_of_ones_own_trains_on_a_card(rig):
    (rig.folder / "mynet.py").write_text(OWN)
    done = rig.run("train-probe", "--model", "mynet:make", "--seconds", "1s").ended(0)
    (found,) = done.run.slices
    assert (found.device.kind, found.unit) == ("cuda", "samples")


def test_fp16_and_tf32_train_too_and_a_card_without_bf16_gets_another_precision(rig):
    for precision in ("fp16", "tf32", "bf16-pure"):
        found = rig.run(*SLICE, "--arms", "one", "--precision", precision).ended(0).run.slices[0]
        assert found.recipe.precision == precision
    old = rig.run(*SLICE, "--arms", "one", FAKECUDA_CAPABILITY="7.5").ended(0).run.slices[0]
    assert (old.recipe.precision, old.precision_chosen_by) == (
        "fp32",
        "NVIDIA GeForce RTX 4080 SUPER does not multiply bf16",
    )


def test_the_second_card_trains_alone_and_the_first_gets_no_context(rig):
    found = slice_of(rig.run(*SLICE, "--strategy", "single", "--device", "cuda:1").ended(0))
    assert str(found.device.uuid).endswith("1")
    assert found.energy.watts == pytest.approx(21.4, rel=0.02)
    assert not [line for line in rig.hazards() if line.startswith("one more context")]
