"""Multiplies matrices in each arithmetic, on random data, and checks the result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from rigbench.core.record import Absent
from rigbench.machine.accelerator import Accelerator, own_cache_bytes
from rigbench.matmul.record import Dtype, MatmulCheck
from rigbench.model.counts import Layout
from rigbench.work.timing import never

CHECKED_ROWS, CHECKED_COLUMNS = 8, 512
FP32_ROUNDOFF = 2.0**-24
ADDED_AT_ONCE = 8  # products that a tensor core sums before it rounds: 8 of fp16 on the oldest, more since
LOOK_SECONDS, LONG_PRODUCT_SECONDS, FEWEST_SAMPLES, MOST_SAMPLES = 0.02, 0.05, 3, 20
SAMPLE_SECONDS = 0.1  # of a sustained load: short enough to see a clock move, long enough to cost nothing
UNKNOWN_CACHE_BYTES = 64 << 20


class Arithmetic(NamedTuple):
    """`tensor` and `output` are torch dtypes. `roundoff` is the output's, or the inputs' where those are cut."""

    tensor: str
    output: str
    roundoff: float
    accumulate: str
    least_capability: tuple[int, int]


# Where a GPU multiplies what natively: CUDA C++ Programming Guide, arithmetic instructions by compute capability.
ARITHMETIC: dict[Dtype, Arithmetic] = {
    "bf16": Arithmetic("bfloat16", "bfloat16", 2.0**-8, "fp32", (8, 0)),
    "fp16": Arithmetic("float16", "float16", 2.0**-11, "fp32", (5, 3)),
    "fp16-acc16": Arithmetic("float16", "float16", 2.0**-11, "fp16", (7, 0)),
    "tf32": Arithmetic("float32", "float32", 2.0**-10, "fp32", (8, 0)),  # inputs cut to 10 bits
    "fp32": Arithmetic("float32", "float32", 2.0**-24, "fp32", (0, 0)),
    "fp8": Arithmetic("float8_e4m3fn", "bfloat16", 2.0**-8, "fp32", (8, 9)),
    "fp8-fast": Arithmetic("float8_e4m3fn", "bfloat16", 2.0**-8, "fp32, fast (fewer bits inside)", (8, 9)),
}
ON_CPU = ("bf16", "fp16", "fp32")


def unavailable(dtype: Dtype, torch_device: str) -> str:
    """Why this device or this torch does not offer an arithmetic; empty where it does."""
    if torch_device == "cpu":
        return "" if dtype in ON_CPU else "a CPU has no such arithmetic in torch"
    least = ARITHMETIC[dtype].least_capability
    capability = torch.cuda.get_device_capability(torch_device)
    if capability < least:
        return f"needs compute capability {least[0]}.{least[1]}, this GPU has {capability[0]}.{capability[1]}"
    if dtype == "fp16-acc16" and not hasattr(torch.backends.cuda.matmul, "allow_fp16_accumulation"):
        return f"torch {torch.__version__} cannot ask for it; 2.7 can"
    return ""


def offered(asked: Iterable[Dtype], accelerator: Accelerator) -> tuple[tuple[Dtype, ...], tuple[str, ...]]:
    """Those of the dtypes that this device multiplies, and a line on each of the others."""
    reasons = {dtype: unavailable(dtype, accelerator.torch_device) for dtype in asked}
    found = tuple(dtype for dtype, reason in reasons.items() if not reason)
    return found, tuple(f"{dtype}: {reason}" for dtype, reason in reasons.items() if reason)


@contextlib.contextmanager
def arithmetic_chosen(dtype: Dtype, kind: str) -> Iterator[None]:
    """Sets torch's global switches for one arithmetic, and puts them back.

    Reductions of split sums in fp16 or bf16 stay as torch has them by default (allowed), as a training run has them.
    """
    if kind == "cpu":
        yield
        return
    switches = torch.backends.cuda.matmul
    wanted = {"allow_tf32": dtype == "tf32", "allow_fp16_accumulation": dtype == "fp16-acc16"}
    before = {name: getattr(switches, name) for name in wanted if hasattr(switches, name)}
    for name in before:
        setattr(switches, name, wanted[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(switches, name, value)


class Product(NamedTuple):
    """C = A @ B on rotating operands: `work(i)` uses set i modulo their number and writes C."""

    work: Callable[[int], object]
    sets: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    out: torch.Tensor
    flop: int


class Operands:
    """Random normal numbers of one dtype on one device, from which matrices of any shape are cut."""

    def __init__(self, dtype: Dtype, torch_device: str) -> None:
        self.dtype, self.torch_device = dtype, torch_device
        self._pools: dict[str, torch.Tensor] = {}
        self._draw_seconds = 0.0  # of a number, when a pool was last drawn

    def product(self, m: int, n: int, k: int, layout: Layout = "nn", rotate_bytes: int = 0) -> Product:
        """A product whose operands come from as many sets as `rotate_bytes` need: one where a set is larger.

        fp8 products take B transposed in memory, the only layout that the tensor cores read.
        """
        arithmetic = ARITHMETIC[self.dtype]
        layout = "nt" if self.dtype.startswith("fp8") else layout
        size = getattr(torch, arithmetic.tensor).itemsize
        count = 1 + min(rotate_bytes // (size * k * (m + n)), 64)
        sets = tuple(
            (self._cut("a", index, m, k, layout == "tn"), self._cut("b", index, k, n, layout == "nt"))
            for index in reversed(range(count))  # the last first, so that a pool grows once
        )
        out = torch.empty(m, n, dtype=getattr(torch, arithmetic.output), device=self.torch_device)
        if not self.dtype.startswith("fp8"):
            return Product(lambda index: torch.mm(*sets[index % count], out=out), sets, out, 2 * m * n * k)
        one = torch.ones((), dtype=torch.float32, device=self.torch_device)
        scaled: dict[str, Any] = {
            "scale_a": one,
            "scale_b": one,
            "out_dtype": out.dtype,
            "use_fast_accum": self.dtype == "fp8-fast",
        }
        return Product(lambda i: torch._scaled_mm(*sets[i % count], **scaled, out=out), sets, out, 2 * m * n * k)

    def bytes_for(self, m: int, n: int, k: int) -> int:
        """Memory that a product takes, the growth of its pools included."""
        arithmetic = ARITHMETIC[self.dtype]
        inputs: int = getattr(torch, arithmetic.tensor).itemsize
        output: int = getattr(torch, arithmetic.output).itemsize
        return 2 * inputs * k * (m + n) + output * m * n

    def draw_seconds(self, m: int, n: int, k: int) -> float:
        """What it will take to draw the numbers that its pools lack for a product, by what the last ones took."""
        lacking = {"a": m * k, "b": k * n}
        return self._draw_seconds * sum(
            count for pool, count in lacking.items() if pool not in self._pools or len(self._pools[pool]) < count
        )

    def _cut(self, pool: str, index: int, rows: int, columns: int, transposed: bool) -> torch.Tensor:
        needed = (index + 1) * rows * columns
        flat = self._pools.get(pool)
        if flat is None or len(flat) < needed:
            self._pools.pop(pool, None)
            flat = None
            kind, began = getattr(torch, ARITHMETIC[self.dtype].tensor), time.perf_counter()
            drawn = torch.bfloat16 if self.dtype.startswith("fp8") else kind  # torch draws no fp8
            flat = self._pools[pool] = torch.randn(needed, dtype=drawn, device=self.torch_device).to(kind)
            self._draw_seconds = (time.perf_counter() - began) / needed
        own = flat[index * rows * columns : needed]
        return own.view(columns, rows).t() if transposed else own.view(rows, columns)


def cache_bytes(accelerator: Accelerator, l3_bytes: int | Absent) -> int:
    """What the last-level cache holds; operands that rotate through twice as much are read from memory."""
    if accelerator.device.kind == "cpu":
        reported = l3_bytes if isinstance(l3_bytes, int) else UNKNOWN_CACHE_BYTES
        return own_cache_bytes(reported, accelerator.device.threads)
    properties = torch.cuda.get_device_properties(accelerator.torch_device)
    size: int = getattr(properties, "L2_cache_size", 0)
    return size or UNKNOWN_CACHE_BYTES


def glance(
    accelerator: Accelerator, product: Product, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, ...]:
    """A few samples, the cache flushed before each: for a search, not for a report.

    Three at the least, then as many as the look's time has room for, flushes and the product that warms up included. A
    long product is a sample from the first: what a warm-up costs is little of it.
    """
    began = clock()
    seconds = list(accelerator.timed(product.work, 1, prepare=lambda index: None))
    if seconds[0] < LONG_PRODUCT_SECONDS:
        seconds.clear()
    seconds += accelerator.timed(product.work, FEWEST_SAMPLES - len(seconds))
    took = clock() - began
    room = int((LOOK_SECONDS - took) / took * FEWEST_SAMPLES) if took > 0 else MOST_SAMPLES
    if room > 0:
        seconds += accelerator.timed(product.work, min(room, MOST_SAMPLES - FEWEST_SAMPLES))
    return tuple(seconds)


def sustain(
    accelerator: Accelerator,
    work: Callable[[int], object],
    products_per_sample: int,
    limit_seconds: float,
    clock: Callable[[], float],
    should_stop: Callable[[], bool] = never,
    tick: Callable[[float], None] = lambda elapsed: None,
) -> tuple[float, ...]:
    """Work without a gap for a time; the seconds of each sample. The next sample is queued before one is awaited."""
    marks, seconds, index = [accelerator.mark()], [], 0
    began = clock()
    while True:
        for _ in range(products_per_sample):
            work(index)
            index += 1
        marks.append(accelerator.mark())
        if len(marks) > 2:
            seconds.append(accelerator.seconds_between(marks[-3], marks[-2]))
        elapsed = clock() - began
        if elapsed >= limit_seconds or should_stop():
            break
        tick(elapsed)
    accelerator.synchronize()
    seconds.append(accelerator.seconds_between(marks[-2], marks[-1]))
    return tuple(seconds)


def products_per_sample(seconds_each: float) -> int:
    """How many products make a sample of a sustained load."""
    return max(1, round(SAMPLE_SECONDS / seconds_each)) if seconds_each > 0 else 1


def check(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, dtype: Dtype) -> MatmulCheck:
    """Sampled rows and columns of C against A @ B in float64, elementwise.

    The bound: 2u·(|C| + 4·S) + accumulation, S = sqrt(A²B²) being a standard deviation of the sum. The first part is
    the rounding of the result to its own type (roundoff u), and of partial sums, which libraries may keep in that type
    too; or of inputs, for tf32. An fp32 accumulator adds its worst case, k·u_fp32·|A||B| (Higham, Accuracy and
    Stability of Numerical Algorithms, §3.1). The worst case of an fp16 one would excuse anything: it is taken as
    k/8·u_fp16·S, rounding each of the sums of 8 the same way at the size that sums have.
    """
    arithmetic, k = ARITHMETIC[dtype], a.shape[1]
    rows = torch.randperm(a.shape[0], device=a.device)[:CHECKED_ROWS]
    columns = torch.randperm(b.shape[1], device=a.device)[:CHECKED_COLUMNS]
    left, right = _double(a, rows, 0), _double(b, columns, 1)
    exact = left @ right
    spread = (left.square() @ right.square()).sqrt()
    bound = 2 * arithmetic.roundoff * (exact.abs() + 4 * spread)
    if arithmetic.accumulate == "fp16":
        bound += k / ADDED_AT_ONCE * arithmetic.roundoff * spread
    else:
        bound += k * FP32_ROUNDOFF * (left.abs() @ right.abs())
    error = (c[rows][:, columns].double() - exact).abs() / bound
    largest = float(error.nan_to_num(nan=1e9, posinf=1e9).max())
    size = {"rows": len(rows), "columns": len(columns)}
    return MatmulCheck(**size, largest_error_over_bound=min(largest, 1e9), correct=largest <= 1.0)


def _double(matrix: torch.Tensor, which: torch.Tensor, dim: int) -> torch.Tensor:
    """Some rows or columns in float64; eight-bit floats are picked as bytes, which every torch can index."""
    if matrix.dtype.itemsize > 1:
        return matrix.index_select(dim, which).double()
    return matrix.view(torch.uint8).index_select(dim, which).view(matrix.dtype).double()
