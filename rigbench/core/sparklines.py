"""How do readings over time look in one line of text, however narrow it is?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

LEVELS = "▁▂▃▄▅▆▇█"
GAP = " "


def spark(points: Sequence[tuple[float, float]], width: int, start: float, end: float, least_range: float = 0.0) -> str:
    """Values at rising moments as `width` cells from `start` to `end`: a cell is the mean of what falls into it.

    Lowest to highest fill the height, but `least_range` at the least, about their middle; where all are the same, half
    of it. A cell without a reading is blank; where there are fewer readings than cells, each lasts until the next.
    """
    if width < 1 or end <= start:
        return ""
    cells: list[list[float]] = [[] for _ in range(width)]
    for at, value in points:
        if start <= at <= end:
            cells[min(width - 1, int((at - start) / (end - start) * width))].append(value)
    if points and len(points) < width:
        _let_last(cells, math.ceil(width / len(points)) + 1)
    means = [math.fsum(cell) / len(cell) if cell else None for cell in cells]
    known = [mean for mean in means if mean is not None]
    if not known:
        return GAP * width
    low, high = min(known), max(known)
    if high - low < least_range:
        low, high = (low + high - least_range) / 2, (low + high + least_range) / 2
    return "".join(GAP if mean is None else _level(mean, low, high) for mean in means)


def _let_last(cells: list[list[float]], reach: int) -> None:
    """Fill empty cells with what is before them, as far as readings are apart, up to the last reading."""
    filled = [index for index, cell in enumerate(cells) if cell]
    for index, following in itertools.pairwise(filled):
        for empty in range(index + 1, min(following, index + 1 + reach)):
            cells[empty] = cells[index][-1:]


def _level(value: float, low: float, high: float) -> str:
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        return LEVELS[len(LEVELS) // 2]
    return LEVELS[min(len(LEVELS) - 1, int((value - low) / (high - low) * len(LEVELS)))]
