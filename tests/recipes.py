"""Options of training probes with other values in their place, a recipe's fields among them."""

from __future__ import annotations

from typing import Any

import msgspec

from rigbench.model.recipe import Recipe


def changed(record: Any, **changes: object) -> Any:
    """The record, and of its recipe the fields that have these names."""
    recipe = {name: changes.pop(name) for name in list(changes) if name in Recipe.__struct_fields__}
    return msgspec.structs.replace(record, recipe=msgspec.structs.replace(record.recipe, **recipe), **changes)
