"""Diagnoses a rig, or a stored run: one list of what every room's verdict finds, priced, most costly first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from rigbench.bandwidth import verdict as bandwidth
from rigbench.bandwidth.record import Bandwidth
from rigbench.budget import forecast
from rigbench.collectives import verdict as collectives
from rigbench.collectives.record import Collectives
from rigbench.core import profiles, units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.finding import Finding, Unchecked, cost, finding, merged
from rigbench.core.record import Absent, Price, Skipped
from rigbench.core.screen import counted
from rigbench.dataloader import verdict as dataloader
from rigbench.dataloader.record import Dataloader
from rigbench.doctor import accepted, case, costs
from rigbench.doctor.contradictions import contradictions
from rigbench.document import Run
from rigbench.job import Job
from rigbench.matmul import verdict as matmul
from rigbench.matmul.record import Matmul
from rigbench.p2p import verdict as p2p
from rigbench.p2p.record import P2p
from rigbench.predict import cards, usual
from rigbench.predict.capacity import predictor_of
from rigbench.predict.memory import Predictor
from rigbench.predict.traces import Traces
from rigbench.thermals import findings as heat
from rigbench.thermals import steps_verdict as steps
from rigbench.thermals import underway
from rigbench.thermals import verdict as thermals
from rigbench.thermals.record import PowerSteps, Thermals
from rigbench.topology import survey
from rigbench.topology import verdict as topology
from rigbench.topology.record import Topology
from rigbench.train import verdict as train
from rigbench.train.record import Arms, Slice
from rigbench.usable import usable

QUICK = "rigbench run --quick"
# What is measured in each room, and how to have it measured.
LOOKED_AT = {
    "topology": ("links and settings", "rigbench doctor"),
    "thermals": ("heat", "rigbench thermals"),
    "matmul": ("matrix products", QUICK),
    "bandwidth": ("bandwidth", QUICK),
    "p2p": ("P2P data", QUICK),
    "collectives": ("collectives", QUICK),
    "dataloader": ("the data loader", QUICK),
    "slices": ("training", QUICK),
}
BETWEEN_GPUS = ("p2p", "collectives")
UNDER_LOAD = "heat (sensors under load)"


def examine(
    job: Job,
    load: bool = False,
    price: Price | Absent = case.NO_PRICE,
    *,
    stored: bool = True,
    beside: Sequence[Finding] = (),
) -> None:
    """Reads the topology and diagnoses it, with what is `stored` of this rig and what was found `beside`.

    Each fault counts against the run.
    """
    survey.topology(job, load, sensors=True)
    everything(job, price, stored=stored, beside=beside)


def everything(
    job: Job, price: Price | Absent = case.NO_PRICE, *, stored: bool = False, beside: Sequence[Finding] = ()
) -> None:
    """Diagnoses all that this run holds, and with `stored` the newest of what it does not; the list is kept in it."""
    runs = [job.usable(job.run), *(run for run in job.newest(*LOOKED_AT, "budget") if run.id != job.run.id)]
    known = case.Known(runs, predictor_of(job), price)
    reasons = accepted.of(job.store.home, job.run.rig.fingerprint)
    died = None if job.rig.replayed else underway.went_down(job.store.home, job.rig.sysfs)
    beside = (*beside, *(steps.diagnose(died) if died else ()))
    job.run = _diagnosed(job.run, runs if stored else runs[:1], known, reasons, beside)
    job.keep()
    faults = [item for item in job.run.findings if item.counts]
    lines = [f"{', '.join(item.where)}{': ' * bool(item.where)}{item.title} ({item.code})" for item in faults]
    job.faults += [line for line in lines if line not in job.faults]


def diagnosed(
    run: Run,
    predictor: Predictor | None = None,
    price: Price | Absent = case.NO_PRICE,
    reasons: Mapping[str, str] | None = None,
) -> Run:
    """A run with the findings that its own records tell; the machine is not asked.

    Raises:
        RigbenchError: the run holds nothing that could be diagnosed.
    """
    own = usable(run)
    if not set(own.rooms()) & set(LOOKED_AT):
        raise RigbenchError(f"run {run.id} holds no topology", "`rigbench doctor` reads one", exit_code=NOTHING)
    return _diagnosed(run, [own], case.Known([own], predictor or Predictor(Traces(None)), price), reasons or {})


def _diagnosed(
    run: Run, runs: Sequence[Run], known: case.Known, reasons: Mapping[str, str], beside: Sequence[Finding] = ()
) -> Run:
    """`runs`: this one and those whose rooms stand in for what it does not hold; `beside`: what no room holds."""
    view, sources = _together(runs)
    found = merged([*_findings(view), *beside, *_slower_recipes(view, known.predictor)])
    found += [item for one in runs for item in contradictions(usable(one))]
    try:
        priced, examined = costs.priced(found, case.case(known))
    except RigbenchError as error:  # a recipe that the step model does not know, or more ranks than there are cards
        priced, examined = costs.priced(found, Absent(str(error)))
    examined = msgspec.structs.replace(examined, looked_at=_looked_at(run, view, sources))
    unchecked = topology.unchecked(view.topology) if isinstance(view.topology, Topology) else ()
    return msgspec.structs.replace(
        run,
        findings=costs.ranked(accepted.marked(priced, reasons)),
        unchecked=(*_not_looked_at(view), *unchecked),
        examined=examined,
    )


def _together(runs: Sequence[Run]) -> tuple[Run, dict[str, Run]]:
    """The first run with rooms of the others where it has none, and the run that each room is of."""
    rooms: dict[str, Any] = {}
    sources: dict[str, Run] = {}
    for room in LOOKED_AT:
        for run in runs:
            held = run.rooms().get(room, ())
            if any(not isinstance(it, Skipped) for it in held):
                rooms[room], sources[room] = getattr(run, room), run
                if room == "slices":
                    rooms["arms"] = run.arms
                break
    return msgspec.structs.replace(runs[0], **rooms), sources


def _findings(run: Run) -> Iterator[Finding]:
    """What each room's own verdict finds."""
    under_load = list(_heat(run))
    at_rest = list(topology.diagnose(run.topology)) if isinstance(run.topology, Topology) else []
    if isinstance(run.matmul, Matmul):
        under_load += _new(matmul.diagnose(run.matmul), [*under_load, *at_rest])
    yield from under_load
    yield from (item for item in at_rest if item.code != "throttled" or not _told(item, under_load))
    if isinstance(run.thermals, PowerSteps):
        yield from steps.diagnose(run.thermals)
    if isinstance(run.p2p, P2p):
        yield from p2p.diagnose(run.p2p)
    if isinstance(run.bandwidth, Bandwidth):
        yield from bandwidth.diagnose(run.bandwidth)
    if isinstance(run.collectives, Collectives):
        yield from collectives.diagnose(run.collectives)
    if isinstance(run.dataloader, Dataloader):
        yield from dataloader.diagnose(run.dataloader)
    if isinstance(run.arms, Arms):
        yield from train.diagnose(run.arms, run.slices)
    else:
        yield from train.of_slices(run.slices)


def _new(found: Iterable[Finding], known: Sequence[Finding]) -> Iterator[Finding]:
    """Without what a heat test, or the power limit itself, says already of the same card."""
    causes = {"throttled": ("throttled",), "power-bound": ("power-limit", "power-cap-low")}
    for item in found:
        if not any(_told(msgspec.structs.replace(item, code=code), known) for code in causes.get(item.code, ())):
            yield item


def _told(item: Finding, known: Iterable[Finding]) -> bool:
    return set(item.where) <= {label for its in known if its.code == item.code for label in its.where}


def _slower_recipes(run: Run, predictor: Predictor) -> Iterator[Finding]:
    """Slices on GPUs that are eager, or whose micro-batch is smaller than what surely fits: budgets of other rigs take
    compiled code and as many sequences as fit. All eager ones are one finding, so that it is priced once.
    """
    eager: dict[str, tuple[int, int]] = {}  # by model, the fewest sequences at once that were tried, and that fit
    for its in run.slices:
        if not isinstance(its, Slice) or its.device.kind != "cuda":
            continue
        memory = its.device.memory_total_bytes
        profile = profiles.match_gpu(None, its.device.name, None if isinstance(memory, Absent) else memory)
        if isinstance(profile, Absent):
            continue
        recipe, sequence = its.recipe, its.model.shape.sequence
        target = cards.of_profile(profiles.gpu(profile), profile, recipe.ranks)
        compiles = recipe.adapter != "qlora" and recipe.strategy != "data-parallel"
        best = msgspec.structs.replace(recipe, compiled=recipe.compiled or compiles)
        fits = forecast.micro_batch_that_surely_fits(predictor, its.model, best, target)
        fits = min(fits, usual.MOST_TOKENS_A_CARD // sequence)
        if best != recipe and isinstance(run.arms, Absent):  # several arms show what compiling does
            size, room = recipe.micro_batch, max(fits, recipe.micro_batch)
            tried = eager.get(its.model.name, (size, room))
            eager[its.model.name] = min(size, tried[0]), min(room, tried[1])
        elif fits > recipe.micro_batch:
            words = f"{recipe.micro_batch} sequences at once, and at least {fits} fit"
            price = cost(words, "sequences", recipe.micro_batch, fits, "the memory of a step in closed form")
            command = f"rigbench train-probe --params {its.model.name} --micro-batch {fits}"
            where = [f"training {its.model.name}"]
            yield finding("micro-batch-small", "information", [words], where, price, [command], detail=words)
    if eager:
        size, room = (min(its) for its in zip(*eager.values(), strict=True))
        said = f"{size} sequences at once; compiled, at least {room} fit"
        price = cost(f"eager, {said}", "sequences", size, room, "the step model")
        commands = [f"rigbench train-probe --params {it} --micro-batch {eager[it][1]} --compile on" for it in eager]
        where = [f"training {name}" for name in eager]
        yield finding("not-compiled", "information", [f"eager, {said}"], where, price, commands, detail=said)


def _heat(run: Run) -> Iterator[Finding]:
    """By what the driver said under the load that the topology was read under, and by a heat test."""
    told: set[tuple[str, tuple[str, ...]]] = set()
    loads = []
    if isinstance(run.topology, Topology) and not isinstance(run.topology.load, Absent):
        loads.append((thermals.played(run.topology.gpus, run.topology.load), run.topology.load))
    if isinstance(run.thermals, Thermals):
        loads.append((run.thermals.cards, run.thermals.telemetry))
    for heated, sensors in sorted(loads, key=lambda it: -len(it[1].at_seconds)):  # the longer look counts
        found = [it for it in heat.diagnose(heated, sensors) if (it.code, it.where) not in told]
        told |= {(it.code, it.where) for it in found}
        yield from found


def _looked_at(run: Run, view: Run, sources: Mapping[str, Run]) -> tuple[str, ...]:
    """What was measured; of other runs with their id and age."""
    own = [LOOKED_AT[room][0] for room, source in sources.items() if source.id == run.id]
    if isinstance(view.topology, Topology) and not isinstance(view.topology.load, Absent):
        own.append(UNDER_LOAD)
    older: dict[str, list[str]] = {}
    for room, source in sources.items():
        if source.id != run.id:
            older.setdefault(f"run {source.id}, {_age(source.started_at, run.started_at)}", []).append(
                LOOKED_AT[room][0]
            )
    return (*own, *(f"{', '.join(names)} ({where})" for where, names in older.items()))


def _age(then: str, now: str) -> str:
    seconds = (_moment(now) - _moment(then)).total_seconds()
    days = int(seconds // 86400)
    if days:
        return f"{counted(days, 'day')} ago"
    return "just now" if seconds < 60 else f"{units.format_seconds(seconds)} ago"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def _not_looked_at(view: Run) -> Iterable[Unchecked]:
    """Rooms without a measurement, and the command that makes one."""
    gpus = view.topology.gpus if isinstance(view.topology, Topology) else ()
    loaded = isinstance(view.topology, Topology) and not isinstance(view.topology.load, Absent)
    for room, (what, command) in LOOKED_AT.items():
        held = [it for it in view.rooms().get(room, ()) if not isinstance(it, Skipped)]
        if held or (room in BETWEEN_GPUS and len(gpus) < 2) or (room == "thermals" and loaded):
            continue
        skipped = next((it.reason for it in view.rooms().get(room, ()) if isinstance(it, Skipped)), "")
        yield Unchecked(what, (), skipped or f"not measured; `{command}` does it")
