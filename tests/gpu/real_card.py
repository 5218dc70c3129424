"""What tells a real card from a fake one (tests/fakecuda), for tests that run on both."""

from __future__ import annotations

import os

import msgspec
import pytest

from rigbench.model import shape
from rigbench.model.counts import describe
from rigbench.model.record import Model

FAKE = os.environ.get("FAKECUDA") == "1"
only_real = pytest.mark.skipif(FAKE, reason="a CPU plays the card: its speeds mean nothing, its sensors stand still")
# Of a slice: a model that a CPU trains in moments has the same branches.
MODEL = ["--layers", "2", "--width", "64", "--vocab", "512", "--seq", "32"] if FAKE else ["--params", "15M"]


def model(name: str) -> Model:
    """That model of the series, or on a fake card one that a CPU trains in moments."""
    found = shape.model_named(name)
    if not FAKE:
        return found
    small = {"layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "ffn_width": 256, "vocabulary": 512, "sequence": 32}
    return describe(msgspec.structs.replace(found.shape, **small), name)
