"""What is the user's own model, as far as its factory and one trial step tell?"""

from __future__ import annotations

from typing import Literal

from rigbench.core.record import Absent, Record


class OwnModel(Record, frozen=True):
    """A program of the user's, `name` as they named it (package.module:factory), tried once and not yet trained.

    An item is what its speed is counted in: a token of a language model, which has `items_per_sample` in a sequence
    and a `vocabulary`, else a sample. Tied weights count once; `unused_parameters` can be trained and got no gradient.
    `flop_per_item` is what torch counted in a forward and backward pass of `trial_samples`, as `flop_basis` says;
    `loss` was that of the untrained model. `batch` says what it ate.
    """

    name: str
    unit: Literal["tokens", "samples"]
    items_per_sample: int
    vocabulary: int | Absent
    batch: str
    total_parameters: int
    trainable_parameters: int
    unused_parameters: int
    flop_per_item: float | Absent
    flop_basis: str
    trial_samples: int
    loss: float
