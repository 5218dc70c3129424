"""Prices findings: the hours, and the money, that each takes of the training that is asked about.

The same models are predicted by the step model on the rig as it is and on the rig with one finding cured; the share of
the time between the two, times the hours of the training, is what the finding takes. Pure: records in, findings out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from rigbench.core import stats, units
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Cost, Examined, Finding, Lost
from rigbench.core.record import Absent, Figure, Price
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.predict import steptime
from rigbench.predict.ceilings import DIRECT_SHARE, NO_LOADER, STAGED_SHARE
from rigbench.predict.record import Ceilings, LinkCeiling

HOUR = 3600.0
KWH = 3.6e6
ASSUMED = (0.0, 2.0)  # times what is predicted of gradient sync and of watts: from none of it to twice
NO_SYNC = "one card trains: no gradients cross its link, and batches are small"
OVER_NVLINK = "gradients go over NVLink, not over this link"
NOT_BEFORE = Absent("nothing can be trained before it is mended")
STOPPED = ("no-driver", "gpu-lost", "gpu-unreadable")  # findings that leave no training to be slow
MODEL = "step model, as it is against cured"


class Row(NamedTuple):
    """One model of the training that is asked about, and how it is trained."""

    model: Model
    recipe: Recipe
    tokens: float
    hours: float | None = None  # of a stored budget


class Case(NamedTuple):
    """The training that is asked about, and the rig that it runs on.

    `ceilings` are of the rig as it is, but for what the findings say of its clocks, watts and links. `ways` are bytes
    per second of each card's way to the host, `direct` where peers copy over them unless a finding says that they do
    not; `over_nvlink`: gradients take other ways. `measured_link`: the ceilings'
    link was measured, so that it holds the findings' narrow ways already. `hours` are a stored budget's, None where
    they are still to be predicted.
    """

    words: str
    rows: tuple[Row, ...]
    ceilings: Ceilings
    hours: Estimate | None
    watts: Figure | Absent
    price: Price | Absent
    ways: Mapping[str, float]
    direct: bool = False
    over_nvlink: bool = False
    measured_link: bool = False


def priced(findings: Sequence[Finding], case: Case | Absent) -> tuple[tuple[Finding, ...], Examined]:
    """The findings with what each takes, most costly first; and the training, with all of them in its hours."""
    if isinstance(case, Absent):
        unpriced = (msgspec.structs.replace(item, lost=case) for item in findings)
        return ranked(unpriced), Examined(hours=case)
    hours = case.hours or _predicted(case, findings)
    priced = [
        msgspec.structs.replace(
            item, lost=_lost(item, findings, case, hours), evidence=(*item.evidence, *_without(item, findings, case))
        )
        for item in findings
    ]
    currency = "" if isinstance(case.price, Absent) else case.price.currency
    return ranked(priced), Examined(training=case.words, hours=hours, currency=currency)


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Faults first, then what takes most hours, then warnings before notes; what its owner accepted comes last.

    By the hours that are sure, the low end: what may cost nothing does not stand above what costs 14 min at the least.
    """

    def place(item: Finding) -> tuple[bool, bool, float, float, bool]:
        low, middle = (-1.0, -1.0) if isinstance(item.lost, Absent) else (item.lost.hours.low, item.lost.hours.value)
        return bool(item.accepted), item.severity != "fault", -low, -middle, item.severity == "information"

    return tuple(sorted(findings, key=place))


def _without(its: Finding, findings: Sequence[Finding], case: Case) -> list[str]:
    """What the same training would take without the odd card, where at least two are left."""
    left = case.ceilings.count - len(its.where)
    if its.code != "odd-link" or left < 2 or any(row.recipe.ranks != case.ceilings.count for row in case.rows):
        return []
    fewer = case._replace(
        rows=tuple(row._replace(recipe=msgspec.structs.replace(row.recipe, ranks=left)) for row in case.rows),
        ceilings=msgspec.structs.replace(case.ceilings, count=left),
        ways={label: rate for label, rate in case.ways.items() if label not in its.where},
    )
    others = [item for item in findings if not set(item.where) & set(its.where)]
    with_all, without = _predicted(case, findings), _predicted(fewer, others)
    words = [units.format_span(it.value, it.low, it.high, "h") for it in (with_all, without)]
    return [f"predicted: {words[0]} on all {case.ceilings.count} cards, {words[1]} on the other {left}"]


def _lost(its: Finding, findings: Sequence[Finding], case: Case, hours: Estimate) -> Lost | Absent:
    if its.code in STOPPED:
        return NOT_BEFORE
    share = _share(its, findings, case)
    if isinstance(share, Absent):
        return share
    low, high = hours.low * share.low, hours.high * share.high
    if share.low > 0:
        whole = hours * share
        low, high = whole.low, whole.high
    lost = Estimate(hours.value * share.value, low, high, stats.LEVEL, share.method, 0)
    return Lost(lost, _money(lost, case), share.method)


def _money(hours: Estimate, case: Case) -> Figure | Absent:
    for missing in (case.watts, case.price):
        if isinstance(missing, Absent):
            return missing
    assert isinstance(case.watts, Figure)
    assert isinstance(case.price, Price)
    low, high = case.watts.ends
    per_hour = case.price.per_kwh * HOUR / KWH
    ends = hours.low * low * per_hour, hours.high * high * per_hour
    basis = f"{case.watts.value:.0f} W at {case.price.per_kwh:g} {case.price.currency} a kWh"
    return Figure(hours.value * case.watts.value * per_hour, "predicted", basis, *ends)


# ---- The share of the time that one finding takes.


def _share(its: Finding, findings: Sequence[Finding], case: Case) -> Estimate | Absent:
    """Of all models together; its ends by what the finding's own numbers leave open."""
    if its.code == "launch-bound":
        return _by_cure(its, findings, case, lambda left: _without_launches(case, left), (1.0, 1.0))
    if its.code == "loader-too-slow":
        return _by_cure(its, findings, case, lambda left: _without_waiting(case, left), (1.0, 1.0))
    if its.code == "p2p-refused":
        return _of_sync(its, findings, case)
    if isinstance(its.cost, Absent):
        return Absent(its.cost.reason)
    if its.cost.unit == "bytes":
        return Absent("memory, not time")
    if its.cost.unit == "sequences":
        return _of_better_recipe(its, its.cost, findings, case)
    if its.cost.unit == "tokens/s":
        return _of_one_model(its, its.cost, case)
    if its.cost.unit == "bytes/s":
        return _of_sync(its, findings, case)
    if its.cost.unit == "watts" and case.ceilings.source == "measured":
        return Absent("the measured ceilings hold it already; measure at both limits")
    around = ASSUMED if its.cost.unit == "watts" else (1.0, 1.0)
    return _by_cure(its, findings, case, lambda left: _as_is(case, left, its), around)


def _by_cure(
    its: Finding,
    findings: Sequence[Finding],
    case: Case,
    cured: Callable[[Sequence[Finding]], Ceilings],
    around: tuple[float, float],
) -> Estimate:
    """The share for the finding's middle, its low and its high end of what is possible, times `around`."""
    others = [item for item in findings if item is not its]
    middle = _of(case, _as_is(case, findings), cured(others))
    shares = [middle * end for end in around]
    if isinstance(its.cost, Cost):
        for end in its.cost.possible.ends:
            possible = msgspec.structs.replace(its.cost.possible, value=end)
            other = msgspec.structs.replace(its, cost=msgspec.structs.replace(its.cost, possible=possible))
            shares.append(_of(case, _as_is(case, [*others, other]), cured(others)))
    words = f"{MODEL}; {'from none of it to twice' if around == ASSUMED else 'ends by what it was without'}"
    low, high = max(0.0, min(shares)), min(0.95, max(shares))
    return Estimate(middle, low, max(high, middle), stats.LEVEL, words, 0)


def _of_sync(its: Finding, findings: Sequence[Finding], case: Case) -> Estimate | Absent:
    """What a faster way for the gradients would save."""
    ranks = max(row.recipe.ranks for row in case.rows)
    if ranks < 2 or case.over_nvlink:
        return Estimate(0.0, 0.0, 0.0, stats.LEVEL, OVER_NVLINK if ranks > 1 else NO_SYNC, 0)
    if isinstance(case.ceilings.link, Absent):
        return Absent(case.ceilings.link.reason)
    return _by_cure(its, findings, case, lambda left: _as_is(case, left, its), ASSUMED)


def _of_one_model(its: Finding, price: Cost, case: Case) -> Estimate | Absent:
    """A slice's own share, of the hours of the model that it trained."""
    hours = [row.hours or _seconds(row, case.ceilings) / HOUR for row in case.rows]
    own = [row for row in case.rows if any(row.model.name in place.split() for place in its.where)]
    rows = own or (case.rows if len(case.rows) == 1 else ())
    if not rows:
        return Absent("it is of another model than those of the training")
    part = math.fsum(its for its, row in zip(hours, case.rows, strict=True) if row in rows) / math.fsum(hours)
    ends = [part * (1 - now / possible) for now in price.now.ends for possible in price.possible.ends if possible]
    middle = part * (1 - price.now.value / price.possible.value)
    return Estimate(middle, max(0.0, min(ends)), max(ends), stats.LEVEL, "the short run's own share of its step", 0)


def _of_better_recipe(its: Finding, price: Cost, findings: Sequence[Finding], case: Case) -> Estimate | Absent:
    """Of one model's steps, with so many sequences at once; of all of them where none was compiled."""
    as_is, rows, compiled = _as_is(case, findings), list(case.rows), its.code == "not-compiled"
    for place, row in enumerate(rows):
        if compiled or any(row.model.name in where.split() for where in its.where):
            size = int(price.possible.value)
            better = msgspec.structs.replace(row.recipe, micro_batch=size, compiled=row.recipe.compiled or compiled)
            rows[place] = row._replace(recipe=better)
    if rows == list(case.rows):
        return Absent("it is of another model than those of the training, or its budget is of that recipe already")
    left = math.fsum(_seconds(row, as_is) for row in rows) / _all(case, as_is)
    if compiled:  # another code than what was timed: as far off as a step that was not
        low, high = (max(0.0, 1 - left * math.exp(end)) for end in reversed(steptime.MEASURED_SPREAD))
        words = f"{MODEL}; as far off as a step that was not run"
        return Estimate(max(0.0, 1 - left), low, high, stats.LEVEL, words, 0)
    low, high = (max(0.0, end * (1 - left)) for end in ASSUMED)
    return Estimate(max(0.0, 1 - left), low, high, stats.LEVEL, f"{MODEL}; from none of it to twice", 0)


def _of(case: Case, as_is: Ceilings, cured: Ceilings) -> float:
    return 1 - _all(case, cured) / _all(case, as_is)


def _all(case: Case, ceilings: Ceilings) -> float:
    return math.fsum(_seconds(row, ceilings) for row in case.rows)


def _seconds(row: Row, ceilings: Ceilings) -> float:
    step = steptime.predict(row.model, row.recipe, ceilings)
    return row.tokens / step.tokens_per_step * step.seconds.value


def _predicted(case: Case, findings: Sequence[Finding]) -> Estimate:
    """Hours of all models on the rig as it is."""
    ceilings = _as_is(case, findings)
    steps = [(row, steptime.predict(row.model, row.recipe, ceilings)) for row in case.rows]
    parts = [step.seconds * (row.tokens / step.tokens_per_step / HOUR) for row, step in steps]
    return sum(parts[1:], parts[0])


# ---- The rig as findings leave it.


def _as_is(case: Case, findings: Sequence[Finding], cured: Finding | None = None) -> Ceilings:
    """The ceilings with every finding in them; `cured`, one that is not among them, says what its cards then reach."""
    ceilings = case.ceilings
    clock, peak = _worst(findings, "hertz"), _worst(findings, "FLOP/s")
    if ceilings.source == "measured":  # they hold slow products already
        peak = 1 / _worst([cured], "FLOP/s") if cured else 1.0
    if clock * peak != 1:
        slower = clock * peak
        products = tuple(msgspec.structs.replace(it, flops_per_s=it.flops_per_s * slower) for it in ceilings.products)
        rates = {dtype: _times(it, slower) for dtype, it in ceilings.matmul_flops_per_s.items()}
        feed = ceilings.feed_hertz if isinstance(ceilings.feed_hertz, Absent) else _times(ceilings.feed_hertz, clock)
        ceilings = msgspec.structs.replace(ceilings, matmul_flops_per_s=rates, feed_hertz=feed, products=products)
    limits = [item.cost.now.value for item in findings if isinstance(item.cost, Cost) and item.cost.unit == "watts"]
    if limits and not isinstance(ceilings.tdp_watts, Absent):
        watts = Figure(min([*limits, ceilings.tdp_watts.value]), "measured", "the lowest limit that bites")
        ceilings = msgspec.structs.replace(ceilings, tdp_watts=watts)
    return msgspec.structs.replace(ceilings, link=_link(case, findings, cured))


def _worst(findings: Iterable[Finding], unit: str) -> float:
    """The least share of what is possible: the slowest card sets the pace of all that train together."""
    costs = [item.cost for item in findings if isinstance(item.cost, Cost) and item.cost.unit == unit]
    return min((it.now.value / it.possible.value for it in costs if it.possible.value), default=1.0)


def _link(case: Case, findings: Sequence[Finding], cured: Finding | None) -> LinkCeiling | Absent:
    """An all_reduce's link: its slowest card's way, directly or through host memory."""
    link = case.ceilings.link
    if isinstance(link, Absent) or case.over_nvlink:
        return link
    direct = case.direct and not any(item.code == "p2p-refused" for item in findings)
    direct = direct or (cured is not None and cured.code == "p2p-refused")
    if cured is not None and case.measured_link:
        faster = _slowest_way(case, findings, cured) / _slowest_way(case, [*findings, cured])
        faster *= DIRECT_SHARE / STAGED_SHARE if cured.code == "p2p-refused" else 1.0
        return msgspec.structs.replace(link, bytes_per_s=_times(link.bytes_per_s, faster * _pairwise(cured)))
    if case.measured_link or not case.ways:
        return link
    count = case.ceilings.count
    share = DIRECT_SHARE if direct else STAGED_SHARE
    rate = share * _slowest_way(case, findings, cured) * count / (2 * (count - 1))
    return msgspec.structs.replace(link, bytes_per_s=Figure(rate, "predicted", f"{share:.0%} of the slowest way"))


def _slowest_way(case: Case, findings: Sequence[Finding], cured: Finding | None = None) -> float:
    """Bytes per second of the card that all others wait for."""
    ways = dict(case.ways)
    if cured is not None and isinstance(cured.cost, Cost) and cured.cost.unit == "bytes/s":
        for label in cured.where:
            if label in ways:
                ways[label] = cured.cost.possible.value
    for item in findings:
        if isinstance(item.cost, Cost) and item.cost.unit == "bytes/s":
            for label in item.where:
                if label in ways:
                    ways[label] = min(ways[label], item.cost.now.value)
    return min(ways.values(), default=1.0)


def _pairwise(cured: Finding) -> float:
    """What a finding of pairs says of their rate, where it does."""
    if isinstance(cured.cost, Cost) and cured.cost.unit == "bytes/s" and any("-" in label for label in cured.where):
        return cured.cost.possible.value / cured.cost.now.value
    return 1.0


def _without_waiting(case: Case, findings: Sequence[Finding]) -> Ceilings:
    return msgspec.structs.replace(_as_is(case, findings), data_tokens_per_s=NO_LOADER)


def _without_launches(case: Case, findings: Sequence[Finding]) -> Ceilings:
    none = Figure(0.0, "predicted", "launches cost nothing")
    return msgspec.structs.replace(_as_is(case, findings), launch_seconds=none)


def _times(figure: Figure, factor: float) -> Figure:
    low, high = (end * factor for end in figure.ends)
    return msgspec.structs.replace(figure, value=figure.value * factor, low=low, high=high)
