"""What is every training slice told, whatever it trains?"""

from __future__ import annotations

from rigbench.core.record import Record
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.model.tokens import AskedDtype
from rigbench.train.record import HostAllocator
from rigbench.train.steps import LONGEST_SECONDS, SHORTEST_SECONDS, Patience


class SliceOptions(Record, frozen=True, kw_only=True):
    """`seconds` 0: long enough for 16 steps, between the two bounds.

    `recipe` may leave precision and micro-batch to be chosen. `cache` is a folder for the generated token file; the
    runner names it, and says how this process's memory is kept.
    """

    cache: str = ""
    device: str = "auto"
    data: str = ""
    data_dtype: AskedDtype = "auto"
    recipe: Recipe = Recipe()
    learning_rate: float = 3e-4
    clip_norm: float = 1.0
    seconds: float = 0.0
    shortest_seconds: float = SHORTEST_SECONDS
    longest_seconds: float = LONGEST_SECONDS
    target_half_width: float = 0.01
    seed: int = 0
    host_allocator: HostAllocator = "default"

    @property
    def patience(self) -> Patience:
        return Patience(self.seconds, self.shortest_seconds, self.longest_seconds, self.target_half_width)


class DecoderOptions(SliceOptions, frozen=True, kw_only=True):
    """One arm of a decoder."""

    model: Model
    scaling: bool = False  # whether one rank is also timed alone
