"""Packs a run's rooms for the page: four digits, compressed, thinned where the page would become too large."""

from __future__ import annotations

import base64
import gzip
import math
from typing import Any

import msgspec

DIGITS = 4
NOT_SAMPLES = ("type", "schema", "id", "started_at", "command", "ended", "look", "status")


def packed(document: dict[str, Any], most: int | None) -> dict[str, str]:
    """Each room by its name, as base64 of gzip of JSON; of a longer list every k-th, so that `most` are left."""
    rooms = {}
    for name, value in document.items():
        if name in NOT_SAMPLES or _is_empty(value):
            continue
        text = msgspec.json.encode(rounded(value, most))
        rooms[name] = base64.b64encode(gzip.compress(text, 9, mtime=0)).decode()
    return rooms


def _is_empty(value: Any) -> bool:
    return not value or (isinstance(value, dict) and value.get("type") in ("absent", "skipped"))


def rounded(value: Any, most: int | None = None) -> Any:
    """Floats in four significant digits; a list of samples keeps four digits of what its samples differ by."""
    if isinstance(value, dict):
        return {key: rounded(item, most) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, int | float) for item in value):
            return _samples(value if most is None else value[:: max(1, math.ceil(len(value) / most))])
        step = 1 if most is None or len(value) <= 20 * most else math.ceil(len(value) / (20 * most))
        return [rounded(item, most) for item in value[::step]]
    return _significant(value, abs(value)) if isinstance(value, float) else value


def _samples(values: Any) -> list[Any]:
    floats = [value for value in values if isinstance(value, float)]
    spread = max(floats) - min(floats) if floats else 0.0
    return [_significant(it, min(spread, abs(it)) or abs(it)) if isinstance(it, float) else it for it in values]


def _significant(value: float, size: float) -> float:
    return round(value, DIGITS - 1 - math.floor(math.log10(size))) if size else value


def longest(value: Any) -> int:
    """The most samples in one list."""
    if isinstance(value, dict):
        return max(map(longest, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(len(value) if value and isinstance(value[0], int | float) else 0, *map(longest, value), 0)
    return 0
