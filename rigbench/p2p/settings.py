"""Which settings of NCCL are worth trying on this rig, with what environment, and does its version know them?

From NCCL's source (paths.cc, shm.cc, cudawrap.cc; 2.13 to 2.30) and its user guide. NCCL_P2P_DISABLE works in every
version that torch carries; a variable set to nothing counts as not set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rigbench.core.record import Absent, Tally
from rigbench.machine.peers import nccl_level
from rigbench.machine.record import GpuPair
from rigbench.p2p.record import P2pArm

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
    """What is exported for one arm, besides what silences the shell's own variables."""

    name: str
    environment: dict[str, str]
    control: bool = False


OFF = Setting("P2P off", {"NCCL_P2P_DISABLE": "1"}, control=True)
AS_IT_IS = Setting("P2P as it is", {})


def others(first: Sequence[P2pArm], pairs: Sequence[GpuPair], version: Version | None) -> Iterator[Setting]:
    """What else to try, told by the first arms: NCCL's default, and P2P off."""
    default = [arm for arm in first if not arm.control]
    allowed = any(arm.access and all(arm.access.values()) for arm in first)
    refused = any(not answer for arm in first for answer in arm.access.values())
    if allowed and default and all(arm.right for arm in default) and not any(_uses_p2p(arm, pairs) for arm in default):
        levels = [nccl_level(pair.label) for pair in pairs]
        level = "SYS" if "SYS" in levels or not levels else "PHB"
        yield Setting("P2P at any distance", {"NCCL_P2P_LEVEL": level})
    if refused and version and SHM_BY_ENGINE[0] <= version <= SHM_BY_ENGINE[1]:
        yield Setting("host memory by copy engine", {"NCCL_SHM_USE_CUDA_MEMCPY": "1"})
    if refused and any(pair.label.startswith("NV") for pair in pairs) and not all(arm.right for arm in default):
        yield Setting("NVLink ignored where P2P is refused", {"NCCL_IGNORE_DISABLED_P2P": "1"})


def rescues(version: Version | None) -> Iterator[Setting]:
    """Where even P2P off fails: other ways through the host, to tell which part of it does."""
    if version and version >= CUMEM_HOST_SINCE:
        yield Setting("P2P off, host memory from /dev/shm", OFF.environment | {"NCCL_CUMEM_HOST_ENABLE": "0"}, True)
    yield Setting("P2P off, through sockets", OFF.environment | {"NCCL_SHM_DISABLE": "1"}, True)


def environment(setting: Setting, inherited: Mapping[str, str], log: str) -> dict[str, str]:
    """For the processes of one arm: the setting, the shell's own variables emptied, and NCCL's log into files."""
    emptied = dict.fromkeys(inherited, "")
    told = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,ENV", "NCCL_DEBUG_FILE": log}
    return emptied | setting.environment | told


def inherited(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: variables[name] for name in BEARING if variables.get(name)}


def parse_version(text: str | Absent) -> Version | None:
    """(2, 29, 7) of "2.29.7"; None where it is not three numbers."""
    parts = text.split(".")[:3] if isinstance(text, str) else []
    return (int(parts[0]), int(parts[1]), int(parts[2])) if len(parts) == 3 and all(map(str.isdigit, parts)) else None


def _uses_p2p(arm: P2pArm, pairs: Sequence[GpuPair]) -> bool:
    """By NCCL's log; where there is none, by its rules."""
    if isinstance(arm.transports, Tally) and arm.transports.counts:
        return any(name.startswith("P2P") for name in arm.transports.counts)
    return all(not isinstance(pair.nccl, Absent) and pair.nccl.transport.startswith("P2P") for pair in pairs)
