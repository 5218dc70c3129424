"""How does the search for a matmul ceiling do against the exhaustive scan? For the benchmark, on a CPU or a GPU."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

from rigbench.core import stats
from rigbench.core.estimate import Estimate
from rigbench.machine.accelerator import Accelerator
from rigbench.matmul.probe import LIMIT, MOST_LOOKS, UNIT
from rigbench.matmul.record import Dtype
from rigbench.matmul.search import Dims, Search
from rigbench.work import products
from rigbench.work.products import Operands


@dataclass(frozen=True)
class Pair:
    """Both choices, what they cost, and their rates measured head to head, in turn."""

    searched: Dims
    scanned: Dims
    looks: int
    shapes: int
    search_seconds: float
    scan_seconds: float
    searched_flops_per_s: tuple[float, ...]
    scanned_flops_per_s: tuple[float, ...]
    ratio: Estimate
    short_of: str  # why the search did not find the fastest, as it says

    def line(self) -> str:
        a, b = ("×".join(map(str, dims)) for dims in (self.searched, self.scanned))
        rates = [stats.median(rates) / 1e9 for rates in (self.searched_flops_per_s, self.scanned_flops_per_s)]
        same = " (the same shape)" if self.searched == self.scanned else ""
        return (
            f"search {a} in {self.looks} looks ({self.search_seconds:.1f} s): {rates[0]:,.1f} GFLOP/s; "
            f"scan {b} of {self.shapes} shapes ({self.scan_seconds:.1f} s): {rates[1]:,.1f} GFLOP/s{same}; "
            f"search over scan {self.ratio.value:.4f} ({self.ratio.low:.4f} to {self.ratio.high:.4f}), "
            f"{self.ratio.n} pairs{f'; the search says: {self.short_of}' if self.short_of else ''}"
        )


def compare(
    accelerator: Accelerator,
    dtype: Dtype,
    unit: int,
    limit: int,
    pairs: int,
    block_seconds: float,
    search_seconds: float = math.inf,
) -> Pair:
    """Search with a tenth of the scan's looks, scan, then measure both winners again in turn.

    With `search_seconds` the search is the probe's own: its grid, and that much time. Every second pair is the other
    way round. Where both chose the same shape the ratio is of a shape with itself.
    """
    operands = Operands(dtype, accelerator.torch_device)
    grid = [Dims(*sides) for sides in itertools.product(range(unit, limit + 1, unit), repeat=3)]

    def evaluate(dims: Dims) -> tuple[float, ...]:
        return products.glance(accelerator, operands.product(*dims))

    with products.arithmetic_chosen(dtype, accelerator.device.kind):
        evaluate(grid[-1])  # libraries are loaded, and the operands drawn, for both
        started = time.perf_counter()
        if math.isinf(search_seconds):
            search = Search(evaluate, unit=unit, limit=limit, most_looks=len(grid) // 10)
        else:
            kind = accelerator.device.kind
            search = Search(
                evaluate,
                unit=UNIT[kind],
                limit=LIMIT[kind],
                most_looks=MOST_LOOKS,
                limit_seconds=search_seconds,
                clock=time.perf_counter,
                prepared_seconds=lambda dims: operands.draw_seconds(*dims),
            )
        found = search.run()
        searched = time.perf_counter()
        scanned = max(grid, key=lambda dims: dims.flop / stats.median(evaluate(dims)))
        ended = time.perf_counter()
        rates: dict[str, list[float]] = {"search": [], "scan": []}
        for index in range(pairs):
            turns = [("search", found.best), ("scan", scanned)]
            for name, dims in turns if index % 2 else reversed(turns):
                rates[name].append(_rate(accelerator, operands, dims, block_seconds))
    return Pair(
        searched=found.best,
        scanned=scanned,
        looks=len(found.looks),
        shapes=len(grid),
        search_seconds=searched - started,
        scan_seconds=ended - searched,
        searched_flops_per_s=tuple(rates["search"]),
        scanned_flops_per_s=tuple(rates["scan"]),
        ratio=stats.paired_ratio(rates["search"], rates["scan"]),
        short_of=found.short_of,
    )


def _rate(accelerator: Accelerator, operands: Operands, dims: Dims, seconds: float) -> float:
    """FLOP/s over a block of products, back to back."""
    product = operands.product(*dims)
    (first,) = accelerator.timed(product.work, 1)
    per_sample = max(1, round(seconds / first / 4))
    samples = products.sustain(accelerator, product.work, per_sample, seconds, time.perf_counter)
    return product.flop * per_sample * len(samples) / math.fsum(samples)
