"""Rigs that are not two equal, healthy cards in one host."""

import json
import subprocess
import sys

import network as namespaces
import pytest
from fake_rig import SLICE

from rigbench.core.record import Absent
from rigbench.train.record import Slice

SMALL = [
    "--params",
    "5M",
    "--layers",
    "2",
    "--width",
    "64",
    "--vocab",
    "512",
    "--seq",
    "32",
    "--micro-batch",
    "2",
    "--seconds",
    "1s",
]
LIMIT_SECONDS = 400.0  # of ranks on two hosts
FAST = 10e9 / 8  # bytes/s that a cable lets out
P2P_ALLOWED = (r"(nvmlDeviceGetP2PStatus/\d/[0134]) = 0 1", r"\1 = 0 0")
MIXED = (
    (r"^1 nvmlDeviceGetName = .*", '1 nvmlDeviceGetName = 0 "NVIDIA GeForce RTX 2080 Ti"'),
    (r"^0 nvmlDeviceGetName = .*", '0 nvmlDeviceGetName = 0 "NVIDIA GeForce RTX 4090"'),
    (r"\Z", "1 nvmlDeviceGetCudaComputeCapability = 0 7 5\n1 nvmlDeviceGetArchitecture = 0 6\n"),
)


@pytest.fixture
def mixed(rig):
    """An RTX 4090 beside an RTX 2080 Ti."""
    rig.edited(*MIXED)
    rig.memory(24564, 11264)
    rig.variables["FAKECUDA_CAPABILITY"] = "8.9,7.5"
    return rig


def test_unlike_cards_train_in_what_both_can_do(mixed):
    (found,) = mixed.run(*SLICE, "--strategy", "ddp").ended(0).run.slices
    assert isinstance(found, Slice)
    assert found.recipe.precision == "fp32"  # the 2080 Ti multiplies no bf16


def test_unlike_cards_each_multiply_what_they_can(mixed):
    words = ["--params", "5M", "--micro-batch", "1", "--dtypes", "bf16,fp32", "--seconds", "12s", "--hot-seconds", "1s"]
    found = mixed.run("matmul", *words).ended(0).run.matmul
    assert [ceiling.dtype for ceiling in found.ceilings] == ["bf16", "fp32"]
    assert not [one for one in found.ceilings if isinstance(one, Absent)]


def test_each_of_unlike_cards_is_measured_against_its_own_datasheet(mixed, golden):
    mixed.run("topology").ended(0)
    golden("mixed-topology", mixed.screen())


def test_p2p_that_loses_writes_is_a_fault_and_the_way_around_it_is_named(rig, golden):
    rig.edited(P2P_ALLOWED)
    done = rig.run("p2p", "-v", "--times", "2", "--limit", "5min", FAKECUDA_P2P="loses").ended(1)
    assert done.run.p2p.verdict == "broken"
    assert done.run.p2p.advice.environment == {"NCCL_P2P_DISABLE": "1"}
    assert "nothing arrived" in done.out
    golden("p2p-loses", rig.screen())


def test_p2p_that_hangs_is_ended_and_a_fault(rig):
    rig.edited(P2P_ALLOWED)
    done = rig.run("p2p", "--times", "1", "--limit", "60s", FAKECUDA_P2P="hangs").ended(1)
    assert done.run.p2p.verdict == "broken"
    assert "hung" in done.out


def test_p2p_that_works_is_measured_on_and_off(rig):
    rig.edited(P2P_ALLOWED)
    done = rig.run("p2p", "--times", "1", "--limit", "5min").ended(0)
    assert done.run.p2p.verdict == "works"


def test_a_card_lost_midway_ends_the_slice_with_what_happened(rig, tmp_path):
    sign = tmp_path / "lost"
    rig.variables |= {"FAKECUDA_LOST": f"1 400 {sign}", "FAKE_NVML_LOST": f"1 {sign}"}
    done = rig.run(*SLICE, "--strategy", "ddp").ended(1)
    assert "rank 1" in done.err
    assert "CUDA error: unspecified launch failure" in done.err
    after = rig.run("topology")
    assert after.code in (0, 1)
    assert "GPU is lost" in after.out or "lost" in after.out


@pytest.fixture
def hosts(built):
    namespaces.skip_without_namespaces()
    with namespaces.made() as network:
        for name in ("anna", "bert"):
            network.add_host(name, FAST)
        yield network


def over_two_hosts(rig, network, *words: str) -> dict:
    """What rank 0 of two hosts with two cards each answers; the others say nothing."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    meeting = ["--master-addr", "10.77.0.1", "--master-port", "29402"]
    own = [*words, "--json", "--home", str(rig.home)]
    commands = [[*torchrun, "--node-rank", rank, *meeting, "-m", "rigbench", *own] for rank in "01"]
    done: list[subprocess.CompletedProcess] = network.run(commands, [rig.variables] * 2, LIMIT_SECONDS)
    said = "\n".join(it.stderr for it in done)
    assert [it.returncode for it in done] == [0, 0], said
    assert done[1].stdout == ""
    return json.loads(done[0].stdout)


def test_collectives_over_two_hosts_of_two_cards(rig, hosts):
    words = ["collectives", "--sizes", "8,1KiB,64KiB", "--seconds", "10s", "--limit", "5min"]
    found = over_two_hosts(rig, hosts, *words)["collectives"]
    assert [host["name"] for host in found["hosts"]] == ["anna", "bert"]
    assert (len(found["ranks"]), found["backend"], found["verdict"]) == (4, "nccl", "fine")
    assert {(it["source"], it["destination"]) for it in found["host_links"]} == {(0, 1), (1, 0)}
    assert all(size["check"]["wrong"] == 0 for one in found["operations"] for size in one["sizes"])


def test_ddp_over_two_hosts_of_two_cards(rig, hosts):
    (found,) = over_two_hosts(rig, hosts, *SLICE, "--strategy", "ddp")["slices"]
    assert (found["recipe"]["ranks"], found["device"]["kind"]) == (4, "cuda")
    assert found["exchange"]["hosts"] == ["anna", "anna", "bert", "bert"]
