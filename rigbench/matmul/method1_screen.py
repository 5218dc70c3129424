"""How does a matmul result of METHOD 1, a few shapes measured cold and short, look on a screen?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.core import units
from rigbench.core.record import Absent
from rigbench.core.screen import plus_minus
from rigbench.matmul.record import Matmul, MatmulShape

if TYPE_CHECKING:
    from rich.console import Console


def show(result: Matmul, console: Console) -> None:
    """A row per shape, the best of each dtype, and the roofline it is held against."""
    from rich.table import Table
    from rich.text import Text

    device = result.device
    threads = f", {device.threads} threads" if device.kind == "cpu" else ""
    table = Table(title=f"matmul on {device.kind} ({device.name}{threads})", title_justify="left", box=None)
    rated = bool(result.datasheet_flops_per_s)
    names = ("dtype", "m×n×k", "FLOP/s", "interval", "ended by", "samples", "datasheet", "checked", "purpose")
    for name in names if rated else [name for name in names if name != "datasheet"]:
        right = name in ("m×n×k", "FLOP/s", "samples", "datasheet")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "purpose")
    for shape in result.shapes:
        table.add_row(*_cells(shape, rated))
    console.print(table)
    for dtype, best in result.best_flops_per_s.items():
        peak = result.datasheet_flops_per_s.get(dtype)
        roof = (
            f"{units.format_share(best.value / peak.value)} of {units.format_flops_per_s(peak.value)} ({peak.basis})"
            if peak
            else "no datasheet peak for this device and dtype"
        )
        console.print(Text(f"  best {dtype}: {units.format_flops_per_s(best.value)}, {roof}"))
    console.print(Text("  the best of these shapes, cold and short: a lower bound of the ceiling", style="dim"))
    for line in result.not_run:
        console.print(Text(f"  not run: {line}", style="dim"))


def _cells(shape: MatmulShape, rated: bool) -> list[str]:
    speed, share = shape.flops_per_s, shape.share_of_datasheet
    return [
        shape.dtype,
        f"{shape.m}×{shape.n}×{shape.k}",
        units.format_flops_per_s(speed.value),
        plus_minus(speed),
        shape.timing.ended_by,
        str(len(shape.timing.seconds)),
        *(["n/a" if isinstance(share, Absent) else units.format_share(share)] if rated else []),
        "correct" if shape.check.correct else "WRONG",
        shape.purpose,
    ]
