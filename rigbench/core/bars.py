"""How does a share look as a bar, however narrow the terminal?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rigbench.core import units

if TYPE_CHECKING:
    from rich.console import Console

EIGHTHS = " ▏▎▍▌▋▊▉"
SHORTEST, LONGEST = 6, 24
GAP = 2


def bar(share: float, width: int) -> str:
    """A share of `width` cells in eighths of a cell, padded to `width`; never empty for what is not zero."""
    eighths = max(0, min(8 * width, round(8 * width * share)))
    if share > 0:
        eighths = max(1, eighths)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (EIGHTHS[rest] if rest else "")).ljust(width)


def show(title: str, labels: Sequence[str], columns: Mapping[str, Mapping[str, float]], console: Console) -> None:
    """Rows by label, a column of bars each; as many columns side by side as fit, the others below.

    `columns` maps a column's name to the share of each label that it has. Full length is a share of 1.
    """
    from rich.text import Text

    edge = max((len(label) for label in labels), default=0) + 2
    number = len("100 %") + 1
    fitting = max(1, (console.width - edge) // (GAP + SHORTEST + number))
    names = list(columns)
    for start in range(0, len(names), fitting):
        some = names[start : start + fitting]
        width = min(LONGEST, max(SHORTEST, (console.width - edge) // len(some) - GAP - number))
        console.print(Text(title if not start else "", style="bold") if not start else Text(""))
        console.print(Text(" " * edge + "".join(" " * GAP + name.ljust(width + number) for name in some).rstrip()))
        for label in labels:
            cells = (_cell(columns[name].get(label), width, number) for name in some)
            console.print(Text((label.rjust(edge) + "".join(" " * GAP + cell for cell in cells)).rstrip()))


def _cell(share: float | None, width: int, number: int) -> str:
    if share is None:
        return " " * (width + number)
    return bar(share, width) + units.format_share(share).rjust(number)
