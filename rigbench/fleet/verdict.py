"""Finds the odd host: per number robust deviations from the median over hosts of the same kind, thousands of them.

A host's number is the median of its newest runs. What hosts vary by is their median absolute deviation, which one bad
host does not move; with few hosts that is itself uncertain, so that FENCES are wider for them.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rigbench.core.stats import MAD_TO_DEVIATION
from rigbench.fleet.record import FEWEST_HOSTS, Difference, Fleet, Kind, OddHost, OddNumber
from rigbench.tables import Measured, Row

if TYPE_CHECKING:
    import pandas as pd

NEWEST = 3  # runs of a host that its number is the median of
LEAST = 0.05  # a smaller difference is nobody's trouble
FLOOR = 0.005  # of what hosts vary by: three that agree better do so by luck
# By the number of hosts: robust deviations that none of them reaches in 99.7 of 100 numbers where they are alike and
# vary as a normal distribution does (100,000 draws; of 3 hosts the scale is the smaller of two distances). Of skewed
# numbers, an exponential distribution's, none does in 90 to 98 of 100.
FENCES = ((3, 421.0), (4, 35.0), (6, 17.0), (8, 11.0), (10, 9.1), (12, 7.9), (16, 6.9), (20, 6.3), (30, 5.5), (50, 5.0))


def fence(hosts: int) -> float:
    place = bisect.bisect_right([count for count, _ in FENCES], hosts)
    return FENCES[place - 1][1] if place else float("inf")


def frame(runs: Iterable[Measured]) -> tuple[pd.DataFrame, list[Row]]:
    """All numbers above zero of all runs, newest first: `number` is the place of its row in the list beside it."""
    import numpy as np
    import pandas as pd

    places: dict[tuple[object, ...], int] = {}
    rows: list[Row] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("run", "host", "number", "value")}
    add_run, add_host, add_number, add_value = (column.append for column in columns.values())
    for its in runs:
        host = its.unit
        for row in its.rows:
            if row.value <= 0:
                continue
            key = (row.room, row.what, row.metric, row.under)
            place = places.setdefault(key, len(rows))
            if place == len(rows):
                rows.append(row)
            add_run(its.run), add_host(host), add_number(place), add_value(row.value)
    made = pd.DataFrame(columns)
    made["log"] = np.log(made["value"].astype(float))
    return made, rows


def judge(runs: Iterable[Measured]) -> Fleet:
    """Every host against the others of its kind."""
    listed = [its for its in runs if not its.look and its.rows]
    newest: dict[str, Measured] = {}
    for its in listed:
        newest.setdefault(its.unit, its)
    kinds: dict[str, list[str]] = {}
    for host, its in newest.items():
        kinds.setdefault(its.machine, []).append(host)
    counts = {name: sum(its.machine == name for its in listed) for name in kinds}
    table, rows = frame(listed)
    table = table.groupby(["number", "host"], sort=False).head(NEWEST)
    hosts = table.groupby(["number", "host"], sort=False)["log"].median().rename("log").reset_index()
    of_number = hosts.groupby("number")["log"]
    hosts["hosts"], hosts["middle"] = of_number.transform("size"), of_number.transform("median")
    hosts["off"] = hosts["log"] - hosts["middle"]
    scale = hosts["off"].abs().groupby(hosts["number"]).transform("median") * MAD_TO_DEVIATION
    hosts["scale"] = scale.clip(lower=FLOOR)
    held = hosts[hosts["hosts"] >= FEWEST_HOSTS].copy()
    held["fence"] = held["hosts"].map(fence)
    odd = held[(held["off"].abs() > held["fence"] * held["scale"]) & (held["off"].abs() > LEAST)]
    found: dict[str, list[OddNumber]] = {}
    for it in odd.to_dict("records"):
        own = table[(table["number"] == it["number"]) & (table["host"] == it["host"])]["log"] - it["middle"]
        far = (own.abs() > LEAST) & ((own > 0) == (it["off"] > 0))
        number = _number(rows[it["number"]], it, len(own), int(far.sum()))
        if number is not None:
            found.setdefault(it["host"], []).append(number)
    of = held.groupby("host").size().to_dict()
    made = [_host(newest[host], numbers, int(of[host])) for host, numbers in found.items()]
    return Fleet(
        runs=len(listed),
        hosts=len(newest),
        kinds=tuple(Kind(name, len(its), counts[name]) for name, its in kinds.items()),
        numbers=int(held["number"].nunique()),
        odd=tuple(sorted(made, key=lambda it: (-sum(one.is_worse for one in it.numbers), it.host))),
        differences=_differences(hosts, rows),
    )


def _number(row: Row, its: dict[Any, Any], runs: int, alike: int) -> OddNumber | None:
    from math import exp

    if not row.better:
        return None
    return OddNumber(
        room=row.room,
        what=row.what,
        metric=row.metric,
        unit=row.unit,
        better=row.better,
        value=exp(its["log"]),
        others=exp(its["middle"]),
        ratio=exp(its["off"]),
        deviations=abs(its["off"]) / its["scale"],
        hosts=int(its["hosts"]),
        runs=runs,
        alike=alike,
        is_worse=(its["off"] > 0) == (row.better == "lower"),
    )


def _host(its: Measured, numbers: list[OddNumber], of: int) -> OddHost:
    worst_first = sorted(numbers, key=lambda it: (not it.is_worse, -abs(it.ratio - 1)))
    return OddHost(
        host=its.unit, machine=its.machine, label=its.label, newest=its.run, numbers=tuple(worst_first), of=of
    )


def _differences(hosts: pd.DataFrame, rows: list[Row]) -> tuple[Difference, ...]:
    """Of numbers that just two hosts have, the largest first."""
    from math import exp

    two = hosts[hosts["hosts"] == 2]
    found = []
    for number, pair in two.groupby("number"):
        row, (one, other) = rows[int(str(number))], pair.to_dict("records")
        if row.better:
            ends = (one, other) if (one["log"] > other["log"]) == (row.better == "higher") else (other, one)
            found.append(
                Difference(
                    room=row.room,
                    what=row.what,
                    metric=row.metric,
                    unit=row.unit,
                    hosts=(ends[0]["host"], ends[1]["host"]),
                    values=(exp(ends[0]["log"]), exp(ends[1]["log"])),
                )
            )
    return tuple(sorted(found, key=lambda it: -max(it.values) / min(it.values))[:20])
