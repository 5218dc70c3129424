"""Recipes as tests need them, and records with other values in a recipe's fields."""

from __future__ import annotations

from typing import Any

import msgspec

from rigbench.model.recipe import Recipe


def recipe(**choices: Any) -> Recipe:
    """One sequence in bf16, unless said otherwise: complete, so that it can be predicted."""
    return Recipe(**{"precision": "bf16", "micro_batch": 1, **choices})


def changed(record: Any, **changes: object) -> Any:
    """The record, and of its recipe the fields that have these names."""
    own = {name: changes.pop(name) for name in list(changes) if name in Recipe.__struct_fields__}
    return msgspec.structs.replace(record, recipe=msgspec.structs.replace(record.recipe, **own), **changes)
