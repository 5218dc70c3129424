"""Shows a run of several probes on one screen: the answer, what holds the rig back, each probe, how sure, what next."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from rigbench.budget import brief as plan
from rigbench.budget.record import Budget
from rigbench.core import units
from rigbench.core.finding import NOT_PRICED, Examined
from rigbench.core.record import Absent, Figure, Skipped
from rigbench.core.screen import Headline, Mark, counted, grid, headline, marked, middle, printable
from rigbench.doctor import no_limit
from rigbench.doctor import screen as doctor
from rigbench.document import NOT_ASKED, Run
from rigbench.predict.record import Capacity, OwnCapacity
from rigbench.scaling import law_screen
from rigbench.scaling.record import Fit
from rigbench.tables import elsewhere, machine, shortened
from rigbench.train import brief as training
from rigbench.train.record import AnySlice, Arms
from rigbench.usable import BUSY

MOST_HELD_BACK, MOST_LEFT_OUT = 4, 2
INDENT = " " * 6  # under what holds it back
CUT_SHORT = {
    "running": "the run is still going on, or was killed; `rigbench run --resume` goes on with it",
    "interrupted": "the run was interrupted; `rigbench run --resume` goes on with it",
}
NAMES = {"slices": "training"}
UNPRICED = Examined(hours=NOT_PRICED)


def show(run: Run, console: Console, short: bool = False) -> None:
    console.print(Text(printable(head(run)), style="dim"))
    if isinstance(run.budget, Budget):
        headline("verdict", (worst(run), f"{_health(run)}; {shortened(plan.sentence(run.budget))}"), console)
        claims = run.budget.sanity.sentence, run.budget.sanity.kwh_sentence
        marked([("note", claim) for claim in claims if isinstance(claim, str)], console)
        console.print(plan.models_table(run.budget))
    else:
        why = run.budget.reason if isinstance(run.budget, Skipped | Absent) else ""
        if run.budget == NOT_ASKED:
            why = CUT_SHORT.get(run.status, why)
        its = worst(run)  # an answer that is not there is never "ok"
        headline("verdict", ("warn" if its == "ok" else its, f"no hours: {why}"), console)
    _hold_back(run, console)
    if short:
        return
    console.print(Text("checked", style="bold"))
    marked(((mark, f"{name:<11} {text}") for name, (mark, text) in checked(run)), console)
    facts: list[tuple[str, str]] = []
    if isinstance(run.budget, Budget):
        facts.append(("models", plan.models_words(run.budget)))
        facts += [("left out", line) for line in run.budget.left_out[:MOST_LEFT_OUT]]
        facts += plan.price(run.budget) if isinstance(run.budget.whole.money, Figure) else ()
        facts.append(("how sure", plan.sure(run.budget)))
    facts.append(("more", f"rigbench report {run.id} PROBE shows one whole, --verbose all of it"))
    console.print(grid(facts))


def head(run: Run) -> str:
    """Which command, of what hardware, with which software, how long it took where that is kept, when."""
    took = "" if isinstance(run.took_seconds, Absent) else f"{units.format_seconds(run.took_seconds)}, "
    when = took + run.started_at[:16].replace("T", " ")
    status = "" if run.status == "finished" else f" · {run.status}"
    if its := elsewhere(run):
        return f"rigbench {run.command}   {its} · {when} UTC{status}"
    torch = "" if isinstance(run.software.torch, Absent) else f" · torch {run.software.torch}"
    driver = "" if isinstance(run.software.nvidia_driver, Absent) else f" · driver {run.software.nvidia_driver}"
    return f"rigbench {run.command}   {shortened(machine(run.rig))}{driver}{torch} · {when} UTC{status}"


def answer(run: Run) -> str:
    """The run in one sentence, as the screen of its command begins; "" of several probes without hours."""
    if isinstance(run.budget, Budget):
        return plan.sentence(run.budget)
    if isinstance(run.law, Fit):
        return law_screen.verdict(run.law)[1]
    if run.command == "doctor":
        return doctor.sentence(run.findings, run.examined if isinstance(run.examined, Examined) else UNPRICED)
    if isinstance(run.arms, Arms):
        return training.verdict(run, run.arms)[1]
    if isinstance(run.capacity, Capacity | OwnCapacity):
        return verdict(run, "capacity")[1]
    said = [text for name, (_, text) in checked(run) if name != "quiet"]
    return said[0] if len(said) == 1 else ""


def worst(run: Run) -> Mark:
    """The verdict's mark: that of the worst finding, and no better than any probe's."""
    severities = {it.severity for it in run.findings if not it.accepted}
    marks = {mark for _, (mark, _) in checked(run)}
    if "fault" in severities or "fault" in marks:
        return "fault"
    return "warn" if "warning" in severities or "warn" in marks else "ok"


def _health(run: Run) -> str:
    """What a person wants to know first: whether something is wrong, and the worst of it."""
    found = [it.severity for it in run.findings if not it.accepted]
    counts = {word: found.count(word) for word in ("fault", "warning")}
    wrong = [str(counted(count, word)) for word, count in counts.items() if count]
    first = doctor.lead(run.findings)
    if wrong and first:
        return f"{' and '.join(wrong)}: {first.what}"
    return "no fault found" if worst(run) == "ok" else "look at what was checked"


def _hold_back(run: Run, console: Console) -> None:
    examined = run.examined if isinstance(run.examined, Examined) else UNPRICED
    listed = [it for it in run.findings if not it.accepted and (it.severity != "information" or it.takes_time)]
    if listed:
        console.print(doctor.held_back(listed[:MOST_HELD_BACK], examined, console.width))
    if len(listed) > MOST_HELD_BACK:
        console.print(Text(f"  … {len(listed) - MOST_HELD_BACK} more: rigbench doctor {run.id}", style="dim"))
    if fine := list(no_limit.words(run)):
        text = printable(f"not a limit: {'; '.join(fine)}")
        lines = textwrap.wrap(text, console.width, initial_indent=INDENT, subsequent_indent=INDENT + "  ")
        console.print(Text("\n".join(lines), style="dim"))


def checked(run: Run) -> Iterator[tuple[str, Headline]]:
    """Each probe's name and verdict, in the order in which they are measured."""
    for room in run.rooms():
        if room not in ("arms", "budget", "backtest", "capacity"):
            yield NAMES.get(room, room), verdict(run, room)
    if beside := _quiet(run):
        yield "quiet", beside


def _quiet(run: Run) -> Headline | None:
    """How little else the machine did while it was measured; None where nothing was read."""
    read = [it for it in run.disturbances if it.kept]
    if not read:
        return None
    if run.disturbed():
        return "warn", BUSY
    waits = [it.lost_share for it in read if not isinstance(it.lost_share, Absent)]
    others = [it for one in read for gpu in one.gpus if not isinstance(it := gpu.others_share, Absent)]
    words = [f"probes waited up to {units.format_share(max(waits))} of the time for a processor"] if waits else []
    if others:
        most = f"up to {units.format_share(max(others))} of the time"
        words.append(f"others used a GPU {most}" if any(others) else "nobody else used a GPU")
    return ("ok", ", ".join(words)) if words else ("note", "no reading says how busy the machine was")


def verdict(run: Run, room: str) -> Headline:
    """What a probe came to, by the screen of its feature."""
    results = run.rooms().get(room, ())
    measured = [result for result in results if not isinstance(result, Skipped | Absent)]
    if not measured:
        why = next((it.reason for it in results if isinstance(it, Skipped)), "")
        if why.startswith(BUSY):
            return "warn", "not usable: the machine was busy"
        return "note", f"not measured: {why}" if why else "not measured"
    slices = [result for result in measured if isinstance(result, AnySlice)]
    if slices:
        return "ok" if all(it.has_middle for it in slices) else "warn", "; ".join(_rates(slices))
    screen = importlib.import_module(f"{type(measured[-1]).__module__.rpartition('.')[0]}.screen")
    its: Headline = screen.verdict(measured[-1]) if hasattr(screen, "verdict") else ("ok", "looked at")
    return its


def _rates(slices: Sequence[AnySlice]) -> Iterator[str]:
    """By how many cards trained together, where that differs; a rate without a middle is its range."""
    counts = dict.fromkeys(it.cards for it in slices)
    for cards in counts:
        alike = [it for it in slices if it.cards == cards]
        rates = ", ".join(
            _rates_of([it for it in alike if it.model.name == name])
            for name in dict.fromkeys(it.model.name for it in alike)
        )
        on = f"on {cards} cards by {alike[0].recipe.strategy}" if cards > 1 else "on one card"
        yield f"{rates} {on}" if len(counts) > 1 or (cards > 1 and alike[0].device.kind == "cuda") else rates


def _rates_of(slices: Sequence[AnySlice]) -> str:
    """One model's: each run's, or from the slowest to the fastest of the ways in which it was trained."""
    name, unit = slices[0].model.name, f"{slices[0].unit}/s"
    ways, rates = {it.recipe.words for it in slices}, [it.items_per_s.value for it in slices]
    if len(ways) > 1:
        return f"{name} {units.format_range(min(rates), max(rates), unit)} in {len(ways)} ways of training"
    return ", ".join(f"{name} {middle(it.items_per_s, unit)}" for it in slices)
