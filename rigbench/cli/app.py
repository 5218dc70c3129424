"""The commands: options in, one call, show. Nothing is computed here."""

from __future__ import annotations

import typer

from rigbench.cli import common

app = typer.Typer(rich_markup_mode=None, add_completion=True, pretty_exceptions_enable=False)
common.root_options(app)

from rigbench.cli import answers, capture, doctor, measurements  # noqa: E402, the commands register themselves on app

measurements.register(app)
answers.register(app)
capture.register(app)
doctor.register(app)
