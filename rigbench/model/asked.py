"""What did the user say about the model? The words of its options, not yet looked at."""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """Each as typed; None: not said. `model/named.py` makes a model of them."""

    params: str | None = None
    series: str | None = None
    model: str | None = None
    layers: str | None = None
    width: str | None = None
    heads: str | None = None
    kv_heads: str | None = None
    seq: str | None = None
    vocab: str | None = None

    @property
    def series_name(self) -> str:
        """The series said, or the default one."""
        return "diy" if self.series is None else self.series
