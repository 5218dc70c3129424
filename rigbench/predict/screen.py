"""Shows what fits and what fills the memory."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core import profiles, units
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.core.screen import Columns, Headline, closing, counted, grid, headline, marked, span, table
from rigbench.model.recipe import checkpoint_words
from rigbench.predict.record import NOT_ASKED, Capacity, Largest, OwnCapacity, OwnRow, Target, UsualStep, VramPrediction

BAR_CELLS, LEAST_CELLS, NUMBERS = 40, 10, 24  # of a bar, and of the two numbers beside it
SLOW_WORDS = "slow: it fits only while torch gives cached memory back again and again"
PARTS = {
    "weights": "weights, and their 16-bit copies",
    "gradients": "gradients",
    "optimizer": "optimizer states",
    "activations": "activations",
    "logits": "logits",
    "workspace": "workspace of kernels",
    "communication": "gradient buckets, gathered shards",
    "cache": "rounding and cached blocks",
    "outside": "context",
}
PRECISIONS = {"bf16": "bf16 autocast", "fp16": "fp16 autocast", "bf16-pure": "pure bf16"}


def brief(result: Capacity | OwnCapacity, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    """The one answer, the table of what fits, what fills the memory, how sure and what next."""
    if isinstance(result, OwnCapacity):
        _show_program(result, console, quiet, run_id)
        return
    headline("capacity", verdict(result), console)
    console.print(_weights_table(result) if result.inference else _ways_table(result))
    if quiet:
        return
    facts = [("on", _room(result)), *([("trains", result.model.trains)] if result.model.trains else [])]
    shown = _shown(result)
    if shown:
        of_series = any(row.model != NOT_ASKED for row in result.rows)
        both = "longest sequence and largest model" if of_series else "longest sequence"
        facts += [("memory", _filled(shown)), ("per row", f"{both}: at micro-batch 1")]
    console.print(grid(facts))
    marked([("note", line) for line in _notes(result)], console)
    basis = shown.prediction.basis if shown else result.inference[0].process.basis if result.inference else ""
    of_this_machine = " " in result.target.name
    named = "" if of_this_machine else f" {profiles.option_of(result.target.name)}"
    following = f"rigbench budget{named}" if named else f"rigbench train-probe --params {result.model.name}"
    following = f"rigbench capacity{named} (training)" if result.inference else following
    more = f"rigbench report {run_id} --verbose.  next: {following}"
    closing(f"predicted: {basis}" if basis else "predicted", more, console)


def verdict(result: Capacity | OwnCapacity) -> Headline:
    if isinstance(result, OwnCapacity):
        return _of_program(result)
    model, target = result.model, result.target
    card = target.name if target.count < 2 else f"each card of {target.name}"
    if result.inference:
        kept = next((row for row in result.inference if row.fits), None)
        if kept is None:
            return "warn", f"{model.name} cannot generate on {card}, however its weights are kept"
        many = f"{_sequences(kept.largest_batch)} of {result.context_tokens:,} tokens at once"
        return "ok", f"{model.name} generates on {card} with {many}, weights in {kept.weights}"
    shown, row = _shown(result), result.rows[0]
    if shown is None:
        return "warn", f"{model.name} does not fit {card} with any of these choices"
    recipe = shown.prediction.recipe
    words = recipe.words if recipe.compiled else f"{recipe.words}, eager"
    slow = ", which is slow" if _slow(shown) else ""
    fits = f"{model.name} fits {card} with {_sequences(shown.value)} of {model.shape.sequence:,} tokens"
    return "ok" if isinstance(row.micro_batch, Largest) and not slow else "warn", f"{fits}{slow} [{words}]"


def _of_program(its: OwnCapacity) -> Headline:
    card = its.target.name if its.target.count < 2 else f"each card of {its.target.name}"
    first = _first(its)
    if first:
        samples = f"{first.micro_batch:,} sample{'' if first.micro_batch == 1 else 's'}"
        samples += f" of {its.items_per_sample:,} tokens" if its.unit == "tokens" else ""
        more = " and more" if isinstance(first.next_short_bytes, Absent) and not its.fixed_samples else ""
        words = f"fits {card} with {samples}{more} at once [{first.optimizer}, {first.precision}, eager]"
    elif min(row.process.ends[0] for row in its.rows) <= its.target.usable.value:
        words = f"may not fit {card}: more than the room there is predicted, less at the low end"
    else:
        words = f"does not fit {card}, not even {counted(its.fixed_samples or 1, 'sample')} at once"
    said = f"{its.program} {words}"
    if its.asked_by != "capacity" and isinstance(its.items_per_s, Estimate) and isinstance(its.timed_bytes, Figure):
        taken, of = (units.format_bytes(size) for size in (its.timed_bytes.value, its.target.memory_bytes))
        rate = span(its.items_per_s, f"{its.unit}/s")
        how = f"{its.rows[0].optimizer}, {its.rows[0].precision}, eager"
        said = f"{its.program} on {its.target.name}, predicted: {rate}, {taken} of {of} [{how}]"
    return "ok" if first else "warn", said


def _first(its: OwnCapacity) -> OwnRow | None:
    """The first way in which a program fits."""
    return next((row for row in its.rows if isinstance(row.micro_batch, int)), None)


def _show_program(its: OwnCapacity, console: Console, quiet: bool = False, run_id: str = "RUN") -> None:
    headline(its.asked_by, verdict(its), console)
    rows = []
    for row in its.rows:
        short = "" if isinstance(row.next_short_bytes, Absent) else units.format_bytes(row.next_short_bytes)
        count = f"{row.micro_batch:,}" if isinstance(row.micro_batch, int) else "does not fit"
        rows.append((row.optimizer, count, span(row.process, "bytes"), short))
    console.print(table(("optimizer", f">micro-batch of {its.program}", ">it takes", ">one more lacks"), rows))
    if quiet:
        return
    shown = _first(its) or its.rows[0]
    parts = [(name, size) for name, size in shown.breakdown.parts().items() if size >= shown.process.value / 100]
    weights = f"{units.format_count(its.total_parameters)} parameters"
    if its.trainable_parameters < its.total_parameters:
        weights += f", {units.format_count(its.trainable_parameters)} of them trained"
    filled = "; ".join(f"{_part_words(name, its.target)} {units.format_bytes(size)}" for name, size in parts)
    memory, usable = its.target.memory_bytes, its.target.usable.value
    facts = [
        ("program", f"{weights}; a batch: {its.batch}"),
        ("on", f"{units.format_bytes(memory)}, {units.format_bytes(usable)} usable ({its.target.usable.basis})"),
        ("memory", filled),
    ]
    facts.append(("speed", _speed_words(its)))
    console.print(grid(facts))
    marked([("note", line) for line in its.notes], console)
    following = f"rigbench report {run_id} --verbose.  on a card: rigbench train-probe --model {its.program}"
    closing(f"predicted: {shown.process.basis}", following, console)


def _speed_words(its: OwnCapacity) -> str:
    if isinstance(its.items_per_s, Absent):
        return f"n/a ({its.items_per_s.reason})"
    parts = sorted(its.parts, key=lambda part: -part.seconds)
    total = sum(part.seconds for part in parts)
    shares = ", ".join(
        f"{it.name} {units.format_share(it.seconds / total)}" for it in parts if it.seconds > total / 100
    )
    rate = span(its.items_per_s, f"{its.unit}/s")
    samples = f"{its.timed_samples:,} sample{'' if its.timed_samples == 1 else 's'}"
    cards = " a card" if its.target.count > 1 else ""
    return f"predicted: {rate} with {samples} at once{cards}, {units.format_seconds(total)} a step: {shares}"


def _sequences(count: int) -> str:
    return f"{count:,} sequence{'' if count == 1 else 's'}"


def _shown(result: Capacity) -> Largest | None:
    """The first way in which the model fits."""
    return next((row.micro_batch for row in result.rows if isinstance(row.micro_batch, Largest)), None)


def _room(result: Capacity) -> str:
    target = result.target
    several = f"{target.count} cards, each " if target.count > 1 else ""
    kind = "of host memory, now available" if target.kind == "cpu" else f"usable ({target.usable.basis})"
    shown = _shown(result)
    outside = shown.prediction.outside.value if shown else target.context.value + target.communication.value
    return (
        f"{several}{units.format_bytes(target.memory_bytes)}, {units.format_bytes(target.usable.value)} {kind}, "
        f"less {units.format_bytes(outside)} for {_outside_words(target)}"
    )


def _filled(shown: Largest) -> str:
    """The parts of the peak, largest first, those below a hundredth left out."""
    prediction = shown.prediction
    total = prediction.process.value
    sizes = [(name, size) for name, size in prediction.breakdown.parts().items() if size >= total / 100]
    parts = "; ".join(f"{_part_words(name, prediction.target)} {units.format_bytes(size)}" for name, size in sizes)
    short = shown.next_short_bytes
    more = "" if isinstance(short, Absent) else f". One more lacks {_lacks(shown, short)}"
    return f"{span(prediction.process, 'bytes')} at micro-batch {shown.value}: {parts}{more}"


def _lacks(shown: Largest, short: int) -> str:
    return units.format_bytes(short) + (f", {units.format_share(shown.kept_free)} kept free" if shown.kept_free else "")


def _part_words(name: str, target: Target) -> str:
    if name == "outside":
        return _outside_words(target)
    return "freed and kept by the heap" if name == "cache" and target.kind == "cpu" else PARTS[name]


def _notes(result: Capacity) -> Iterator[str]:
    if any(_slow(cell) for row in result.rows for cell in (row.micro_batch, row.sequence, row.model)):
        yield SLOW_WORDS
    if isinstance(result.usual, UsualStep):
        yield usual_words(result.usual)
    yield from result.would_fit
    yield from result.notes


def usual_words(its: UsualStep) -> str:
    recipe = its.recipe
    takes = span(its.memory.process, "bytes")
    rate = "" if isinstance(its.tokens_per_s, Absent) else f", {span(its.tokens_per_s, 'tokens/s')}"
    with_so_many = f"micro-batch {recipe.micro_batch} [{recipe.words}{'' if recipe.compiled else ', eager'}]"
    doubt = f", {words}" if (words := its.memory.doubt) else ""
    return f"`rigbench budget` and `train-probe --on` take {with_so_many}: {takes}{doubt}{rate}"


def show(result: Capacity | OwnCapacity, console: Console) -> None:
    """The table of what fits, and the chart of what fills the memory."""
    if isinstance(result, OwnCapacity):
        _show_program(result, console)
        return
    console.print(Text.assemble((f"what fits on {result.target.name}", "bold"), f", predicted: {_room(result)}"))
    if result.inference:
        _show_inference(result, console)
    else:
        _show_training(result, console)
    usual = [usual_words(result.usual)] if isinstance(result.usual, UsualStep) else []
    for line in (*usual, *result.would_fit, *result.notes):
        console.print(Text(f"  {line}"))


def chart(prediction: VramPrediction, console: Console) -> None:
    """The peak, part by part, largest first, as bars of the process's total; where it is narrow names fold."""
    parts = {name: size for name, size in prediction.breakdown.parts().items() if size > 0}
    total = sum(parts.values())
    grid = Table.grid(padding=(0, 2))
    labels = {name: f"  {_part_words(name, prediction.target)}" for name in parts}
    longest = min(BAR_CELLS, max(LEAST_CELLS, console.width - max(map(len, labels.values())) - NUMBERS))
    for justify in ("left", "right", "right", "left"):
        grid.add_column(justify=justify, no_wrap=justify == "right")
    for name, size in parts.items():
        cells = Text("█" * round(longest * size / total) or "▏", style="cyan")
        grid.add_row(labels[name], units.format_bytes(size), units.format_share(size / total), cells)
    console.print(grid)


def prediction_line(prediction: VramPrediction) -> str:
    """The four numbers, the deciding one named."""
    reserved = prediction.reserved_bytes
    process = prediction.process
    sizes = [f"allocated {units.format_bytes(prediction.allocated_bytes)}"]
    if not isinstance(reserved, Absent):
        sizes.append(f"reserved {units.format_bytes(reserved)}")
    sizes.append(f"{_outside_words(prediction.target)} {units.format_bytes(prediction.outside.value)}")
    sizes.append(f"process {span(process, 'bytes')}")
    retries = prediction.allocator_retries
    slow = f"; cached memory is given back {retries} times meanwhile: a slow fit" if retries else ""
    host = f"; in host memory {units.format_bytes(prediction.host_bytes)}" if prediction.host_bytes else ""
    return f"{', '.join(sizes)}; what runs out first: {prediction.deciding}{host}{slow}"


def _outside_words(target: Target) -> str:
    if target.kind == "cpu":
        return "the process itself"
    return "CUDA context and NCCL" if target.communication.value else "CUDA context"


def _show_training(result: Capacity, console: Console) -> None:
    model, recipe = result.model, result.rows[0].recipe
    precision = PRECISIONS.get(recipe.precision, recipe.precision)
    size = f"{model.name} ({units.format_count(model.total_parameters)} parameters), sequence {model.shape.sequence:,}"
    console.print(Text(f"  {size}, {precision}, {'compiled' if recipe.compiled else 'eager'}, {recipe.strategy}"))
    console.print(_ways_table(result))
    shown = _shown(result)
    if shown is None:
        return
    console.print()
    console.print(Text(f"  the peak at micro-batch {shown.value} with {shown.prediction.recipe.words}:"))
    chart(shown.prediction, console)
    notes = [prediction_line(shown.prediction)]
    if any(_slow(cell) for row in result.rows for cell in (row.micro_batch, row.sequence, row.model)):
        notes.append(SLOW_WORDS)
    if not isinstance(shown.next_short_bytes, Absent):
        notes.append(f"one more lacks {_lacks(shown, shown.next_short_bytes)}")
    for note in (*notes, "longest sequence and largest model: at micro-batch 1", shown.prediction.basis):
        console.print(Text(f"  {note}", style="dim"))


def _ways_table(result: Capacity) -> Columns:
    columns = ["optimizer", "checkpointing", "loss", f">micro-batch of {result.model.name}", ">its longest sequence"]
    rows = []
    for row in result.rows:
        chunks, every = row.recipe.loss_chunks, row.recipe.checkpoint_every
        rows.append(
            [
                row.recipe.optimizer,
                checkpoint_words(every) if every > 1 else "on" if every else "off",
                "plain" if chunks == 1 else f"in {chunks} chunks",
                "does not fit" if isinstance(row.micro_batch, Absent) else _cell(row.micro_batch),
                "none" if isinstance(row.sequence, Absent) else _cell(row.sequence),
                "none" if isinstance(row.model, Absent) else units.format_count(row.model.value) + _slow(row.model),
            ]
        )
    if any(row.model != NOT_ASKED for row in result.rows):
        columns.append(f">largest of {result.series}")
    else:
        rows = [row[:-1] for row in rows]
    return table(columns, rows)


def _cell(largest: Largest) -> str:
    return f"{largest.value:,}{_slow(largest)}"


def _slow(largest: Largest | Absent) -> str:
    """A fit for which cached memory must be given back again and again says so."""
    return " slow" if isinstance(largest, Largest) and largest.prediction.allocator_retries else ""


def _show_inference(result: Capacity, console: Console) -> None:
    model = result.model
    size = f"{model.name} ({units.format_count(model.total_parameters)} parameters)"
    cache = f"a cache of {result.context_tokens:,} tokens a sequence in bf16"
    console.print(Text(f"  generating with {size}, {cache}"))
    console.print(_weights_table(result))
    console.print(Text(f"  {result.inference[0].process.basis}", style="dim"))


def _weights_table(result: Capacity) -> Columns:
    columns = ["weights in", ">weights", ">cache", ">prompt", ">total", ">sequences at once", ">longest context"]
    rows = []
    for row in result.inference:
        sizes = (row.weights_bytes, row.cache_bytes, row.working_bytes, row.process.value)
        largest = row.largest_model
        rows.append(
            [
                row.weights,
                *map(units.format_bytes, sizes),
                f"{row.largest_batch:,}" if row.largest_batch else "does not fit",
                f"{row.longest_context:,}" if row.longest_context else "none",
                "none" if isinstance(largest, Absent) else units.format_count(largest.total_parameters),
            ]
        )
    return table([*columns, f">largest of {result.series}"], rows)
