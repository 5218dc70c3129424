"""Does the replica follow the rules of torch's CUDA allocator? By hand, and held to what must always be so."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigbench.core.record import Absent, Figure
from rigbench.predict.allocator import Allocator, OutOfMemory, live_at, replay
from rigbench.predict.loop import Script
from rigbench.predict.memory import Case, most
from rigbench.predict.record import Target

MIB = 1 << 20
NOTHING = Figure(0.0, "predicted", "none")
GPU = Target(
    name="card",
    kind="cuda",
    gpu=Absent("none"),
    count=1,
    memory_bytes=0,
    usable=NOTHING,
    context=NOTHING,
    communication=NOTHING,
    workspace_bytes=0,
)


# torch's rules (c10/core/AllocatorConfig.h): 512 B steps; 2 MiB, 20 MiB or own segments; the rest of a block is split
# off from 512 B on in the small pool, and above 1 MiB in the large one.
@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (0, 512, 2 * MIB),
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (13 * MIB, 14 * MIB, 14 * MIB),  # 1 MiB is not more than 1 MiB: it stays with the block
    ],
)
def test_one_request_takes_what_torch_would(size, allocated, reserved):
    peaks = replay([size], [0])
    assert (peaks.allocated_bytes, peaks.reserved_bytes) == (allocated, reserved)


def test_the_best_fitting_block_is_taken_and_the_rest_split_off():
    sizes = [30 * MIB, 40 * MIB, 25 * MIB, 4 * MIB]
    peaks = replay(sizes, [0, 1, ~0, ~1, 2, 3])  # 25 goes into 30, and 4 into the rest of it
    assert peaks.reserved_bytes == 70 * MIB
    allocator = Allocator()
    blocks = [allocator.allocate(size) for size in (30 * MIB, 40 * MIB)]
    for block in blocks:
        allocator.release(block)
    first, rest = allocator.allocate(25 * MIB), allocator.allocate(4 * MIB)
    place = first.address  # of the first segment: the next ones lie below it
    assert (place, rest.address - place, rest.size) == (-30 * MIB, 25 * MIB, 5 * MIB)  # 1 MiB is not split off


def test_freed_neighbours_merge_and_serve_a_larger_request():
    sizes = [12 * MIB, 4 * MIB, 4 * MIB, 12 * MIB]
    peaks = replay(sizes, [1, 2, ~1, ~2, 3])  # two of 4 in one segment of 20, which 12 fits into once they are free
    assert (peaks.reserved_bytes, peaks.allocated_bytes) == (20 * MIB, 12 * MIB)


def test_cached_segments_go_back_when_memory_runs_out_and_that_is_counted():
    sizes, events = [30 * MIB, 40 * MIB], [0, ~0, 1]
    assert replay(sizes, events) == (40 * MIB, 70 * MIB, 0, 2)
    assert replay(sizes, events, capacity_bytes=40 * MIB) == (40 * MIB, 40 * MIB, 1, 2)
    with pytest.raises(OutOfMemory) as refusal:
        replay(sizes, events, capacity_bytes=39 * MIB)
    assert refusal.value.wanted_bytes == 40 * MIB


def test_what_went_back_to_the_driver_serves_nothing_any_more():
    sizes, events = [30 * MIB, 40 * MIB, 30 * MIB, 40 * MIB], [0, ~0, 1, ~1, 2, 3]  # 2 goes into what 1 left, and 3
    with pytest.raises(OutOfMemory):  # finds nothing: the segment of 0 is gone, and that of 1 is in use
        replay(sizes, events, capacity_bytes=40 * MIB)


def test_a_segment_in_use_does_not_go_back():
    with pytest.raises(OutOfMemory):
        replay([4 * MIB, 4 * MIB, 30 * MIB], [0, 1, ~0, 2], capacity_bytes=49 * MIB)  # 16 of 20 MiB are free, not whole


def test_a_rest_of_512_bytes_is_split_off_in_the_small_pool():
    assert replay([MIB, MIB - 512, 512], [0, 1, 2]) == (2 * MIB, 2 * MIB, 0, 2)


def test_the_peak_is_where_it_was_reached_first():
    assert replay([MIB, MIB, MIB], [0, ~0, 1, ~1, 2]).peak_at == 0
    assert replay([MIB, MIB, MIB, MIB], [0, 1, ~0, 2, ~2, 3]).peak_at == 1
    assert replay([], []) == (0, 0, 0, 0)


def test_what_fits_exactly_gives_nothing_back_first():
    sizes, events = [30 * MIB, 40 * MIB], [0, ~0, 1]
    assert replay(sizes, events, capacity_bytes=70 * MIB).retries == 0
    assert replay(sizes, events, capacity_bytes=70 * MIB - 1).retries == 1


class Plain:
    """The same rules without addresses and lists of what is free: all pieces of all segments are looked at."""

    def __init__(self, capacity_bytes):
        self.capacity_bytes, self.segments, self.retries = capacity_bytes, [], 0  # (small, [[size, whose], ...]) each

    def held(self):
        """(allocated, reserved) bytes."""
        pieces = [piece for _, pieces in self.segments for piece in pieces]
        return sum(size for size, whose in pieces if whose is not None), sum(size for size, _ in pieces)

    def allocate(self, whose, size):
        size = 512 * max(1, math.ceil(size / 512))
        small = size <= MIB
        fitting = [
            (piece[0], -number, place)  # the driver places newer segments lower
            for number, (kind, pieces) in enumerate(self.segments)
            for place, piece in enumerate(pieces)
            if kind == small and piece[1] is None and piece[0] >= size
        ]
        if not fitting:
            own = 2 * MIB * math.ceil(size / (2 * MIB))
            self.segment(small, 2 * MIB if small else 20 * MIB if size < 10 * MIB else own, size)
        _, number, place = min(fitting, default=(0, 1, 0))
        pieces = self.segments[-number][1]
        rest = pieces[place][0] - size
        split = rest >= 512 if small else rest > MIB
        pieces[place : place + 1] = [[size, whose], [rest, None]] if split else [[size + rest, whose]]

    def segment(self, small, segment, size):
        if self.capacity_bytes is not None and self.held()[1] + segment > self.capacity_bytes:
            self.retries += 1
            self.segments = [it for it in self.segments if any(whose is not None for _, whose in it[1])]
            if self.held()[1] + segment > self.capacity_bytes:
                raise OutOfMemory(size, *self.held())
        self.segments.append((small, [[segment, None]]))

    def release(self, whose):
        for _, pieces in self.segments:
            own = [[size, None if it == whose else it] for size, it in pieces]
            free = itertools.groupby(own, key=lambda piece: piece[1])  # whose is unique, so that only free ones merge
            pieces[:] = [[sum(size for size, _ in group), it] for it, group in free]


def plainly(sizes, events, capacity_bytes):
    plain, held = Plain(capacity_bytes), []
    for event in events:
        if event < 0:
            plain.release(~event)
        else:
            plain.allocate(event, sizes[event])
        held.append(plain.held())
    allocated, reserved = (max(column) for column in zip(*held, strict=True))
    return allocated, reserved, plain.retries, [it for it, _ in held].index(allocated)


def outcome(replayed, *asked):
    try:
        return tuple(replayed(*asked))
    except OutOfMemory as it:
        return it.wanted_bytes, it.allocated_bytes, it.reserved_bytes


@pytest.mark.parametrize("seed", range(8))
def test_peaks_are_those_of_a_plain_search_through_all_pieces(seed):
    draw = random.Random(seed)
    for _ in range(25):
        steps = draw.choice([512, MIB // 2, MIB, MIB + 512])  # few sizes, so that many pieces are equally large
        sizes = [steps * draw.randint(1, 24) for _ in range(40)]
        events, live = [], []
        for number in range(len(sizes)):
            events.append(number)
            live.append(number)
            while live and draw.random() < 0.45:
                events.append(~live.pop(draw.randrange(len(live))))
        for capacity in (None, 60 * MIB, 100 * MIB):
            assert outcome(replay, sizes, events, capacity) == outcome(plainly, sizes, events, capacity)


@st.composite
def loops(draw):
    """Allocations and frees in any order that makes sense."""
    sizes = draw(st.lists(st.integers(1, 64 * MIB) | st.integers(1, 2 * MIB), min_size=1, max_size=30))
    events, live = [], []
    for number in range(len(sizes)):
        events.append(number)
        live.append(number)
        while live and draw(st.booleans()):
            events.append(~live.pop(draw(st.integers(0, len(live) - 1))))
    return sizes, events


@given(loops())
def test_blocks_tile_their_segments_and_nothing_is_lost(loop):
    sizes, events = loop
    allocator, live = Allocator(), {}
    for event in events:
        if event < 0:
            allocator.release(live.pop(~event))
        else:
            live[event] = allocator.allocate(sizes[event])
        used = sorted((block.address, block.size) for block in live.values())
        free = [(address, size) for pool in allocator._free for size, address, _ in pool]
        tiles = sorted(used + free)
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(tiles))
        assert sum(size for _, size in tiles) == allocator.reserved_bytes
        assert sum(size for _, size in used) == allocator.allocated_bytes >= sum(sizes[number] for number in live)
        assert set(live) == live_at(events, events.index(event))
    assert allocator.peak_reserved_bytes >= allocator.peak_allocated_bytes


def case(loop):
    script = Script()
    script.sizes, script.events = loop
    script.kinds = ["activations"] * len(script.sizes)
    return Case(script, GPU)


@given(loops(), st.integers(1, 400), st.integers(0, 100))
def test_more_memory_never_fits_less(loop, room, more):
    if case(loop).fits(room * MIB):
        assert case(loop).fits((room + more) * MIB)


@given(loops())
def test_what_is_said_to_be_needed_is_enough(loop):
    needed = case(loop).needed_bytes()
    assert replay(*loop, needed).reserved_bytes <= needed
    assert case(loop).fits(needed)
    assert not case(loop).fits(case(loop).live.allocated_bytes - 1)


@given(st.dictionaries(st.integers(1, 50), st.integers(0, 100)), st.integers(0, 100), st.integers(0, 100))
def test_the_largest_that_fits_only_grows_with_the_room_however_odd_the_needs(needs, room, more):
    def largest(room):
        return most(lambda n: needs.get(n, 0) <= room, 50)

    assert largest(room) <= largest(room + more)
    assert largest(room) == 0 or needs.get(largest(room), 0) <= room


def test_the_search_stops_at_its_limit():
    for start in range(1, 8):
        asked = []
        assert most(lambda n: asked.append(n) or True, 5, start) == 5  # noqa: B023
        assert max(asked) <= 5


@given(st.integers(0, 60), st.integers(1, 50), st.integers(1, 60))
def test_a_search_finds_the_edge_from_wherever_it_starts(edge, limit, start):
    assert most(lambda n: n <= edge, limit, start) == min(edge, limit)
