"""What is asked of a fleet, and what its hosts' numbers say: which of them is odd, in what, and by how much."""

from __future__ import annotations

from typing import Annotated, Literal

from rigbench.compare.record import SHARE
from rigbench.core.options import NOT_GIVEN, Option
from rigbench.core.record import Absent, Record

FEWEST_HOSTS = 3  # of two nobody can say which is the odd one


class Options(Record, frozen=True, kw_only=True):
    fail_over: Annotated[
        float | Absent, Option(SHARE, "Exit 1 where a host is worse than the others by more than this.", "5%")
    ] = NOT_GIVEN


class OddNumber(Record, frozen=True, kw_only=True):
    """One number of a host, far from those of all others of its kind."""

    room: str
    what: str
    metric: str
    unit: str
    better: Literal["higher", "lower", ""]
    value: float  # the median of the host's newest runs
    others: float  # the median over hosts
    ratio: float
    deviations: float  # from the median, in robust standard deviations of the hosts
    hosts: int  # that have this number under the same conditions
    runs: int  # of this host that it is the median of
    alike: int  # of them: each alone as far off
    is_worse: bool


class OddHost(Record, frozen=True, kw_only=True):
    host: str  # the rig's fingerprint, and the host's name where it is stored
    machine: str
    label: str
    newest: str  # its newest run
    numbers: tuple[OddNumber, ...]  # the worst first
    of: int  # numbers of this host that were held against others


class Kind(Record, frozen=True):
    """Hosts of one machine."""

    machine: str
    hosts: int
    runs: int


class Difference(Record, frozen=True, kw_only=True):
    """Of a fleet of two, which cannot say who is odd: the largest difference of a number."""

    room: str
    what: str
    metric: str
    unit: str
    hosts: tuple[str, str]
    values: tuple[float, float]


class Fleet(Record, frozen=True, kw_only=True):
    runs: int
    hosts: int
    kinds: tuple[Kind, ...]
    numbers: int  # that three hosts or more have
    odd: tuple[OddHost, ...]  # worse in most first
    differences: tuple[Difference, ...] = ()
    unreadable: tuple[str, ...] = ()


class GatherOptions(Record, frozen=True, kw_only=True):
    """Of one host's process that brings its document to rank 0."""

    document: str
    node: int
    nodes: int
    limit_seconds: float
    kept_by_agent: bool  # the table: torchrun's agent outlives the ranks


class Gathered(Record, frozen=True, kw_only=True):
    documents: tuple[str, ...] = ()  # of all hosts, as JSON; in rank 0 alone
