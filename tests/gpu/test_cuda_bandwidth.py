"""Do copies over a real card's links arrive, are they timed right, and do they reach what the link should give?

Needs a CUDA device:  pytest tests/gpu -m gpu
"""

import io

import msgspec
import pytest
import torch
from real_card import only_real

from rigbench import store
from rigbench.bandwidth import command, verdict
from rigbench.bandwidth import probe as bandwidth
from rigbench.bandwidth.record import Options, PartOptions
from rigbench.core.progress import Silent
from rigbench.core.record import Absent
from rigbench.job import Job
from rigbench.machine.cuda_cards import CudaCards, Lane, PlainPeerCopies, enqueued
from rigbench.machine.rig import Rig
from rigbench.work import copies
from rigbench.work.copies import Budget
from rigbench.work.process import Report

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MIB = 1 << 20
BUDGET = Budget(limit_seconds=0.5, target_half_width=0.01, should_stop=lambda: False)


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """(result, faults) of the whole command on this machine."""
    job = Job(store.Store(tmp_path_factory.mktemp("home")), Rig.live(), "bandwidth", Silent())
    return command.run(job, Options(seconds=40.0)), job.faults


def test_every_copy_arrives(answer):
    result, faults = answer
    assert faults == []
    assert all(part.ended == "finished" for part in result.parts)
    checks = [row.check for part in result.parts for row in part.transfers]
    assert len(checks) >= 40
    assert all(check.correct for check in checks)


@only_real
def test_the_links_generation_is_read_awake(answer):
    result, _ = answer
    for gpu in result.gpus:
        assert gpu.link_generation_awake == gpu.link_generation_max


@only_real
def test_host_links_and_memory_are_within_their_bands(answer):
    """Also in a virtual machine, whose link readings the command itself does not trust."""
    result, _ = answer
    judged = verdict.judged(msgspec.structs.replace(result, virtual_machine=Absent("trusted for this test")))
    told = [item for item in judged if isinstance(item.judgement.share, float)]
    assert len(told) >= 2
    assert {item.way: item.judgement.verdict for item in told} == {item.way: "fine" for item in told}


def test_peer_copies_are_measured_or_do_not_apply(answer):
    result, _ = answer
    if torch.cuda.device_count() == 1:
        assert result.peers == Absent("one GPU: a peer copy needs two")
    else:
        assert {row.peer_access for part in result.parts for row in part.transfers} >= {False}


@only_real
def test_the_devices_clock_agrees_with_the_hosts_on_a_large_copy():
    cards = CudaCards()
    lane = copies.host_buffers(cards, 0, True, 512 * MIB)["there"]
    move = lane.move(enqueued, 512 * MIB)
    lanes = [Lane(move.work, move.stream)]
    clocks = cards.clock([0]), cards.host_clock(0)
    by_device, by_host = (sorted(clock(lanes) for _ in range(9))[4] for clock in clocks)
    assert by_device == pytest.approx(by_host, rel=0.1)


def flip_one(destination, source):
    enqueued(destination, source)
    destination[1234] ^= 1  # on the same stream, after the copy


def send_another_order(destination, source):
    enqueued(destination, source.roll(1))


@pytest.mark.parametrize(
    ("way", "spoil"), [("there", flip_one), ("there", send_another_order), ("back", send_another_order)]
)
def test_what_arrives_wrong_is_found_where_it_arrives(way, spoil):
    cards = CudaCards()
    lanes = copies.host_buffers(cards, 0, True, 4 * MIB)
    facts = {"host_memory": "pinned", "peer_access": Absent("no two GPUs take part")}
    link = copies.Link("host", "cuda:0", spoil, cards.clock([0]), facts)
    row = link.row(way, 4 * MIB, lanes, BUDGET)
    assert row.check.wrong == row.check.checked > 0


def test_the_drivers_own_peer_copy_moves_bytes():
    """With one card it copies from the card to itself, which shows that the call is made right."""
    last = torch.cuda.device_count() - 1
    copier = PlainPeerCopies(last + 1)
    source = copies.fill(torch.empty(MIB, dtype=torch.int64, device="cuda:0"), 1)
    expected = copies.fill(torch.empty(MIB, dtype=torch.int64, device=f"cuda:{last}"), 1)
    destination = torch.zeros(MIB, dtype=torch.int64, device=f"cuda:{last}")
    for index in range(last + 1):
        torch.cuda.synchronize(index)
    copier.copy(destination, source)
    torch.cuda.synchronize(0)
    assert torch.equal(destination, expected)


def test_a_cuda_part_runs_in_this_process_too():
    result = bandwidth.run(PartOptions(device="cuda:0", seconds=5.0, largest_bytes=64 * MIB), Report(io.BytesIO()))
    assert (result.name, result.ended) == ("cuda:0", "finished")
    assert {row.clock for row in result.transfers} == {"device", "host"}
