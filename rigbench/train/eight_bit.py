"""From which size on would 8-bit optimizer states save a tenth of the peak?"""

from __future__ import annotations

from math import prod

import msgspec

from rigbench.core import profiles
from rigbench.core.record import Absent, Figure
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict import capacity as fitting
from rigbench.predict import states
from rigbench.predict.memory import Predictor, weights
from rigbench.predict.record import Target

SAVED_SHARE = 0.10
MOST_PARAMETERS = 20_000_000_000
SERIES_OF_STYLE = {"llama": "llama"}  # of any other style: diy


def pays_from(predictor: Predictor, model: Model, recipe: Recipe, target: Target) -> Figure | Absent:
    """Parameters of the smallest model of the series, at one sequence, that saves so much; the model's own if it does.

    States are counted exactly, peaks predicted; the share grows with the size, so that sizes are halved between.
    """
    series = profiles.series(SERIES_OF_STYLE.get(model.shape.style, "diy"))
    sequence = model.shape.sequence
    models = [
        fitting.with_sequence(other, sequence)
        for other in fitting.sizes(series)
        if model.total_parameters < other.total_parameters <= MOST_PARAMETERS
    ]
    low, high = 0, len(models)
    while low < high:
        middle = (low + high) // 2
        if _saves(predictor, models[middle], recipe, target):
            high = middle
        else:
            low = middle + 1
    if low == len(models):
        return Absent("at no size up to 20B")
    return Figure(float(models[low].total_parameters), "predicted", f"the series {series.name}, one sequence at a time")


def _saves(predictor: Predictor, model: Model, recipe: Recipe, target: Target) -> bool:
    plain = msgspec.structs.replace(recipe, optimizer="adamw")
    item_bytes = 2 if recipe.precision == "bf16-pure" else 4
    tensors = [states.Tensor(prod(it.dims), item_bytes, len(it.dims) >= 2) for it in weights(model.shape, item_bytes)]
    full, eight = (states.device_bytes(name, tensors) for name in ("adamw", "adamw8bit"))
    return full - eight >= SAVED_SHARE * predictor.of_one_sequence(model, plain, target).process.value
