"""Searches the m × n × k that a device multiplies fastest, without trying them all."""

from __future__ import annotations

import contextlib
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
LONGEST_LOOK_SHARE = 0.1  # of the time limit: a shape that would take longer is out of reach
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
    because they would take too long) or "interrupted".
    """

    best: Dims
    looks: tuple[MatmulLook, ...]
    ended_by: EndedBy


class _Over(Exception):
    """Out of looks, out of time, or told to stop."""


@dataclass
class Search:
    """Coarse to fine, over dimensions that are multiples of `unit` up to `limit`.

    `evaluate(dims)` does the product a few times and returns each one's seconds. Four stages: a ladder of doubling
    cubes, which tells from what size on it is worth looking; the leading cube with sides halved; then the neighbours of
    whatever leads, in steps that halve down to the unit; and with the last quarter of the looks (or of the time) the
    leaders again, in turn, because the highest of many noisy numbers is mostly lucky, and a device that grows hot
    favours what was tried early. Shapes that are not `allowed`, or would take over a tenth of the time, are left out.
    """

    evaluate: Callable[[Dims], Sequence[float]]
    unit: int
    limit: int
    most_looks: int
    limit_seconds: float = math.inf
    clock: Callable[[], float] = lambda: 0.0
    should_stop: Callable[[], bool] = never
    allowed: Callable[[Dims], bool] = lambda dims: True

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
        return Found(best, tuple(self.looks), "interrupted" if self.should_stop() else ended_by)

    def _ladder(self) -> None:
        """Cubes, each twice the size of the one before, and the largest; the first out of reach bounds the search."""
        sizes = [*(2**power for power in range(self.top.bit_length())), self.top]
        for size in dict.fromkeys(sizes):
            if not self._look(size, size, size):
                self.top = max(dims.m for dims in self.rates) // self.unit * 3 // 2
                return

    def _halves(self) -> None:
        """The leading cube with one of its sides halved, or two."""
        full = self._ranked()[0].m // self.unit
        half = max(1, full // 2)
        for sides in ((full, full, half), (full, half, full), (half, full, full), (half, half, full)):
            self._look(*sides)

    def _refine(self) -> None:
        """Best first among neighbours, in halving steps: an equal part of the looks left each, the last to the end."""
        steps = [max(1, self.top // 2**power) for power in range(2, self.top.bit_length() + 1)]
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
        if self.looks and self._work_seconds(dims) > LONGEST_LOOK_SHARE * self.limit_seconds:
            self.left_out = True
            return False
        self._again(dims)
        return True

    def _again(self, dims: Dims) -> None:
        before = self.clock()
        if self.looks:
            # A look will take its products, and the least that any look took beside them.
            beside = min(wall - math.fsum(look.seconds) for wall, look in zip(self.walls, self.looks, strict=True))
            expected = max(0.0, beside) + self._work_seconds(dims)
            over = before - self.started + expected > self.seconds_until
            if over or len(self.looks) >= self.looks_until or self.should_stop():
                raise _Over
        seconds = tuple(self.evaluate(dims))
        if not seconds:
            raise ValueError("evaluate(dims) returned no seconds")
        self.walls.append(self.clock() - before)
        self.looks.append(MatmulLook(*dims, seconds))
        self.seconds.setdefault(dims, []).extend(seconds)
        self.rates[dims] = dims.flop / stats.median(self.seconds[dims])

    def _work_seconds(self, dims: Dims) -> float:
        """The quickest product of the last look, scaled by FLOP, as many times: one that was disturbed bars nothing."""
        last = self.looks[-1]
        return len(last.seconds) * min(last.seconds) * dims.flop / last.flop

    def _looks_left(self) -> float:
        recent = self.walls[-5:]
        time_left = self.seconds_until - (self.clock() - self.started)
        by_time = time_left / (math.fsum(recent) / len(recent)) if any(recent) else math.inf
        return max(0.0, min(self.looks_until - len(self.looks), by_time))

    def _dims(self, *sides: int) -> Dims:
        return Dims(*(side * self.unit for side in sides))

    def _ranked(self) -> list[Dims]:
        return sorted(self.rates, key=lambda dims: self.rates[dims], reverse=True)
