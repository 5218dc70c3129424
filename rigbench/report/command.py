"""The commands that answer from what is stored: report, profiles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command, completed, run_ids, say
from rigbench.core.record import Absent
from rigbench.report.record import Options

if TYPE_CHECKING:
    from rigbench.document import Run
    from rigbench.index import Index
    from rigbench.store import Store


@command("keep_disturbed")
def report(
    common: Common,
    options: Options,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN [PROBE]]",
            help="A run's id, its start, or a file; then one probe of it, whole. Default: the newest that measured.",
            autocompletion=completed(run_ids),
        ),
    ] = None,
) -> int:
    """Show a stored run again.

    rigbench report                  the newest
    rigbench report RUN matmul       one probe of it, whole; without RUN, of the newest
    rigbench report RUN --html       the page, one file; or RUN page.html --html
    rigbench report --list           which there are
    rigbench report RUN RUN RUN --label before      for `rigbench compare before after`
    rigbench report RUN --format md  for an issue; also csv, openmetrics, pytest-benchmark
    rigbench report --prune 90d      forget those that are older
    """
    from rigbench import store
    from rigbench.core.errors import FINE, NOTHING, RigbenchError
    from rigbench.document import ROOMS
    from rigbench.report import screen as render

    home, names = common.store(), runs or []
    files = [name for name in names if options.html and name.lower().endswith((".html", ".htm"))]
    names = [name for name in names if name not in files]
    prune = not isinstance(options.prune, Absent)
    actions = {"--html": options.html, "--list": options.every, "--delete": options.delete, "--prune": prune}
    actions["--label"] = not isinstance(options.label, Absent)
    chosen = [name for name, given in actions.items() if given]
    if len(chosen) > 1:
        raise RigbenchError(f"{chosen[0]} and {chosen[1]} exclude each other", "do one after the other")
    others = {"--format": options.format, "--tensorboard": options.tensorboard, "--wandb": options.wandb}
    forms = [name for name, value in others.items() if not isinstance(value, Absent)]
    if chosen and forms:
        raise RigbenchError(f"{chosen[0]} and {forms[0]} exclude each other", "ask for one, then for the other")
    if options.delete:
        return _delete(home, names, common)
    if isinstance(options.label, str):
        return _label(home, names, options.label, common)
    if chosen and names and not options.html:
        raise RigbenchError(f"{chosen[0]} takes no run", "leave it out")
    if not isinstance(options.prune, Absent):
        return _prune(home, options.prune, options.yes, common)
    if options.every:
        return _list(home, options.all, common)
    most = 1 if options.html else 2
    if len(names) > most or len(files) > 1:
        one = (names[most:] + files[1:])[0]
        cure = "give a run, and a FILE.html" if options.html else "give a run, and one probe of it"
        raise RigbenchError(f"{one[:40]!r} is one too many", cure)
    if len(names) == 1 and names[0] in (*ROOMS, *render.ALIASES) and not Path(names[0]).exists():
        names = [str(_newest(home, common)), names[0]]  # a probe alone is one of the newest run
    stored = store.read(home.find(names[0]) if names else _newest(home, common))
    if options.html:
        if common.json:
            raise RigbenchError("--html and --json exclude each other", "ask for one, then for the other")
        made = write_page(stored, common, Path(files[0]) if files else None, redact=not options.no_redact)
        say(made)
        return FINE
    if len(names) == 2:
        common.verbose = True
        stored = render.one_room(stored, names[1])
    if forms:
        return _export(stored, options, common)
    if options.no_redact:
        raise RigbenchError("--no-redact is of what leaves this machine", "the screen and --json hide nothing anyway")
    common.show(stored, render.show)
    return NOTHING if stored.disturbed() and not common.keep_disturbed else FINE


def _export(run: Run, options: Options, common: Common) -> int:
    """In the forms that were asked for, redacted as a capture is."""

    from rigbench.core.errors import FINE, NOTHING, RigbenchError
    from rigbench.core.screen import UNPRINTABLE
    from rigbench.redacted import names_here, redacted
    from rigbench.report import exports, trackers
    from rigbench.usable import usable, words

    if common.json:
        raise RigbenchError("--json prints the run's document, not another form", "leave it or the form out")
    if options.no_redact:
        say("not redacted: GPU UUIDs, host, user and process names, process ids, paths and addresses are in it")
    else:
        public = redacted(run, *names_here())
        run = public.run
        if not common.quiet:
            say(f"redacted: {f'{public.words}; --no-redact leaves it in' if public.counts else 'nothing was there to'}")
    if not common.keep_disturbed:
        run = usable(run)
    for line in words(run, common.keep_disturbed)[:1]:
        say(line)
    if isinstance(options.tensorboard, str):
        say(f"TensorBoard's events are in {trackers.tensorboard(run, Path(options.tensorboard))}")
    if isinstance(options.wandb, str):
        say(f"`wandb sync {trackers.wandb(run, Path(options.wandb))}` sends the run")
    if isinstance(options.format, str):
        sys.stdout.write(UNPRINTABLE.sub("\ufffd", exports.FORMATS[options.format](run)))
        if lacks := exports.lacking(run, options.format):
            say(lacks)
            return NOTHING
    return FINE


def write_page(run: Run, common: Common, path: Path | None = None, *, redact: bool = True) -> str:
    """Writes the page of a run, by default into HOME/pages; returns what there is to say of it.

    Raises:
        RigbenchError: what draws and writes pages is not installed, or the file cannot be written.
    """
    from rigbench.core.errors import RigbenchError

    try:
        from rigbench.report.page import page
    except ImportError as error:
        raise RigbenchError(f"no page: {error.name} is not installed", "pip install jinja2 matplotlib") from None
    target = path or common.store().home / "pages" / f"{run.id}.html"
    made = page.write(run, target, redact=redact, keep_disturbed=common.keep_disturbed)
    return " ".join(filter(None, [f"page: {target}", f"({made.hidden})", made.thinned]))


def _entries(home: Store, common: Common) -> Index:
    from rigbench.core.progress import make_progress

    progress = make_progress(common.quiet)
    index = home.index(progress)
    progress.close()
    return index


def _newest(home: Store, common: Common) -> Path:
    """The newest run that measured something, else the newest look."""
    stored = {path.stem for path in home.paths()}  # a file that somebody renamed is not its run's id
    entry = next((it for it in _entries(home, common).entries() if not it.look and it.id in stored), None)
    return home.find(None) if entry is None else home.runs / f"{entry.id}.json"


def _list(home: Store, looks: bool, common: Common) -> int:
    from rigbench.core.errors import FINE, RigbenchError
    from rigbench.report import screen as render

    if common.json:
        raise RigbenchError("--list and --json exclude each other", "the runs are files in " + str(home.runs))
    index, hidden = _entries(home, common), 0
    shown = []
    for entry in index.entries():
        if entry.look and not looks:
            hidden += 1
        else:
            shown.append(entry)
    render.show_list(shown, common.console())
    if not shown and not hidden and not common.quiet:
        say(f"no run that measured is stored in {home.runs}; `rigbench run --quick` makes one")
    if hidden and not common.quiet:
        say(f"{hidden} more that measured nothing (topology, doctor, --replay, --on); --all lists them")
    for line in index.unreadable():
        say(f"not used: {line}")
    return FINE


def _label(home: Store, names: list[str], label: str, common: Common) -> int:
    """All of them or none: each is read before the first is written."""
    import msgspec

    from rigbench.core.errors import FINE, RigbenchError
    from rigbench.store import read

    if not names:
        raise RigbenchError("--label names no run", "`rigbench report --list` shows them")
    paths = [home.find(name) for name in names]
    for path in paths:
        if path.parent != home.runs:
            raise RigbenchError(f"{path} is not a run of this home", f"name one of {home.runs}")
    for path, run in [(path, read(path)) for path in dict.fromkeys(paths)]:
        home.save(msgspec.structs.replace(run, label=label))
        if not common.quiet:
            say(f"{path.stem} is now labelled {label}")
    return FINE


def _delete(home: Store, names: list[str], common: Common) -> int:
    from rigbench.core.errors import FINE, RigbenchError

    if not names:
        raise RigbenchError("--delete names no run", "`rigbench report --list` shows them")
    for run_id in home.delete(names):
        if not common.quiet:
            say(f"deleted {run_id}")
    return FINE


def _prune(home: Store, age_seconds: float, yes: bool, common: Common) -> int:
    """Files that are older; without --yes only what would go. Runs that are not readable stay."""
    from datetime import UTC, datetime, timedelta

    from rigbench.core.errors import FINE

    border = (datetime.now(UTC) - timedelta(seconds=age_seconds)).isoformat()
    stored = {path.stem for path in home.paths()}
    old = [it for it in _entries(home, common).entries() if it.started_at < border and it.id in stored]
    slices, tests = sum(len(entry.slices) for entry in old), sum(entry.backtest is not None for entry in old)
    what = f"{len(old)} run{'' if len(old) == 1 else 's'}"
    if slices or tests:
        what += f", among them {slices} short training runs and {tests} back-tests that budgets are based on"
    if not old:
        say("nothing is that old")
    elif not yes:
        say(f"would delete {what}; --yes does it")
    else:
        _delete(home, [entry.id for entry in old], Common(common.command, {"quiet": True}))
        say(f"deleted {what}")
    return FINE


def _templates() -> list[str]:
    from rigbench.report import profiles as data

    return list(data.TEMPLATES)


@command()
def profiles(
    common: Common,
    what: Annotated[
        str | None, typer.Argument(help="A profile's name, `schema` (of a run's JSON) or `check`. Default: list all.")
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="NAME",
            help="Print a file to begin with: cpu-docker, cuda-docker, sbatch, slurm-health, systemd, ci.",
            autocompletion=completed(_templates),
        ),
    ] = None,
) -> int:
    """List and check the profiles: GPU datasheets, series of models, prices; print the JSON Schema of a run.

    rigbench profiles               which there are; with --verbose their figures
    rigbench profiles rtx-4090      one, with the source of every figure
    rigbench profiles schema        the JSON Schema of a run
    rigbench profiles --template sbatch     a file to begin with
    """
    from rigbench.core.errors import FINE, RigbenchError
    from rigbench.core.screen import escaped
    from rigbench.report import profiles as data
    from rigbench.report import screen

    if template is not None:
        if what or common.json:
            raise RigbenchError("--template prints a file alone", "leave the rest out")
        sys.stdout.write(data.template(template))
    elif what == "schema":
        from rigbench.document import run_schema

        sys.stdout.write(run_schema())
    elif what == "check":
        common.console().print(data.check())
        exact, near = data.check_published()
        common.console().print(
            f"counted again: {exact} published models have exactly the parameters that their authors state, "
            f"{near} come as near as their family says"
        )
    elif common.json:
        sys.stdout.write(escaped(data.as_json(what)))
    elif what:
        screen.show_profile(what, common.console())
    elif common.verbose:
        screen.show_profiles(common.console())
    else:
        screen.brief_profiles(common.console())
    return FINE
