"""The commands: options in, one call, show. Nothing is computed here."""

from __future__ import annotations

import typer

from rigbench import command as common

app = typer.Typer(rich_markup_mode=None, add_completion=True, pretty_exceptions_enable=False)
common.root_options(app)

from rigbench.backtest import command as backtest  # noqa: E402, the commands register themselves on app
from rigbench.bandwidth import command as bandwidth  # noqa: E402, the commands register themselves on app
from rigbench.budget import command as budget  # noqa: E402, the commands register themselves on app
from rigbench.capture import command as capture  # noqa: E402, the commands register themselves on app
from rigbench.collectives import command as collectives  # noqa: E402, the commands register themselves on app
from rigbench.dataloader import command as dataloader  # noqa: E402, the commands register themselves on app
from rigbench.doctor import command as doctor  # noqa: E402, the commands register themselves on app
from rigbench.everything import command as measurements  # noqa: E402, the commands register themselves on app
from rigbench.matmul import command as matmul  # noqa: E402, the commands register themselves on app
from rigbench.monitor import command as monitor  # noqa: E402, the commands register themselves on app
from rigbench.p2p import command as p2p  # noqa: E402, the commands register themselves on app
from rigbench.predict import command as capacity  # noqa: E402, the commands register themselves on app
from rigbench.report import command as answers  # noqa: E402, the commands register themselves on app
from rigbench.thermals import command as thermals  # noqa: E402, the commands register themselves on app
from rigbench.train import command as train_probe  # noqa: E402, the commands register themselves on app

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
