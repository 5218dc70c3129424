"""What all commands share: their common options, one way to run and show a job, and one way to end."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rigbench.core.errors import FAULT, FINE, INTERRUPTED, NOTHING, RigbenchError

if TYPE_CHECKING:
    from rich.console import Console

    from rigbench.core.options import Option
    from rigbench.document import Run
    from rigbench.job import Job
    from rigbench.store import Store

# The options that every command takes, before or after its name; then those that only some take.
# Each with its type, its metavar and its help.
OPTIONS: dict[str, tuple[Any, str | None, str]] = {
    "json": (bool, None, "Print the run's JSON document on standard output, nothing else."),
    "quiet": (bool, None, "No progress and no hints, only the answer."),
    "home": (Path, "DIR", "Where runs are kept. Also RIGBENCH_HOME."),
    "device": (str, "NAME", "cpu, cuda or cuda:N. Default: the visible GPUs, else the CPU."),
    "keep_disturbed": (bool, None, "Show what was measured while the machine was busy too, and answer from it."),
    "on": (str, "NAME", "Hardware you do not own: a rig profile, a GPU, or 2xrtx-4080."),
    "replay": (Path, "DIR", "Read a recorded rig instead of this machine."),
}
EVERYWHERE = ("json", "quiet", "home")


class Common:
    """The common options of one invocation, those before the command and those after it merged."""

    def __init__(self, command: str, values: dict[str, Any]) -> None:
        self.command = command
        self.json = bool(values.get("json"))
        self.quiet = bool(values.get("quiet")) or self.json
        self.home: Path | None = values.get("home")
        self.device: str | None = values.get("device")
        self.replay: Path | None = values.get("replay")
        self.on: str | None = values.get("on")
        self.keep_disturbed = bool(values.get("keep_disturbed"))
        if self.device is not None and self.replay is not None:
            raise RigbenchError("--device and --replay exclude each other", "a recorded rig has no device to run on")
        if self.on is not None and (self.device is not None or self.replay is not None):
            other = "--device" if self.device is not None else "--replay"
            raise RigbenchError(f"--on and {other} exclude each other", "--on predicts for hardware that is not here")

    def store(self) -> Store:
        from rigbench.store import Store, default_home

        return Store(self.home or default_home())

    def console(self) -> Console:
        from rich.console import Console
        from rich.segment import Segment

        from rigbench.core.screen import UNPRINTABLE

        class Screen(Console):
            def on_broken_pipe(self) -> None:
                raise BrokenPipeError  # the reader went away, as `| head` does: rich would call that a failure

            def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
                """Whatever a screen shows, nothing foreign in it reaches the terminal raw."""
                for text, style, control in super().render(renderable, options):
                    yield Segment(text if control else UNPRINTABLE.sub("\ufffd", text), style, control)

        width = None if sys.stdout.isatty() else 100
        return Screen(highlight=False, soft_wrap=False, width=width)

    def job(self) -> Job:
        """A job that measures and is kept. The store is tried first, before the machine is made busy."""
        from rigbench.core.progress import make_progress
        from rigbench.job import Job
        from rigbench.machine.rig import Rig

        home = self.store()
        home.check_writable()
        rig = Rig.replay(self.replay) if self.replay else Rig.live(ask_driver=not self.on and self.device != "cpu")
        return Job(home, rig, self.command, make_progress(self.quiet), self.keep_disturbed)

    def answer(self, work: Callable[[Job], object], show: Callable[[Run, Console], None] | None = None) -> int:
        """Run a job, save it, show it, and say how it ended. Returns the exit code."""
        from rigbench.core import progress
        from rigbench.core.record import Skipped
        from rigbench.job import Interrupted

        job = self.job()
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
        for line in job.run.warnings:
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
        nothing = bool(results) and all(isinstance(it, Skipped) for it in results)  # the document has the reason
        return FAULT if job.faults else NOTHING if nothing or job.has_no_answer else FINE

    def show(self, run: Any, show: Callable[[Any, Console], None] | None = None) -> None:
        """On the screen, its rooms unless `show` shows more or less of it; or as JSON.

        Where the machine was busy, that is said first, and what it disturbed is left out unless the user wants it.
        """
        if self.json:
            from rigbench.store import encode

            sys.stdout.write(encode(run).decode())
        else:
            from rich.text import Text

            from rigbench.core.record import Skipped
            from rigbench.core.screen import printable, show_rooms
            from rigbench.usable import usable, words

            console, said = self.console(), words(run, self.keep_disturbed)
            for number, line in enumerate(said):
                console.print(Text(printable(line), style="" if number else "bold red"))
            if said and not self.keep_disturbed:
                run = usable(run)
                if all(isinstance(it, Skipped) for room in run.rooms().values() for it in room):
                    return
            (show or show_rooms)(run, console)


def say(line: str) -> None:
    """One line on standard error."""
    from rigbench.core.screen import printable

    sys.stderr.write(f"rigbench: {printable(line)}\n")


def command(*extra: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Mark a function as a command: its first parameter is a Common, its other ones are options of its own.

    `extra` names the options of OPTIONS that it takes besides --json, --quiet and --home. A parameter whose type is a
    record stands for that record's Options, read and checked before the function is called.
    """

    def mark(function: Callable[..., int]) -> Callable[..., int]:
        function.taken = (*EVERYWHERE, *extra)  # type: ignore[attr-defined]
        return function

    return mark


def callback(name: str, function: Callable[..., int]) -> Callable[..., NoReturn]:
    """The function that typer calls for a marked one: options in its words, then records, then the function."""
    taken: tuple[str, ...] = function.taken  # type: ignore[attr-defined]
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    records = {parameter.name: parameter.annotation for parameter in own if _is_record(parameter.annotation)}

    @functools.wraps(function)
    def call(context: typer.Context, **values: Any) -> NoReturn:
        after = {key: values.pop(f"common_{key}") for key in taken}
        before: dict[str, Any] = context.obj or {}
        for key, value in before.items():
            if value and key not in taken:
                raise RigbenchError(
                    f"{name} does not take --{key.replace('_', '-')}", f"`rigbench {name} --help` lists its options"
                )
        for key in (key for key in taken if "" in (after[key], before.get(key))):
            raise RigbenchError(f"--{key} is empty", "leave it out, or say what you mean")
        merged = {key: after[key] or before.get(key) for key in taken}
        common = Common(name, merged)
        made = {parameter: _read(record, values) for parameter, record in records.items()}
        raise typer.Exit(function(common, **values, **made))

    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(
            spoken.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own
            for spoken in (_spoken(records[parameter.name]) if parameter.name in records else [parameter])
        ),
        *_common_parameters(taken),
    ]
    _resign(call, parameters)
    return call


def _is_record(annotation: Any) -> bool:
    import msgspec

    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _options(record: type) -> Iterator[tuple[str, Any, Option]]:
    """(field, its type, its option) of each field that is one."""
    from rigbench.core.options import Option

    for field, annotation in typing.get_type_hints(record, include_extras=True).items():
        for option in getattr(annotation, "__metadata__", ()):
            if isinstance(option, Option):
                yield field, annotation.__origin__, option


def _spoken(record: type) -> Iterator[inspect.Parameter]:
    """A record's options as typer's parameters."""
    import msgspec

    from rigbench.core.record import Absent

    defaults = {field.name: field.default for field in msgspec.structs.fields(record)}
    for field, kind, option in _options(record):
        default = defaults[field]
        declared: dict[str, Any] = {"help": option.help, "metavar": option.metavar}
        if option.read is not None:
            declared["show_default"] = False  # typer would put a text of ours in parentheses
            if default not in ("", ()) and not isinstance(default, Absent):
                declared["help"] += f"  [default: {option.read.show(default)}]"
            kind, default = str | None, None
        elif isinstance(default, Absent):
            kind, default = kind | None, None
        names = option.names or ("--" + field.replace("_", "-"),)
        yield inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind, typer.Option(*names, **declared)],
        )


def _read(record: type, values: dict[str, Any]) -> Any:
    """The record of what was said, whose words are taken out of `values`."""
    said: dict[str, Any] = {}
    for field, _, option in _options(record):
        word = values.pop(field)
        if word is not None:
            name = option.names[0] if option.names else "--" + field.replace("_", "-")
            said[field] = option.read.read(word, name) if option.read else word
    return record(**said)


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
        annotation=Annotated[bool, typer.Option("--version", help="Print the version.")],
    )
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    _resign(root, [context, version, *_common_parameters(tuple(OPTIONS))])
    root.__doc__ = "Measure your own GPU rig, find what holds it back, and know what a training run will cost."
    app.callback(invoke_without_command=True)(root)


def _common_parameters(taken: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    for name in taken:
        kind, metavar, words = OPTIONS[name]
        names = ("--quiet", "-q") if name == "quiet" else (f"--{name.replace('_', '-')}",)
        yield inspect.Parameter(
            f"common_{name}",
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[
                kind if kind is bool else kind | None, typer.Option(*names, metavar=metavar, help=words)
            ],
        )


def _resign(function: Callable[..., Any], parameters: list[inspect.Parameter]) -> None:
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
