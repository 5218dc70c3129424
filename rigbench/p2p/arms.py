"""The settings of NCCL that are worth trying on this rig, their environment, and what the ranks of one try found.

From NCCL's source (paths.cc, shm.cc, cudawrap.cc; 2.13 to 2.30) and its user guide. NCCL_P2P_DISABLE works in every
version that torch carries; a variable set to nothing counts as not set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from rigbench.core.record import Absent, Tally
from rigbench.machine.peers import nccl_level
from rigbench.machine.record import GpuPair
from rigbench.p2p.record import P2pArm, P2pRank
from rigbench.work.process import Outcome

# What of a shell's own variables decides which way NCCL goes: the arms run without them.
BEARING = (
    "NCCL_P2P_DISABLE",
    "NCCL_P2P_LEVEL",
    "NCCL_P2P_DIRECT_DISABLE",
    "NCCL_P2P_USE_CUDA_MEMCPY",
    "NCCL_IGNORE_DISABLED_P2P",
    "NCCL_SHM_DISABLE",
    "NCCL_SHM_USE_CUDA_MEMCPY",
    "NCCL_CUMEM_ENABLE",
    "NCCL_CUMEM_HOST_ENABLE",
)
SHM_BY_ENGINE = (2, 13, 4), (2, 30, 4)  # NCCL_SHM_USE_CUDA_MEMCPY: in between, ends included; undocumented
CUMEM_HOST_SINCE = (2, 23, 0)
Version = tuple[int, int, int]


class Setting(NamedTuple):
    name: str
    environment: dict[str, str]  # exported for one arm, besides what silences the shell's own variables
    control: bool = False


OFF = Setting("P2P off", {"NCCL_P2P_DISABLE": "1"}, control=True)
AS_IT_IS = Setting("P2P as it is", {})


def others(first: Sequence[P2pArm], pairs: Sequence[GpuPair], version: Version | None) -> Iterator[Setting]:
    """What else to try, by the first arms: NCCL's default, and P2P off."""
    default = [arm for arm in first if not arm.control]
    right = all(arm.right for arm in default)
    allowed = any(arm.access and all(arm.access.values()) for arm in first)
    refused = any(not answer for arm in first for answer in arm.access.values())
    # Whether NCCL takes P2P by itself is told by its log; where there is none, by its rules.
    by_rule = all(not isinstance(pair.nccl, Absent) and pair.nccl.transport.startswith("P2P") for pair in pairs)
    logs = [arm.transports.counts if isinstance(arm.transports, Tally) else {} for arm in default]
    used = any(any(name.startswith("P2P") for name in log) if log else by_rule for log in logs)
    if allowed and default and right and not used:
        levels = [nccl_level(pair.label) for pair in pairs]
        yield Setting("P2P at any distance", {"NCCL_P2P_LEVEL": "SYS" if "SYS" in levels or not levels else "PHB"})
    if refused and version and SHM_BY_ENGINE[0] <= version <= SHM_BY_ENGINE[1]:
        yield Setting("host memory by copy engine", {"NCCL_SHM_USE_CUDA_MEMCPY": "1"})
    if refused and not right and any(pair.label.startswith("NV") for pair in pairs):
        yield Setting("NVLink ignored where P2P is refused", {"NCCL_IGNORE_DISABLED_P2P": "1"})


def rescues(version: Version | None) -> Iterator[Setting]:
    """Where even P2P off fails: other ways through the host, to tell which part of it does."""
    if version and version >= CUMEM_HOST_SINCE:
        yield Setting("P2P off, host memory from /dev/shm", OFF.environment | {"NCCL_CUMEM_HOST_ENABLE": "0"}, True)
    yield Setting("P2P off, through sockets", OFF.environment | {"NCCL_SHM_DISABLE": "1"}, True)


def parse_version(text: str | Absent) -> Version | None:
    """(2, 29, 7) of "2.29.7"; None where it is not three numbers."""
    parts = text.split(".")[:3] if isinstance(text, str) else []
    return (int(parts[0]), int(parts[1]), int(parts[2])) if len(parts) == 3 and all(map(str.isdigit, parts)) else None


def inherited(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of NCCL's variables that this shell sets and that bear on the way it goes."""
    return {name: variables[name] for name in BEARING if variables.get(name)}


def environment(setting: Setting, inherited: Mapping[str, str], log: str) -> dict[str, str]:
    """For the processes of one arm: the setting, the shell's own variables emptied, and NCCL's log into files."""
    logged = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,ENV", "NCCL_DEBUG_FILE": log}
    return dict.fromkeys(inherited, "") | setting.environment | logged


def assembled(
    setting: Setting,
    number: int,
    outcome: Outcome[P2pRank],
    names: Mapping[str, str],
    seconds: float,
    transports: Tally | Absent,
) -> P2pArm:
    """The ranks' parts of one arm put together; `names` maps "cuda:0" to a GPU's label.

    Where it hung or died, `at` is the step of the rank that came least far, of those to blame if they said anything.
    """
    parts = [result for result in outcome.results if result is not None]
    blamed = [part for part in parts if part.rank in outcome.dead_ranks] or parts
    last = min(blamed, key=lambda part: (part.meetings, part.rank), default=None)
    finished = outcome.ended == "finished"
    replace = msgspec.structs.replace
    return P2pArm(
        setting=setting.name,
        environment=setting.environment,
        round=number,
        control=setting.control,
        ended=outcome.ended,
        reason=renamed(outcome.reason, names),
        dead_ranks=outcome.dead_ranks,
        at="" if finished else renamed(last.at, names) if last else "the start of its processes",
        at_devices=() if finished or last is None else tuple(names[name] for name in last.at_devices),
        seconds=seconds,
        access={renamed(way, names): answer for part in parts for way, answer in part.access.items()},
        steps=sum(part.steps for part in parts),
        checks=tuple(
            replace(it, sources=tuple(names[source] for source in it.sources), destination=names[it.destination])
            for it in (check for part in parts for check in part.checks)
        ),
        copies=tuple(
            replace(it, source=names[it.source], destination=names[it.destination])
            for it in (copy for part in parts for copy in part.copies)
        ),
        reduces=tuple(times for part in parts for times in part.reduces),
        transports=transports,
    )


def renamed(text: str, names: Mapping[str, str]) -> str:
    """ "GPU1 → GPU0" of "cuda:0 → cuda:1"."""
    for name, label in sorted(names.items(), key=lambda pair: len(pair[0]), reverse=True):
        text = text.replace(name, label)
    return text
