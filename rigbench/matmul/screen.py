"""Shows each dtype's ceiling cold and hot, efficiency over size, the model's own products, and all devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.core.screen import (
    Headline,
    bars,
    closing,
    counted,
    grid,
    headline,
    listed,
    marked,
    printable,
    span,
    span_cells,
    table,
)
from rigbench.matmul.clock import LEAST_SHARE, flop_per_clock, mhz, share_of_clock, short
from rigbench.matmul.record import Ceiling, GemmStep, Matmul, MatmulFleet, MatmulPhase, MatmulShape

CLEARLY = 1.25
NARROW = 76  # columns below which tables become lines
PASSES = ("forward", "data gradient", "weight gradient")


def verdict(result: Matmul) -> Headline:
    """ "bf16 88 TFLOP/s (87 to 89) per GPU sustained, 90 % of the datasheet", of the first dtype that was measured.

    Where a short test was faster: "bf16 640 TFLOP/s (580 to 720) sustained at 1,328 MHz, 90 % of what that clock
    allows, 65 % of the datasheet; 798 TFLOP/s in a short test".
    """
    wrong = _wrong(result)
    if wrong:
        return "fault", f"WRONG RESULTS in {listed(wrong)}"
    if result.failures:
        return "fault", f"{len(result.failures)} of the devices failed under load: {result.failures[0]}"
    first = next((it for it in result.ceilings if it.dtype in result.best_flops_per_s), None)
    if first is None:
        why = next((it.hot.reason for it in result.ceilings if isinstance(it.hot, Absent)), "nothing was measured")
        return "warn", f"no ceiling was found: {why}"
    per = " per GPU" if not isinstance(result.fleet, Absent) else ""
    rate, share = f"{first.dtype} {span(_lasting(first, result), 'FLOP/s')}{per}", _of_datasheet(first, result)
    if isinstance(first.hot, Absent):
        return "ok", f"{rate} in a short test, {share}"
    faster, at_clock = short(result, first), ""
    if faster and (of_clock := share_of_clock(first, flop_per_clock(result.device))):
        at_clock = (
            f" at {mhz(first.hot.sm_clock_hertz)}, {units.format_share(of_clock.value)} of what that clock allows"
        )
    in_short = f"; {units.format_flops_per_s(faster[0].value)} in a short test" if faster else ""
    return "ok", f"{rate} sustained{at_clock}, {share}{in_short}"


def _wrong(result: Matmul) -> list[str]:
    """Every dtype, layer and device of which a product was wrong."""
    loads = [it.dtype for it in result.ceilings if not all(check.correct for check in it.checks)]
    own = [f"{it.dtype} {it.purpose}" for it in result.shapes if not it.check.correct]
    lanes = () if isinstance(result.fleet, Absent) else result.fleet.lanes
    return list(dict.fromkeys([*loads, *own, *(lane.name for lane in lanes if not lane.check.correct)]))


def _lasting(ceiling: Ceiling, result: Matmul) -> Estimate:
    """What it sustained; without a load, what a short test reached."""
    return result.best_flops_per_s[ceiling.dtype] if isinstance(ceiling.hot, Absent) else ceiling.hot.flops_per_s


def _of_datasheet(ceiling: Ceiling, result: Matmul) -> str:
    peak, best = result.datasheet_flops_per_s.get(ceiling.dtype), _lasting(ceiling, result)
    if peak is None:
        return "no datasheet to hold it against"
    if best.value > peak.value:  # a card may clock higher than published
        return f"faster than the {units.format_flops_per_s(peak.value)} of the datasheet"
    return f"{units.format_share(best.value / peak.value)} of the datasheet"


def brief(result: Matmul, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline("matmul", verdict(result), console)
    fastest = max((it.value for it in result.best_flops_per_s.values()), default=0.0)
    unit, scale = ("TFLOP/s", 1e12) if fastest >= 1e12 else ("GFLOP/s", 1e9)
    rows, fast = [], {it.dtype: faster[0].value for it in result.ceilings if (faster := short(result, it))}
    for it in result.ceilings:
        best = result.best_flops_per_s.get(it.dtype)
        loaded = best and not (fast and isinstance(it.hot, Absent))
        rate = span_cells(_lasting(it, result) / scale, unit) if loaded else ("n/a", "")
        share = _of_datasheet(it, result).partition(" of ")[0] if loaded else ""
        change = it.hot_over_burst
        times = ("n/a", "") if isinstance(change, Absent) else span_cells(change, "")
        results = "correct" if all(check.correct for check in it.checks) else "WRONG"
        in_short = [units.format_significant(fast[it.dtype] / scale) if it.dtype in fast else "–"] if fast else []
        share = share if "%" in share else "–"
        rows.append((it.dtype, *rate, *in_short, share, *times, results if it.checks else "not checked"))
    ends, over = ">90 % interval", ">÷ beginning" if fast else ">sustained ÷ beginning"
    beside = (">short test", ">datasheet") if fast else (">of the datasheet",)
    console.print(table(("dtype", f">{unit}", ends, *beside, over, ends, "results"), rows))
    if quiet:
        return
    marked(_odd(result), console)
    console.print(grid(_facts(result)))
    hot = [it.hot for it in result.ceilings if not isinstance(it.hot, Absent)]
    length = f"the last {units.format_seconds(hot[0].to_seconds - hot[0].from_seconds)} of " if hot else ""
    loads = f"{length}{units.format_seconds(hot[0].to_seconds)} of load; " if hot else ""
    tried = [len({look.dims for look in it.looks}) for it in result.ceilings] or [0]
    count = str(tried[0]) if len(set(tried)) == 1 else f"{min(tried)} to {max(tried)}"
    closing(
        f"{loads}the fastest of {count} shapes" + " (by dtype)" * (len(set(tried)) > 1),
        f"rigbench report {run_id} matmul has every size, and each layer's own products",
        console,
    )


def _odd(result: Matmul) -> Iterator[Headline]:
    for ceiling in result.ceilings:
        if ceiling.dtype not in result.best_product:
            yield from (("warn", f"{ceiling.dtype}: {text}") for _, text in _faster(ceiling, result))
        if isinstance(ceiling.hot, Absent):
            yield "note", f"{ceiling.dtype}: {ceiling.hot.reason}"
    if not isinstance(result.fleet, Absent):
        yield "note", _pace(result.fleet)
        yield from (("warn", f"left out: {why}") for why in result.fleet.left_out)
    yield from (("fault", line) for line in result.failures)
    yield from (("note", f"not run: {line}") for line in result.not_run)


def _facts(result: Matmul) -> Iterator[tuple[str, str]]:
    for step in result.steps:
        if not isinstance(step.seconds, Absent):
            products = f"{result.model.name}'s own products in {step.dtype}"
            yield "model", f"{products}: {_whole_step(step, result)}"
    for ceiling in result.ceilings:
        if not isinstance(ceiling.hot, Absent) and (readings := _sensors(ceiling.hot)):
            yield "heat", f"{ceiling.dtype}{readings.replace(';', ':')}"


def _pace(fleet: MatmulFleet) -> str:
    """Who is slowest beside all the others."""
    total, slowest = sum(lane.together_flops_per_s.value for lane in fleet.lanes), fleet.slowest
    rate = slowest.together_flops_per_s.value
    behind = units.format_share(1 - rate / ((total - rate) / (len(fleet.lanes) - 1)))
    all_at_once = f"{len(fleet.lanes)} GPUs at once: {units.format_flops_per_s(total)}"
    return f"{all_at_once}; {slowest.name} is the slowest, {behind} behind the others, and sets the pace"


def show(result: Matmul, console: Console) -> None:
    device = result.device
    threads = f", {device.threads} threads" if device.kind == "cpu" else ""
    console.print(Text(printable(f"matmul on {device.kind} ({device.name}{threads})"), style="italic"))
    for ceiling in result.ceilings:
        _show_ceiling(ceiling, result, console)
    _show_sizes(result, console)
    for step in result.steps:
        own = [it for it in result.shapes if it.dtype == step.dtype]
        if own:
            _show_step(step, own, result, console)
    if isinstance(result.fleet, Absent):
        console.print(Text(printable(f"  all devices at once: n/a ({result.fleet.reason})"), style="dim"))
    else:
        _show_fleet(result.fleet, console)
    reasons: dict[str, list[str]] = {}
    for line in result.not_run:
        what, _, why = line.partition(": ")
        reasons.setdefault(why, []).append(what)
    if reasons:
        rows = [("not run", f"{'; '.join(whats)}: {why}") for why, whats in reasons.items()]
        console.print(grid(rows), style="dim")


def _show_ceiling(ceiling: Ceiling, result: Matmul, console: Console) -> None:
    """What it sustains hot, next to the datasheet, then how that was found."""
    hot, burst, rows = ceiling.hot, ceiling.burst, list[tuple[str, str]]()
    if isinstance(hot, Absent) and ceiling.dtype in result.best_product:
        best = result.best_flops_per_s[ceiling.dtype]
        console.print(Text(f"  {ceiling.dtype}  {_rate(best)}", style="bold"))
        rows.append(("  found by", f"{result.best_product[ceiling.dtype]}, in a short test"))
        rows.append(("  hot", f"n/a ({printable(hot.reason)})"))
    elif isinstance(hot, Absent):
        console.print(Text(printable(f"  {ceiling.dtype}  n/a ({hot.reason})"), style="bold"))
    else:
        right = "correct" if all(check.correct for check in ceiling.checks) else "WRONG RESULT"
        checked = right if ceiling.checks else "not checked"
        faster, per_clock = short(result, ceiling), flop_per_clock(result.device)
        lasts = " sustained" if faster else ""
        console.print(Text.assemble((f"  {ceiling.dtype}  {_rate(hot.flops_per_s)}{lasts}", "bold"), f"  {checked}"))
        if faster:
            rate, what = faster
            each = per_clock.get(ceiling.dtype.removesuffix("-fast"))
            clock = f"; its clock was at least {mhz(rate.value / each)}" if each else ""
            rows.append(("  short", f"{_rate(rate)} in a short test: {what}{clock}"))
        if of_clock := share_of_clock(ceiling, per_clock):
            rows.append(("  clock", f"{units.format_share(of_clock.value)} of {of_clock.basis}"))
        length = units.format_seconds(hot.to_seconds - hot.from_seconds)
        if isinstance(ceiling.share_of_datasheet, Absent):
            rows.append(("  datasheet", f"unknown ({ceiling.share_of_datasheet.reason})"))
        else:
            share, peak = units.format_share(ceiling.share_of_datasheet), result.datasheet_flops_per_s[ceiling.dtype]
            rows.append(("  datasheet", f"{share} of {units.format_flops_per_s(peak.value)} ({peak.basis})"))
        rows.append(("  hot", f"the last {length} of {units.format_seconds(hot.to_seconds)} of load{_sensors(hot)}"))
    if not isinstance(burst, Absent):
        first, rest = units.format_seconds(burst.to_seconds), units.format_seconds(ceiling.rest_seconds)
        rows.append(("  burst", f"{_rate(burst.flops_per_s)}, the first {first} after {rest} of rest{_sensors(burst)}"))
        if not isinstance(ratio := ceiling.hot_over_burst, Absent):
            ends = f"{ratio.low:.3f} to {ratio.high:.3f}"
            rows.append(("  ratio", f"sustained ÷ first {first}: {ratio.value:.3f} ({ends})"))
    shapes, tries = len({look.dims for look in ceiling.looks}), len(ceiling.looks)
    how = f"the best of {counted(shapes, 'shape')} in {tries} {'try' if tries == 1 else 'tries'} over"
    anew = "" if isinstance(hot, Absent) else ", then measured anew"
    took = f"{units.format_seconds(ceiling.search_seconds)} ({ceiling.search_ended_by}){anew}"
    rows.append(("  shape", f"{ceiling.words}, {ceiling.accumulate} accumulate; {how} {took}"))
    rows += _faster(ceiling, result)
    console.print(grid(rows))


def _faster(ceiling: Ceiling, result: Matmul) -> list[tuple[str, str]]:
    """A load that something measured short beats clearly, at a clock that does not tell why, and says so.

    Clearly: by its interval, or by a quarter where it has none, as a look of the search and a single sample have not.
    """
    of_clock = share_of_clock(ceiling, flop_per_clock(result.device))
    if isinstance(ceiling.hot, Absent) or (of_clock and of_clock.value >= LEAST_SHARE):
        return []
    shapes = () if ceiling.dtype in result.best_product else result.shapes
    searched = ceiling.flop / stats.median(ceiling.searched_seconds)
    rivals = [(searched / CLEARLY, searched, "this shape in the search")]
    for it in shapes:
        if it.dtype == ceiling.dtype and it.check.correct:
            rate = it.flops_per_s
            low = rate.low if rate.level >= stats.LEVEL else rate.value / CLEARLY
            rivals.append((low, rate.value, f"{it.purpose} {it.product}"))
    low, value, what = max(rivals)
    if low <= ceiling.hot.flops_per_s.high:
        return []
    why = "the device throttles under load, or something else used it meanwhile"
    return [("  warning", f"{what} was faster than that, {units.format_flops_per_s(value)}, in a short test: {why}")]


def _sensors(phase: MatmulPhase) -> str:
    readings = (
        (phase.temperature_celsius, lambda value: f"{value:.0f} °C"),
        (phase.power_watts, units.format_watts),
        (phase.sm_clock_hertz, lambda value: f"{value / 1e6:,.0f} MHz"),
    )
    known = [shown(value) for value, shown in readings if not isinstance(value, Absent)]
    return f"; {', '.join(known)}" if known else ""


def _rate(rate: Estimate) -> str:
    return span(rate, "FLOP/s")


def _show_sizes(result: Matmul, console: Console) -> None:
    """Cubes of the search, as a share of the ceiling or of a faster one of them: what small products lose."""
    columns: dict[str, dict[str, float]] = {}
    sizes: set[int] = set()
    for ceiling in result.ceilings:
        if isinstance(ceiling.hot, Absent) or ceiling.dtype not in result.best_flops_per_s:
            continue
        cubes: dict[int, list[float]] = {}
        for look in ceiling.looks:
            if look.m == look.n == look.k:
                cubes.setdefault(look.m, []).extend(look.seconds)
        rates = {str(size): 2 * size**3 / stats.median(each) for size, each in cubes.items()}
        top = max([result.best_flops_per_s[ceiling.dtype].value, *rates.values()])
        columns[ceiling.dtype] = {size: rate / top for size, rate in rates.items()}
        sizes |= set(cubes)
    if columns:
        labels = [str(size) for size in sorted(sizes)]
        bars("efficiency over size (cubes, share of the fastest)", labels, columns, console)


def _show_step(step: GemmStep, shapes: Sequence[MatmulShape], result: Matmul, console: Console) -> None:
    """A line a layer: its three products' rates, and what they take of a step."""
    tokens = f"{step.micro_batch} × {step.sequence:,} tokens"
    title = f"{result.model.name}'s own products in {step.dtype}, micro-batch {tokens}"
    console.print(Text(title, style="bold"))
    layers: dict[str, dict[str, MatmulShape]] = {}
    for shape in shapes:
        layers.setdefault(shape.purpose, {})[shape.product] = shape
    if console.width < NARROW:
        console.print(grid((layer, _line(passes)) for layer, passes in layers.items()))
    else:
        headings = ("layer", ">m×n×k forward", ">times", *(f">{name}" for name in PASSES), ">a step")
        console.print(table(headings, (_row(layer, passes) for layer, passes in layers.items())))
    console.print(grid([("all", _whole_step(step, result))]))


def _row(layer: str, passes: dict[str, MatmulShape]) -> list[str]:
    first, forward = next(iter(passes.values())), passes.get("forward")
    return [
        layer,
        forward.words if forward else "n/a",
        str(first.times_per_step),
        *(_speed(passes[name]) if name in passes else "n/a" for name in PASSES),
        _per_step(passes) or "n/a",
    ]


def _line(passes: dict[str, MatmulShape]) -> str:
    rates = ", ".join(f"{name} {_speed(shape)}" for name, shape in passes.items())
    taken = _per_step(passes)
    shape = f"{passes['forward'].words} " if "forward" in passes else ""
    return f"{shape}×{next(iter(passes.values())).times_per_step}, {rates}{f'; {taken} a step' if taken else ''}"


def _per_step(passes: dict[str, MatmulShape]) -> str:
    """What a layer's products take of a step; empty where one was not measured."""
    seconds = sum(shape.times_per_step * shape.timing.estimate.value for shape in passes.values())
    return units.format_seconds(seconds) if len(passes) == len(PASSES) else ""


def _whole_step(step: GemmStep, result: Matmul) -> str:
    if isinstance(step.seconds, Absent):
        return f"n/a ({step.seconds.reason})"
    rate, best = step.flop / step.seconds.value, result.best_flops_per_s.get(step.dtype)
    which = "fastest of them" if step.dtype in result.best_product else "ceiling"
    of_best = f", {units.format_share(rate / best.value)} of the {which}" if best else ""
    return (
        f"{span(step.seconds, 'seconds')} a step expected for "
        f"{units.format_flop(step.flop)}: {units.format_flops_per_s(rate)}{of_best}"
    )


def _speed(shape: MatmulShape) -> str:
    return units.format_flops_per_s(shape.flops_per_s.value) if shape.check.correct else "WRONG"


def _show_fleet(fleet: MatmulFleet, console: Console) -> None:
    count = len(fleet.lanes)
    which = f"{count} of {count + len(fleet.left_out)}" if fleet.left_out else f"all {count}"
    console.print(Text(f"{which} GPUs on {fleet.dtype} {fleet.words}", style="bold"))
    rows = []
    for lane in fleet.lanes:
        alone, together = lane.alone_flops_per_s, lane.together_flops_per_s
        right = "correct" if lane.check.correct else "WRONG RESULT"
        pace = together / alone
        share = f"{units.format_share(pace.value)} of alone"
        if pace.high >= 1:  # more than alone is noise, or alone was disturbed
            share = "as fast as alone" if pace.low <= 1 else "faster than alone, which was disturbed"
        own = "" if isinstance(lane.shape, Absent) else f"; on {lane.shape.words}, for want of memory"
        rows.append((lane.name, f"alone {_rate(alone)}, all at once {_rate(together)}, {share}; {right}{own}"))
    rows.append(("all", _pace(fleet).partition(": ")[2]))
    rows += [(name, f"left out: {why}") for name, _, why in (printable(it).partition(": ") for it in fleet.left_out)]
    console.print(grid(rows))
