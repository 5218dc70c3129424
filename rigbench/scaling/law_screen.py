"""Shows laws of losses: the exponent, a log-log chart, what the next model would get, and published laws beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from rigbench.core import units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.core.screen import Headline, closing, grid, headline, marked, printable, span, table
from rigbench.scaling.record import Fit, Joint, Line, Of, Paired, Point

NAMES: dict[Of, str] = {"N": "parameters", "D": "tokens", "C": "FLOP"}
HEIGHT, WIDEST, EDGE = 11, 76, 8  # of a chart: rows, columns, and those left of it for losses
MARKS = "●■▲◆▼★○□△◇"
MOST_ODD = 4


def brief(its: Fit, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline("law", verdict(its), console)
    marked(_odd(its), console)
    console.print(_laws(its))
    if quiet:
        return
    charted = its.lines[-1] if its.lines else None
    if charted:
        chart(its, charted, console)
    console.print(grid(facts(its)))
    console.print(_published(its))
    sure = "90 % intervals; in, out: whether that lies in ours; no point was left out for not fitting"
    closing(sure, f"rigbench report {run_id} --verbose, or --html for its page", console)


def show(its: Fit, console: Console) -> None:
    headline("law", verdict(its), console)
    marked(_odd(its, most=len(its.odd)), console)
    console.print(_laws(its))
    for line in its.lines:
        console.print()
        chart(its, line, console)
    console.print(grid(facts(its)))
    if isinstance(its.joint, Joint):
        console.print(grid(_joint(its.joint)))
    console.print(_published(its, whole=True))
    if its.isoflops:
        console.print(_isoflops(its))
    if isinstance(its.difference, Paired):
        console.print(_pairs(its.difference))
    console.print(_points(its))
    for other in its.others:
        console.print()
        show(other, console)


def verdict(its: Fit) -> Headline:
    """ "L(N) ∝ N^-0.107 (-0.126 to -0.088), R² 0.986, 5 points of 5M to 124M"."""
    if not its.lines:
        return "warn", f"{its.source}: no law"
    line = its.lines[0]
    sizes = sorted({(its.points[place].params, its.points[place].model) for place in line.places})
    models = sizes[0][1] if len(sizes) == 1 else f"{sizes[0][1]} to {sizes[-1][1]}"
    sentence = f"{_straight(line)}, {len(line.places)} points of {models}"
    return "warn" if its.odd or line.exponent.value <= 0 else "ok", sentence


def _straight(line: Line) -> str:
    told = f", R² {r_squared(line.r_squared)}" if line.exponent.level else ""  # any two points lie on a line
    return f"L({line.of}) ∝ {line.of}^{_minus(line.exponent)}{told}"


def _minus(exponent: Estimate) -> str:
    """An exponent as it stands in the law: "-0.107 (-0.126 to -0.088)"."""
    return _plain(Estimate(-exponent.value, -exponent.high, -exponent.low, exponent.level, "", exponent.n))


def _plain(its: Estimate, digits: int = 3) -> str:
    value, low, high = (f"{round(it, digits) + 0.0:.{digits}f}" for it in (its.value, its.low, its.high))  # of -0.0 0.0
    return f"{value} ({low} to {high})" if its.level else f"{value} (no interval)"


def r_squared(r_squared: float) -> str:
    """0.98 and 0.9996, never 1.000 of what is not."""
    return next((text for digits in (3, 4, 5) if not (text := f"{r_squared:.{digits}f}").startswith("1.")), "1.000")


def _odd(its: Fit, most: int = MOST_ODD) -> Iterator[Headline]:
    for line in its.odd[:most]:
        yield "warn", line
    if len(its.odd) > most:
        yield "note", f"{len(its.odd) - most} more with --verbose"


def _laws(its: Fit) -> object:
    rows = []
    for line in its.lines:
        floor = line.floor
        told = "not known" if isinstance(floor, Absent) else f"{_plain(floor.irreducible, 2)}"
        exponent = "" if isinstance(floor, Absent) else _plain(floor.exponent)
        straight = r_squared(line.r_squared) if line.exponent.level else "n/a"  # any two points lie on a line
        rows.append([f"L({line.of})", str(len(line.places)), _plain(line.exponent), straight, told, exponent])
    joint = its.joint
    if isinstance(joint, Joint):
        words = _plain(joint.irreducible, 2)
        rows.append(
            ["L(N, D)", str(len(joint.places)), "", r_squared(joint.r_squared), words, f"N {_plain(joint.alpha)}"]
        )
        rows.append(["", "", "", "", "", f"D {_plain(joint.beta)}"])
    headings = ("law", ">points", ">exponent, straight", ">R²", ">irreducible loss E", ">exponent above E")
    return table(headings, rows)


def facts(its: Fit) -> Iterator[tuple[str, str]]:
    line = next((it for it in its.lines if it.of == "N"), None)
    if isinstance(its.joint, Joint):
        best = its.joint.optimum
        size, tokens = _counts(its.joint.next_parameters), _counts(its.joint.next_tokens)
        yield "next", f"{size} on {tokens} tokens: {_loss(its.joint.next_loss)} by L(N, D)"
        beyond = f"; {best.beyond}" if best.beyond else ""
        words = f"{_many(best.parameters)} parameters on {_many(best.tokens)} tokens: {_loss(best.loss)}{beyond}"
        yield "optimal", f"{units.format_flop(best.flops)}: {words}"
    elif line:
        yield "next", _next(its, line)
    yield "points", "; ".join(f"L({one.of}) {one.among}" for one in its.lines)
    for missing in its.missing:
        yield "missing", missing
    for other in its.others:
        line = next(iter(other.lines), None)
        law = _straight(line) if line else "no law"
        yield other.optimizer, law
    if isinstance(its.difference, Paired):
        yield f"{its.difference.second}", difference(its.difference)
    elif its.others:
        yield "", its.difference.reason
    for note in its.notes:
        yield "read", note


def _next(its: Fit, line: Line) -> str:
    if isinstance(line.next_loss, Absent):
        return f"n/a ({line.next_loss.reason})"
    tokens = {its.points[place].tokens for place in line.places}
    on = f" on {_counts(max(tokens))} tokens" if len(tokens) == 1 else ""
    straight = f"{_loss(line.next_loss)} by the straight line"
    if isinstance(line.floor, Absent):
        return f"{_counts(line.next_x)}{on}: {straight}"
    return f"{_counts(line.next_x)}{on}: {_loss(line.floor.next_loss)} with E; {straight}"


def difference(its: Paired) -> str:
    if isinstance(its.nats, Absent) or isinstance(its.share, Absent):
        reason = its.nats.reason if isinstance(its.nats, Absent) else ""
        return f"less {its.first}: {its.pairs[0][2] - its.pairs[0][1]:+.4f} nats a token ({reason})"
    ends = f"{its.nats.low:+.4f} to {its.nats.high:+.4f}"
    share = f"{100 * its.share.value:+.2f} %"
    told = "more than none" if its.nats.low > 0 or its.nats.high < 0 else "perhaps none"
    return f"less {its.first}: {its.nats.value:+.4f} nats a token ({ends}), {share}, {len(its.pairs)} pairs: {told}"


def _loss(its: Estimate) -> str:
    value, low, high = (f"{it:.3f}" if it < 1000 else f"{it:.1e}" for it in (its.value, its.low, its.high))
    return f"{value} ({low} to {high}) nats a token"


def _counts(value: float) -> str:
    return units.format_count(value)


def _many(its: Estimate) -> str:
    return f"{_counts(its.value)} ({_counts(its.low)} to {_counts(its.high)})"


def _joint(its: Joint) -> Iterator[tuple[str, str]]:
    yield "L(N, D)", "E + A/N^alpha + B/D^beta, Huber loss on logarithms (Hoffmann 2022)"
    yield "E", f"{_plain(its.irreducible)} nats a token"
    yield "A, alpha", f"{span(its.a, '')}; {_plain(its.alpha)}"
    yield "B, beta", f"{span(its.b, '')}; {_plain(its.beta)}"
    yield "N ∝ C^a", f"a = {_plain(its.size_exponent)}; losses lie {units.format_share(its.deviation)} from the law"


def _published(its: Fit, whole: bool = False) -> object:
    """A law a row: what it expects of these very sizes and tokens, and whether that lies in our interval."""
    columns = list(dict.fromkeys(it.of for it in its.published))
    rows = []
    for law in dict.fromkeys(it.law for it in its.published if whole or not it.law.endswith("as printed")):
        row = {it.of: it for it in its.published if it.law == law}
        cells = [
            f"{row[of].exponent:.3f}{_verdict(row[of].inside, row[of].ours)}" if of in row else "" for of in columns
        ]
        rows.append([law.removesuffix("" if whole else ", source digits"), next(iter(row.values())).data, *cells])
    if not rows:
        return Text("")
    return table(("law, on these points", "of", *(f">{of}" for of in columns)), rows)


def _verdict(inside: bool, ours: Estimate) -> str:
    return "" if not ours.level else " in" if inside else " out"


def _isoflops(its: Fit) -> object:
    rows = []
    for one in its.isoflops:
        lowest = one.parameters.reason if isinstance(one.parameters, Absent) else _counts(one.parameters)
        loss = "" if isinstance(one.loss, Absent) else f"{one.loss:.3f}"
        rows.append([units.format_flop(one.flops), str(len(one.places)), lowest, loss])
    return table((">the same FLOP", ">sizes", "lowest at", ">loss there"), rows)


def _pairs(its: Paired) -> object:
    rows = [[model, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"] for model, a, b in its.pairs]
    return table(("model", f">{its.first}", f">{its.second}", ">difference"), rows)


def _points(its: Fit) -> object:
    rows = [
        [it.model, _counts(it.params), _counts(it.tokens), units.format_flop(it.flops), f"{it.loss:.4f}", str(it.seed)]
        for it in its.points
    ]
    return table(("model", ">parameters", ">tokens", ">FLOP", ">loss", ">seed"), rows)


def chart(its: Fit, line: Line, console: Console) -> None:
    """All losses over N, D or C, both axes logarithmic, a mark a model; the law as dots, from the first point to the
    next step. Only those of the line are full where others are beside it."""
    width = max(20, min(WIDEST, console.width - EDGE - 2))
    x = [x_of(point, line.of) for point in its.points]
    ends = min(x), max(max(x), line.next_x if line.of == "N" else 0.0)
    law = [(at, line.constant * at**-line.exponent.value) for at in along(*ends, 2 * width)]
    losses = [point.loss for point in its.points]
    low, high = min(*losses, law[-1][1]), max(losses)
    if low <= 0 or high / low < 1 + 1e-9 or ends[1] / ends[0] < 1 + 1e-9:
        return
    cells = [[" "] * width for _ in range(HEIGHT)]

    def place(at: float, loss: float) -> tuple[int, int]:
        across = math.log(at / ends[0]) / math.log(ends[1] / ends[0])
        down = math.log(high / loss) / math.log(high / low)
        return round(down * (HEIGHT - 1)), round(across * (width - 1))

    for at, loss in law:
        row, column = place(at, loss)
        if 0 <= row < HEIGHT:
            cells[row][column] = "·"
    models = list(dict.fromkeys(point.model for point in sorted(its.points, key=lambda it: it.params)))
    for at, point in zip(x, its.points, strict=True):
        row, column = place(at, point.loss)
        cells[row][column] = MARKS[models.index(point.model) % len(MARKS)]
    for row, its_cells in enumerate(cells):
        value = high * (low / high) ** (row / (HEIGHT - 1))
        label = f"{value:.2f}" if row % 5 == 0 else ""
        console.print(Text(f"{label:>{EDGE - 2}} ┤{''.join(its_cells)}".rstrip()))
    console.print(Text(" " * (EDGE - 1) + "└" + "─" * width))
    left, right = (units.format_flop(end) if line.of == "C" else _counts(end) for end in ends)
    middle = f"{NAMES[line.of]}, logarithmic".center(max(0, width - len(left) - len(right)))
    console.print(Text(f"{' ' * EDGE}{left}{middle}{right}"))
    legend = "  ".join(f"{MARKS[number % len(MARKS)]} {model}" for number, model in enumerate(models[:10]))
    console.print(Text(printable(f"{' ' * EDGE}{legend}  · L({line.of})"), style="dim", overflow="fold"))


def x_of(point: Point, of: Of) -> float:
    return {"N": float(point.params), "D": float(point.tokens), "C": point.flops}[of]


def along(low: float, high: float, count: int) -> Sequence[float]:
    return [low * (high / low) ** (number / (count - 1)) for number in range(count)]
