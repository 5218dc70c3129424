"""Shows a comparison: what changed, worst first, what is the same, what cannot be told, and what would tell it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from rigbench.compare.record import WORSE, Compared, Comparison, Pair, Side
from rigbench.core import units
from rigbench.core.screen import Mark, closing, counted, grid, headline, printable, table

MOST_CHANGED, MOST_UNDECIDED, MOST_CHANGES, MOST_REFUSED, LONGEST_NAME = 14, 8, 6, 3, 22
LONGEST_TEXT = 120
METRICS = {
    "items_per_s": "",
    "tokens_per_s": "",
    "bytes_per_s": "",
    "algorithm_bytes_per_s": "",
    "sustained_flops_per_s": "",
    "best_flops_per_s": "in short tests",
    "together_flops_per_s": "",
    "hot_flops_per_s": "speed",
    "seconds": "time",
    "peak_bytes": "memory",
    "joules_per_item": "energy",
    "steady_celsius": "settles at",
    "hot_over_cold": "hot ÷ cold",
    "flop_per_joule": "FLOP per joule",
}
ROOMS = {"slices": "training"}
MORE = {1: "once more", 2: "twice more"}
WORDS = {("bytes", "better"): "less", ("bytes", "worse"): "more", ("°C", "better"): "cooler", ("°C", "worse"): "hotter"}


def named(room: str, what: str, metric: str) -> str:
    """ "training 120M adamw memory": a number in words."""
    return shortened(
        " ".join(filter(None, (ROOMS.get(room, room), what, METRICS.get(metric, metric.replace("_", " ")))))
    )


def shortened(text: str) -> str:
    """Somebody's name may be as long as a file."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def name(its: Compared) -> str:
    return named(its.room, its.what, its.metric)


def show(comparison: Comparison, console: Console, whole: bool, quiet: bool = False) -> None:
    for number, pair in enumerate(comparison.pairs):
        if number:
            console.print()
        _show(pair, comparison, console, whole, quiet)


def _show(pair: Pair, comparison: Comparison, console: Console, whole: bool, quiet: bool) -> None:
    mark, sentence = verdict(pair)
    headline("compare", (mark, sentence), console)
    changes = pair.changes if whole else pair.changes[:MOST_CHANGES]
    if len(changes) < len(pair.changes):
        changes = (*changes, f"{len(pair.changes) - len(changes)} more with --verbose")
    if changes:
        console.print(grid([("changed", "; ".join(map(shortened, changes)))]))
    rows = pair.rows if whole else tuple(_few(pair))
    if rows:
        console.print(_table(pair, rows))
    if quiet:
        return
    console.print(grid(_rest(pair, len(rows), whole)))
    if whole:
        for it in pair.refused:
            console.print(Text(printable(f"  not compared: {it.name}: {it.reason}"), style="dim"))
    sure = _sure(pair, comparison)
    closing(sure, _following(pair, whole), console)


def verdict(pair: Pair) -> tuple[Mark, str]:
    count = len(pair.rows)
    worse = [row for row in pair.rows if row.verdict in WORSE]
    better = [row for row in pair.rows if row.verdict in ("faster", "better")]
    same = sum(row.verdict == "same" for row in pair.rows)
    if worse:
        most = worse[0]
        also = f"; better in {len(better)}" if better else ""
        return "warn", f"worse in {len(worse)} of {count}: {name(most)} {change(most)}{also}"
    if better:
        return "ok", f"better in {len(better)} of {count}, worse in none: {name(better[0])} {change(better[0])}"
    if same == count:
        return "ok", f"the same in {'all ' if count > 1 else ''}{counted(count, 'number')}"
    if pair.more_runs:
        return "note", f"ambiguous: {_too_few(pair)}"
    return "note", f"no change that chance alone would not give; {same} of {count} surely the same"


def _too_few(pair: Pair) -> str:
    sides = pair.before.units, pair.after.units
    if pair.after.unit == "rig":
        return f"{max(sides)} rigs of its kind are too few to separate a slow one from chance; 9 others do"
    if sides == (1, 1):
        return "one run a side says nothing of how the next one would differ; run it 3 times on each side"
    if pair.more_runs > 2:
        return f"{sides[0]} and {sides[1]} runs cannot separate a change from chance; run it 3 times on each side"
    return f"{sides[0]} and {sides[1]} runs cannot separate a change from chance; run it {MORE[pair.more_runs]}"


def _few(pair: Pair) -> Iterator[Compared]:
    """What changed; where nothing did, what differs most."""
    changed = [row for row in pair.rows if row.verdict not in ("same", "ambiguous")]
    yield from changed[:MOST_CHANGED]
    undecided = [row for row in pair.rows if row.verdict == "ambiguous"]
    yield from undecided[: max(0, MOST_UNDECIDED - len(changed))]


def _table(pair: Pair, rows: tuple[Compared, ...]) -> object:
    is_placed = any(row.place for row in rows)
    columns = ["what", f">{_short(pair.before, 'before')}", f">{_short(pair.after, 'after')}", ">change", "verdict"]
    cells = [
        [name(row), *(_value(it, row) for it in (row.before, row.after)), change(row), word(row), row.place]
        for row in rows
    ]
    if is_placed:
        return table([*columns, ">place"], cells)
    return table(columns, [row[:-1] for row in cells])


def _short(side: Side, otherwise: str) -> str:
    return otherwise if len(side.name) > LONGEST_NAME or "," in side.name else side.name


def _value(value: float, row: Compared) -> str:
    text, _, unit = units.span_parts(value, value, value, row.unit)
    return f"{text} {unit}"


def word(row: Compared) -> str:
    return WORDS.get((row.unit, row.verdict), row.verdict)


def change(row: Compared) -> str:
    """ "−13 % (−15 to −11)"; the number alone where nothing tells how the next run would differ."""
    if row.unit == "°C":  # a share of a temperature means nothing
        value, low, high = (row.before * (end - 1) for end in (row.ratio.value, row.ratio.low, row.ratio.high))
        ends = f" ({_signed(low, 0)} to {_signed(high, 0)})" if 0 < row.ratio.level < 1 else ""
        return f"{_signed(value, 0)} °C{ends}"
    value, low, high = ((end - 1) * 100 for end in (row.ratio.value, row.ratio.low, row.ratio.high))
    if not 0 < row.ratio.level < 1:
        return _signed(value, 1 if abs(value) < 10 else 0) + " %"
    if high - low > 150:
        return f"×{units.format_significant(row.ratio.low, 2)} to {units.format_significant(row.ratio.high, 2)}"
    digits = max(0, min(2, 1 - math.floor(math.log10(max(high - low, 0.01)))))
    return f"{_signed(value, digits)} % ({_signed(low, digits)} to {_signed(high, digits)})"


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


def _rest(pair: Pair, shown: int, whole: bool) -> Iterator[tuple[str, str]]:
    for label, side in (("before", pair.before), ("after", pair.after)):
        kind = counted(side.units, side.unit)
        repeats = f", {len(side.added)} of them stored repeats" if side.added else ""
        name = "" if "," in side.name else f"{shortened(side.name)}, "
        yield label, f"{name}{kind}{repeats}: {shortened(side.machine)}"
    counts = {kind: sum(row.verdict == kind for row in pair.rows) for kind in ("same", "ambiguous")}
    parts = [f"{count} {'the ' * (kind == 'same')}{kind}" for kind, count in counts.items() if count]
    if parts and len(pair.rows) > shown:
        yield "besides", ", ".join(parts)
    lacking = {whose: sum(it.reason == f"only in {whose}" for it in pair.refused) for whose in ("before", "after")}
    other = [it for it in pair.refused if not it.reason.startswith("only in ")]
    said = [shortened(f"{it.name}: {it.reason}") for it in other[:MOST_REFUSED]]
    said += [f"{len(other) - MOST_REFUSED} more"] * (len(other) > MOST_REFUSED)
    said += [f"{count} only in {whose}" for whose, count in lacking.items() if count]
    if said and not whole:
        yield "refused", "; ".join(said)


def _sure(pair: Pair, comparison: Comparison) -> str:
    within = units.format_share(comparison.same_within)
    if pair.rows and all(row.p == 1.0 and row.verdict == "same" for row in pair.rows):
        return "the same runs stand on both sides"
    return (
        f"of rigs that did not change at most {units.format_share(1 - pair.level)} get any verdict but same or "
        f"ambiguous ({pair.splits:,} ways to share the {pair.before.unit}s out, all numbers together); 90 % intervals "
        f"between {pair.before.unit}s; same: surely within {within}"
    )


def _following(pair: Pair, whole: bool) -> str:
    more = "--json has every unit's number" if whole else "--verbose: every number; --json: every unit's"
    if pair.more_runs and pair.before.unit == "run":
        return f"{more}.  next: the same command again, with nothing else running"
    return more
