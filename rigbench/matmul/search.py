"""Searches the m × n × k that a device multiplies fastest, without trying them all."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rigbench.core import stats
from rigbench.core.record import EndedBy
from rigbench.matmul.record import MatmulLook
from rigbench.work.timing import never

FINAL_SHARE = 0.25  # of the looks and of the time: kept for looking again at the leaders
FEWEST_FINAL_LOOKS, MOST_FINALISTS, MOST_ROUNDS = 3, 40, 10
LONGEST_LOOK_SHARE = 0.2  # of the time limit: a shape whose look would take longer is out of reach
CHEAP_LOOK_SHARE = 0.02  # of the time limit: cubes that will not win are looked at too, for what small products lose
MIDDLE = 1024  # of the first cube
PRODUCTS_PER_LOOK = 4  # at least: one that warms up, and three
FALLEN = 0.9  # of the leading cube's rate: larger ones, or smaller ones, will not win
FEWEST_SHAPES = 6  # of a search that may say what is fastest
STILL_RISING = 0.03  # a gain, over the last third of the shapes or the last doubling: there is more to find
# One step along each axis, the longer products first; then m against n, at about the same area.
AXES = ((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, -1), (-1, 0, 0), (0, -1, 0))
DIAGONALS = ((1, -1, 0), (-1, 1, 0), (1, 1, 0), (-1, -1, 0))


class Dims(NamedTuple):
    """C[m,n] = A[m,k] @ B[k,n]."""

    m: int
    n: int
    k: int

    @property
    def flop(self) -> int:
        return 2 * self.m * self.n * self.k


class Found(NamedTuple):
    """`best` has the highest pooled rate among the shapes that were looked at again.

    That rate is still a winner's: measure the shape anew before reporting it. `looks` are in order. `ended_by` is
    "finished" (nothing left to refine), "sample limit" (out of looks), "time limit" (also where shapes were left out
    because they would take too long) or "interrupted". `short_of` says why the time did not do to find the fastest;
    empty where it did.
    """

    best: Dims
    looks: tuple[MatmulLook, ...]
    ended_by: EndedBy
    short_of: str


class _Over(Exception):
    """Out of looks, out of time, or told to stop."""


@dataclass
class Search:
    """Coarse to fine, over dimensions that are multiples of `unit` up to `limit`.

    `evaluate(dims)` does the product a few times and returns each one's seconds; on the `clock` it takes longer, with
    operands made, a cache flushed, a product that warms up. Four stages: cubes, from a middle one both ways by
    doubling, while they get faster; the leading cube with sides halved; then the neighbours of whatever leads, in steps
    that halve down to the unit; and with the last quarter of the looks (or of the time) the leaders again, in turn,
    because the highest of many noisy numbers is mostly lucky, and a device that grows hot favours what was tried early.
    Shapes that are not `allowed`, or whose look would take over a fifth of the time, are left out.

    `prepared_seconds(dims)` foresees what making a shape's operands takes. `known_flops_per_s` is of a product done
    before: where even the middle cube is out of its reach, the first is smaller.
    """

    evaluate: Callable[[Dims], Sequence[float]]
    unit: int
    limit: int
    most_looks: int
    limit_seconds: float = math.inf
    clock: Callable[[], float] = lambda: 0.0
    should_stop: Callable[[], bool] = never
    allowed: Callable[[Dims], bool] = lambda dims: True
    prepared_seconds: Callable[[Dims], float] = lambda dims: 0.0
    known_flops_per_s: float = math.inf

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: no room between unit and limit, or less than one look.
        """
        if not 0 < self.unit <= self.limit or self.most_looks < 1:
            raise ValueError(f"nothing to search: unit {self.unit}, limit {self.limit}, looks {self.most_looks}")
        self.top = self.limit // self.unit  # sides are counted in units
        final = min(max(FEWEST_FINAL_LOOKS, math.ceil(FINAL_SHARE * self.most_looks)), self.most_looks // 2)
        self.looks_until, self.seconds_until = self.most_looks - final, (1 - FINAL_SHARE) * self.limit_seconds
        self.started = self.clock()
        self.looks: list[MatmulLook] = []
        self.walls: list[float] = []  # what each look took on the clock, warm-up and all
        self.seconds: dict[Dims, list[float]] = {}
        self.rates: dict[Dims, float] = {}
        self.left_out = False  # something would have taken too long

    def run(self) -> Found:
        ended_by: EndedBy = "finished"
        try:
            self._ladder()
            self._halves()
            self._refine()
            ended_by = "time limit" if self.left_out else "finished"
        except _Over:
            ended_by = "sample limit" if len(self.looks) >= self.looks_until else "time limit"
        self.looks_until, self.seconds_until = self.most_looks, self.limit_seconds
        best = self._finals()
        found = Found(best, tuple(self.looks), "interrupted" if self.should_stop() else ended_by, "")
        return found if found.ended_by != "time limit" else found._replace(short_of=self._short_of(best))

    def _short_of(self, best: Dims) -> str:
        """Too few shapes; or larger ones are out of reach, and faster as it seems; or a late gain."""
        if len(self.rates) < FEWEST_SHAPES:
            return f"{len(self.rates)} shape{'s' * (len(self.rates) > 1)} tried"
        if self._larger_are_left_out(best):
            smaller = max((rate for dims, rate in self.rates.items() if dims.flop <= best.flop / 8), default=0.0)
            if self.rates[best] > (1 + STILL_RISING) * smaller:
                return "larger ones would have taken too long, and up to there the larger were the faster"
        rates = list(self.rates.values())  # in the order in which the shapes were first seen
        early = max(rates[: math.ceil(len(rates) * 2 / 3)])
        return "it was still finding faster ones" if self.rates[best] > (1 + STILL_RISING) * early else ""

    def _larger_are_left_out(self, best: Dims) -> bool:
        """Whether the time, and nothing else, keeps it from sides twice as long, and from anything near them."""
        larger = Dims(*(min(2 * side, self.limit // self.unit * self.unit) for side in best))
        late = self._expected_seconds(larger) > LONGEST_LOOK_SHARE * self.limit_seconds
        tried = any(dims.flop >= 4 * best.flop for dims in self.rates)
        return larger != best and late and self.allowed(larger) and not tried

    def _ladder(self) -> None:
        """Cubes: a middle one, each twice the size of the one before up to the largest, then downwards by halves.

        Either way it ends with a cube that is clearly slower than the leader, but for what costs next to nothing. A
        cube out of reach bounds the search.
        """
        sizes = sorted({*(2**power for power in range(self.top.bit_length())), self.top})
        first = max([sizes[0], *(size for size in sizes if self._may_be_first(size))])
        place = sizes.index(first)
        self._look(first, first, first)
        if not self._follow(sizes[place:]):
            self.top = max(dims.m for dims in self.rates) // self.unit * 3 // 2
        self._follow(sizes[place::-1])

    def _follow(self, sizes: Sequence[int]) -> bool:
        """Cubes beside one that is known, until one is clearly slower than the leader; whether all were in reach."""
        for before, size in itertools.pairwise(sizes):
            if self._fallen(before) and not self._cheap(size):
                return True
            if not self._look(size, size, size):
                return False
        return True

    def _may_be_first(self, size: int) -> bool:
        dims = self._dims(size, size, size)
        seconds = PRODUCTS_PER_LOOK * dims.flop / self.known_flops_per_s
        within = dims.m <= MIDDLE and seconds <= LONGEST_LOOK_SHARE * self.limit_seconds
        return within and self.allowed(dims)

    def _fallen(self, size: int) -> bool:
        return self.rates[self._dims(size, size, size)] < FALLEN * max(self.rates.values())

    def _cheap(self, size: int) -> bool:
        return self._expected_seconds(self._dims(size, size, size)) <= CHEAP_LOOK_SHARE * self.limit_seconds

    def _halves(self) -> None:
        """The leading cube with one of its sides halved, or two."""
        full = self._ranked()[0].m // self.unit
        half = max(1, full // 2)
        for sides in ((full, full, half), (full, half, full), (half, full, full), (half, half, full)):
            self._look(*sides)

    def _refine(self) -> None:
        """Best first among neighbours, in halving steps: an equal part of the looks left each, the last to the end."""
        largest = max(self._ranked()[0]) // self.unit
        steps = [max(1, largest // 2**power) for power in range(2, largest.bit_length() + 1)]
        steps = list(dict.fromkeys([*steps, 1]))
        for index, step in enumerate(steps[:-1]):
            for _ in range(math.ceil(self._looks_left() / (len(steps) - index))):
                if not self._look_beside_the_best(step):
                    break
        while self._look_beside_the_best(steps[-1]):
            pass

    def _look_beside_the_best(self, step: int) -> bool:
        """A look at a neighbour, not yet seen, of the best shape that has one."""
        for dims in self._ranked():
            for sides in self._neighbours(dims, step):
                if self._dims(*sides) not in self.rates and self._look(*sides):
                    return True
        return False

    def _neighbours(self, dims: Dims, step: int) -> Iterator[tuple[int, int, int]]:
        for dm, dn, dk in (*AXES, *DIAGONALS):
            m, n, k = dims.m // self.unit + step * dm, dims.n // self.unit + step * dn, dims.k // self.unit + step * dk
            if min(m, n, k) >= 1 and max(m, n, k) <= self.top:
                yield m, n, k

    def _finals(self) -> Dims:
        """The leaders again, in turn; the slower half leaves after each round, until two are left."""
        left = self.most_looks - len(self.looks)
        finalists = self._ranked()[: min(MOST_FINALISTS, max(2, left // 3))]
        with contextlib.suppress(_Over):  # then with what there is
            for _ in range(MOST_ROUNDS if len(finalists) > 1 else 0):
                for dims in finalists:
                    self._again(dims)
                finalists.sort(key=lambda dims: self.rates[dims], reverse=True)
                finalists = finalists[: max(2, len(finalists) // 2)]
        return max(finalists, key=lambda dims: self.rates[dims])

    def _look(self, m: int, n: int, k: int) -> bool:
        """Look at a shape, sides in units, unless it is known; whether it was within reach."""
        dims = self._dims(m, n, k)
        if dims in self.rates:
            return True
        if self.looks and not self.allowed(dims):
            return False
        if self.looks and self._expected_seconds(dims) > LONGEST_LOOK_SHARE * self.limit_seconds:
            self.left_out = True
            return False
        self._again(dims)
        return True

    def _again(self, dims: Dims) -> None:
        before = self.clock()
        if self.looks:
            over = before - self.started + self._expected_seconds(dims) > self.seconds_until
            if over or len(self.looks) >= self.looks_until or self.should_stop():
                raise _Over
        seconds = tuple(self.evaluate(dims))
        if not seconds:
            raise ValueError("evaluate(dims) returned no seconds")
        self.walls.append(self.clock() - before)
        self.looks.append(MatmulLook(*dims, seconds))
        self.seconds.setdefault(dims, []).extend(seconds)
        self.rates[dims] = dims.flop / stats.median(self.seconds[dims])

    def _expected_seconds(self, dims: Dims) -> float:
        """Of a look, on the clock: its operands, the least that any look took beside its products, and its products.

        These by the quickest product of the look nearest in size: one that was disturbed bars nothing.
        """
        beside = min(wall - math.fsum(look.seconds) for wall, look in zip(self.walls, self.looks, strict=True))
        near = min(self.looks, key=lambda look: abs(math.log(look.flop / dims.flop)))
        each = min(near.seconds) * dims.flop / near.flop
        return self.prepared_seconds(dims) + max(0.0, beside) + PRODUCTS_PER_LOOK * each

    def _looks_left(self) -> float:
        recent = self.walls[-5:]
        time_left = self.seconds_until - (self.clock() - self.started)
        by_time = time_left / (math.fsum(recent) / len(recent)) if any(recent) else math.inf
        return max(0.0, min(self.looks_until - len(self.looks), by_time))

    def _dims(self, *sides: int) -> Dims:
        return Dims(*(side * self.unit for side in sides))

    def _ranked(self) -> list[Dims]:
        return sorted(self.rates, key=lambda dims: self.rates[dims], reverse=True)
