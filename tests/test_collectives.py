"""Are collectives timed, checked and fitted as they really were, every fault a result, and bad options refused?"""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import msgspec
import psutil
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from rigbench.collectives import command, verdict
from rigbench.collectives import operations as collective_ops
from rigbench.collectives.probe import BUFFERS
from rigbench.collectives.record import Collectives, HostLink, OddHost, Options, RankHost, RankPlace
from rigbench.collectives.rows import Together, rounds_of_pairs
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Tally
from rigbench.machine.cuda_map import Cards
from rigbench.work import ranks
from rigbench.work.process import Report

TESTS = Path(__file__).parent
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "all_to_all", "send_recv")


@pytest.fixture(autouse=True)
def nothing_of_torchrun(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)  # for broken_collectives
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def collectives(rigbench, *more: str) -> tuple[int, dict, str]:
    code, out, err = rigbench("collectives", "--device", "cpu", "--json", *more)
    return code, json.loads(out).get("collectives", {}), err


def stored(tmp_path: Path) -> dict:
    (file,) = (tmp_path / "home" / "runs").glob("*.json")
    return json.loads(file.read_text())


def test_two_ranks_make_all_seven_operations_and_every_raw_time_of_every_rank_is_kept(rigbench, tmp_path):
    code, found, err = collectives(rigbench, "--sizes", "8,4KiB,64KiB,1MiB", "--seconds", "4s")
    assert (code, err) == (0, "")
    assert stored(tmp_path)["collectives"] == found
    assert (found["verdict"], found["backend"], found["world_size"]) == ("fine", "gloo", 2)
    assert [place["device"]["kind"] for place in found["ranks"]] == ["cpu", "cpu"]
    assert [place["ways"]["counts"] for place in found["ranks"]] == [{"lo 127.0.0.1 to 127.0.0.1": 1}] * 2
    assert tuple(one["operation"] for one in found["operations"]) == OPERATIONS
    # nccl-tests, doc/PERFORMANCE.md, for two ranks
    assert [one["bus_factor"] for one in found["operations"]] == [1.0, 0.5, 0.5, 1.0, 1.0, 0.5, 1.0]
    for one in found["operations"]:
        assert [row["size_bytes"] for row in one["sizes"]] == [8, 4096, 65536, 1048576]
        for row in one["sizes"]:
            first, second = row["rank_seconds"]
            slowest = [max(pair) for pair in zip(first, second, strict=True)]
            timing = row["timing"]
            assert slowest == [*timing["warmup_seconds"], *timing["seconds"]]
            rate = row["size_bytes"] / median(timing["seconds"])
            assert row["algorithm_bytes_per_s"]["value"] == pytest.approx(rate)
            assert row["bus_bytes_per_s"]["value"] == pytest.approx(rate * one["bus_factor"])
            assert row["check"] == {
                "type": "rankcheck",
                "checked": 4,
                "wrong": 0,
                "wrong_values": 0,
                "wrong_ranks": [],
            }


def test_one_wrong_value_on_one_rank_is_a_fault(rigbench, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "PROBE", "broken_collectives")
    monkeypatch.setenv("BROKEN", "wrong data")
    code, found, err = collectives(rigbench, "--ops", "broadcast", "--sizes", "8,4KiB,64KiB", "--seconds", "1s")
    assert code == 1
    assert err == "rigbench: fault: collectives: broadcast of 4 KiB brought 2 wrong values to rank 1\n"
    assert (found["verdict"], stored(tmp_path)["collectives"]["verdict"]) == ("wrong values", "wrong values")
    checks = [row["check"] for row in found["operations"][0]["sizes"]]
    assert [(it["wrong"], it["wrong_values"], it["wrong_ranks"]) for it in checks] == [
        (0, 0, []),
        (2, 2, [1]),
        (0, 0, []),
    ]


def test_a_peer_that_dies_in_mid_collective_is_named_and_what_was_measured_is_kept(rigbench, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "PROBE", "broken_collectives")
    monkeypatch.setenv("BROKEN", "dies")
    code, found, err = collectives(rigbench, "--ops", "all_reduce,broadcast", "--sizes", "8,64KiB", "--seconds", "6s")
    assert code == 1
    assert err.startswith("rigbench: fault: collectives: rank 1: its process was killed")
    assert (found["verdict"], found["dead_ranks"], found["ended_by"]) == ("died", [1], "worker died")
    assert [row["size_bytes"] for row in found["operations"][0]["sizes"]] == [8, 65536]
    assert stored(tmp_path)["collectives"] == found


def test_a_rank_without_memory_for_a_size_ends_that_operation_and_leaves_nobody_waiting(rigbench, monkeypatch):
    monkeypatch.setattr(command, "PROBE", "broken_collectives")
    monkeypatch.setenv("BROKEN", "no memory")
    code, found, err = collectives(rigbench, "--sizes", "8,4KiB", "--seconds", "3s", "--limit", "60s")
    assert (code, err, found["verdict"]) == (0, "", "fine")
    for one in found["operations"]:
        assert [row["size_bytes"] for row in one["sizes"]] == [8]
        assert one["not_run"] == "another rank refused it, or had no memory for its buffers"


class OnTwoCards:
    """The first of two ranks, on a card that writes down what it is handed; the other's host is always late."""

    device, torch_device, late = SimpleNamespace(kind="cuda"), "cpu", ()

    def __init__(self) -> None:
        self.said = []

    def timed(self, work, repeats, prepare, align):
        for index in range(repeats):
            prepare(index)
            align()
            work(index)
        self.late = (False,) * repeats
        return [0.001] * repeats

    def gathered(self, received, sent):
        for rank, into in enumerate(received):
            into.copy_(sent)
            count = (len(sent) - 2) // 2  # a time and a flag for each repeat, then the clock and the wish to stop
            into[count : 2 * count] = float(rank)


def test_on_cards_ranks_align_in_the_stream_and_a_late_host_of_any_rank_counts(monkeypatch):
    card = OnTwoCards()
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "all_gather", card.gathered)
    monkeypatch.setattr(dist, "all_reduce", lambda buffer, group: card.said.append((buffer.numel(), group)))
    together = Together(card, Report(io.BytesIO()), "of nccl", 0.01)
    made = collective_ops.Operation("all_reduce", 4096, *together.place)
    prepare = made.prepare
    monkeypatch.setattr(made, "prepare", lambda: (card.said.append("prepare"), prepare()))
    monkeypatch.setattr(made, "wrong_values", lambda _: 0)
    times = together.measure(made, 0.05, 0)
    repeats = len(times.timing.warmup_seconds) + len(times.timing.seconds)
    assert card.said == [*["prepare", (1, "of nccl"), (1024, "of nccl")] * repeats, (1024, "of nccl")]
    assert times.timing.late == len(times.timing.seconds) > 0


class Alive(TorchDispatchMode):
    """The bytes of all tensors that were made here and are still alive, and the most there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen = set()

    def __torch_dispatch__(self, function, types, words=(), named=None):
        result = function(*words, **(named or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is None or storage._cdata in self.seen:
                continue
            self.seen.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return result

    def gone(self, name, size) -> None:
        self.seen.discard(name)
        self.now -= size


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_check_of_many_ranks_takes_no_more_memory_than_sizes_are_cut_for(name):
    size = 8 << 20
    with Alive() as alive:
        made = collective_ops.Operation(name, size, 3, 8, "cpu", None)
        made.load(0)
        made.wrong_values(0)
    assert 2 * size <= alive.most <= (BUFFERS - 1) * size


def test_ranks_of_one_machine_are_reached_from_no_other(rigbench):
    """Whatever the host's name stands for: all that the processes listen on is loopback, as the system lists it."""
    listening, done = set(), threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    listening.update(it.laddr.ip for it in process.net_connections() if it.status == psutil.CONN_LISTEN)

    thread = threading.Thread(target=look)
    thread.start()
    code, found, err = collectives(rigbench, "--sizes", "8", "--seconds", "1s")
    done.set()
    thread.join()
    assert (code, found["verdict"], err) == (0, "fine", "")
    assert listening == {"127.0.0.1"}


def test_nothing_that_came_over_a_socket_is_unpickled():
    unpickles = re.compile(r"\b(import c?pickle|(all_gather|broadcast|gather|scatter|send|recv)_object)")
    sources = (TESTS.parent / "rigbench").rglob("*.py")
    assert [path for path in sources if unpickles.search(path.read_text())] == []


def test_a_rank_that_never_arrives_is_a_verdict_and_named(rigbench, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "PROBE", "broken_collectives")
    monkeypatch.setenv("BROKEN", "never comes")
    monkeypatch.setattr(ranks, "ARRIVE_SECONDS", 2.0)
    code, found, err = collectives(rigbench)
    assert code == 1
    assert err == "rigbench: fault: collectives: rank 1 did not arrive within 2 s\n"
    assert (found["verdict"], found["dead_ranks"], found["operations"]) == ("hung", [1], [])
    assert stored(tmp_path)["collectives"] == found


def test_a_port_in_use_is_one_clear_line(rigbench, monkeypatch, tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        words = f"rigbench: port {port}, where the ranks are to meet, is in use by another process; "
        monkeypatch.setenv("MASTER_PORT", str(port))
        code, out, err = rigbench("collectives", "--device", "cpu", "--quiet")
        assert (code, out) == (2, "")
        assert err.startswith(words)
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")):
            monkeypatch.setenv(name, value)
        code, out, err = rigbench("collectives", "--device", "cpu", "--quiet")
    assert (code, out) == (2, "")
    assert err.startswith(words)


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    words = ["collectives", "--device", "cpu", "--home", str(tmp_path / "home"), "--seconds", "60s"]
    process = subprocess.Popen([sys.executable, "-m", "rigbench", *words], stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "home" / "runs"
    time.sleep(6.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    if list(runs.glob("*.json")):  # on a very slow machine it was not yet loaded
        found = stored(tmp_path)["collectives"]
        assert (found["verdict"], found["ended_by"]) == ("interrupted", "interrupted")


@pytest.mark.slow
def test_of_four_ranks_every_pair_is_timed_alone_and_beside_the_others(rigbench):
    code, found, _ = collectives(
        rigbench, "--ranks", "4", "--ops", "broadcast", "--max-bytes", "64KiB", "--seconds", "12s"
    )
    assert code == 0
    flows = [[tuple(flow) for flow in times["flows"]] for times in found["pairs"]]
    assert flows == [[(a, b), (b, a)] for a in range(4) for b in range(a + 1, 4)]
    assert [len(times["flows"]) for times in found["pairs_at_once"]] == [4, 4, 4]
    for times in found["pairs"]:
        (a, b), _ = times["flows"]
        after = len(times["timing"]["warmup_seconds"])
        slower = [max(pair) for pair in zip(times["rank_seconds"][a], times["rank_seconds"][b], strict=True)][after:]
        assert times["bytes_per_s"][0]["value"] == pytest.approx(times["size_bytes"] / median(slower))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--ops all_gather,gossip", "--ops knows no 'gossip'; use all, or some of all_reduce, all_gather"),
        ("--ops ,", "--ops ',' names none; use all"),
        ("--sizes 8,2B", "--sizes '2B' is not between 4 B and 64 GiB"),
        ("--sizes ,", "--sizes ',' names 0 sizes"),
        ("--sizes big", "--sizes 'big' is not a number"),
        ("--max-bytes 1TiB", "--max-bytes '1TiB' is not between 4 B and 64 GiB"),
        ("--sizes 8 --max-bytes 1MiB", "--sizes and --max-bytes exclude each other"),
        ("--seconds 0", "--seconds '0' is zero"),
        ("--seconds 2h", "--seconds '2h' is not between 1 s and 1 h"),
        ("--limit 1s", "--limit '1s' is not between 5 s and 24 h"),
        ("--ranks 0", "--ranks '0' is not a whole number from 1 to 64"),
        ("--ranks 1.5", "--ranks '1.5' is not a whole number from 1 to 64"),
        ("--ranks 1000", "--ranks '1000' is not a whole number from 1 to 64"),
        ("--device cuda:1", "--device 'cuda:1' is not for a group of ranks; use cpu, or cuda for all GPUs"),
    ],
)
def test_bad_words_are_refused_in_one_line_before_anything_is_busy(rigbench, words, said):
    code, out, err = rigbench("collectives", *words.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"rigbench: {said}")
    assert err.count("\n") == 1


def test_a_rank_beside_the_one_that_reports_refuses_bad_words_in_silence(rigbench, monkeypatch):
    world = ranks.World(1, 2, 0, "127.0.0.1", 29500)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    assert rigbench("collectives", "--ops", "gossip") == (2, "", "")
    monkeypatch.setenv("RANK", "0")
    code, _, err = rigbench("collectives", "--ranks", "2")
    assert (code, err.split(";")[0]) == (2, "rigbench: --ranks is not for a process that torchrun started")


def test_bus_factors_are_those_of_nccl_tests():
    factors = {name: collective_ops.bus_factor(name, 8) for name in OPERATIONS}
    assert factors == {
        "all_reduce": 2 * 7 / 8,
        "all_gather": 7 / 8,
        "reduce_scatter": 7 / 8,
        "all_to_all": 7 / 8,
        "broadcast": 1.0,
        "reduce": 1.0,
        "send_recv": 1.0,
    }


def test_sizes_go_from_8_bytes_to_the_largest_and_can_be_shared_by_all_ranks():
    assert collective_ops.sizes(8, 1 << 30, 2) == (*(8 * 4**step for step in range(14)), 1 << 30)
    assert collective_ops.sizes(8, 1 << 10, 3) == (12, 36, 132, 516, 1032)
    assert collective_ops.sizes(8, 8, 2) == (8,)


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_every_two_ranks_meet_once_in_rounds_of_disjoint_pairs(count):
    rounds = rounds_of_pairs(count)
    assert all(len({rank for pair in it for rank in pair}) == 2 * len(it) for it in rounds)
    met = sorted(pair for it in rounds for pair in it)
    assert met == [(a, b) for a in range(count) for b in range(a + 1, count)]
    assert len(rounds) == (count - 1 if count % 2 == 0 else count)


@pytest.mark.parametrize("count", [2, 16, 17, 1024])
def test_the_sum_over_many_ranks_is_exact(count):
    import torch

    parts = [collective_ops.values(64, sender, 1, count, "cpu") for sender in range(count)]
    assert torch.equal(sum(parts), sum(part.double() for part in parts).float())
    assert len({tuple(part.tolist()) for part in parts}) == count


def rate(megabytes_per_s: float, half: float = 0.02) -> Estimate:
    value = megabytes_per_s * 1e6
    return Estimate(value, value * (1 - half), value * (1 + half), 0.9, "test", 9)


def links(rates: dict[tuple[int, int], float], half: float = 0.02) -> list[HostLink]:
    return [HostLink(a, b, rate(it, half), rate(1.0)) for (a, b), it in rates.items()]


def everywhere(count: int, megabytes_per_s: float = 110.0) -> dict[tuple[int, int], float]:
    return {(a, b): megabytes_per_s + a - b for a in range(count) for b in range(count) if a != b}


def test_healthy_hosts_are_not_odd_and_the_slowest_link_is_named():
    found = links(everywhere(4) | {(2, 1): 90.0})
    assert verdict.odd_hosts(found) == ()
    slowest = verdict.slowest(found)
    assert (slowest.source, slowest.destination) == (2, 1)
    assert isinstance(verdict.slowest([]), Absent)


@pytest.mark.parametrize(
    ("slow", "side"),
    [
        ({(2, it): 24.0 for it in (0, 1, 3)}, "sending"),
        ({(it, 2): 24.0 for it in (0, 1, 3)}, "receiving"),
        ({pair: 24.0 for it in (0, 1, 3) for pair in ((2, it), (it, 2))}, "both ways"),
    ],
)
def test_a_host_whose_every_link_is_slow_is_the_odd_one(slow, side):
    (odd,) = verdict.odd_hosts(links(everywhere(4) | slow))
    assert odd == OddHost(2, side, 24e6, odd.others_bytes_per_s)
    assert 105e6 < odd.others_bytes_per_s < 115e6


def test_one_slow_link_two_hosts_and_uncertain_rates_blame_nobody():
    assert verdict.odd_hosts(links(everywhere(3) | {(0, 1): 10.0, (1, 0): 10.0})) == ()
    assert verdict.odd_hosts(links({(0, 1): 110.0, (1, 0): 24.0})) == ()
    assert verdict.odd_hosts(links(everywhere(3) | {(2, 0): 70.0, (2, 1): 70.0}, half=0.3)) == ()
    part = {pair: it for pair, it in everywhere(4).items() if 3 not in pair} | {(3, 0): 5.0, (0, 3): 5.0}
    assert verdict.odd_hosts(links(part)) == ()


def test_the_peer_that_gloo_lost_is_named_by_its_rank_and_host():
    """gloo's own words, of a rank that was killed on another host."""
    words = (
        "its process ended with code 1: RuntimeError: [/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] "
        "Read error [10.77.0.2]:6823: Connection reset by peer. This is typically caused by a remote worker hanging"
    )
    found = Collectives(
        world_size=2,
        reason=words,
        hosts=(RankHost("anna", "0123", (0,)), RankHost("bert", "4567", (1,))),
        ranks=tuple(place(rank, f"eth0 10.77.0.{1 + rank} to 10.77.0.{2 - rank}") for rank in range(2)),
    )
    lost, said = verdict.lost(found)
    assert lost == (1,)
    assert said == f"rank 1 on bert was lost: {words.partition('. This')[0]}"
    assert verdict.lost(msgspec.structs.replace(found, reason="ZeroDivisionError: one over none")) == ((), "")


def place(rank: int, way: str) -> RankPlace:
    cpu = Device(kind="cpu", name="CPU", uuid=Absent("none"), threads=1, memory_total_bytes=1 << 34)
    return RankPlace(rank=rank, host=rank, device=cpu, ways=Tally({way: 1}))


@pytest.mark.parametrize(
    ("master", "towards", "chosen"),
    [
        ("10.0.0.1", {"10.0.0.1": "eth1"}, {"GLOO_SOCKET_IFNAME": "eth1"}),
        ("node0", {"node0": "lo", ranks.ELSEWHERE: "eth0"}, {"GLOO_SOCKET_IFNAME": "eth0"}),
        ("127.0.0.1", {"127.0.0.1": "lo"}, {"GLOO_SOCKET_IFNAME": "lo"}),
        ("nowhere", {}, {}),
    ],
)
def test_gloo_is_told_the_interface_that_leads_to_the_others(monkeypatch, master, towards, chosen):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(ranks.placement, "interface_towards", lambda address, _: towards.get(address, Absent("no way")))
    assert ranks.interface(ranks.World(0, 2, 0, master, 29500)) == chosen
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert ranks.interface(ranks.World(0, 2, 0, master, 29500)) == {}


def test_the_way_to_this_machine_is_its_loopback():
    assert ranks.placement.interface_towards("127.0.0.1", 29500) == "lo"
    assert isinstance(ranks.placement.interface_towards("no.such.host.invalid", 29500), Absent)


def test_gpus_are_not_shared_by_ranks_unless_it_is_asked_for():
    class Job:
        def cards(self, device):
            return Cards((Absent("a GPU"),) * 2)

    with pytest.raises(RigbenchError, match="--ranks 3: there are 2 GPUs; use --ranks 2 or --device cpu"):
        command.run(Job(), Options(ranks=3), None)


def test_a_single_gpu_is_no_group_and_says_what_can_be_measured():
    kept = {}

    class Job:
        def cards(self, device):
            return Cards((Absent("a GPU"),))

        def keep(self, **rooms):
            kept.update(rooms)

    skipped = command.run(Job(), Options(), None)
    assert kept == {"collectives": skipped}
    assert skipped.reason.startswith("one GPU: a collective needs two; --device cpu measures two ranks on the CPU")
