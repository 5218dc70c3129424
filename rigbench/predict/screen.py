"""Shows what fits and what fills the memory."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import table
from rigbench.predict.record import Capacity, Largest, Target, VramPrediction

BAR_CELLS = 40
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


def show(result: Capacity, console: Console) -> None:
    """The table of what fits, and the chart of what fills the memory."""
    target = result.target
    several = f"{target.count} cards, each " if target.count > 1 else ""
    kind = "of host memory, now available" if target.kind == "cpu" else f"usable ({target.usable.basis})"
    room = (
        f"{several}{units.format_bytes(target.memory_bytes)}, {units.format_bytes(target.usable.value)} {kind}, "
        f"less {units.format_bytes(target.context.value + target.communication.value)} for {_outside_words(target)}"
    )
    console.print(Text.assemble((f"what fits on {target.name}", "bold"), f", predicted: {room}"))
    if result.inference:
        _show_inference(result, console)
    else:
        _show_training(result, console)
    for line in (*result.would_fit, *result.notes):
        console.print(Text(f"  {line}"))


def chart(prediction: VramPrediction, console: Console) -> None:
    """The peak, part by part, largest first, as bars of the process's total."""
    parts = {name: size for name, size in prediction.breakdown.parts().items() if size > 0}
    total = sum(parts.values())
    grid = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "right", "left"):
        grid.add_column(justify=justify, no_wrap=True)
    for name, size in parts.items():
        label = PARTS[name]
        if name == "outside":
            label = _outside_words(prediction.target)
        elif name == "cache" and prediction.target.kind == "cpu":
            label = "freed and kept by the heap"
        cells = Text("█" * round(BAR_CELLS * size / total) or "▏", style="cyan")
        grid.add_row(f"  {label}", units.format_bytes(size), units.format_share(size / total), cells)
    console.print(grid)


def prediction_line(prediction: VramPrediction) -> str:
    """The four numbers, the deciding one named."""
    reserved = prediction.reserved_bytes
    process = prediction.process
    low, high = process.ends
    sizes = [f"allocated {units.format_bytes(prediction.allocated_bytes)}"]
    if not isinstance(reserved, Absent):
        sizes.append(f"reserved {units.format_bytes(reserved)}")
    sizes.append(f"{_outside_words(prediction.target)} {units.format_bytes(prediction.outside.value)}")
    span = f"{units.format_bytes(low)} to {units.format_bytes(high)}"
    sizes.append(f"process {units.format_bytes(process.value)} ({span})")
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
    console.print(
        Text(
            f"  {model.name} ({units.format_count(model.total_parameters)} parameters), sequence "
            f"{model.shape.sequence:,}, {precision}, eager, {recipe.strategy}"
        )
    )
    columns = ["optimizer", "checkpointing", "loss", f">micro-batch of {model.name}", ">its longest sequence"]
    rows = []
    for row in result.rows:
        chunks, every = row.recipe.loss_chunks, row.recipe.checkpoint_every
        rows.append(
            [
                row.recipe.optimizer,
                "off" if every == 0 else "on" if every == 1 else f"every {every}th block",
                "plain" if chunks == 1 else f"in {chunks} chunks",
                "does not fit" if isinstance(row.micro_batch, Absent) else _cell(row.micro_batch),
                "none" if isinstance(row.sequence, Absent) else _cell(row.sequence),
                "none" if isinstance(row.model, Absent) else units.format_count(row.model.value) + _slow(row.model),
            ]
        )
    console.print(table([*columns, f">largest of {result.series}"], rows))
    shown = next((row.micro_batch for row in result.rows if isinstance(row.micro_batch, Largest)), None)
    if shown is None:
        return
    console.print()
    console.print(Text(f"  the peak at micro-batch {shown.value} with {shown.prediction.recipe.words}:"))
    chart(shown.prediction, console)
    notes = [prediction_line(shown.prediction)]
    if any(_slow(cell) for row in result.rows for cell in (row.micro_batch, row.sequence, row.model)):
        notes.append("* fits only while torch gives cached memory back again and again: slow")
    if not isinstance(shown.next_short_bytes, Absent):
        notes.append(f"one more lacks {units.format_bytes(shown.next_short_bytes)}")
    for note in (*notes, "longest sequence and largest model: at micro-batch 1", shown.prediction.basis):
        console.print(Text(f"  {note}", style="dim"))


def _cell(largest: Largest) -> str:
    return f"{largest.value:,}{_slow(largest)}"


def _slow(largest: Largest | Absent) -> str:
    """A fit for which cached memory must be given back again and again is marked."""
    return "*" if isinstance(largest, Largest) and largest.prediction.allocator_retries else ""


def _show_inference(result: Capacity, console: Console) -> None:
    model = result.model
    console.print(
        Text(
            f"  generating with {model.name} ({units.format_count(model.total_parameters)} parameters), a cache of "
            f"{result.context_tokens:,} tokens a sequence in bf16"
        )
    )
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
    console.print(table([*columns, f">largest of {result.series}"], rows))
    console.print(Text(f"  {result.inference[0].process.basis}", style="dim"))
