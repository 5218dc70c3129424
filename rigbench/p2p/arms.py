"""What did one arm find, as the rest of rigbench names its GPUs? The ranks' parts put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from rigbench.bandwidth.record import Transfer
from rigbench.core.record import Absent, Tally
from rigbench.p2p.record import P2pArm, P2pRank, ValueCheck
from rigbench.p2p.settings import Setting
from rigbench.work.process import Outcome

NOT_REACHED = "the start of its processes"


def assembled(
    setting: Setting,
    number: int,
    outcome: Outcome[P2pRank],
    names: Mapping[str, str],
    seconds: float,
    transports: Tally | Absent,
) -> P2pArm:
    """`names` maps "cuda:0" to a GPU's label. Where it hung or died, `at` is that of the rank that came least far."""
    told = [result for result in outcome.results if result is not None]
    last = min(_last_heard(told, outcome.dead_ranks), key=lambda result: (result.meetings, result.rank), default=None)
    finished = outcome.ended == "finished"
    return P2pArm(
        setting=setting.name,
        environment=setting.environment,
        round=number,
        control=setting.control,
        ended=outcome.ended,
        reason=outcome.reason,
        dead_ranks=outcome.dead_ranks,
        at="" if finished else renamed(last.at, names) if last else NOT_REACHED,
        at_devices=() if finished or last is None else tuple(names[name] for name in last.at_devices),
        seconds=seconds,
        access={renamed(way, names): answer for result in told for way, answer in result.access.items()},
        steps=sum(result.steps for result in told),
        checks=tuple(_check(check, names) for result in told for check in result.checks),
        copies=tuple(_copy(copy, names) for result in told for copy in result.copies),
        reduces=tuple(times for result in told for times in result.reduces),
        transports=transports,
    )


def _last_heard(told: Sequence[P2pRank], dead: Sequence[int]) -> Sequence[P2pRank]:
    """Those that are to blame, where they said anything."""
    return [result for result in told if result.rank in dead] or told


def _check(check: ValueCheck, names: Mapping[str, str]) -> ValueCheck:
    sources = tuple(names[source] for source in check.sources)
    return msgspec.structs.replace(check, sources=sources, destination=names[check.destination])


def _copy(copy: Transfer, names: Mapping[str, str]) -> Transfer:
    return msgspec.structs.replace(copy, source=names[copy.source], destination=names[copy.destination])


def renamed(text: str, names: Mapping[str, str]) -> str:
    """ "GPU1 → GPU0" of "cuda:0 → cuda:1"."""
    for name, label in sorted(names.items(), key=lambda pair: len(pair[0]), reverse=True):
        text = text.replace(name, label)
    return text
