"""What all commands share: their common options, one way to run and show a job, and one way to end."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from rigbench.core.errors import FAULT, FINE, INTERRUPTED, NOTHING, RigbenchError
from rigbench.core.home import begin

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.core.config import Setting
    from rigbench.core.options import Option
    from rigbench.document import Run
    from rigbench.job import Job
    from rigbench.store import Store

EVERYWHERE, WHERE, SETTINGS = "Everywhere", "Where", ("home", "device")  # the last: those that a file may give
# The options that every command takes, before or after its name; then those that only some take.
# Each with its type, its metavar and its help.
OPTIONS: dict[str, tuple[Any, str | None, str]] = {
    "json": (bool, None, "Print the run's JSON document on standard output, nothing else."),
    "quiet": (bool, None, "No progress and no hints: the verdict and the table."),
    "verbose": (bool, None, "Everything that was measured, not only the first screen."),
    "home": (Path, "DIR", "Where runs are kept. Also RIGBENCH_HOME."),
    "device": (str, "NAME", "cpu, cuda or cuda:N. Default: the visible GPUs, else the CPU."),
    "keep_disturbed": (bool, None, "Show what was measured while the machine was busy too, and answer from it."),
    "on": (str, "NAME", "Hardware you do not own: a rig profile, a GPU, 2xrtx-4080, or FILE.toml."),
    "replay": (Path, "DIR", "Read a recorded rig instead of this machine."),
    "link": (str, "WIDTH", "With --on: the slot that each card has, as x8 or gen4x8."),
    "p2p": (str, "on|off", "With --on: whether its cards copy to each other directly."),
}
ALWAYS = ("json", "quiet", "verbose", "home")


class Common:
    """The common options of one invocation, those before the command and those after it merged."""

    def __init__(self, command: str, values: dict[str, Any]) -> None:
        self.command = command
        self.typed: tuple[str, ...] = ()  # of the command's own options those on this line, no setting of a file
        self.json = bool(values.get("json"))
        self.quiet = bool(values.get("quiet")) or self.json
        self.verbose = bool(values.get("verbose"))
        self.home: Path | None = values.get("home")
        self.device: str | None = values.get("device")
        self.replay: Path | None = values.get("replay")
        self.on: str | None = values.get("on")
        link, p2p = values.get("link"), values.get("p2p")
        if link is not None or p2p is not None:
            from rigbench.core import profiles

            if self.on is None:
                option = "--link" if link is not None else "--p2p"
                raise RigbenchError(f"{option} is of the rig that --on names", "add --on NAME")
            self.on = profiles.wired(self.on, link, p2p)
        self.keep_disturbed = bool(values.get("keep_disturbed"))
        if self.quiet and self.verbose:
            what = f"--{'json' if self.json else 'quiet'} and --verbose exclude each other"
            raise RigbenchError(what, "leave one of them out")
        if self.device is not None and self.replay is not None:
            raise RigbenchError("--device and --replay exclude each other", "a recorded rig has no device to run on")
        if self.on is not None and (self.device is not None or self.replay is not None):
            other = "--device" if self.device is not None else "--replay"
            raise RigbenchError(f"--on and {other} exclude each other", "--on predicts for hardware that is not here")

    def store(self) -> Store:
        from rigbench.store import Store, default_home

        return Store(self.home or default_home())

    def console(self) -> Console:
        from rigbench.core.screen import console

        return console(width=None if sys.stdout.isatty() else 100)

    def job(self, measures: bool = True) -> Job:
        """A job that is kept; `measures`: this machine, where nothing else is named.

        The store is tried first, before the machine is made busy.
        """
        from rigbench.core.progress import make_progress
        from rigbench.job import Job
        from rigbench.machine.rig import Rig, require_linux

        home = self.store()
        home.check_writable()
        if measures and not self.on and not self.replay:
            require_linux()
        rig = Rig.replay(self.replay) if self.replay else Rig.live(ask_driver=not self.on and self.device != "cpu")
        job = Job(home, rig, self.command, make_progress(self.quiet), self.keep_disturbed)
        for line in job.run.warnings:  # a driver that hangs: before the processor is measured in the GPUs' place
            say(f"warning: {line}")
        return job

    def answer(
        self,
        work: Callable[[Job], object],
        show: Callable[[Run, Console, bool, bool], None] | None = None,
        look: bool = False,
        measures: bool = True,
    ) -> int:
        """Run a job, save it, show it, and say how it ended. Returns the exit code.

        `look`: nothing is measured, so that lists of runs leave this one out, as they do a replay and other hardware.
        """
        import msgspec

        from rigbench.core import progress
        from rigbench.core.record import Skipped
        from rigbench.job import Interrupted

        job = self.job(measures)
        told = len(job.run.warnings)
        job.run = msgspec.structs.replace(job.run, look=look or bool(self.replay or self.on))
        interrupted = False
        try:
            work(job)
        except (Interrupted, KeyboardInterrupt):
            progress.stopping = interrupted = True
        except RigbenchError:
            job.progress.close()
            if job.measured:
                job.finish("refused")
                say(str(job.trouble or f"what was measured is saved as {job.run.id}"))
            raise
        finally:
            job.progress.close()
        if interrupted and not job.measured:
            say("interrupted" if self.on or self.replay else "interrupted before anything was measured")
            return INTERRUPTED
        job.finish("interrupted" if interrupted else "finished")
        self.show(job.run, show)
        for line in job.run.warnings[told:]:
            say(f"warning: {line}")
        for line in job.faults:
            say(f"fault: {line}")
        if job.trouble:
            raise job.trouble
        if interrupted:
            say(f"interrupted; what was measured is saved as {job.run.id}")
            return INTERRUPTED
        if not self.quiet:
            say(f"saved as {job.run.id}; `rigbench report {job.run.id}` shows it again")
        results = [result for room in job.run.rooms().values() for result in room]
        # the document has the reason
        nothing = bool(results) and not any(getattr(it, "answers", not isinstance(it, Skipped)) for it in results)
        return FAULT if job.faults else NOTHING if nothing or job.has_no_answer else FINE

    def show(self, run: Any, show: Callable[[Any, Console, bool, bool], None] | None = None) -> None:
        """On the screen, its rooms unless `show` shows more or less of it; or as JSON. Whole with --verbose, with
        --quiet its verdict and table alone.

        Where the machine was busy, that is said first, and what it disturbed is left out unless the user wants it.
        """
        if self.json:
            from rigbench.store import encode

            sys.stdout.write(encode(run).decode())
        else:
            from rich.padding import Padding
            from rich.text import Text

            from rigbench.core.record import Skipped
            from rigbench.core.screen import printable, show_rooms
            from rigbench.document import Run
            from rigbench.usable import usable, words

            console = self.console()
            said = words(run, self.keep_disturbed) if isinstance(run, Run) else []
            for number, line in enumerate(said):
                text = Text(printable(line.strip()), style="" if number else "bold red")
                console.print(Padding(text, (0, 0, 0, 2)) if line.startswith("  ") else text)
            if said and not self.keep_disturbed:
                run = usable(run)
                if all(isinstance(it, Skipped) for room in run.rooms().values() for it in room):
                    return
            (show or show_rooms)(run, console, self.verbose, self.quiet)


def say(line: str) -> None:
    """One line on standard error."""
    from rigbench.core.screen import told

    sys.stderr.write(f"rigbench: {told(line)}\n")


def command(*extra: str, settings: tuple[str, ...] = ()) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Mark a function as a command: its first parameter is a Common, its other ones are options of its own.

    `extra` names the options of OPTIONS that it takes besides --json, --quiet and --home. A parameter whose type is a
    record stands for that record's Options, read and checked before the function is called. `settings` are keys of
    those that this command takes by --set or from rigbench.toml alone, besides the options that are settings anyway.
    """

    def mark(function: Callable[..., int]) -> Callable[..., int]:
        function.taken = (*ALWAYS, *extra)  # type: ignore[attr-defined]
        function.settings = settings  # type: ignore[attr-defined]
        return function

    return mark


class Choice(NamedTuple):
    """An option of a command: where its value goes, and what it is called on the line and in rigbench.toml."""

    record: type
    field: str
    kind: Any
    default: Any
    option: Option
    name: str  # "--micro-batch"
    is_setting: bool  # not on the line

    @property
    def key(self) -> str:
        return self.name.removeprefix("--")

    def read(self, text: str, name: str) -> Any:
        """The value that a text stands for, `name` saying where it was given.

        Raises:
            RigbenchError: what it is not, and what would be right.
        """
        if self.option.read is not None:
            return self.option.read.read(text, name)
        words = typing.get_args(self.kind) or ("on", "off")
        if text not in words:
            raise RigbenchError(f"{name} {text[:40]!r} is not one of them", f"use {' or '.join(map(str, words))}")
        return text if typing.get_args(self.kind) else text == "on"


def choices(function: Callable[..., int]) -> list[Choice]:
    """Every option of a marked function's records, in the order of its help."""
    settings: tuple[str, ...] = function.settings  # type: ignore[attr-defined]
    return [choice for record in _records(function).values() for choice in choices_of(record, settings)]


def choices_of(record: type, settings: tuple[str, ...] = ()) -> Iterator[Choice]:
    import msgspec

    from rigbench.core.options import Option

    defaults = {field.name: field.default for field in msgspec.structs.fields(record)}
    for field, annotation in typing.get_type_hints(record, include_extras=True).items():
        for option in getattr(annotation, "__metadata__", ()):
            if isinstance(option, Option):
                name = option.name(field)
                is_setting = option.setting or name.removeprefix("--") in settings
                yield Choice(record, field, annotation.__origin__, defaults[field], option, name, is_setting)


def _records(function: Callable[..., int]) -> dict[str, type]:
    import msgspec

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    kinds = {parameter.name: parameter.annotation for parameter in own}
    return {name: it for name, it in kinds.items() if isinstance(it, type) and issubclass(it, msgspec.Struct)}


def callback(name: str, function: Callable[..., int]) -> Callable[..., NoReturn]:
    """The function that typer calls for a marked one: options in its words, then records, then the function."""
    taken: tuple[str, ...] = function.taken  # type: ignore[attr-defined]
    records, known = _records(function), choices(function)

    @functools.wraps(function)
    def call(context: typer.Context, **values: Any) -> NoReturn:
        after = {key: values.pop(f"common_{key}") for key in taken}
        before: dict[str, Any] = context.obj or {}
        for key in (key for key, value in before.items() if value and key not in taken):
            what = f"{name} does not take --{key.replace('_', '-')}"
            raise RigbenchError(what, f"`rigbench {name} --help` lists its options")
        for key in (key for key in taken if "" in (after[key], before.get(key))):
            raise RigbenchError(f"--{key} is empty", "leave it out, or say what you mean")
        merged = {key: after[key] or before.get(key) for key in taken}
        settings = _settings(name, known, values.pop("set", None) or [])
        for setting in settings:
            if setting.key in SETTINGS and setting.key in taken and not merged[setting.key]:
                if setting.key == "home" and setting.of_folder:
                    raise RigbenchError(*_not_of_folder(setting))
                if setting.key == "home" or not (merged.get("on") or merged.get("replay")):
                    path = Path(os.path.expanduser(setting.value))
                    merged[setting.key] = path if setting.key == "home" else setting.value
        common = Common(name, merged)
        begin(common.home)
        typed = {it.field: values.pop(it.field) for it in known if not it.is_setting and _is_typed(context, it.field)}
        common.typed = tuple(it.name for it in known if it.field in typed)
        for it in known:
            values.pop(it.field, None)
        made = {
            parameter: read(record, known, typed, settings, bool(common.on)) for parameter, record in records.items()
        }
        raise typer.Exit(function(common, **values, **made))

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(
            spoken.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own
            for spoken in (_spoken(records[parameter.name], known) if parameter.name in records else [parameter])
        ),
        *_common_parameters(taken),
    ]
    if any(it.is_setting for it in known):
        words = "A setting for this command alone, as psu-watts=850; several times for several."
        option = typer.Option("--set", metavar="KEY=VALUE", help=words, rich_help_panel=EVERYWHERE)
        kind = Annotated[list[str] | None, option]
        parameters.append(inspect.Parameter("set", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind))
    _resign(call, parameters)
    return call


def _is_typed(context: typer.Context, field: str) -> bool:
    source = context.get_parameter_source(field)
    return source is not None and source.name != "DEFAULT"


def _settings(name: str, known: list[Choice], words: list[str]) -> list[Setting]:
    """What --set and the files give this command, nearest first.

    Raises:
        RigbenchError: a key of --set that the command does not have, or one of a file that no command has.
    """
    import difflib

    from rigbench.core import config

    keys = [it.key for it in known]
    typed = list(config.typed(words, name))
    for setting in typed:
        if setting.key not in keys:
            near = difflib.get_close_matches(setting.key, keys, n=2)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            cure = f"{meant}`rigbench config {name}` lists the keys"
            raise RigbenchError(f"--set {setting.key[:60]}: {name} has no such key", cure)
    return typed + config.settings(name)


def _not_of_folder(setting: Setting) -> tuple[str, str]:
    what = f"{setting.origin} in this folder may not give {setting.key}"
    cure = "type it, or put it into your own rigbench.toml; `rigbench config` says where that is"
    return f"{what}, since it could name somebody else's code or place", cure


def _spoken(record: type, known: list[Choice]) -> Iterator[inspect.Parameter]:
    """A record's options as typer's parameters."""
    from rigbench.core.record import Absent

    for _, field, kind, default, option, name, is_setting in (it for it in known if it.record is record):
        if is_setting:
            continue
        declared: dict[str, Any] = {"help": option.help, "metavar": option.metavar}
        declared["rich_help_panel"] = option.panel or getattr(record, "panel", None)
        if option.read is not None:
            declared["show_default"] = False  # typer would put a text of ours in parentheses
            declared["autocompletion"] = completed(option.read.words)
            if default not in ("", ()) and not isinstance(default, Absent):
                declared["help"] += f"  [default: {option.read.show(default)}]"
            kind, default = str | None, None
        elif isinstance(default, Absent):
            kind, default = kind | None, None
        yield inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, typer.Option(*(option.names or (name,)), **declared)],
        )


def run_ids() -> Iterator[str]:
    """Those of the home that RIGBENCH_HOME or the system names, for a shell to complete."""
    from rigbench.store import Store, default_home

    yield from (path.stem for path in reversed(Store(default_home()).paths()))


def completed(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell offers in the place of an argument or an option's value."""

    def complete(incomplete: str) -> list[str]:
        try:
            return [word for word in words() if word.startswith(incomplete)]
        except RigbenchError:  # a damaged profile or home is no reason to break the line that is being typed
            return []

    return complete


def read(
    record: type, known: list[Choice], typed: dict[str, Any], settings: Sequence[Setting] = (), on: bool = False
) -> Any:
    """The record of what was typed, and else of the nearest setting that no nearer rival replaces."""
    given: dict[str, Any] = {}
    for it in (it for it in known if it.record is record):
        if it.field in typed:
            word = typed[it.field]
            given[it.field] = it.option.read.read(word, it.name) if it.option.read else word
            if word == "":  # as of a variable that is not set: it would be taken for what is not asked
                raise RigbenchError(f"{it.name} is empty", "leave it out, or say what you mean")
            continue
        nearer = {other.key for other in known if other.field in typed} | ({"on"} if on else set())
        for origin, level in itertools.groupby(settings, lambda setting: setting.origin):
            of_level = {setting.key: setting for setting in reversed(list(level))}
            if origin != "--set" and nearer & set(it.option.rivals):
                break
            if (setting := of_level.get(it.key)) is not None:
                if it.option.private and setting.of_folder:
                    raise RigbenchError(*_not_of_folder(setting))
                given[it.field] = it.read(
                    setting.value, f"--set {it.key}" if origin == "--set" else f"{origin}: {it.key}"
                )
                break
            nearer |= of_level.keys()
    return record(**given)


def root_options(app: typer.Typer) -> None:
    """The same common options before the command's name."""

    def root(context: typer.Context, **values: Any) -> None:
        context.obj = {key.removeprefix("common_"): value for key, value in values.items() if key != "version"}
        if values["version"]:
            from rigbench import __version__

            typer.echo(f"rigbench {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    version = inspect.Parameter(
        "version",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option("--version", "-V", help="Print the version.")],
    )
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    _resign(root, [context, version, *_common_parameters(tuple(OPTIONS))])
    root.__doc__ = "Measure your own GPU rig, find what holds it back, and know what a training run will cost."
    app.callback(invoke_without_command=True)(root)


def _common_parameters(taken: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    for name in taken:
        kind, metavar, words = OPTIONS[name]
        names = (f"--{name}", f"-{name[0]}") if name in ("quiet", "verbose") else (f"--{name.replace('_', '-')}",)
        yield inspect.Parameter(
            f"common_{name}",
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[
                kind if kind is bool else kind | None,
                typer.Option(
                    *names,
                    metavar=metavar,
                    help=words,
                    rich_help_panel=EVERYWHERE if name in ALWAYS else WHERE,
                    autocompletion=_complete_cards if name == "on" else None,
                ),
            ],
        )


def _complete_cards(incomplete: str) -> list[str]:
    """Of several with commas between, the last; "2xrtx-40" too."""
    from rigbench.core import profiles

    before, comma, last = incomplete.rpartition(",")
    times, cross, card = last.partition("x")
    count = times + cross if cross and times.isdigit() else ""
    rigs = [] if count else [rig.name for rig in profiles.rigs()]
    names = completed(lambda: (*rigs, *(gpu.id for gpu in profiles.gpus())))(card if count else last)
    return [f"{before}{comma}{count}{name}" for name in names]


def _resign(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
