"""How does the matmul probe look on a screen?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rigbench.core import screen as bars
from rigbench.core import screen as facts
from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.core.screen import plus_minus
from rigbench.matmul import method1_screen as matmul_method1
from rigbench.matmul.record import Ceiling, GemmStep, Matmul, MatmulFleet, MatmulPhase, MatmulShape

if TYPE_CHECKING:
    from rich.console import Console

SURE, CLEARLY = 0.9, 1.25
NARROW = 76  # columns below which tables become lines
NO_DATASHEET = "no datasheet peak for this device and dtype"
PASSES = ("forward", "data gradient", "weight gradient")


def show(result: Matmul | Skipped, console: Console) -> None:
    """The ceiling of each dtype cold and hot, efficiency over size, the model's own products, and all devices."""
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"matmul skipped: {result.reason}", style="yellow"))
        return
    if not result.ceilings:
        matmul_method1.show(result, console)
        return
    device = result.device
    threads = f", {device.threads} threads" if device.kind == "cpu" else ""
    console.print(Text(f"matmul on {device.kind} ({device.name}{threads})", style="italic"))
    for ceiling in result.ceilings:
        _show_ceiling(ceiling, result, console)
    _show_sizes(result.ceilings, console)
    for step in result.steps or ():
        own = [it for it in result.shapes if it.dtype == step.dtype]
        if own:
            _show_step(step, own, result, console)
    if isinstance(result.fleet, MatmulFleet):
        _show_fleet(result.fleet, console)
    elif isinstance(result.fleet, Absent):
        console.print(Text(f"  all devices at once: n/a ({result.fleet.reason})", style="dim"))
    if result.not_run:
        console.print(facts.grid([("not run", line) for line in _grouped(result.not_run)]), style="dim")


def _show_ceiling(ceiling: Ceiling, result: Matmul, console: Console) -> None:
    """What it sustains hot, next to the datasheet, then how that was found."""
    from rich.text import Text

    hot, burst, rows = ceiling.hot, ceiling.burst, list[tuple[str, str]]()
    if isinstance(hot, Absent):
        console.print(Text(f"  {ceiling.dtype}  n/a ({hot.reason})", style="bold"))
    else:
        console.print(Text.assemble((f"  {ceiling.dtype}  {_rate(hot.flops_per_s)}", "bold"), f"  {_checked(ceiling)}"))
        length = units.format_seconds(hot.to_seconds - hot.from_seconds)
        rows.append(("  datasheet", _roof(ceiling, result.datasheet_flops_per_s)))
        rows.append(("  hot", f"the last {length} of {units.format_seconds(hot.to_seconds)} of load{_sensors(hot)}"))
    if not isinstance(burst, Absent):
        first, rest = units.format_seconds(burst.to_seconds), units.format_seconds(ceiling.rest_seconds)
        rows.append(("  burst", f"{_rate(burst.flops_per_s)}, the first {first} after {rest} of rest{_sensors(burst)}"))
    if not isinstance(ceiling.hot_over_burst, Absent):
        rows.append(("  hot/burst", _ratio(ceiling.hot_over_burst)))
    shapes = len({(look.m, look.n, look.k) for look in ceiling.looks})
    rows.append(
        (
            "  shape",
            f"{ceiling.m}×{ceiling.n}×{ceiling.k}, {ceiling.accumulate} accumulate; the best of {shapes} shapes in "
            f"{len(ceiling.looks)} looks over {units.format_seconds(ceiling.search_seconds)} "
            f"({ceiling.search_ended_by}){'' if isinstance(hot, Absent) else ', then measured anew'}",
        )
    )
    rows += _faster(ceiling, result.shapes)
    console.print(facts.grid(rows))


def _faster(ceiling: Ceiling, shapes: Iterable[MatmulShape]) -> list[tuple[str, str]]:
    """A ceiling that something measured short beats clearly is none, and says so.

    Clearly: by its interval, or by a quarter where it has none, as a look of the search and a single sample have not.
    """
    if isinstance(ceiling.hot, Absent):
        return []
    dims = (ceiling.m, ceiling.n, ceiling.k)
    own = [second for look in ceiling.looks if (look.m, look.n, look.k) == dims for second in look.seconds]
    searched = 2 * ceiling.m * ceiling.n * ceiling.k / stats.median(own)
    found = [(searched / CLEARLY, searched, "this shape in the search")]
    for it in shapes:
        if it.dtype == ceiling.dtype and it.check.correct:
            rate = it.flops_per_s
            low = rate.low if rate.level > SURE else rate.value / CLEARLY
            found.append((low, rate.value, f"{it.purpose} {it.product}"))
    low, value, what = max(found)
    if low <= ceiling.hot.flops_per_s.high:
        return []
    why = "the device throttles under load, or something else used it meanwhile"
    return [("  warning", f"{what} was faster than that, {units.format_flops_per_s(value)}, measured short: {why}")]


def _roof(ceiling: Ceiling, peaks: dict[str, Figure]) -> str:
    peak = peaks.get(ceiling.dtype)
    if peak is None or isinstance(ceiling.share_of_datasheet, Absent):
        return f"unknown ({NO_DATASHEET})"
    share = units.format_share(ceiling.share_of_datasheet)
    return f"{share} of {units.format_flops_per_s(peak.value)} ({peak.basis})"


def _checked(ceiling: Ceiling) -> str:
    if not ceiling.checks:
        return "not checked"
    return "correct" if all(check.correct for check in ceiling.checks) else "WRONG RESULT"


def _sensors(phase: MatmulPhase) -> str:
    readings = (
        (phase.temperature_celsius, lambda value: f"{value:.0f} °C"),
        (phase.power_watts, units.format_watts),
        (phase.sm_clock_hertz, lambda value: f"{value / 1e6:,.0f} MHz"),
    )
    known = [shown(value) for value, shown in readings if not isinstance(value, Absent)]
    return f"; {', '.join(known)}" if known else ""


def _rate(rate: Estimate) -> str:
    return f"{units.format_flops_per_s(rate.value)} {plus_minus(rate)}"


def _ratio(ratio: Estimate) -> str:
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _show_sizes(ceilings: Iterable[Ceiling], console: Console) -> None:
    """Cubes of the search, as a share of the sustained ceiling: what small products lose."""
    columns: dict[str, dict[str, float]] = {}
    sizes: set[int] = set()
    for ceiling in ceilings:
        if isinstance(ceiling.hot, Absent):
            continue
        cubes: dict[int, list[float]] = {}
        for look in ceiling.looks:
            if look.m == look.n == look.k:
                cubes.setdefault(look.m, []).extend(look.seconds)
        top = ceiling.hot.flops_per_s.value
        columns[ceiling.dtype] = {str(size): 2 * size**3 / stats.median(own) / top for size, own in cubes.items()}
        sizes |= set(cubes)
    if columns:
        labels = [str(size) for size in sorted(sizes)]
        bars.bars("efficiency over size (cubes, share of the hot ceiling)", labels, columns, console)


def _show_step(step: GemmStep, shapes: list[MatmulShape], result: Matmul, console: Console) -> None:
    """A line a layer: its three products' rates, and what they take of a step."""
    from rich.text import Text

    name = result.model.name if result.model else "the model"
    tokens = f"{step.micro_batch} × {step.sequence:,} tokens"
    console.print(Text(f"{name}'s own products in {step.dtype}, micro-batch {tokens}", style="bold"))
    layers = list(dict.fromkeys(shape.purpose for shape in shapes))
    by_layer = [[shape for shape in shapes if shape.purpose == layer] for layer in layers]
    (_lines if console.width < NARROW else _table)(by_layer, console)
    console.print(facts.grid([("all", _whole_step(step, result.best_flops_per_s.get(step.dtype)))]))


def _whole_step(step: GemmStep, best: Estimate | None) -> str:
    if isinstance(step.seconds, Absent):
        return f"n/a ({step.seconds.reason})"
    rate = step.flop / step.seconds.value
    of_best = f", {units.format_share(rate / best.value)} of the hot ceiling" if best else ""
    return (
        f"{units.format_seconds(step.seconds.value)} ({plus_minus(step.seconds)}) a step expected for "
        f"{units.format_flop(step.flop)}: {units.format_flops_per_s(rate)}{of_best}"
    )


def _table(layers: list[list[MatmulShape]], console: Console) -> None:
    from rich.table import Table

    table = Table(box=None)
    for heading in ("layer", "m×n×k forward", "times", *PASSES, "a step"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for own in layers:
        by_pass = {shape.product: shape for shape in own}
        first = by_pass.get("forward")
        table.add_row(
            own[0].purpose,
            f"{first.m}×{first.n}×{first.k}" if first else "n/a",
            str(own[0].times_per_step or ""),
            *(_speed(by_pass[name]) if name in by_pass else "n/a" for name in PASSES),
            units.format_seconds(_per_step(own)) if len(own) == len(PASSES) else "n/a",
        )
    console.print(table)


def _lines(layers: list[list[MatmulShape]], console: Console) -> None:
    rows = []
    for own in layers:
        rates = ", ".join(f"{shape.product or 'product'} {_speed(shape)}" for shape in own)
        taken = f"; {units.format_seconds(_per_step(own))} a step" if len(own) == len(PASSES) else ""
        rows.append((own[0].purpose, f"×{own[0].times_per_step}, {rates}{taken}"))
    console.print(facts.grid(rows))


def _per_step(shapes: list[MatmulShape]) -> float:
    return sum((shape.times_per_step or 0) * shape.timing.estimate.value for shape in shapes)


def _speed(shape: MatmulShape) -> str:
    return units.format_flops_per_s(shape.flops_per_s.value) if shape.check.correct else "WRONG"


def _show_fleet(fleet: MatmulFleet, console: Console) -> None:
    from rich.text import Text

    console.print(Text(f"all {len(fleet.lanes)} GPUs on {fleet.dtype} {fleet.m}×{fleet.n}×{fleet.k}", style="bold"))
    rows = []
    for lane in fleet.lanes:
        alone, together = lane.alone_flops_per_s, lane.together_flops_per_s
        right = "correct" if lane.check.correct else "WRONG RESULT"
        share = units.format_share(together.value / alone.value)
        rows.append((lane.name, f"alone {_rate(alone)}, all at once {_rate(together)}, {share} of alone; {right}"))
    rates = {lane.name: lane.together_flops_per_s.value for lane in fleet.lanes}
    others = [rate for name, rate in rates.items() if name != fleet.slowest]
    behind = units.format_share(1 - rates[fleet.slowest] / (sum(others) / len(others)))
    total = units.format_flops_per_s(sum(rates.values()))
    rows.append(("all", f"{total}; {fleet.slowest} is the slowest, {behind} behind the others, and sets the pace"))
    console.print(facts.grid(rows))


def _grouped(lines: Iterable[str]) -> list[str]:
    """Lines of the same reason as one."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        what, _, why = line.partition(": ")
        groups.setdefault(why, []).append(what)
    return [f"{'; '.join(whats)}: {why}" for why, whats in groups.items()]
