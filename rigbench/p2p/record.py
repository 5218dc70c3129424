"""Do GPUs really write each other's memory, is that faster than going through the host, and which setting is best?"""

from __future__ import annotations

from typing import Literal

from rigbench.bandwidth.record import Transfer
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, Record, Tally
from rigbench.machine.record import GpuPair

P2pVerdict = Literal["works", "broken", "not available", "inconclusive", "not applicable"]
Way = Literal["copy engine", "kernel", "send/recv", "all_reduce"]


class ValueCheck(Record, frozen=True, kw_only=True):
    """Bytes that one device sent and others received, read back where they arrived by the device that holds them.

    Each value is compared with what the receiving device itself worked out from index, round and sender; beforehand
    every destination held something else. `sources` are all that took part in an all_reduce. `checked` counts the
    rounds, `wrong` those with any wrong value. Of the `wrong_values`, `unchanged_values` still held what was there
    before (nothing arrived) and `earlier_values` those of the round before. `returned_values` were found in the
    sender's own memory (a mirrored write), `strayed_values` changed where nothing was to be written.
    """

    way: Way
    sources: tuple[str, ...]
    destination: str
    both_ways: bool
    size_bytes: int
    checked: int
    wrong: int = 0
    wrong_values: int = 0
    unchanged_values: int = 0
    earlier_values: int = 0
    returned_values: int = 0
    strayed_values: int = 0
    first_wrong_byte: int | Absent = Absent("every value was right")

    @property
    def correct(self) -> bool:
        return self.checked > 0 and self.wrong == 0


class ReduceTimes(Record, frozen=True):
    """One rank's share in repeated all_reduces of one size: its own seconds, warm-up included, in order.

    Rank 0 decides when there is enough, so `timing` is Absent on the others.
    """

    rank: int
    size_bytes: int
    seconds: tuple[float, ...]
    timing: Timing | Absent


class P2pRank(Record, frozen=True, kw_only=True):
    """What one process of an arm found. Copies are made by rank 0, which sees all devices; the others wait meanwhile.

    `at` is the step under way when this was handed over, "" at the end, and `at_devices` those it was about, empty
    for all; `meetings` counts how often it came to meet the others, who then do the same steps. `access` maps
    "cuda:0 cuda:1" to the driver's permission. `steps` is how many checks the plan holds.
    """

    rank: int
    pid: int
    device: Device
    nccl_version: str | Absent
    access: dict[str, bool]
    steps: int
    checks: tuple[ValueCheck, ...]
    copies: tuple[Transfer, ...]
    reduces: tuple[ReduceTimes, ...]
    meetings: int = 0
    at: str = ""
    at_devices: tuple[str, ...] = ()


class P2pArm(Record, frozen=True, kw_only=True):
    """One setting, tried once, in processes of its own: `control` where P2P was off.

    `environment` is what was set besides what is usual. `checks` are those of all ranks; devices are named as the rest
    of rigbench names its GPUs. `transports` counts NCCL's channels by the transport that its log names.
    """

    setting: str
    environment: dict[str, str]
    round: int
    control: bool
    ended: Literal["finished", "interrupted", "died", "hung"]
    reason: str
    dead_ranks: tuple[int, ...]
    at: str
    at_devices: tuple[str, ...]
    seconds: float
    access: dict[str, bool]
    steps: int
    checks: tuple[ValueCheck, ...]
    copies: tuple[Transfer, ...]
    reduces: tuple[ReduceTimes, ...]
    transports: Tally | Absent

    @property
    def wrong(self) -> tuple[ValueCheck, ...]:
        return tuple(check for check in self.checks if not check.correct)

    @property
    def right(self) -> bool:
        """It reached its end, every check of its plan was made, and no value was wrong."""
        return self.ended == "finished" and not self.wrong and len(self.checks) >= self.steps > 0

    def reduce_seconds(self, size_bytes: int) -> tuple[float, ...]:
        """The slowest rank's seconds of each all_reduce of this size, after the warm-up; empty where none was timed."""
        ranks = [times for times in self.reduces if times.size_bytes == size_bytes]
        timing = next((times.timing for times in ranks if isinstance(times.timing, Timing)), None)
        if timing is None:
            return ()
        steps = zip(*(times.seconds for times in ranks), strict=False)
        return tuple(map(max, steps))[len(timing.warmup_seconds) :]


class PairVerdict(Record, frozen=True):
    """What holds for two GPUs. `facts` is how the rig describes them: label, driver's codes, what bears on them."""

    pair: tuple[str, str]
    verdict: P2pVerdict
    reason: str
    evidence: tuple[str, ...]
    access: bool | Absent
    facts: GpuPair | Absent


class SpeedRatio(Record, frozen=True):
    """How many times as fast one setting is as another, by the medians of processes that took turns.

    `faster` names the setting, "ambiguous" where the interval contains 1.
    """

    what: str
    setting: str
    against: str
    size_bytes: int
    bytes_per_s: float
    against_bytes_per_s: float
    ratio: Estimate
    faster: str


class P2pAdvice(Record, frozen=True):
    """What to put into the environment of a training run on this rig; nothing, where the defaults are best.

    `inherited` are NCCL's variables of this shell that bear on it; the arms ran without them.
    """

    environment: dict[str, str]
    reason: str
    notes: tuple[str, ...]
    inherited: dict[str, str]


class P2p(Record, frozen=True, kw_only=True):
    """The verdict, what it rests on, and what to set. `devices` are in CUDA's order, named as elsewhere."""

    method: int
    started_at: str
    seconds: float
    verdict: P2pVerdict
    reason: str
    devices: tuple[str, ...]
    device_names: tuple[str, ...]
    nccl_version: str | Absent
    pairs: tuple[PairVerdict, ...]
    arms: tuple[P2pArm, ...]
    speeds: tuple[SpeedRatio, ...]
    advice: P2pAdvice | Absent
