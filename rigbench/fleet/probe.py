"""Brings the documents of all hosts to rank 0, over the table at which torchrun's ranks meet. One process a host."""

from __future__ import annotations

import time
import zlib

from rigbench.fleet.record import Gathered
from rigbench.fleet.record import GatherOptions as Options
from rigbench.work import ranks
from rigbench.work.process import Report
from rigbench.work.ranks import World

ASK_SECONDS = 0.2


def run(options: Options, report: Report, world: World) -> Gathered:
    """Every host's document, in the order of hosts, in rank 0; none elsewhere, once rank 0 has them."""
    table = ranks.meeting(world, report, options.limit_seconds)
    table.set(f"document/{options.node}", zlib.compress(options.document.encode()))
    if world.rank:
        _wait(table, ["all"], report, "waiting for the other hosts")
        return Gathered()
    documents = []
    for node in range(options.nodes):
        _wait(table, [f"document/{node}"], report, f"waiting for {options.nodes - node} of {options.nodes} hosts")
        documents.append(zlib.decompress(table.get(f"document/{node}")).decode())
    table.set("all", "1")
    if not options.kept_by_agent:  # the table ends with this process: the others are to read the last word
        time.sleep(5 * ASK_SECONDS)
    return Gathered(documents=tuple(documents))


def _wait(table: object, keys: list[str], report: Report, words: str) -> None:
    report.progress(0.0, words)
    while not table.check(keys):  # type: ignore[attr-defined]
        report.check()
        time.sleep(ASK_SECONDS)
