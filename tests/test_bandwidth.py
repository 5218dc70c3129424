"""Are copies timed, counted and read back; is a wrong one caught; and does each part measure what it says?"""

import io
import itertools
import os
import subprocess
import sys
import threading
from functools import partial

import msgspec
import pytest
import torch
from cards_on_cpu import FREE_BYTES, CardsOnCpu
from fake_bandwidth import device
from hypothesis import given
from hypothesis import strategies as st

from rigbench.bandwidth import probe as bandwidth
from rigbench.bandwidth.record import BandwidthPart
from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.machine import cuda_cards, placement
from rigbench.machine.sysfs import RecordedSysfs, Sysfs, parse_cpu_list
from rigbench.work import copies
from rigbench.work.process import Report

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(autouse=True)
def small_arrays(monkeypatch):
    monkeypatch.setattr(bandwidth, "LEAST_BYTES", MIB)
    monkeypatch.setattr(bandwidth, "TIMES_THE_CACHE", 0)
    monkeypatch.setattr(bandwidth, "SHORTEST_ROW_SECONDS", 0.02)


def report() -> Report:
    return Report(io.BytesIO())


def on_cpu() -> BandwidthPart:
    return bandwidth.run(bandwidth.Options(device="cpu", seconds=3.0, largest_bytes=MIB), report())


@pytest.fixture(scope="module")
def cpu_part() -> BandwidthPart:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandwidth, "LEAST_BYTES", MIB)
        patch.setattr(bandwidth, "TIMES_THE_CACHE", 0)
        return on_cpu()


@pytest.fixture
def two_cards(monkeypatch):
    """The probe sees two CUDA cards, which are host memory."""
    fakes = CardsOnCpu()
    monkeypatch.setattr(bandwidth, "CudaCards", lambda *_: fakes)
    monkeypatch.setattr(bandwidth, "cuda_devices", lambda: (device(0), device(1)))
    monkeypatch.setattr(bandwidth, "choose_device", lambda wanted: "cuda:0" if wanted == "auto" else wanted)
    return fakes


def on_cards(**changes) -> BandwidthPart:
    return bandwidth.run(bandwidth.Options(seconds=2.0, largest_bytes=MIB, **changes), report())


def value(index: int, seed: int) -> int:
    """The pattern as its definition reads, in Python's own whole numbers."""
    word = ((index + 1) * 0x9E3779B97F4A7C15 + (seed + 1) * 0x94D049BB133111EB) % (1 << 64)
    signed = word - (1 << 64) if word >= 1 << 63 else word
    return signed ^ (signed >> 29)


def test_the_pattern_depends_on_index_and_seed_and_is_the_same_in_pieces(monkeypatch):
    monkeypatch.setitem(copies.CHUNK_VALUES, "cpu", 7)
    filled = copies.fill(torch.empty(100, dtype=torch.int64), 5)
    assert filled.tolist() == [value(index, 5) for index in range(100)]
    other = copies.fill(torch.empty(100, dtype=torch.int64), 6)
    assert len({*filled.tolist(), *other.tolist()}) == 200


def test_a_triads_values_are_exact_in_single_precision():
    b, c = (copies.fill(torch.empty(1000), seed) for seed in (2, 3))
    expected = copies.fill_triad(torch.empty(1000), 2, 3)
    assert torch.equal(b.double() + 3 * c.double(), expected.double())
    assert expected.abs().max() < 2**24


def test_the_cpu_part_measures_one_thread_and_all_then_the_curve(cpu_part):
    result = cpu_part
    threads = torch.get_num_threads()
    memory = [(row.operation, row.threads) for row in result.transfers if not row.warm]
    assert memory == [(name, count) for name in ("copy", "triad") for count in sorted({1, threads})]
    curve = [row.size_bytes for row in result.transfers if row.warm]
    assert curve == [4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB]
    assert (result.name, result.ended, result.devices[0].kind) == ("CPU", "finished", "cpu")
    assert torch.get_num_threads() == threads
    assert msgspec.json.decode(msgspec.json.encode(result), type=BandwidthPart) == result


def test_rates_count_bytes_as_stream_does(cpu_part):
    """Two bytes a byte for a copy, three for a triad, over the median of the samples that are kept."""
    for row in cpu_part.transfers:
        seconds = sorted(row.timing.seconds)
        middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
        assert row.bytes_per_s.value == pytest.approx(row.counted_bytes / middle)
        assert row.bytes_per_s.low <= row.bytes_per_s.value <= row.bytes_per_s.high
        if not row.warm:
            assert row.counted_bytes == {"copy": 2, "triad": 3}[row.operation] * row.size_bytes


def test_every_sample_is_read_back_warm_up_too(cpu_part):
    for row in cpu_part.transfers:
        assert row.check.correct
        assert row.check.checked == len(row.timing.seconds) + len(row.timing.warmup_seconds)


@pytest.mark.parametrize("size_bytes", [*bandwidth.CURVE_BYTES[:6], 3 * MIB])
def test_many_passes_in_one_call_copy_every_value_and_count_what_they_copy(size_bytes):
    destination, source, expected = bandwidth._buffers("copy", size_bytes)
    there, here, copied = bandwidth.passes(destination, source)
    assert copied == there.numel() * 8
    assert (copied > 7 * size_bytes) == (size_bytes <= 512 * KIB)
    there.copy_(here)
    assert torch.equal(destination, expected)


def flip_one(destination, source):
    destination.copy_(source)
    destination[len(destination) // 2] ^= 1


def lose_the_end(destination, source):
    destination[:-1].copy_(source[:-1])


def shift(destination, source):
    destination[1:].copy_(source[:-1])


def do_nothing(destination, source):
    """What an earlier copy left must not pass."""


def go_wrong_once_in_ten(destination, source, calls=[0]):  # noqa: B006, the default is the counter
    destination.copy_(source)
    calls[0] += 1
    if calls[0] % 10 == 0:
        destination[0] += 1


SPOILERS = [flip_one, lose_the_end, shift, do_nothing, go_wrong_once_in_ten]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_copy_that_arrives_wrong_is_caught_between_cards(two_cards, spoil):
    two_cards.spoil = spoil
    result = on_cards(part="peers")
    wrong = [row.check for row in result.transfers if not row.check.correct]
    assert wrong
    if spoil is not go_wrong_once_in_ten:
        assert len(wrong) == len(result.transfers)
        assert all(check.wrong == check.checked for check in wrong)
    assert all(check.wrong_values >= check.wrong and isinstance(check.first_wrong_byte, int) for check in wrong)


@pytest.mark.parametrize("spoil", [lose_the_end, do_nothing])
def test_a_copy_that_arrives_wrong_is_caught_in_host_memory(monkeypatch, spoil):
    monkeypatch.setattr(bandwidth, "waited_for", spoil)
    wrong = [row for row in on_cpu().transfers if not row.check.correct]
    assert {row.operation for row in wrong} == {"copy"}
    assert len(wrong) >= 6


def test_a_triad_that_computes_wrongly_is_caught(monkeypatch):
    real = torch.add

    def broken(b, c, *, alpha=1, out):
        real(b, c, alpha=alpha, out=out)
        if alpha != 1:
            out[-1] += 1

    monkeypatch.setattr(torch, "add", broken)
    wrong = {row.operation: row.check for row in on_cpu().transfers if not row.check.correct}
    assert list(wrong) == ["triad"]
    assert wrong["triad"].first_wrong_byte == MIB - 4


def test_the_first_wrong_byte_and_the_number_of_wrong_values_are_told():
    found = copies.Verdict()
    expected = copies.fill(torch.empty(100, dtype=torch.int64), 1)
    destination = expected.clone()
    destination[[17, 60]] = 0
    for _ in range(3):
        found.check(copies.Move(lambda: None, destination, expected))
    record = found.record()
    assert (record.checked, record.wrong, record.wrong_values, record.first_wrong_byte) == (3, 3, 6, 17 * 8)


def test_a_gpu_part_has_every_way_size_and_kind_of_memory(two_cards):
    result = on_cards()
    assert (result.name, result.ended, len(result.devices)) == ("cuda:0", "finished", 2)
    links = {
        (row.host_memory, row.source, row.both_ways) for row in result.transfers if isinstance(row.host_memory, str)
    }
    assert links == {
        (memory, *way)
        for memory in ("pinned", "pageable")
        for way in (("host", False), ("cuda:0", False), ("host", True))
    }
    pinned = [row.size_bytes for row in result.transfers if row.host_memory == "pinned" and row.source == "cuda:0"]
    assert pinned == [64, 4 * KIB, 64 * KIB, MIB]
    for row in result.transfers:
        assert row.check.correct
        assert row.clock == ("host" if row.host_memory == "pageable" else "device")
        if row.source != row.destination:
            assert row.counted_bytes == row.size_bytes * (2 if row.both_ways else 1)
    inside = [
        (row.operation, row.counted_bytes // row.size_bytes)
        for row in result.transfers
        if row.source == row.destination
    ]
    assert inside == [("copy", 2), ("triad", 3)]


@pytest.mark.parametrize("access", [True, False])
def test_peers_go_there_back_and_both_ways(two_cards, access):
    result = on_cards(part="peers", peer_access=access)
    assert result.name == f"peers, access {'on' if access else 'off'}"
    large = [
        (row.source, row.destination, row.both_ways, row.peer_access)
        for row in result.transfers
        if row.size_bytes == MIB
    ]
    assert large == [
        ("cuda:0", "cuda:1", False, access),
        ("cuda:1", "cuda:0", False, access),
        ("cuda:0", "cuda:1", True, access),
    ]
    assert all(row.check.correct for row in result.transfers)


def test_a_pair_that_the_driver_refuses_is_named_and_only_measured_without_access(two_cards):
    two_cards.refused = ((1, 0),)
    result = on_cards(part="peers")
    assert result.transfers == ()
    assert result.not_run == ("cuda:0 and cuda:1: the driver does not allow them peer access",)
    assert on_cards(part="peers", peer_access=False).transfers


def test_peer_copies_of_one_card_are_refused(two_cards, monkeypatch):
    monkeypatch.setattr(bandwidth, "cuda_devices", lambda: (device(0),))
    with pytest.raises(RigbenchError, match="a peer copy needs two"):
        on_cards(part="peers")


def test_copies_stay_within_an_eighth_of_the_free_memory_and_say_so(two_cards):
    size, notes = copies.largest(two_cards, 512 * MIB, Absent("not read"), [0, 1])
    assert size == FREE_BYTES // 8
    assert notes == ["copies above 8 MiB, an eighth of the free memory of cuda:0"]
    assert copies.largest(two_cards, MIB, 1 << 40, [0]) == (MIB, [])
    assert copies.largest(two_cards, 512 * MIB, 16 * MIB, [0])[0] == 2 * MIB


def test_buffers_that_find_no_memory_leave_out_their_rows_alone(two_cards, monkeypatch):
    def none_left(index, values, pinned):
        raise RuntimeError("CUDA error: out of memory\nsome advice")

    monkeypatch.setattr(two_cards, "host_memory", none_left)
    result = on_cards()
    assert [row.operation for row in result.transfers] == ["copy", "triad"]
    assert result.not_run == ("cuda:0 pinned: no memory for its buffers", "cuda:0 pageable: no memory for its buffers")


def test_a_card_that_breaks_is_not_taken_for_one_without_memory(two_cards, monkeypatch):
    def broken(index, values, pinned):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(two_cards, "host_memory", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        on_cards()


def test_a_row_whose_check_finds_no_memory_is_left_out_alone(two_cards, monkeypatch):
    full = two_cards.clock([0])

    def clock(indices):
        def time_one(lanes):
            if lanes[0].work.__qualname__.startswith("inside."):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
            return full(lanes)

        time_one.name, time_one.late = "device", True
        return time_one

    monkeypatch.setattr(two_cards, "clock", clock)
    result = on_cards()
    assert result.ended == "finished"
    assert {row.host_memory for row in result.transfers} == {"pinned", "pageable"}
    assert result.not_run == tuple(f"{what} in cuda:0: no memory for its check" for what in ("copy", "triad"))
    late = {row.host_memory: row.timing.late == len(row.timing.seconds) for row in result.transfers}
    assert late == {"pinned": True, "pageable": False}  # the wall clock cannot be late


def test_pairs_with_a_card_that_torch_has_no_kernels_for_are_left_out(two_cards, monkeypatch):
    monkeypatch.setattr(bandwidth, "cuda_devices", lambda: (device(0), device(1), device(1)))
    monkeypatch.setattr(bandwidth, "no_kernels", lambda index: "cuda:1 is too old" if index == 1 else "")
    result = on_cards(part="peers")
    assert {row.source for row in result.transfers} == {"cuda:0", "cuda:2"}
    assert "cuda:1 is too old" in result.not_run
    monkeypatch.setattr(bandwidth, "cuda_devices", lambda: (device(0), device(1)))
    with pytest.raises(RigbenchError, match="a peer copy needs two GPUs; cuda:1 is too old"):
        on_cards(part="peers")


class Handed:
    """A stream of a card, and what is handed over to both."""

    def __init__(self, name, said) -> None:
        self.name, self.said = name, said

    def __enter__(self):
        self.said.append(f"on {self.name}")

    def __exit__(self, *_):
        self.said.append("off")

    def wait_event(self, event):
        self.said.append(f"{self.name} waits for {event}")

    def wait_stream(self, other):
        self.said.append(f"{self.name} waits for {other.name}")


def test_copies_at_once_are_all_handed_over_behind_a_hold_and_a_late_host_is_seen(monkeypatch):
    said, passed, count = [], [True], itertools.count()

    class Event:
        def __init__(self, enable_timing):
            self.name = ("start", "end")[next(count) % 2]

        def __str__(self):
            return self.name

        def record(self, stream):
            said.append(f"{stream.name} {self}")

        def query(self):
            said.append(f"{self} passed?")
            return passed[0]

        def elapsed_time(self, end):
            return 3.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda index: said.append(f"wait for cuda:{index}"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: said.append("hold"))
    clock = cuda_cards.DeviceClock([0, 1])
    lanes = [cuda_cards.Lane(lambda: said.append("copy"), Handed(name, said)) for name in ("a", "b")]
    assert clock(lanes) == 0.003
    waits = ["wait for cuda:0", "wait for cuda:1"]
    held = ["on a", "hold", "a start", "off", "b waits for start"]
    copied = ["on a", "copy", "off", "on b", "copy", "off", "a waits for b"]
    assert said == [*waits, *held, *copied, "start passed?", "a end", *waits]
    assert clock.late
    passed[0] = False
    clock(lanes)
    assert not clock.late


def test_threads_that_copy_to_a_card_open_no_context_on_another(monkeypatch):
    places = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: places.append((threading.get_ident(), index)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda index: None)
    meet, at = threading.Barrier(2), []

    def work():
        at.append(threading.get_ident())
        meet.wait(10)

    cuda_cards.HostClock(3)([cuda_cards.Lane(work), cuda_cards.Lane(work)])
    assert sorted(places) == sorted((thread, 3) for thread in at)
    cuda_cards.CudaCards(2)
    assert places[-1] == (threading.get_ident(), 2)


def test_told_to_stop_it_hands_over_the_rows_it_has():
    asked = report()
    progress = asked.progress

    def stop_at_the_curve(share, text):
        progress(share, text)
        if text.startswith("curve"):
            asked._stop.set()

    asked.progress = stop_at_the_curve
    result = bandwidth.run(bandwidth.Options(device="cpu", seconds=3.0, largest_bytes=MIB), asked)
    assert result.ended == "interrupted"
    assert [row.warm for row in result.transfers].count(False) == len(result.transfers) > 0


def two_nodes(**files: str) -> RecordedSysfs:
    nodes = "sys/devices/system/node"
    given = {
        f"{nodes}/node0/cpulist": "0-7",
        f"{nodes}/node1/cpulist": "8-15",
        "proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-11\n",
    }
    return RecordedSysfs(given | files, {})


def test_every_numa_node_is_a_place_with_its_share_of_the_threads():
    found = [(place.name, place.cpus, place.threads) for place in bandwidth.places(two_nodes(), 6)]
    assert found[:2] == [("node 0", "0-7", 4), ("node 1", "8-15", 2)]
    assert (found[2][0], found[2][2]) == ("all nodes", 6)


def test_a_node_that_this_process_may_not_use_is_no_place():
    sysfs = two_nodes(**{"proc/self/status": "Cpus_allowed_list:\t0-7\n"})
    assert [place.name for place in bandwidth.places(sysfs, 6)] == ["node 0"]


def test_too_little_memory_for_arrays_beyond_the_cache_is_said(monkeypatch):
    monkeypatch.setattr(bandwidth, "LEAST_BYTES", 128 * MIB)
    sysfs = two_nodes(**{"proc/meminfo": "MemAvailable:  262144 kB\n"})
    groups, notes = bandwidth.plan_host(sysfs, 2, 64 * MIB)
    assert notes[0] == "arrays are 32 MiB for want of memory, not the 128 MiB that rule a cache out"
    assert notes[1] == "the curve ends before 64 MiB for want of memory"
    assert [group.label for group in groups][:3] == ["copy in node 0", "triad in node 0", "copy in node 1"]


def test_too_little_time_for_arrays_beyond_the_cache_is_said(monkeypatch):
    monkeypatch.setattr(bandwidth, "LEAST_BYTES", 128 * MIB)
    _, notes = bandwidth.plan_host(two_nodes(), 2, 64 * MIB, made_bytes=600 * MIB)
    assert notes == ["arrays are 20 MiB for want of time, not the 128 MiB that rule a cache out"]


class Script:
    """Groups whose buffers and rows take as long as their bytes do, on a clock that nothing else moves."""

    def __init__(self, monkeypatch, make_bytes_per_s: float, row_bytes_per_s: float) -> None:
        self.now, self.make_rate, self.row_rate = 100.0, make_bytes_per_s, row_bytes_per_s
        monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: self.now)

    def group(self, label: str, size: int, rows: int) -> copies.Group:
        def make() -> str:
            self.now += 3 * size / self.make_rate
            return label

        def row(number: int, buffers: str, budget: copies.Budget) -> str:
            sample = size / self.row_rate  # as sample_until_tight: one that warms up and one more, then to the limit
            self.now += max(2 * sample, budget.limit_seconds // sample * sample)
            return f"{buffers} {number}"

        each = [(f"{label} {number}", partial(row, number)) for number in range(rows)]
        return copies.Group(label, Absent("anywhere"), make, each, 3 * size)


@pytest.mark.parametrize("seconds", [1.0, 4.0, 10.0, 60.0])
@pytest.mark.parametrize(("make", "copy"), [(1e9, 2e10), (2e8, 1e9), (1e10, 1e11)])
def test_the_time_bounds_buffers_and_rows_but_for_one_of_each(monkeypatch, seconds, make, copy):
    monkeypatch.setattr(bandwidth, "SHORTEST_ROW_SECONDS", 0.15)
    script = Script(monkeypatch, make, copy)
    sizes = (256 * MIB, 256 * MIB, 64 * MIB, MIB, 512 * MIB)
    groups = [script.group(f"group {index}", size, 8) for index, size in enumerate(sizes)]
    monkeypatch.setattr(bandwidth, "_plan", lambda *_: ("CPU", (), groups, []))
    part = bandwidth.run(bandwidth.Options(seconds=seconds), report())
    one = 3 * max(sizes) / make + max(0.15, 2 * max(sizes) / copy)
    assert script.now - 100.0 <= seconds + one
    left_out = 40 - len(part.transfers)
    said = [line for line in part.not_run if line.endswith(": ran out of time")]
    assert bool(left_out) == bool(said)
    assert sum(int(line.split()[0]) if line[0].isdigit() else 8 for line in said) == left_out
    assert part.transfers[0] == "group 0 0"  # however short the time
    if seconds == 60.0 and make >= 1e9:
        assert left_out == 0


@given(st.frozensets(st.integers(0, 300)))
def test_a_cpu_list_reads_back_as_it_was_written(cpus):
    assert parse_cpu_list(placement.cpu_list(cpus)) == cpus


def test_a_process_stays_near_with_all_its_threads_and_comes_back():
    """In a process of its own, so that no other test's threads are moved."""
    code = (
        "import os, threading; from rigbench.machine import placement; from rigbench.machine.sysfs import Sysfs\n"
        "halt = threading.Event(); other = threading.Thread(target=halt.wait); other.start()\n"
        "where = lambda: [sorted(os.sched_getaffinity(int(t))) for t in os.listdir('/proc/self/task')]\n"
        "before = where(); cpu = before[0][-1]\n"
        "with placement.near(Sysfs(), f'{cpu},9999') as near:\n"
        "    assert (near, where()) == (str(cpu), [[cpu], [cpu]]), (near, where())\n"
        "assert where() == before\n"
        "with placement.near(Sysfs(), '9998-9999') as near:\n"
        "    assert near.reason == 'this process may use none of the CPUs 9998-9999'\n"
        "    assert where() == before\n"
        "halt.set()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_cpus_that_are_not_known_move_nothing():
    before = os.sched_getaffinity(0)
    with placement.near(Sysfs(), Absent("not known")) as near:
        assert near == Absent("not known")
        assert os.sched_getaffinity(0) == before
