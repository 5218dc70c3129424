"""Does every command mean the same cards by CUDA_VISIBLE_DEVICES and --device as torch does?"""

import pytest
from fake_rig import SLICE

from rigbench.core.record import Absent
from rigbench.train.record import Slice

SMALL = [
    "--params",
    "5M",
    "--layers",
    "1",
    "--width",
    "32",
    "--vocab",
    "256",
    "--seq",
    "16",
    "--micro-batch",
    "1",
    "--seconds",
    "1s",
]
FIRST, SECOND = (f"GPU-00000000-0000-0000-0000-00000000000{index}" for index in range(2))


@pytest.mark.parametrize(
    ("visible", "device"),
    [
        ("1", SECOND),
        ("1,0", SECOND),
        (SECOND, SECOND),
        (f"{SECOND},{FIRST}", SECOND),
        ("0,7", FIRST),
    ],
)
def test_the_first_visible_card_is_the_one_that_trains(rig, visible, device):
    done = rig.run(*SLICE, "--strategy", "single", CUDA_VISIBLE_DEVICES=visible).ended(0)
    (found,) = done.run.slices
    assert isinstance(found, Slice)
    assert found.device.uuid == device


@pytest.mark.parametrize("visible", ["", "-1", "7", "GPU-00000000", "MIG-0000", "cards", "0,0"])
def test_where_none_is_visible_a_card_asked_for_is_refused_in_a_line(rig, visible):
    done = rig.run(*SLICE, "--strategy", "single", "--device", "cuda", CUDA_VISIBLE_DEVICES=visible)
    done.ended(3)
    assert "CUDA_VISIBLE_DEVICES" in done.err


def test_where_none_is_visible_all_runs_on_the_cpu(rig):
    done = rig.run(*SLICE, "--strategy", "single", CUDA_VISIBLE_DEVICES="").ended(0)
    assert done.run.slices[0].device.kind == "cpu"


def test_a_part_of_a_uuid_is_enough_where_it_is_one_cards_alone(rig):
    rig.edited((r"GPU-00000000(-0000-0000-0000-000000000001)", r"GPU-1f2e3d4c\1"))
    done = rig.run(*SLICE, "--strategy", "single", CUDA_VISIBLE_DEVICES="GPU-1f2e").ended(0)
    assert str(done.run.slices[0].device.uuid).startswith("GPU-1f2e3d4c")


def test_one_visible_card_is_no_pair_and_no_group(rig):
    one = {"CUDA_VISIBLE_DEVICES": "1"}
    assert rig.run("p2p", **one).ended(0).run.p2p.verdict == "not applicable"
    found = rig.run("collectives", "--sizes", "8", "--seconds", "3s", "--ops", "all_reduce", **one)
    assert found.code in (0, 3)
    refused = rig.run(*SLICE, "--strategy", "data-parallel", **one).ended(3)
    assert "data-parallel" in refused.err.lower() or "DataParallel" in refused.err


def test_every_command_takes_a_card_by_its_number(rig):
    on = ["--device", "cuda:1"]
    assert rig.run("matmul", "--dtypes", "fp32", "--seconds", "3s", *on).ended(0).run.matmul.device.uuid == SECOND
    loader = rig.run("dataloader", "--workers", "0", "--seconds", "1s", *on).ended(0).run.dataloader
    assert not isinstance(loader, Absent)
    heated = rig.run("thermals", "--minutes", "0.1", *on).ended(0).run.thermals
    assert [card.name for card in heated.cards] == ["GPU1"]
    copied = rig.run("bandwidth", "-v", "--seconds", "4s", "--largest", "1MiB", *on).ended(0)
    assert "GPU1" in copied.out
    assert "GPU0" not in copied.out.split("GPU1 and the host")[1]


def test_a_card_that_is_not_there_is_refused_with_what_there_is(rig):
    for command in ("matmul", "dataloader", "thermals", "bandwidth", "train-probe"):
        done = rig.run(command, "--device", "cuda:9")
        assert done.code in (2, 3), (command, done.out, done.err)
        assert "2" in done.err, (command, done.err)
        assert "CUDA build" not in done.err, (command, done.err)
