"""Does the search find what an exhaustive scan finds, in a tenth of its looks, and stop when it must?"""

import itertools
import math
import random
import statistics

import pytest

from rigbench.matmul.search import Dims, Search

PEAK = 1e12


def saturating(d: Dims) -> float:
    """Larger is better, evermore slowly, in every dimension."""
    return PEAK * math.prod(side / (side + 300) for side in d)


def tiles(multiprocessors: int, tile_m: int, tile_n: int):
    """A GPU's waves of tiles: the last wave is only partly full, so that area matters in steps."""

    def rate(d: Dims) -> float:
        count = math.ceil(d.m / tile_m) * math.ceil(d.n / tile_n)
        waves = math.ceil(count / multiprocessors)
        return PEAK * count / (waves * multiprocessors) * d.k / (d.k + 200)

    return rate


def too_large_is_slower(d: Dims) -> float:
    return saturating(d) * math.exp(-0.15 * math.log2(math.prod(d) / 1000**3) ** 2)


def thin_is_better(d: Dims) -> float:
    return PEAK * d.m / (d.m + 100) * 300 / (d.n + 300) * d.k / (d.k + 100)


LANDSCAPES = {
    "saturating": saturating,
    "16 multiprocessors": tiles(16, 128, 128),
    "132 multiprocessors": tiles(132, 128, 256),
    "108 multiprocessors": tiles(108, 256, 128),
    "too large is slower": too_large_is_slower,
    "thin is better": thin_is_better,
}


class Device:
    """Products of a scripted speed with log-normal noise, on a clock of its own."""

    def __init__(self, rate, noise: float = 0.0, seed: int = 0) -> None:
        self.rate, self.noise, self.random, self.now, self.calls = rate, noise, random.Random(seed), 0.0, []

    def clock(self) -> float:
        return self.now

    def evaluate(self, dims: Dims) -> list[float]:
        self.calls.append(dims)
        seconds = [dims.flop / self.rate(dims) * math.exp(self.random.gauss(0, self.noise)) for _ in range(3)]
        self.now += sum(seconds)
        return seconds


def scan(device: Device, unit: int, limit: int) -> Dims:
    grid = [Dims(*sides) for sides in itertools.product(range(unit, limit + 1, unit), repeat=3)]
    return max(grid, key=lambda dims: dims.flop / statistics.median(device.evaluate(dims)))


@pytest.mark.parametrize("name", LANDSCAPES)
def test_without_noise_a_tenth_of_the_looks_finds_what_the_scan_finds(name):
    rate = LANDSCAPES[name]
    device = Device(rate)
    found = Search(device.evaluate, unit=256, limit=1536, most_looks=21).run()
    assert rate(found.best) >= rate(scan(Device(rate), 256, 1536)) * (1 - 1e-12)
    assert len(device.calls) == len(found.looks) <= 21
    assert found.ended_by == "sample limit"


@pytest.mark.parametrize("name", LANDSCAPES)
def test_with_noise_its_choice_is_as_fast_as_the_scans_on_average(name):
    """Both choose by noisy numbers, so it is the true speeds of the choices that are compared, over 40 seeds."""
    rate, ratios = LANDSCAPES[name], []
    for seed in range(40):
        found = Search(Device(rate, 0.02, seed).evaluate, unit=256, limit=1536, most_looks=21).run()
        ratios.append(rate(found.best) / rate(scan(Device(rate, 0.02, seed + 1000), 256, 1536)))
    mean = statistics.mean(ratios)
    assert mean + 1.96 * statistics.stdev(ratios) / math.sqrt(len(ratios)) >= 0.999
    assert min(ratios) > 0.9


def test_on_a_large_grid_too():
    rate = tiles(132, 128, 256)
    found = Search(Device(rate, 0.01).evaluate, unit=512, limit=8192, most_looks=409).run()
    assert rate(found.best) >= 0.995 * rate(scan(Device(rate, 0.01, 1), 512, 8192))
    assert len(found.looks) <= 409


def test_the_leaders_are_looked_at_again_so_that_luck_does_not_win():
    """One lucky number at a poor shape: a scan would report it, a second look does not."""
    poor = Dims(256, 256, 256)
    device = Device(saturating)

    def lucky(dims: Dims) -> list[float]:
        first = dims == poor and dims not in device.calls
        seconds = device.evaluate(dims)
        return [second / 50 for second in seconds] if first else seconds

    found = Search(lucky, unit=256, limit=1536, most_looks=30).run()
    assert found.best != poor
    assert device.calls.count(poor) >= 2


def test_a_time_limit_ends_it_in_time_with_what_there_is():
    device = Device(lambda d: saturating(d) / 1e2)  # the largest cube would take 1.2 s, three times
    found = Search(
        device.evaluate, unit=256, limit=1536, most_looks=10_000, limit_seconds=10.0, clock=device.clock
    ).run()
    assert found.ended_by == "time limit"
    assert device.now <= 10.0
    longest = max(3 * dims.flop / device.rate(dims) for dims in device.calls)
    assert longest <= 1.5  # a look may take a tenth of the time, as far as could be foretold
    assert found.best in device.calls


def test_shapes_left_out_because_they_take_too_long_are_not_called_finished():
    device = Device(lambda d: saturating(d) / 1e3)
    least = Dims(256, 256, 256)
    found = Search(
        device.evaluate,
        unit=256,
        limit=1536,
        most_looks=999,
        limit_seconds=10.0,
        clock=device.clock,
        known_flops_per_s=device.rate(least),
    ).run()
    assert set(device.calls) == {least}
    assert (found.ended_by, found.short_of) == ("time limit", "1 shape tried")


def test_a_look_that_was_disturbed_does_not_bar_larger_shapes():
    device = Device(saturating)

    def disturbed(dims: Dims) -> list[float]:
        seconds = device.evaluate(dims)
        if len(device.calls) == 1:
            device.now += 0.5
            return [*seconds[:2], 0.5]
        return seconds

    found = Search(disturbed, unit=256, limit=1536, most_looks=40, limit_seconds=2.0, clock=device.clock).run()
    assert found.best == Dims(1536, 1536, 1536)


def test_told_to_stop_it_stops_with_what_there_is():
    device = Device(saturating)
    found = Search(
        device.evaluate, unit=256, limit=1536, most_looks=100, should_stop=lambda: len(device.calls) >= 3
    ).run()
    assert found.ended_by == "interrupted"
    assert device.calls == [Dims(1024, 1024, 1024), Dims(1536, 1536, 1536), Dims(512, 512, 512)]
    assert found.best == Dims(1536, 1536, 1536)


def test_what_is_not_allowed_is_never_tried():
    device = Device(saturating)
    Search(device.evaluate, unit=256, limit=4096, most_looks=200, allowed=lambda dims: dims.m * dims.n <= 1024**2).run()
    assert max(dims.m * dims.n for dims in device.calls) <= 1024**2
    assert max(dims.k for dims in device.calls) > 1024


def test_a_grid_of_one_shape_is_looked_at_and_that_is_all():
    device = Device(saturating)
    found = Search(device.evaluate, unit=256, limit=300, most_looks=50).run()
    assert (found.best, len(device.calls), found.ended_by) == (Dims(256, 256, 256), 1, "finished")


@pytest.mark.parametrize(("unit", "limit", "looks"), [(0, 256, 9), (512, 256, 9), (256, 1024, 0)])
def test_nothing_to_search_is_refused(unit, limit, looks):
    with pytest.raises(ValueError, match="nothing to search"):
        Search(Device(saturating).evaluate, unit=unit, limit=limit, most_looks=looks).run()
