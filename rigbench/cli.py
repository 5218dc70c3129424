"""The list of commands, and the application that imports each only when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from rigbench import command


class Command(NamedTuple):
    name: str
    feature: str  # rigbench.FEATURE.command has a function of the command's name
    says: str  # the first line of its help


# In the order of a rig's life: measure it, train on it, plan with it, watch it, find what is wrong.
COMMANDS = (
    Command("run", "everything", "Run every probe, then say what the rig can train, how long and for how much."),
    Command("topology", "topology", "Show this rig as sysfs and the driver tell it: CPU, PCI tree, links, GPUs."),
    Command("bandwidth", "bandwidth", "Copy bytes to, from, inside and between GPUs, verified, against their links."),
    Command("p2p", "p2p", "Tell whether P2P between GPUs works, whether it is faster, and what to export."),
    Command("collectives", "collectives", "Time collectives between ranks: latency, bandwidth, transport, values."),
    Command("matmul", "matmul", "Find how fast this device multiplies matrices, at best and in a model's shapes."),
    Command("dataloader", "dataloader", "Tell whether the data loader keeps up: tokens/s by path and worker count."),
    Command("pack", "dataloader", "Tokenize text or JSONL into a file of ids, which loads fastest."),
    Command("thermals", "thermals", "Load all GPUs until their temperature is steady; say what heat costs."),
    Command("train-probe", "train", "Train slices of a model and compare the ways to train it."),
    Command("capacity", "predict", "Predict what fits: the largest model, micro-batch and sequence."),
    Command("budget", "budget", "Predict hours, kWh and money of a training run, with intervals."),
    Command("report", "report", "Show a stored run again."),
    Command("profiles", "report", "List and check the profiles: GPUs, series of models, rigs, prices."),
    Command("backtest", "backtest", "Compare what was predicted with a training log."),
    Command("monitor", "monitor", "Watch the GPUs beside your own training."),
    Command("doctor", "doctor", "Find what is wrong with this rig or holds it back, and what to do."),
    Command("explain", "doctor", "Explain a finding: what it means, how it is known, what it costs, what to do."),
    Command("capture", "capture", "Record this rig, redacted, so that --replay DIR shows it anywhere."),
)


class Commands(TyperGroup):
    """Commands whose modules are imported when they are called; `rigbench --help` imports none."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(entry.name for entry in COMMANDS)  # type: ignore[assignment] # for suggestions

    def list_commands(self, ctx: Any) -> list[str]:
        return [entry.name for entry in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = next((entry for entry in COMMANDS if entry.name == cmd_name), None)
        if entry is None:
            return None
        module = importlib.import_module(f"rigbench.{entry.feature}.command")
        function = getattr(module, entry.name.replace("-", "_"))
        single = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        single.command(name=entry.name)(command.callback(entry.name, function))
        return typer.main.get_command(single)

    def main(self, *_: Any, **__: Any) -> Any:
        """Without typer's answers to Ctrl-C, a broken pipe and a wrong option: rigbench.__main__ gives its own."""
        self._main_shell_completion({}, "rigbench")
        with self.make_context("rigbench", sys.argv[1:]) as context:
            return self.invoke(context)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.says) for entry in COMMANDS])


app = typer.Typer(cls=Commands, rich_markup_mode=None, add_completion=True, pretty_exceptions_enable=False)
command.root_options(app)
