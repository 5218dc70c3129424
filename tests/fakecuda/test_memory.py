"""Is out of memory said in one line, with the right exit code, wherever it happens?"""

import pytest

from rigbench.core.record import Absent
from rigbench.train.record import Slice

CONTEXT_MIB = 420  # of a process on a card
# Weights of 121 MiB, as much again of gradients, twice that of moments.
TRAIN = ["--params", "30M", "--seq", "64", "--seconds", "1s"]


@pytest.mark.parametrize(
    ("room_mib", "where"),
    [
        (60, "building the model"),
        (260, "forward|backward"),
        (420, "optimizer|backward"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_where_it_ended(rig, room_mib, where):
    rig.memory(*[CONTEXT_MIB + room_mib] * 2)
    words = ["--strategy", "single", "--micro-batch", "1", "--optimizer", "adamw"]
    done = rig.run("train-probe", *TRAIN, *words).ended(3)
    said = done.err.splitlines()[-1]
    assert "does not fit this device's memory" in said, done.err
    assert any(f"out of memory in {place}" in said or place in said for place in where.split("|")), said
    assert "try a smaller --micro-batch" in said


def test_a_default_micro_batch_that_does_not_fit_is_halved_and_said(rig):
    rig.memory(*[CONTEXT_MIB + 720] * 2)
    done = rig.run("train-probe", "--params", "30M", "--seq", "64", "--seconds", "1s", "--strategy", "single").ended(0)
    (found,) = done.run.slices
    assert isinstance(found, Slice)
    assert found.recipe.micro_batch < 8
    assert any(event.startswith("out of memory at micro-batch 8; went on with 4") for event in found.events)


def test_ranks_that_do_not_fit_say_which_and_end(rig):
    rig.memory(*[CONTEXT_MIB + 260] * 2)
    done = rig.run("train-probe", *TRAIN, "--strategy", "ddp", "--micro-batch", "1").ended(3)
    assert "does not fit rank" in done.err


def test_the_search_for_a_micro_batch_ends_where_memory_does(rig):
    rig.memory(*[CONTEXT_MIB + 1600] * 2)
    words = ["--params", "5M", "--seq", "128", "--seconds", "1s", "--micro-batch", "auto", "--strategy", "single"]
    search = rig.run("train-probe", *words).ended(0).run.arms.micro_batch
    assert not isinstance(search, Absent)
    assert not isinstance(search.largest_predicted, Absent)
    assert search.chosen <= max(one.micro_batch for one in search.tries)


def test_matmul_measures_what_fits(rig):
    rig.memory(*[CONTEXT_MIB + 128] * 2)  # 16 of them for what flushes the cache, as much again for operands in turn
    done = rig.run("matmul", "-v", "--params", "5M", "--micro-batch", "8", "--dtypes", "fp32", "--seconds", "4s").ended(
        0
    )
    assert done.run.matmul.ceilings
    assert "more than a quarter of the free memory" in " ".join(done.out.split())


def test_collectives_leave_out_the_sizes_that_do_not_fit(rig):
    rig.memory(*[CONTEXT_MIB + 40] * 2)  # 16 of them for what flushes the cache
    done = rig.run("collectives", "--sizes", "8,1MiB,16MiB", "--seconds", "20s", "--ops", "all_reduce").ended(0)
    (found,) = done.run.collectives.operations
    assert [size.size_bytes for size in found.sizes] == [8, 1 << 20]
    assert "memory" in done.out


def test_p2p_without_room_for_its_buffers_is_inconclusive_and_no_fault(rig):
    rig.memory(*[CONTEXT_MIB + 20] * 2)
    done = rig.run("p2p", "--times", "1", "--limit", "90s").ended(3)
    assert done.run.p2p.verdict == "inconclusive"
    assert "memory" in done.out


def test_bandwidth_takes_smaller_buffers(rig):
    rig.memory(*[CONTEXT_MIB + 40] * 2)
    done = rig.run("bandwidth", "--seconds", "4s", "--largest", "64MiB").ended(0)
    parts = done.run.bandwidth.parts
    assert {part.ended for part in parts} == {"finished"}
    assert 0 < max(row.size_bytes for part in parts for row in part.transfers) < 64 << 20


@pytest.mark.parametrize(("room_mib", "code"), [(16, 3), (160, 0)])
def test_the_heat_test_takes_a_load_that_fits_or_says_that_none_does(rig, room_mib, code):
    rig.memory(*[CONTEXT_MIB + room_mib] * 2)
    done = rig.run("thermals", "--minutes", "0.1").ended(code)
    assert ("fits the free memory" in done.err) == (code == 3)
