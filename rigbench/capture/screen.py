"""What did a capture write, and what is not in it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rigbench.capture.record import CaptureSummary
from rigbench.core import units

if TYPE_CHECKING:
    from rich.console import Console


def show(summary: CaptureSummary, console: Console, hint: bool) -> None:
    from rich.text import Text

    files = ", ".join(f"{name} ({units.format_bytes(size)})" for name, size in summary.files.items())
    console.print(Text(f"{summary.folder}: {files}"))
    if hint:
        console.print(Text(f"rigbench --replay {summary.folder} topology shows it anywhere", style="dim"))


def redacted(summary: CaptureSummary) -> str:
    """One line: what was replaced and what was left out."""
    counts = ", ".join(f"{times} {kind}" for kind, times in summary.redacted.items())
    left_out = f"; read but left out: {', '.join(summary.left_out)}" if summary.left_out else ""
    return f"redacted: {counts or 'nothing was there to redact'}{left_out}"
