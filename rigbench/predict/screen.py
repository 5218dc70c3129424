"""How does it look on a screen what fits, and what fills the memory?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.record import Absent, Skipped
from rigbench.predict.record import Capacity, CapacityRow, Largest, Target, Training, VramPrediction

if TYPE_CHECKING:
    from rich.console import Console

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


def show(result: Capacity | Skipped, console: Console) -> None:
    """The table of what fits, and the chart of what fills the memory."""
    from rich.text import Text

    if isinstance(result, Skipped):
        console.print(Text(f"capacity skipped: {result.reason}", style="yellow"))
        return
    console.print(Text.assemble((f"what fits on {result.target.name}", "bold"), f", predicted: {_room(result)}"))
    if result.inference:
        _show_inference(result, console)
    else:
        _show_training(result, console)
    for line in (*result.would_fit, *result.notes):
        console.print(Text(f"  {line}"))


def chart(prediction: VramPrediction, console: Console) -> None:
    """The peak, part by part, largest first, as bars of the process's total."""
    from rich.table import Table
    from rich.text import Text

    parts = {name: size for name, size in prediction.breakdown.parts().items() if size > 0}
    total = sum(parts.values())
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for name, size in parts.items():
        label = PARTS[name]
        if name == "outside":
            label = _outside_words(prediction.target)
        elif name == "cache" and prediction.target.kind == "cpu":
            label = "freed and kept by the heap"
        cells = round(BAR_CELLS * size / total)
        share = units.format_share(size / total)
        grid.add_row(f"  {label}", units.format_bytes(size), share, Text("█" * cells or "▏", style="cyan"))
    console.print(grid)


def prediction_line(prediction: VramPrediction) -> str:
    """The four numbers, the deciding one named."""
    reserved = prediction.reserved_bytes
    process = prediction.process
    low, high = (process.value if isinstance(end, Absent) else end for end in (process.low, process.high))
    named = [f"allocated {units.format_bytes(prediction.allocated_bytes)}"]
    if not isinstance(reserved, Absent):
        named.append(f"reserved {units.format_bytes(reserved)}")
    named.append(f"{_outside_words(prediction.target)} {units.format_bytes(prediction.outside.value)}")
    named.append(
        f"process {units.format_bytes(process.value)} ({units.format_bytes(low)} to {units.format_bytes(high)})"
    )
    retries = prediction.allocator_retries
    slow = f"; cached memory is given back {retries} times meanwhile: a slow fit" if retries else ""
    host = f"; in host memory {units.format_bytes(prediction.host_bytes)}" if prediction.host_bytes else ""
    return f"{', '.join(named)}; what runs out first: {prediction.deciding}{host}{slow}"


def _outside_words(target: Target) -> str:
    if target.kind == "cpu":
        return "the process itself"
    return "CUDA context and NCCL" if target.communication.value else "CUDA context"


def _room(result: Capacity) -> str:
    target = result.target
    several = f"{target.count} cards, each " if target.count > 1 else ""
    kind = "of host memory, now available" if target.kind == "cpu" else f"usable ({target.usable.basis})"
    return (
        f"{several}{units.format_bytes(target.memory_bytes)}, {units.format_bytes(target.usable.value)} {kind}, "
        f"less {units.format_bytes(target.context.value + target.communication.value)} for {_outside_words(target)}"
    )


def _show_training(result: Capacity, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    model = result.model
    console.print(
        Text(
            f"  {model.name} ({units.format_count(model.total_parameters)} parameters), sequence "
            f"{model.shape.sequence:,}, {_precision(result.precision)}, eager, {result.strategy}"
        )
    )
    table = Table(box=None)
    for name in ("optimizer", "checkpointing", "loss", f"micro-batch of {model.name}", "its longest sequence"):
        table.add_column(name, justify="right" if name.startswith(("micro", "its")) else "left")
    table.add_column(f"largest of {result.series}", justify="right")
    for row in result.rows:
        table.add_row(*_cells(row))
    console.print(table)
    shown = next((row.micro_batch for row in result.rows if isinstance(row.micro_batch, Largest)), None)
    if shown is None:
        return
    console.print()
    way = shown.prediction.training
    console.print(Text(f"  the peak at micro-batch {shown.value} with {_way(way)}:"))
    chart(shown.prediction, console)
    console.print(Text(f"  {prediction_line(shown.prediction)}", style="dim"))
    if any(_slow(cell) for row in result.rows for cell in (row.micro_batch, row.sequence, row.model)):
        console.print(Text("  * fits only while torch gives cached memory back again and again: slow", style="dim"))
    if not isinstance(shown.next_short_bytes, Absent):
        console.print(Text(f"  one more lacks {units.format_bytes(shown.next_short_bytes)}", style="dim"))
    console.print(Text("  longest sequence and largest model: at micro-batch 1", style="dim"))
    console.print(Text(f"  {shown.prediction.basis}", style="dim"))


def _cells(row: CapacityRow) -> list[str]:
    batch, sequence, model = row.micro_batch, row.sequence, row.model
    return [
        row.optimizer,
        _checkpointing(row.checkpoint_every),
        "plain" if row.loss_chunks == 1 else f"in {row.loss_chunks} chunks",
        "does not fit" if isinstance(batch, Absent) else f"{batch.value:,}{_slow(batch)}",
        "none" if isinstance(sequence, Absent) else f"{sequence.value:,}{_slow(sequence)}",
        "none" if isinstance(model, Absent) else f"{units.format_count(model.value)}{_slow(model)}",
    ]


def _slow(largest: Largest | Absent) -> str:
    """A fit for which cached memory must be given back again and again is marked."""
    return "*" if isinstance(largest, Largest) and largest.prediction.allocator_retries else ""


def _show_inference(result: Capacity, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    model = result.model
    console.print(
        Text(
            f"  generating with {model.name} ({units.format_count(model.total_parameters)} parameters), a cache of "
            f"{result.context_tokens:,} tokens a sequence in bf16"
        )
    )
    table = Table(box=None)
    names = ("weights in", "weights", "cache", "prompt", "total", "sequences at once", "longest context")
    for name in (*names, f"largest of {result.series}"):
        table.add_column(name, justify="left" if name == "weights in" else "right")
    for row in result.inference:
        largest = row.largest_model
        table.add_row(
            row.weights,
            units.format_bytes(row.weights_bytes),
            units.format_bytes(row.cache_bytes),
            units.format_bytes(row.working_bytes),
            units.format_bytes(row.process.value),
            f"{row.largest_batch:,}" if row.largest_batch else "does not fit",
            f"{row.longest_context:,}" if row.longest_context else "none",
            "none" if isinstance(largest, Absent) else units.format_count(largest.total_parameters),
        )
    console.print(table)
    console.print(Text(f"  {result.inference[0].process.basis}", style="dim"))


def _way(training: Training) -> str:
    checkpointing = _checkpointing(training.checkpoint_every)
    loss = "the plain loss" if training.loss_chunks == 1 else f"the loss in {training.loss_chunks} chunks"
    return f"{training.optimizer}, checkpointing {checkpointing}, {loss}"


def _checkpointing(every: int) -> str:
    return "off" if every == 0 else "on" if every == 1 else f"every {every}th block"


def _precision(name: str) -> str:
    words = {"bf16": "bf16 autocast", "fp16": "fp16 autocast", "bf16-pure": "pure bf16"}
    return words.get(name, name)
