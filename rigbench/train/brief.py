"""The first screen of short training runs: the rate, the table of variants, what holds it back, one recommendation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rigbench.core import profiles, units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding
from rigbench.core.record import Absent, Energy, Figure
from rigbench.core.screen import MARK_OF, Headline, closing, counted, grid, headline, marked, span, table
from rigbench.model.recipe import Recipe
from rigbench.predict.record import StepTime, VramPrediction
from rigbench.train.record import (
    FULL_LEVEL,
    PREDICTED_NOISE,
    AnySlice,
    ArmRow,
    Arms,
    Compile,
    Exchange,
    MicroBatchSearch,
    Slice,
)
from rigbench.train.screen import compile_words, device_words, exported, kept_words, rate_words
from rigbench.work.record import Power

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.document import Run

MOST_ODD = 6
MORE = "rigbench report {run_id} --verbose: each part of a step, memory, energy.  next: {following}"


def show(run: Run, console: Console, quiet: bool) -> None:
    results = [it for it in run.slices if isinstance(it, AnySlice)]
    if isinstance(run.arms, Arms):
        _show_arms(run, run.arms, console, quiet)
        return
    if not results:
        return
    last = results[-1]
    headline("train-probe", ("ok" if last.has_middle else "warn", sentence(last)), console)
    if len(results) > 1:
        console.print(_models(results))
    if quiet:
        return
    console.print(grid(_facts(last)))
    marked(_odd(run, [(last.model.name, last)]), console)
    following = f"rigbench budget --params {last.model.name}" if isinstance(last, Slice) else "rigbench report"
    closing(_sure(last), MORE.format(run_id=run.id, following=following), console)


def sentence(result: AnySlice) -> str:
    """ "120M: 101,000 tokens/s (99,000 to 103,000), 9.6 GiB of 16 GiB, MFU 41 % [adamw, bf16, eager]"."""
    facts = [f"{result.model.name}: {_rate(result)}"]
    if size := _peak(result):
        facts.append(size)
    if isinstance(result.mfu, Figure):
        facts.append(f"MFU {units.format_share(result.mfu.value)}")
    return f"{', '.join(facts)} [{variant(result.recipe)}]"


def variant(recipe: Recipe) -> str:
    """The choices in words, always with whether it is compiled."""
    return recipe.words if recipe.compiled else f"{recipe.words}, eager"


def names(results: Sequence[AnySlice]) -> list[str]:
    """Each one's model, or how it was trained where all are of one model in several ways."""
    models, ways = {it.model.name for it in results}, {it.recipe.words for it in results}
    alone = len(models) == 1 and len(ways) > 1
    return [it.recipe.words if alone else it.model.name for it in results]


def _rate(result: AnySlice) -> str:
    its, unit = result.items_per_s, f"{result.unit}/s"
    if its.level == 0:
        return rate_words(result)
    if result.has_middle:
        return span(its, unit)
    covers = f" ({units.format_share(its.level)})" if its.level < FULL_LEVEL else ""
    return f"{units.format_range(its.low, its.high, unit)}{covers}"


def _peak(result: AnySlice) -> str:
    size = result.peak
    if isinstance(size, Absent):
        return ""
    total = result.device.memory_total_bytes
    of = "" if isinstance(total, Absent) else f" of {units.format_bytes(total)}"
    return f"{units.format_bytes(size.value)}{of}"


def _models(results: Sequence[AnySlice]) -> object:
    rows = []
    plain = all(result.unit == "tokens" and result.items_per_s.level > 0 for result in results)
    for result in results:
        size, rate = result.peak, _rate(result)
        rate = rate.replace(" tokens/s", "") if plain else rate
        share = units.format_share(result.mfu.value) if isinstance(result.mfu, Figure) else "n/a"
        step = units.format_seconds(result.step_seconds.value)
        memory = "n/a" if isinstance(size, Absent) else units.format_bytes(size.value)
        rows.append((result.model.name, rate, step, memory, share, variant(result.recipe)))
    return table(("model", ">tokens/s" if plain else ">rate", ">step", ">peak memory", ">MFU", "trained with"), rows)


def _facts(result: AnySlice) -> Iterator[tuple[str, str]]:
    recipe = result.recipe
    yield "on", device_words(result.device, result.cards)
    if isinstance(result, Slice) and result.model.trains:
        yield "trains", result.model.trains
    step = units.format_seconds(result.step_seconds.value)
    shares = ", ".join(f"{name} {units.format_share(share)}" for name, share in result.step_share.items())
    sequence = f" × {result.model.shape.sequence:,} tokens" if isinstance(result, Slice) else " samples"
    batch = f"micro-batch {recipe.micro_batch}{sequence} ({result.micro_batch_chosen_by})"
    yield "step", f"{step}: {shares or 'not taken apart'}; {batch}"
    if isinstance(result.compile, Compile):
        yield "compile", f"{compile_words(result.compile, 'with a warm cache')}, before the first step"
    if isinstance(result, Slice) and isinstance(result.exchange, Exchange):
        yield "sync", sync_words(result, result.exchange)
    if isinstance(result, Slice) and result.exports:
        yield "export", exported(result.exports)
    yield "memory", f"what runs out first: {result.memory.deciding}"
    energy = result.energy
    if isinstance(result.power, Power) and result.power.covers == "wall":
        joules = units.format_significant(result.power.watts.value / result.items_per_s.value, 2)
        watts = units.format_watts(result.power.watts.value)
        yield "energy", f"{watts} (wall), {joules} J a {result.unit[:-1]}"
    elif isinstance(energy, Energy):
        each = result.joules_per_item
        joules = "" if isinstance(each, Absent) else f", {units.format_significant(each, 2)} J a {result.unit[:-1]}"
        yield "energy", f"{units.format_watts(energy.watts)} ({energy.covers}){joules}"
    else:
        yield "energy", f"n/a ({energy.reason})"


def sync_words(result: Slice, its: Exchange) -> str:
    """What of a step waits for gradients, and how much of so many times one is kept."""
    share = units.format_share(max(0.0, its.exposed.value / result.step_seconds.value))
    words = f"gradient sync that computing does not hide takes {share} of a step"
    kept = its.kept(result.step_seconds)
    if isinstance(kept, Absent):
        return words
    return f"{words}; {kept_words(result, kept)} of {len(its.hosts)} times one rank alone"


def _odd(run: Run, results: Sequence[tuple[str, AnySlice]]) -> list[Headline]:
    """Findings of training, then events, the first few."""
    lines = [_finding_line(item) for item in run.findings] if run.command == "train-probe" else []
    lines += [("note", f"{label}: {event}") for label, result in results for event in result.events]
    more: list[Headline] = [("note", f"{len(lines) - MOST_ODD} more with --verbose")] if len(lines) > MOST_ODD else []
    return [*lines[:MOST_ODD], *more]


def _finding_line(item: Finding) -> Headline:
    said = item.evidence[0] if item.evidence else ""
    where = f" ({', '.join(item.where)})" if item.where else ""
    cost = "" if isinstance(item.cost, Absent) else f"; costs: {item.cost.sentence}"
    cure = "" if item.severity == "information" else f". To do: {item.cure}"  # of what to choose there is one advice
    return MARK_OF[item.severity], f"{item.title}{where}: {said}{cost}{cure}"


def _sure(result: AnySlice) -> str:
    rate, steps = result.items_per_s, result.steps.seconds
    if rate.level == 0:
        return "one steady step, so no interval; give more --seconds"
    count = len(steps) - result.steady_from
    ended = "" if result.ended_by == "interval" else f"; ended by: {result.ended_by}"
    over = counted(count, "steady step")
    return f"{units.format_share(rate.level)} interval over {over} of {len(steps)}{ended}; one process, one moment"


def _show_arms(run: Run, arms: Arms, console: Console, quiet: bool) -> None:
    results = {row.label: it for row in arms.rows if isinstance(it := _result(row, run), Slice)}
    base = arms.rows[0]
    first = results.get(base.label)
    headline("train-probe", verdict(run, arms), console)
    ran = [row for row in arms.rows if row.outcome != "skipped"]
    if ran:
        console.print(_variants(arms, ran, results))
    if quiet:
        return
    lines = []
    if arms.advice:
        lines.append(("advice", arms.advice))
    if isinstance(arms.micro_batch, MicroBatchSearch):
        lines.append(("batch", arms.micro_batch.why))
    if first:
        lines += [it for it in _facts(first) if it[0] in ("on", "trains", "step", "sync", "export", "energy")]
    else:
        lines += [("trains", arms.model.trains)] if arms.model.trains else []
        lines.append(("assumed", _assumed(arms, base)))
        if isinstance(base.time, StepTime) and base.time.ceilings.heat:
            lines.append(("heat", base.time.ceilings.heat))
    console.print(grid(lines))
    skipped: dict[str, list[str]] = defaultdict(list)
    for row in arms.rows:
        if row.outcome == "skipped":
            skipped[row.reason].append(row.label)
    marked([*_odd(run, list(results.items())), *_skipped(skipped)], console)
    following = f"rigbench budget {profiles.option_of(arms.on)}" if arms.on != "here" else "rigbench budget"
    closing(_sure_of_arms(arms, first), MORE.format(run_id=run.id, following=following), console)


def _result(row: ArmRow, run: Run) -> object:
    return run.slices[row.slice] if isinstance(row.slice, int) else None


def verdict(run: Run, arms: Arms) -> Headline:
    """Of the first variant, which the others are compared with."""
    base = arms.rows[0]
    first = _result(base, run)
    if isinstance(first, Slice):
        return "ok" if first.has_middle else "warn", sentence(first)
    facts = [f"{arms.model.name} on {arms.on}, predicted" if arms.on != "here" else arms.model.name]
    rate = base.time.tokens_per_s if isinstance(base.time, StepTime) else None
    size = units.format_bytes(base.peak_bytes.value) if isinstance(base.peak_bytes, Figure) else ""
    if size and isinstance(base.memory, VramPrediction):
        size += f" of {units.format_bytes(base.memory.target.memory_bytes)}"
    answers = [*([span(rate, "tokens/s")] if rate and base.outcome == "predicted" else []), *([size] if size else [])]
    if answers and isinstance(base.time, Absent) and base.outcome == "predicted":
        return "warn", f"{facts[0]}: no speed ({base.time.reason}), {size} [{variant(base.recipe)}]"
    said = ", ".join(answers) if answers else f"no answer ({base.reason})"
    return "note" if arms.on != "here" else "warn", f"{facts[0]}: {said} [{variant(base.recipe)}]"


def _variants(arms: Arms, ran: Sequence[ArmRow], results: dict[str, Slice]) -> object:
    base = arms.rows[0]
    rows = []
    for row in ran:
        result = results.get(row.label)
        size = units.format_bytes(row.peak_bytes.value) if isinstance(row.peak_bytes, Figure) else "n/a"
        share = units.format_share(result.mfu.value) if result and isinstance(result.mfu, Figure) else ""
        label = f"{variant(row.recipe)}" if row is base else row.label
        rows.append([label, rate_cell(row, result), _versus(arms, row), size, share])
    columns = ["variant", ">tokens/s", ">vs baseline", ">peak memory", ">MFU"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return table(columns, rows)


def rate_cell(row: ArmRow, result: Slice | None) -> str:
    """A variant's rate under a heading that has its unit."""
    if result:
        return _rate(result).replace(" tokens/s", "")
    return span(row.time.tokens_per_s, "").replace("  ", " ") if isinstance(row.time, StepTime) else "n/a"


def _versus(arms: Arms, row: ArmRow) -> str:
    """The ratio where it is more than noise."""
    base = arms.rows[0]
    if row is base:
        return "baseline"
    if isinstance(row.speedup, Estimate):
        told = row.speedup.level >= FULL_LEVEL
        return span(row.speedup, "×") if row.differs else "no difference" if told else "too few steps"
    if not isinstance(row.time, StepTime) or not isinstance(base.time, StepTime):
        return ""
    ratio = row.time.tokens_per_s.value / base.time.tokens_per_s.value
    return f"{units.format_significant(ratio, 2)} ×" if row.differs else "no difference"


def _assumed(arms: Arms, base: ArmRow) -> str:
    said = f"micro-batch {base.recipe.micro_batch}, {'compiled' if base.recipe.compiled else 'eager'}"
    said += f", as `rigbench budget` and `capacity {profiles.option_of(arms.on)}` take it" if arms.usual else ""
    if isinstance(base.memory, VramPrediction):
        doubt = f", {words}" if (words := base.memory.doubt) else ""
        said += f": {span(base.memory.process, 'bytes')}{doubt}"
    return "; ".join([said, *(base.time.notes if isinstance(base.time, StepTime) else [])])


def _skipped(reasons: dict[str, list[str]]) -> Iterator[Headline]:
    for reason, labels in reasons.items():
        yield "note", f"not run: {'; '.join(labels)} ({reason})"


def _sure_of_arms(arms: Arms, first: Slice | None) -> str:
    if first is None:
        noise = units.format_share(PREDICTED_NOISE)
        time = arms.rows[0].time
        count = len(time.known) if isinstance(time, StepTime) else 0
        known = f" and {counted(count, 'known run')}" if count else ""
        said = f"90 % intervals, from published runs{known}"
        return f"{said}; two predictions less than {noise} apart are no difference (assumed)"
    said = _sure(first)
    if isinstance(arms.control, float):
        said += f"; the baseline run again differed by {units.format_share(abs(arms.control - 1))}, allowed for"
    return said
