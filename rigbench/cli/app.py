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
)

measurements.register(app)
matmul.register(app)
dataloader.register(app)
thermals.register(app)
monitor.register(app)
answers.register(app)
backtest.register(app)
bandwidth.register(app)
p2p.register(app)
collectives.register(app)
capacity.register(app)
capture.register(app)
doctor.register(app)
