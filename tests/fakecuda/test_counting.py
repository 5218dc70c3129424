"""Is the memory of a slice its own: what was predicted for it, and nothing of rigbench's or of other processes'?"""

import pytest
from fake_rig import SLICE

from rigbench.predict.record import VramPrediction
from rigbench.train.record import Arms, Slice

CONTEXT_BYTES = 420 << 20  # of a process on a card, as the shim counts it
# That the prediction has for cuBLAS, in two threads, and for cuBLASLt's products with a bias; the shim has none.
WORKSPACE_BYTES = 2 * 8519680 + (1 << 20)
LARGE_L2_MIB = "64"  # a buffer that flushes it would be 128 MiB


def test_what_was_predicted_is_what_the_allocator_took_whatever_the_cache(rig):
    crossed = ("--strategy", "single", "--cross", "loss,accumulation")
    arms = rig.run(*SLICE, *crossed, FAKECUDA_L2_MIB=LARGE_L2_MIB).ended(0).run
    assert isinstance(arms.arms, Arms)
    assert len(arms.arms.rows) == 4
    for row in arms.arms.rows:
        assert isinstance(row.memory, VramPrediction), row
        assert isinstance(row.slice, int)
        taken = arms.slices[row.slice].memory
        predicted = row.memory.allocated_bytes - WORKSPACE_BYTES
        assert taken.allocated_bytes == pytest.approx(predicted, rel=0.05), row.label


def test_a_slices_context_is_its_own_and_not_the_desktops(rig):
    (found,) = rig.run(*SLICE, "--strategy", "single").ended(0).run.slices
    assert isinstance(found, Slice)
    assert found.memory.context_bytes == pytest.approx(CONTEXT_BYTES, abs=2 << 20)


def test_no_rank_makes_a_context_on_anothers_card(rig):
    rig.run(*SLICE, "--strategy", "ddp").ended(0)
    assert not [line for line in rig.hazards() if line.startswith("one more context")]
