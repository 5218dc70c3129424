"""How fast does this device multiply matrices, next to its datasheet?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from rigbench.hardware import host
from rigbench.hardware.accelerator import Accelerator, choose_device, open_accelerator
from rigbench.hardware.sysfs import Sysfs
from rigbench.measure.timing import sample_until_tight
from rigbench.measure.workers import Report
from rigbench.records import Absent, EndedBy, Estimate, Matmul, MatmulCheck, MatmulShape, Model, Record
from rigbench.store import now

if TYPE_CHECKING:
    import torch

METHOD = 1
Dtype = Literal["bf16", "fp32"]
SQUARES = {"cpu": (512, 1024, 2048), "cuda": (1024, 2048, 4096, 8192)}
EXPECTED_SECONDS_LIMIT = 4.0  # a shape expected to take longer than this once is left out, and said so
CHECKED_ROWS, CHECKED_COLUMNS = 8, 512
# Unit roundoff of the output's type. The inner sum is held in fp32 by every device we know.
ROUNDOFF = {"bf16": 2.0**-8, "fp32": 2.0**-24}


class Options(Record, frozen=True):
    """`model` lends its own layers' shapes."""

    model: Model
    device: str = "auto"
    dtypes: tuple[Dtype, ...] = ("bf16", "fp32")
    seconds_per_shape: float = 4.0
    target_half_width: float = 0.01


def run(options: Options, report: Report) -> Matmul:
    """Every shape in every dtype on one device, in this process.

    Raises:
        RigbenchError: no such device.
    """
    started_at, started = now(), time.perf_counter()
    report.progress(0.0, "loading torch")
    import torch

    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    sysfs = Sysfs()
    cpu, memory = host.cpu(sysfs), host.memory(sysfs)
    name = cpu.model if isinstance(cpu.model, str) else f"{cpu.architecture} CPU"
    accelerator = open_accelerator(choose_device(options.device), name, memory.total_bytes, cpu.l3_bytes)

    def record(ended_by: EndedBy) -> Matmul:
        return Matmul(
            method=METHOD,
            started_at=started_at,
            seconds=time.perf_counter() - started,
            device=accelerator.device,
            datasheet_flops_per_s={},
            shapes=tuple(done),
            best_flops_per_s=_best(done),
            ended_by=ended_by,
            telemetry=Absent("no sensor was read beside this probe"),
            not_run=tuple(not_run),
        )

    report.check()
    done: list[MatmulShape] = []
    not_run: list[str] = []
    planned = [(dtype, *shape) for dtype in options.dtypes for shape in _shapes(options.model, accelerator)]
    for index, (dtype, purpose, m, n, k) in enumerate(planned):
        expected = _expected_seconds(done, dtype, 2 * m * n * k)
        if expected > EXPECTED_SECONDS_LIMIT:
            not_run.append(f"{dtype} {m}x{n}x{k} ({purpose}): one product would take about {expected:.0f} s")
            continue
        report.progress(index / len(planned), f"{dtype} {m}x{n}x{k}")
        done.append(_measure(options, accelerator, report, dtype, purpose, m, n, k))
        if report.should_stop():
            return record("interrupted")
        report.partial(record("worker died"))
    return record("finished")


def _shapes(model: Model, accelerator: Accelerator) -> list[tuple[str, int, int, int]]:
    """(purpose, m, n, k): squares, then the series model's own products over one sequence."""
    shape = model.shape
    squares = [("square", size, size, size) for size in SQUARES[accelerator.device.kind]]
    rows, d = shape.sequence, shape.width
    return [
        *squares,
        (f"{model.name} MLP", rows, shape.ffn_width, d),
        (f"{model.name} head", rows, shape.vocabulary, d),
    ]


def _expected_seconds(done: list[MatmulShape], dtype: str, flop: int) -> float:
    speeds = [shape.flops_per_s.value for shape in done if shape.dtype == dtype]
    return flop / max(speeds) if speeds else 0.0


def _measure(
    options: Options,
    accelerator: Accelerator,
    report: Report,
    dtype: Dtype,
    purpose: str,
    m: int,
    n: int,
    k: int,
) -> MatmulShape:
    import torch

    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    a = torch.randn(m, k, device=accelerator.torch_device).to(kind)
    b = torch.randn(k, n, device=accelerator.torch_device).to(kind)
    c = torch.empty(m, n, dtype=kind, device=accelerator.torch_device)
    timing = sample_until_tight(
        lambda count: accelerator.timed(lambda _: torch.mm(a, b, out=c), count),
        time.perf_counter,
        target_half_width=options.target_half_width,
        limit_seconds=options.seconds_per_shape,
        should_stop=report.should_stop,
    )
    flop = 2 * m * n * k
    return MatmulShape(
        m=m,
        n=n,
        k=k,
        dtype=dtype,
        purpose=purpose,
        flop=flop,
        timing=timing,
        flops_per_s=_inverse(timing.estimate, flop),
        share_of_datasheet=Absent("no datasheet peak for this device and dtype"),
        check=check(a, b, c, ROUNDOFF[dtype]),
    )


def check(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, roundoff: float) -> MatmulCheck:
    """Sampled rows and columns of C against A @ B in float64, elementwise.

    The bound: 2u·(|C| + 4·sqrt(A²B²)) + k·u_fp32·|A||B|. The last term is the worst case of an fp32 accumulator
    (Higham, Accuracy and Stability, §3.1); the first is the rounding of the result to its own type (roundoff u), and
    of partial sums, which libraries may keep in that type too and which are a few standard deviations of the sum.
    """
    import torch

    m, k = a.shape
    rows = torch.randperm(m, device=a.device)[:CHECKED_ROWS]
    columns = torch.randperm(b.shape[1], device=a.device)[:CHECKED_COLUMNS]
    left, right = a[rows].double(), b[:, columns].double()
    exact = left @ right
    own = 2 * roundoff * (exact.abs() + 4 * (left.square() @ right.square()).sqrt())
    bound = own + k * ROUNDOFF["fp32"] * (left.abs() @ right.abs())
    error = (c[rows][:, columns].double() - exact).abs() / bound
    largest = float(error.nan_to_num(nan=1e9, posinf=1e9).max())
    return MatmulCheck(rows=len(rows), columns=len(columns), largest_error_over_bound=largest, correct=largest <= 1.0)


def _inverse(seconds: Estimate, work: float) -> Estimate:
    """Work over time: the ends of the interval change places."""
    return Estimate(
        value=work / seconds.value,
        low=work / seconds.high,
        high=work / seconds.low,
        confidence=seconds.confidence,
        method=seconds.method,
        n=seconds.n,
    )


def _best(shapes: list[MatmulShape]) -> dict[str, Estimate]:
    best: dict[str, Estimate] = {}
    for shape in shapes:
        if shape.dtype not in best or shape.flops_per_s.value > best[shape.dtype].value:
            best[shape.dtype] = shape.flops_per_s
    return best
