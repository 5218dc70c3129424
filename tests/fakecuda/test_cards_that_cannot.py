"""Does what one card or one host cannot do leave the others their answer, and is it said?"""

import json
import subprocess

from fake_rig import SLICE

from rigbench.bandwidth.record import Bandwidth
from rigbench.collectives.record import Collectives
from rigbench.matmul.record import Matmul
from rigbench.work.ranks import free_port

COPIES = ("bandwidth", "--seconds", "4s", "--largest", "1MiB")
OLD_AND_NEW = {"FAKECUDA_CAPABILITY": "6.1,8.9"}  # Pascal, for which no CUDA 13 build has kernels, and Ada
NO_KERNELS = "has compute capability 6.1, for which torch"


def test_links_between_hosts_are_timed_though_not_all_ranks_take_part(make_rig):
    """The first call of all is then between two of three ranks, for which the third would never come."""
    rig = make_rig("epyc7502-4x4090")
    words = (
        "collectives",
        "--sizes",
        "8",
        "--ops",
        "all_reduce",
        "--seconds",
        "3s",
        "--limit",
        "100s",
        "--json",
    )
    meeting = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = ("0", "0", "1")
    ranks = [
        subprocess.Popen(
            rig.command(*words),
            env=rig.variables | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": node},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, node in enumerate(nodes)
    ]
    out, *_ = [rank.communicate(timeout=200)[0] for rank in ranks]
    found = json.loads(out)["collectives"]
    assert (found["verdict"], found["reason"], found["backend"]) == ("fine", "", "nccl")
    assert found["links"][0]["flows"] == [[0, 2]]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]


def test_a_card_without_kernels_is_left_out_of_bandwidth_and_said(rig):
    done = rig.run(*COPIES, **OLD_AND_NEW).ended(0)
    found = done.run.bandwidth
    assert isinstance(found, Bandwidth)
    assert [part.name for part in found.parts] == ["GPU1"]
    assert NO_KERNELS in found.peers.reason
    assert "install a CUDA 12.6 build of torch" in done.err + done.out
    assert "CUDA_VISIBLE_DEVICES=1" in done.err + done.out


def test_matmul_takes_the_first_card_that_torch_has_kernels_for(rig):
    words = ("--params", "5M", "--micro-batch", "1", "--dtypes", "fp32", "--seconds", "4s", "--hot-seconds", "1s")
    found = rig.run("matmul", *words, **OLD_AND_NEW).ended(0).run.matmul
    assert isinstance(found, Matmul)
    assert str(found.device.uuid).endswith("1")


def test_a_group_of_ranks_is_refused_in_a_line_that_says_how_to_leave_the_card_out(rig):
    for command in ("p2p", "collectives"):
        done = rig.run(command, **OLD_AND_NEW).ended(3)
        assert NO_KERNELS in done.err
        assert "leave the card out with CUDA_VISIBLE_DEVICES=1" in done.err


def test_a_torch_without_nccl_refuses_ranks_on_gpus_before_any_dies(rig):
    for words in (("p2p",), ("collectives",), (*SLICE, "--strategy", "ddp")):
        done = rig.run(*words, FAKECUDA_NCCL="none").ended(3)
        assert "was built without NCCL" in done.err
        assert "--strategy single" in done.err


def test_a_whole_run_on_cards_that_torch_cannot_use_ends_before_it_measures(rig):
    for more, why in (
        ({"FAKECUDA": "0"}, "torch sees none of 2 NVIDIA GPUs: torch 2.13.0+cpu is a CPU build"),
        ({"FAKECUDA_CAPABILITY": "6.1"}, NO_KERNELS),
    ):
        done = rig.run("run", "--quick", **more).ended(3)
        (line,) = [line for line in done.err.splitlines() if line.startswith("rigbench: ")]
        assert why in line
        assert "--device cpu" in line
        assert not list(rig.home.glob("runs/*.json"))


def test_copies_to_the_second_card_open_no_context_on_the_first(rig):
    rig.run(*COPIES, "--device", "cuda:1").ended(0)
    assert [line for line in rig.hazards() if "one more context\ton cuda:0" in line] == []


def test_a_host_that_is_always_late_is_said(rig):
    done = rig.run(*COPIES, "--verbose", "--device", "cuda:1", FAKECUDA_LATE="1").ended(0)
    (part,) = done.run.bandwidth.parts
    pinned = [row.timing for row in part.transfers if row.host_memory == "pinned"]
    assert pinned
    assert all(timing.late == len(timing.seconds) for timing in pinned)
    assert "the host handed copies over too late" in done.out


def test_a_host_in_time_is_not_blamed(rig):
    done = rig.run("collectives", "--sizes", "8,1KiB", "--ops", "all_reduce", "--seconds", "4s").ended(0)
    assert isinstance(done.run.collectives, Collectives)
    assert [row.timing.late for one in done.run.collectives.operations for row in one.sizes] == [0, 0]
