"""The first screen of a budget: the answer, the models, what is assumed that decides most, how sure, what next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rigbench.budget.plan import FEW_TOKENS_PER_PARAMETER, MANY_TOKENS_PER_PARAMETER
from rigbench.budget.record import KNOWN_RUN, ONE_CARD, Budget, Deadline, NextSlice, Overhead, PlanRow, Rent, Scaling
from rigbench.core import profiles, units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Carbon, Figure, Price
from rigbench.core.screen import Headline, Mark, closing, grid, headline, marked, missing, printable, span, table
from rigbench.work import power as cost
from rigbench.work.record import Power

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BACKWARDS = ("hours", "kWh", "electricity", "rent")
HOUR = 3600.0
TIMES = {name: size for size, name in units.SCALES["seconds"].steps}
Its = Estimate | Figure
MOST_RIGS_WITH_ONE = 4  # that stand on one screen beside the first one's models


def brief(budget: Budget, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    from rich.text import Text

    headline("budget", (_mark(budget), sentence(budget)), console)
    claims = (budget.sanity.sentence, _judged(budget)), (budget.sanity.kwh_sentence, "note"), by_then(budget)
    marked([(mark, claim) for claim, mark in claims if isinstance(claim, str)], console)  # type: ignore[misc]
    if budget.others or budget.refused:
        rigs, reasons = side_by_side(budget)
        console.print(rigs)
        for line in reasons:
            console.print(Text(printable(f" {line}"), style="dim"))
        if quiet:
            return
        if len(rigs_of(budget)) > MOST_RIGS_WITH_ONE:
            closing("90 % intervals", "rigbench budget --on NAME says of one all it can", console)
            return
        console.print(Text(printable(f"{rig_words(budget)}; the others with `--on NAME`:"), style="bold"))
    console.print(models_table(budget))
    if quiet:
        return
    console.print(grid(_facts(budget)))
    marked(_odd(budget), console)
    closing(sure(budget), _following(budget, run_id), console)


def _mark(budget: Budget) -> Mark:
    return "warn" if budget.remark else "ok" if isinstance(budget.rig, Absent) else "note"


def _judged(budget: Budget) -> Mark:
    said, hours = budget.goal.declared_hours, budget.whole.hours
    return "ok" if isinstance(said, float) and hours.low <= said <= hours.high else "warn"


def sentence(budget: Budget) -> str:
    """What is asked for, where, and what it takes; what was asked for is not answered with itself."""
    answers: dict[str, tuple[Its | Absent, str]] = {
        "hours": (_seconds(budget.whole.hours), "seconds"),
        "kWh": (_of_gpus(budget), "kWh (GPUs only)") if is_mixed(budget) else (budget.whole.kwh, kwh_unit(budget)),
        "electricity": (budget.whole.money, currency(budget)),
    }
    known = []
    for name, (its, unit) in answers.items():
        if name != budget.goal.kind and not isinstance(its, Absent):
            known.append(told(its, unit, has_middle(budget)) if name == "hours" else _middle(budget, its, unit))
    goal, flop = budget.goal, units.format_flop(budget.flops)
    if goal.kind in BACKWARDS:
        bought = told(goal.flops, "FLOP", has_middle(budget))
        return ", ".join([f"{_amount(budget)} on {rig_words(budget)} buy {bought}", *known])
    return f"{flop} on {rig_words(budget)}: {', '.join(known)}"


def by_then(budget: Budget) -> tuple[str | Absent, Mark]:
    """Whether the plan is done by the deadline and how likely, and what is; of a deadline alone what surely is."""
    its = budget.deadline
    if isinstance(its, Absent):
        return its, "note"
    when = f"By {its.at}, in {units.format_seconds(its.hours * HOUR)}"
    if isinstance(its.flops, Absent):
        return f"{when}: nothing ({its.flops.reason})", "warn"
    models = f"largest model that alone sees 20 tokens a parameter: {_largest(its)}"
    if budget.goal.kind == "hours":
        surely = f"{units.format_flop(its.flops.low)} or more, 95 % sure{_tokens(budget, its.flops.low)}"
        return f"{when}: {surely}; {models}", "note"
    takes = told(_seconds(budget.whole.hours), "seconds", has_middle(budget))
    likely = f"{_chance(its.probability)} likely"
    if its.verdict == "done":
        return f"{when}: done, {likely}, as it takes {takes}", "ok"
    said = f"not done, {likely}" if its.verdict == "not done" else f"{likely} to be done"
    done = f"by then {told(its.flops, 'FLOP', has_middle(budget))}{_tokens(budget, its.flops.low, its.flops.high)}"
    return f"{when}: {said}, as it takes {takes}; {done}; {models}", "warn"


def _largest(its: Deadline) -> str:
    if isinstance(its.largest_likely, Absent):
        return f"none ({its.largest_likely.reason})"
    if its.largest_surely == its.largest_likely:
        return f"{its.largest_surely}, 95 % sure"
    surely = "none" if isinstance(its.largest_surely, Absent) else its.largest_surely
    return f"{its.largest_likely}; 95 % sure: {surely}"


def _tokens(budget: Budget, *flops: float) -> str:
    """ ", 1.2B to 3B tokens of each model", where all have as many."""
    counts = {row.tokens for row in budget.series}
    if len(counts) > 1:
        return ""
    ends = [flop / budget.flops * budget.series[0].tokens for flop in flops]
    return f", {between(ends[0], ends[-1])} tokens{' of each model' if len(budget.series) > 1 else ''}"


def _chance(probability: float) -> str:
    if not 0.01 <= probability <= 0.99:
        return "over 99 %" if probability > 0.5 else "under 1 %"
    return units.format_share(probability)


def _amount(budget: Budget) -> str:
    goal = budget.goal
    if goal.kind == "electricity":
        return f"{units.format_money(goal.amount, currency(budget))} of electricity"
    if goal.kind == "rent":
        unit = budget.rent.currency if isinstance(budget.rent, Rent) else ""
        return f"{units.format_money(goal.amount, unit)} of rent"
    return f"{goal.amount:g} {'h' if goal.kind == 'hours' else goal.kind}"


def rig_words(budget: Budget) -> str:
    """ "2 × RTX 4080 (ddp)", "Some CPU, 2 threads"."""
    device, recipe = budget.configuration.device, budget.configuration.recipe
    name = device.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    if device.kind == "cpu":
        return f"{name}, {device.threads} thread{'' if device.threads == 1 else 's'}"
    return f"{recipe.ranks} × {name} ({recipe.strategy})" if recipe.ranks > 1 else name


def models_words(budget: Budget) -> str:
    """ "5M to 120M with 846.7M tokens each"."""
    rows, goal = budget.series, budget.goal
    counts = [row.tokens for row in rows]
    each = f"{between(min(counts), max(counts))} tokens"
    if len(rows) == 1 and goal.kind in BACKWARDS:
        each += f" ({between(*(end / budget.flops * counts[0] for end in (goal.flops.low, goal.flops.high)))})"
    each += " each" if len(rows) > 1 and len(set(counts)) == 1 else ""
    each += ", in proportion to size" if goal.split == "compute-optimal" and len(rows) > 1 else ""
    names = rows[0].model if len(rows) == 1 else f"{rows[0].model} to {rows[-1].model}"
    return f"{names} with {each}"


def between(low: float, high: float) -> str:
    low_text, high_text = units.format_count(low), units.format_count(high)
    return low_text if low_text == high_text else f"{low_text} to {high_text}"


def has_middle(budget: Budget) -> bool:
    """What was measured on this rig must tell it; a prediction's interval is as wide as it is."""
    if isinstance(budget.rig, str):
        return True
    return budget.whole.hours.has_middle and all(row.rate.has_middle for row in budget.series)


def is_told(row: PlanRow) -> bool:
    """Whether a measured rate has a middle."""
    return row.rate.source == "predicted" or (row.rate.has_middle and row.rate.tokens_per_s.has_middle)


def kwh_unit(budget: Budget) -> str:
    covers = "wall" if isinstance(budget.power, Absent) else budget.power.covers
    return "kWh" if covers == "wall" else f"kWh ({covers})"


def currency(budget: Budget) -> str:
    return budget.price.currency if isinstance(budget.price, Price) else "money"


def told(its: Its, unit: str, with_middle: bool = True) -> str:
    """A number with its interval; the range alone where its middle may not be told."""
    low, high = its.ends if isinstance(its, Figure) else (its.low, its.high)
    if low == high:
        return units.format_seconds(low) if unit == "seconds" else units.format_span(its.value, low, high, unit)
    return span(its, unit) if with_middle else units.format_range(low, high, unit)


def cell(its: Its | Absent, with_middle: bool = True) -> str:
    """The same in a column, whose heading has the unit."""
    return "n/a" if isinstance(its, Absent) else " ".join(told(its, "", with_middle).split())


def _middle(budget: Budget, its: Its, unit: str) -> str:
    """The number alone, as precise as its interval; the interval stands beside the hours."""
    low, high = its.ends if isinstance(its, Figure) else (its.low, its.high)
    if not has_middle(budget) or _is_wide(its):
        return units.format_range(low, high, unit)
    return f"{units.span_parts(its.value, low, high, unit)[0]} {unit}"


def _is_wide(its: Its) -> bool:
    return " to " in told(its, "") and "(" not in told(its, "")


def _seconds(hours: Estimate) -> Estimate:
    return hours * HOUR


def time_unit(hours: Estimate) -> tuple[str, float]:
    """The unit that people would say these hours in, and its hours."""
    name = units.span_parts(hours.value * HOUR, hours.low * HOUR, hours.high * HOUR, "seconds")[2]
    return name, TIMES[name] / HOUR


def short_time(seconds: float) -> str:
    """Without tenths of seconds, where they say nothing."""
    return units.format_seconds(seconds) if seconds >= 59.5 else f"{seconds:.0f} s"


def models_table(budget: Budget) -> RenderableType:
    """A model a row, then what else takes time, then all of it; times in one unit."""
    unit, size = time_unit(budget.whole.hours)
    covered, paid = "kWh (wall)" if is_mixed(budget) else kwh_unit(budget), currency(budget)
    columns: dict[str, Callable[[PlanRow], str]] = {"model": lambda row: row.model}
    if len({row.tokens for row in budget.series}) > 1:
        columns[">tokens"] = lambda row: units.format_count(row.tokens)
    columns[">tokens/s"] = lambda row: _rate(row)
    columns[f">{unit}"] = lambda row: cell(row.hours / size, is_told(row))
    if isinstance(budget.series_kwh, Figure):
        columns[f">{covered}"] = lambda row: _short(row.kwh, is_told(row))
    if isinstance(budget.series_money, Figure):
        columns[f">{paid}"] = lambda row: _short(row.money, is_told(row))
    if isinstance(budget.rig, Absent):
        columns["known from"] = lambda row: row.rate.known_from or row.rate.source
    rows = [[text(row) for text in columns.values()] for row in budget.series]
    more, whole = (dict.fromkeys(columns, "") for _ in range(2))
    middle = has_middle(budget)
    beyond = [(one.hours.value, *one.hours.ends) for one in budget.overheads]
    sums = [sum(column) for column in zip(*beyond, strict=True)]
    more |= {"model": "overheads", f">{unit}": _of_sums(sums, size)}
    whole |= {
        "model": "in all",
        f">{unit}": cell(budget.whole.hours / size, middle),
        f">{covered}": cell(budget.whole.kwh, middle),
        f">{paid}": cell(budget.whole.money, middle),
    }
    asked = {"hours": (f">{unit}", size), "kWh": (f">{covered}", 1.0), "electricity": (f">{paid}", 1.0)}
    if budget.goal.kind in asked:  # what was asked for has no interval
        heading, scale = asked[budget.goal.kind]
        whole[heading] = units.format_significant(budget.goal.amount / scale)
    if "known from" in columns:
        more["known from"] = _how_known(budget.overheads)
    rows += [[facts[heading] for heading in columns] for facts in (more, whole)]
    return table(list(columns), rows)


def _of_sums(sums: Sequence[float], size: float) -> str:
    if not any(sums):
        return "0"
    value, low, high = (it / size for it in sums)
    return cell(Figure(value, "predicted", "", low, high))


def _rate(row: PlanRow) -> str:
    """As precise as its interval, which stands beside the hours."""
    its = row.rate.tokens_per_s
    if not is_told(row):
        return units.format_range(its.low, its.high, "").strip()
    return units.span_parts(its.value, its.low, its.high, "")[0]


def _short(its: Figure | Absent, with_middle: bool) -> str:
    if isinstance(its, Absent):
        return "n/a"
    return (
        units.span_parts(its.value, *its.ends, "")[0] if with_middle and not _is_wide(its) else cell(its, with_middle)
    )


def _how_known(overheads: Sequence[Overhead]) -> str:
    assumed = sum(one.hours.ends[1] for one in overheads if "assumed" in one.hours.basis)
    every = sum(one.hours.ends[1] for one in overheads)
    return "" if not assumed else "mostly assumed" if assumed > every / 2 else "partly assumed"


def side_by_side(budget: Budget) -> tuple[RenderableType, list[str]]:
    """A rig a line, whole runs with overheads, and why a cell is n/a; what was asked for has no column.

    kWh are of the same parts of every rig: of the GPUs alone where not all of them are known at the wall.
    """
    rigs = rigs_of(budget)
    all_at_wall = covers_of(budget) <= {"wall"}
    rented = sorted({one.rent.currency for one in rigs if isinstance(one.rent, Rent)})
    paid = "/".join(sorted({currency(one) for one in rigs}))
    unit, size = time_unit(budget.whole.hours)
    figures: dict[str, Callable[[Budget], Its | Absent]] = {
        "FLOP": lambda one: one.goal.flops,
        unit: lambda one: one.whole.hours / size,
        "kWh" if all_at_wall else "kWh (GPUs only)": lambda one: one.whole.kwh if all_at_wall else _of_gpus(one),
        paid: lambda one: one.whole.money,
        "CO₂ kg": lambda one: one.whole.co2_kg,
        f"rent {'/'.join(rented)}".strip(): lambda one: one.rent.money if isinstance(one.rent, Rent) else one.rent,
    }
    asked = {"hours": unit, "kWh": "kWh", "electricity": paid}.get(budget.goal.kind, "FLOP")
    figures = {name: its for name, its in figures.items() if name != asked}
    if not any(isinstance(one.whole.co2_kg, Figure) for one in rigs):
        del figures["CO₂ kg"]

    def of_peak(one: Budget) -> str:
        share = one.sanity.share
        return "n/a" if isinstance(share, Absent) else units.format_share(share.value)

    def text(name: str, one: Budget) -> str:
        its = figures[name](one)
        return told(its, "FLOP") if name == "FLOP" and not isinstance(its, Absent) else cell(its)

    def in_time(one: Budget) -> list[str]:
        its = one.deadline
        if isinstance(its, Absent):
            return []
        return [{"done": "yes", "not done": "no"}.get(its.verdict, _chance(its.probability))]

    due = [] if isinstance(budget.deadline, Absent) or budget.goal.kind == "hours" else ["in time"]
    rows = [
        [rig_name(one), *(text(name, one) for name in figures), of_peak(one), *(in_time(one) if due else [])]
        for one in rigs
    ]
    reasons = []
    for name, its in figures.items():
        lacking = [(rig_name(one), absent) for one in rigs if isinstance(absent := its(one), Absent)]
        reasons += [f"{name} {missing(lacking)}"] if lacking else []
    reasons += [f"{refused.rig}: no answer ({refused.reason})" for refused in budget.refused]
    return table(["rig", *(f">{name}" for name in figures), ">of peak", *due], rows), reasons


def covers_of(budget: Budget) -> set[str]:
    return {one.power.covers for one in rigs_of(budget) if isinstance(one.power, Power)}


def is_mixed(budget: Budget) -> bool:
    """Whether this rig's watts are known at the wall, and not those of all beside it."""
    at_wall = isinstance(budget.power, Power) and budget.power.covers == "wall"
    return at_wall and covers_of(budget) != {"wall"}


def rigs_of(budget: Budget) -> list[Budget]:
    return [budget, *budget.others]


def rig_name(budget: Budget) -> str:
    return budget.rig.reason if isinstance(budget.rig, Absent) else budget.rig


def _of_gpus(budget: Budget) -> Figure | Absent:
    power = budget.power
    if isinstance(power, Absent) or power.covers == "GPUs only":
        return budget.whole.kwh
    part = next((part.watts for part in power.split if part.name == cost.GPUS), None)
    if part is None:
        return Absent("the GPUs' own watts are not known")
    return cost.kwh(budget.whole.hours, Power(part, "GPUs only"))


def _facts(budget: Budget) -> Iterator[tuple[str, str]]:
    recipe = budget.configuration.recipe
    code = "" if recipe.compiled else ", eager"
    yield "models", f"{models_words(budget)}; {recipe.words}{code}"
    parts = [
        f"{one.name} {short_time(one.hours.value * HOUR)}" for one in budget.overheads if one.hours.value * HOUR >= 1
    ]
    if parts:
        known = _how_known(budget.overheads)
        yield "overhead", ", ".join(parts) + (f"; {known}" if known else "")
    unsure = [one for one in budget.overheads if "assumed" in one.hours.basis and one.hours.ends[1] > 0]
    decides = list(budget.decides)
    if unsure and not decides:
        one = max(unsure, key=lambda it: it.hours.ends[1] - it.hours.ends[0])
        decides.append(f"{one.name}: {one.hours.basis}")
    for number, line in enumerate(decides):
        yield "assumed" if number == 0 else "", line
    if budget.scaling != ONE_CARD:
        yield "scaling", scaling_words(budget.scaling)
    if exports := budget.configuration.exports:
        yield "export", f"{' '.join(exports)} before the run, as its short runs had: p2p advises it on this rig"
    if isinstance(budget.whole.co2_kg, Figure):
        its = budget.carbon
        where = f" ({its.place}, {its.date})" if isinstance(its, Carbon) and its.source != "--carbon" else ""
        grams = f"{its.g_per_kwh:g} g a kWh" if isinstance(its, Carbon) else ""
        yield "CO₂", f"{told(budget.whole.co2_kg, 'kg', has_middle(budget))} at {grams}{where}"
    if isinstance(budget.power, Absent):
        yield "kWh", f"n/a ({budget.power.reason})"
    elif isinstance(budget.whole.money, Absent):
        yield "money", f"n/a ({budget.whole.money.reason})"
    else:
        yield from price(budget)


def price(budget: Budget) -> Iterator[tuple[str, str]]:
    """There is no silent price."""
    if isinstance(budget.price, Price):
        its = budget.price
        per_kwh = f"{units.format_significant(its.per_kwh, 4)} {its.currency}/kWh"
        yield "price", f"{per_kwh}, {its.place}, {its.date} ({its.source})"


def scaling_words(its: Scaling | Absent) -> str:
    if isinstance(its, Absent):
        return f"n/a ({its.reason})"
    middle = its.has_middle and its.efficiency.has_middle
    one, together = (
        units.format_rate(rate.value) if middle else units.format_range(rate.low, rate.high, "tokens/s")
        for rate in (its.one, its.together)
    )
    kept = f"{told(its.efficiency, 'share', middle)} of {its.cards} times one"
    return f"{its.model}: {one} on one card, {together} on {its.cards}, {kept}"


def _odd(budget: Budget) -> Iterator[Headline]:
    if budget.remark:
        yield "warn", budget.remark
    for row in () if budget.configuration.recipe.adapted else budget.series:
        each = row.tokens_per_parameter
        if FEW_TOKENS_PER_PARAMETER <= each <= MANY_TOKENS_PER_PARAMETER:
            continue
        words = "too little data for it" if each < FEW_TOKENS_PER_PARAMETER else "more than it can use"
        told = f"{row.model} sees {units.format_significant(each, 2)} tokens a parameter"
        yield "note", f"{told}, {words} (about 20 is compute-optimal)"
        break
    if budget.left_out:
        more = f"; {len(budget.left_out) - 1} more with --verbose" if len(budget.left_out) > 1 else ""
        yield "note", f"left out {budget.left_out[0]}{more}"
    if isinstance(budget.power, Power):
        yield from (("warn", warning) for warning in budget.power.warnings)


def sure(budget: Budget) -> str:
    """What the interval is of, and the one measurement that narrows it most."""
    measured = sum(row.rate.source == "measured" for row in budget.series)
    said = f"90 % intervals; {measured} of {len(budget.series)} size{'s' * (len(budget.series) > 1)} measured"
    if isinstance(budget.rig, str):
        known = {it for row in budget.series for it in row.rate.rests_on if it.startswith(KNOWN_RUN)}
        also = f" and {len(known)} known run{'s' * (len(known) > 1)}" if known else ""
        said = f"90 % intervals, from published runs{also}; nothing was measured there"
    its = budget.next_slice
    if not isinstance(its, NextSlice):
        return said
    if isinstance(its.half_width_then, Absent):
        return f"{said}. More certain: {its.command} (1 min); {its.half_width_then.reason}"
    now, then = (units.format_plus_minus(width) for width in (its.half_width_now, its.half_width_then))
    halves = "Halve it" if its.half_width_then <= its.half_width_now / 2 else "Narrow it"
    there, other = (" there", ", or --known with a published run of it,") if isinstance(budget.rig, str) else ("", "")
    return f"{said}. {halves}: {its.command} (1 min{there}){other} takes {its.of} from {now} to about {then}"


def _following(budget: Budget, run_id: str) -> str:
    more = f"rigbench report {run_id} --verbose: each overhead, watts, scaling laws, every assumption"
    if isinstance(budget.rig, str):
        return f"{more}.  next: rigbench capacity {profiles.option_of(budget.rig)}"
    return f"{more}.  next: rigbench backtest {run_id} train.log, once it has run"
