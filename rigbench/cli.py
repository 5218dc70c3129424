"""The list of commands, and the application that imports each only when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from rigbench import command, help


class Command(NamedTuple):
    name: str  # of two words: a command of the group that the first one names
    feature: str  # rigbench.FEATURE.command has a function of the command's name
    group: str  # of `rigbench --help`, and what one wants there
    says: str  # the first line of its help

    @property
    def function(self) -> Any:
        """What runs it; imports its module."""
        module = importlib.import_module(f"rigbench.{self.feature}.command")
        return getattr(module, self.name.replace("-", "_").replace(" ", "_"))


PLAN, CHECK, MEASURE = "Plan, no GPU needed", "Check this rig", "Measure one thing"
RESULTS, SHARE = "Results", "Share, prepare data"
COMMANDS = (
    Command("budget", "budget", PLAN, "Predict hours, kWh and money of a training run, with intervals."),
    Command("scaling plan", "scaling", PLAN, "Plan a series of models: tokens, batches, learning rates, hours, money."),
    Command("capacity", "predict", PLAN, "Predict what fits: the largest model, micro-batch and sequence."),
    Command("profiles", "report", PLAN, "List and check the profiles: GPUs, series of models, rigs, prices."),
    Command("run", "everything", CHECK, "Run every probe, then say what the rig can train, how long and for how much."),
    Command("doctor", "doctor", CHECK, "Find what is wrong with this rig or holds it back, and what to do."),
    Command("topology", "topology", CHECK, "Show how this rig is wired: CPU, PCI tree, links, GPUs."),
    Command("monitor", "monitor", CHECK, "Watch the GPUs beside your own training."),
    Command("watch", "watch", CHECK, "Run your own training command, and say how fast it is and when it ends."),
    Command("bandwidth", "bandwidth", MEASURE, "Copy bytes to, from, inside and between GPUs, against their links."),
    Command("p2p", "p2p", MEASURE, "Check whether P2P between GPUs works, whether it is faster, and what to export."),
    Command("collectives", "collectives", MEASURE, "Time collectives between ranks: latency, bandwidth, transport."),
    Command("matmul", "matmul", MEASURE, "Find how fast this device multiplies matrices, at best and in a model."),
    Command("dataloader", "dataloader", MEASURE, "Check whether the data loader keeps up with training."),
    Command("thermals", "thermals", MEASURE, "Load all GPUs until their temperature is steady; say what heat costs."),
    Command("train-probe", "train", MEASURE, "Train a model for a minute, variant by variant, and compare them."),
    Command("scaling run", "scaling", MEASURE, "Train a series of models for real, and keep every loss."),
    Command("scaling fit", "scaling", RESULTS, "Fit how the loss falls with size, data and compute: yours or a run's."),
    Command("report", "report", RESULTS, "Show a stored run again."),
    Command("compare", "compare", RESULTS, "Compare runs: faster, slower, the same or ambiguous, and what changed."),
    Command("fleet", "fleet", RESULTS, "Find the odd host among many, number by number, with evidence."),
    Command("backtest", "backtest", RESULTS, "Compare what was predicted with a training log."),
    Command("explain", "doctor", RESULTS, "Explain a finding (what it means, what it costs), or a topic such as gpu."),
    Command("config", "config", RESULTS, "Show the settings of rigbench.toml and where each comes from."),
    Command("capture", "capture", SHARE, "Record this rig, redacted, so that --replay DIR shows it anywhere."),
    Command("pack", "dataloader", SHARE, "Tokenize text or JSONL into a file of ids, which loads fastest."),
)
GROUPS = {"scaling": "Train a series of models on this rig, and fit how the loss falls with size, data and compute."}
START = (
    ("rigbench run --quick", "test this machine, then hours, kWh and money"),
    ("rigbench budget --on 2xrtx-4080 --hours 48", "the same for cards you do not own: no test, 1 s"),
    ("rigbench --replay CAPTURE doctor", "look at somebody else's rig"),
)


class Commands(TyperGroup):
    """Commands whose modules are imported when they are called; `rigbench --help` imports none."""

    def __init__(self, *, of: str = "", **attributes: Any) -> None:
        """`of`: the group whose commands these are."""
        super().__init__(**attributes)
        self.of = f"{of} " if of else ""
        self.commands = dict.fromkeys(self.list_commands(None))  # type: ignore[assignment] # for suggestions

    def list_commands(self, ctx: Any) -> list[str]:
        names = (entry.name.removeprefix(self.of) for entry in COMMANDS if entry.name.startswith(self.of))
        return list(dict.fromkeys(name.partition(" ")[0] for name in names))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = f"{self.of}{cmd_name}"
        names: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
        entry = next((entry for entry in COMMANDS if entry.name == name), None)
        if entry is None and name in GROUPS and cmd_name in self.commands:
            return Commands(of=name, name=name, help=GROUPS[name], context_settings=names)
        if entry is None:
            return None
        function, names["allow_interspersed_args"] = entry.function, name != "watch"
        single = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
        single.command(name=entry.name, cls=help.HelpedCommand, context_settings=names)(
            command.callback(entry.name, function)
        )
        made = typer.main.get_command(single)
        made.settings = [it.key for it in command.choices(function) if it.is_setting]  # type: ignore[attr-defined]
        return made

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or (["--help"] if self.of else []))

    def main(self, *_: Any, **__: Any) -> Any:
        """Without typer's answers to Ctrl-C, a broken pipe and a wrong option: rigbench.__main__ gives its own."""
        self._main_shell_completion({}, "rigbench")
        with self.make_context("rigbench", sys.argv[1:]) as context:
            return self.invoke(context)

    def get_help(self, ctx: Any) -> str:
        if self.of:
            rows = [(it.name.removeprefix(self.of), it.says) for it in COMMANDS if it.name.startswith(self.of)]
            return help.group(ctx, self.help or "", rows)
        groups = dict.fromkeys(entry.group for entry in COMMANDS)
        listed = ((group, [(it.name, it.says) for it in COMMANDS if it.group == group]) for group in groups)
        return help.root(ctx, self.help or "", START, listed)


app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command.root_options(app)
