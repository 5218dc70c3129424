"""What a P2P measurement is told, what each try of a setting found, and the verdict, the speeds and the advice."""

from __future__ import annotations

from typing import Annotated, Literal

from rigbench.bandwidth.record import Transfer
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.options import NOT_GIVEN, Option, seconds, whole
from rigbench.core.record import Absent, Device, Record, Tally
from rigbench.machine.record import GpuPair

METHOD = 2  # 2: all_reduces begin together, after the cache was flushed, behind a hold
MIB = 1 << 20
P2pVerdict = Literal["works", "broken", "not available", "inconclusive", "not applicable"]
Way = Literal["copy engine", "kernel", "send/recv", "all_reduce"]


class Options(Record, frozen=True, kw_only=True):
    times: Annotated[int, Option(whole(1, 20), "How often each setting is tried; intervals need two or more.", "N")] = 3
    limit_seconds: Annotated[
        float | Absent,
        Option(
            seconds(5.0, 3600.0, "2 minutes are usual: 120s"),
            "One try counts as hung after this. Default: 2 min, and 3 s for every pair.",
            "TIME",
            ("--limit",),
        ),
    ] = NOT_GIVEN


class ArmOptions(Record, frozen=True):
    devices: int
    peer_access: bool  # copies go from GPU to GPU as torch makes them, else through the host as the driver does
    copies: bool = True  # off where another arm with the same access has made them
    rounds: int = 5
    write_sizes: tuple[int, ...] = (8, 4096, 16 * MIB)
    reduce_sizes: tuple[int, ...] = (4, 16 * MIB)
    copy_bytes: int = 64 * MIB
    row_seconds: float = 0.4  # for one timed thing: a copy one way, or an all_reduce of one size
    target_half_width: float = 0.01


class ValueCheck(Record, frozen=True, kw_only=True):
    """Bytes that one device sent and others received, read back where they arrived by the device that holds them.

    Each value is compared with what the receiving device itself worked out from index, round and sender; beforehand
    every destination held something else.
    """

    way: Way
    sources: tuple[str, ...]  # all that took part in an all_reduce
    destination: str
    both_ways: bool
    size_bytes: int
    checked: int = 0  # rounds
    wrong: int = 0  # rounds with any wrong value
    wrong_values: int = 0
    unchanged_values: int = 0  # of the wrong ones: still what was there before, so nothing arrived
    earlier_values: int = 0  # of the wrong ones: those of the round before
    returned_values: int = 0  # found in the sender's own memory: a mirrored write
    strayed_values: int = 0  # changed where nothing was to be written
    first_wrong_byte: int | Absent = Absent("every value was right")

    @property
    def correct(self) -> bool:
        return self.checked > 0 and self.wrong == 0


class ReduceTimes(Record, frozen=True):
    rank: int
    size_bytes: int  # of the all_reduce that all repeat
    seconds: tuple[float, ...]  # its own, warm-up included, in order
    timing: Timing | Absent  # rank 0's, which decides when there is enough


class P2pRank(Record, frozen=True, kw_only=True):
    """What one process of an arm found. Rank 0, which sees all devices, makes the copies; the others wait meanwhile."""

    rank: int
    device: Device
    nccl_version: str | Absent
    access: dict[str, bool]  # "cuda:0 cuda:1": whether the driver permits it
    steps: int  # checks that the plan holds
    checks: tuple[ValueCheck, ...]
    copies: tuple[Transfer, ...]
    reduces: tuple[ReduceTimes, ...]
    meetings: int  # how often it came to meet the others, who then do the same steps
    at: str  # the step under way when this was handed over, "" at the end
    at_devices: tuple[str, ...]  # those that the step is about, empty for all


class P2pArm(Record, frozen=True, kw_only=True):
    """One setting, tried once, in processes of its own. Devices are named as the rest of rigbench names its GPUs."""

    setting: str
    environment: dict[str, str]  # what was set besides what is usual
    round: int
    control: bool  # P2P was off
    ended: Literal["finished", "interrupted", "died", "hung"]
    reason: str
    dead_ranks: tuple[int, ...]
    at: str  # the step that was not finished, "" where all were
    at_devices: tuple[str, ...]
    seconds: float
    access: dict[str, bool]  # as of P2pRank, and so are steps, checks, copies and reduces, of all ranks
    steps: int
    checks: tuple[ValueCheck, ...]
    copies: tuple[Transfer, ...]
    reduces: tuple[ReduceTimes, ...]
    transports: Tally | Absent  # NCCL's channels by the transport that its log names

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
    pair: tuple[str, str]
    verdict: P2pVerdict
    reason: str
    evidence: tuple[str, ...]
    facts: GpuPair | Absent  # how the rig describes them: label, driver's codes, what bears on them


class SpeedRatio(Record, frozen=True):
    """How many times as fast one setting is as another, by the medians of processes that took turns."""

    what: str
    setting: str
    against: str
    size_bytes: int
    bytes_per_s: float
    against_bytes_per_s: float
    ratio: Estimate
    faster: str  # the setting, "ambiguous" where the interval contains 1


class P2pAdvice(Record, frozen=True):
    """What to put into the environment of a training run on this rig; nothing, where the defaults are best."""

    environment: dict[str, str]
    reason: str
    notes: tuple[str, ...]


class P2p(Record, frozen=True, kw_only=True):
    method: int = METHOD
    seconds: float = 0.0
    verdict: P2pVerdict = "inconclusive"
    reason: str = "nothing was tried"
    devices: tuple[str, ...]  # in CUDA's order
    device_names: tuple[str, ...]
    nccl_version: str | Absent = Absent("no process came so far as to report it")
    pairs: tuple[PairVerdict, ...] = ()
    arms: tuple[P2pArm, ...] = ()
    speeds: tuple[SpeedRatio, ...] = ()
    advice: P2pAdvice | Absent = Absent("nothing was tried")
