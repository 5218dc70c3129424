"""The command that compares runs: compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command, completed, run_ids, say
from rigbench.compare.record import Options
from rigbench.core.record import Absent

if TYPE_CHECKING:
    from rigbench.compare.record import Pair
    from rigbench.compare.sides import Chosen
    from rigbench.index import Index


@command()
def compare(
    common: Common,
    options: Options,
    sides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BEFORE AFTER …]",
            help="Runs, files, folders of runs or labels; several on a side with commas. Each against the first. One: "
            "against the run before it. None: the newest against the one before.",
            autocompletion=completed(run_ids),
        ),
    ] = None,
) -> int:
    """Is it faster, slower or the same? Per number, with what changed besides, and no more alarms than stated.

    rigbench compare                           the newest run against the one before
    rigbench compare before after              labels: `rigbench report RUN RUN RUN --label before`
    rigbench compare A1,A2,A3 B1,B2,B3         three runs a side separate change from chance
    rigbench compare before after --fail-over 5%    for CI: exit 1 where something got worse
    rigbench compare RUN reports/              is this rig as fast as others of its kind?
    """
    from rigbench.compare import screen
    from rigbench.compare import sides as finding
    from rigbench.compare.record import LEVEL, WORSE, Comparison
    from rigbench.core import units
    from rigbench.core.errors import FAULT, FINE, NOTHING, RigbenchError
    from rigbench.core.progress import make_progress
    from rigbench.store import read

    home, words = common.store(), list(sides or [])
    progress = make_progress(common.quiet)
    index = home.index(progress)
    progress.close()
    if not words:
        words = [finding.newest(home, index)]
    if len(words) == 1:
        words = [finding.newest(home, index, read(home.find(words[0]))), *words]
    found = [finding.chosen(word, home, index) for word in words]
    level = 1 - (1 - LEVEL) / (len(found) - 1)
    pairs = [_pair(found[0], other, index, options.same_within, level) for other in found[1:]]
    if not any(pair.rows for pair in pairs):
        why = next((f"{it.name}: {it.reason}" for pair in pairs for it in pair.refused), "they share no number")
        raise RigbenchError(f"nothing compares ({why})", "compare runs of the same probes and settings", NOTHING)
    unreadable = tuple(line for its in found for line in its.unreadable)
    made = Comparison(same_within=options.same_within, pairs=tuple(pairs), unreadable=unreadable)
    common.show(made, screen.show)
    for line in unreadable:
        say(f"not used: {line}")
    if isinstance(options.fail_over, Absent):
        return FINE
    rows = [row for pair in pairs for row in pair.rows]
    worse = [row for row in rows if row.verdict in WORSE and row.loss > options.fail_over]
    if worse:
        say(f"fault: {len(worse)} got worse by more than {units.format_share(options.fail_over)}")
        return FAULT
    if all(row.verdict == "ambiguous" for row in rows):
        say("so few runs cannot separate a change from chance")
        return NOTHING
    return FINE


def _pair(before: Chosen, after: Chosen, index: Index, same_within: float, level: float) -> Pair:
    """Judge one side against another."""
    from rigbench.compare import sides as finding
    from rigbench.compare import verdict
    from rigbench.compare.record import Pair

    is_same = {run.run for run in before.runs} == {run.run for run in after.runs}
    is_same = is_same and bool(before.documents) == bool(after.documents)  # else a folder holds nothing else
    if not is_same:
        after = finding.without(after, before)
        before, after = finding.with_repeats(before, after, index), finding.with_repeats(after, before, index)
    by_rig = len({*before.rigs, *after.rigs}) > 2
    (old, olds), (new, news) = finding.side(before, by_rig), finding.side(after, by_rig)
    old_rows, new_rows = finding.rows(before), finding.rows(after)
    units = [verdict.unit(runs) for runs in olds], [verdict.unit(runs) for runs in news]
    made, splits = verdict.compared(*units, {**new_rows, **old_rows}, same_within, level)
    if is_same:
        made = tuple(verdict.itself(row) for row in made)
    if by_rig and 1 in (old.units, new.units):
        made = tuple(verdict.placed(row) for row in made)
    return Pair(
        before=old,
        after=new,
        changes=() if is_same else tuple(finding.changes(before, after)),
        rows=made,
        refused=(*finding.busy(before), *finding.busy(after), *verdict.refused(old_rows, new_rows)),
        level=level,
        splits=splits,
        least_p=verdict.least_p(old.units, new.units),
        more_runs=0 if is_same else verdict.more_units(old.units, new.units, level),
    )
