"""The commands: options in, one call, show. Nothing is computed here."""

from __future__ import annotations

import typer

from rigbench.cli import common

app = typer.Typer(rich_markup_mode=None, add_completion=True, pretty_exceptions_enable=False)
common.root_options(app)

from rigbench.cli import (  # noqa: E402, the commands register themselves on app
    answers,
    backtest,
    bandwidth,
    budget,
    capacity,
    capture,
    collectives,
    dataloader,
    doctor,
    matmul,
    measurements,
    monitor,
    p2p,
    thermals,
    train_probe,
)

# In the order of a rig's life: measure it, train on it, plan with it, watch it, find what is wrong.
for group in (
    measurements,
    bandwidth,
    p2p,
    collectives,
    matmul,
    dataloader,
    thermals,
    train_probe,
    capacity,
    budget,
    answers,
    backtest,
    monitor,
    doctor,
    capture,
):
    group.register(app)
