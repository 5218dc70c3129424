"""rigbench measures a GPU rig, finds what holds it back, and predicts what a training run will take and cost.

    import rigbench

    rigbench.runs().table("slices")                    # every slice that is stored, a row each, as a DataFrame
    rigbench.runs().numbers()                          # what compares: a row a number, from the index alone
    rigbench.load("20261128-1405").table("matmul")     # one run's
    rigbench.forecast(flops=1.2e18, on="2xrtx-4080")   # hours, kWh and money

These are functions of `rigbench.api`, which is imported when one of them is asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than all else before Ctrl-C is heard
    from typing import Any

__version__ = "0.1.0"
__all__ = ("__version__", "forecast", "load", "runs")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rigbench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("rigbench.api"), name)
