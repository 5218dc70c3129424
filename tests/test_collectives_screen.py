"""Does a collectives result show its owner the verdict, the odd host, the way taken, α and β, and wrong data?"""

import io

import msgspec
from rich.console import Console

from rigbench.collectives import screen as render
from rigbench.collectives.record import (
    AlphaBeta,
    Collective,
    Collectives,
    CollectiveSize,
    HostLink,
    OddHost,
    PairTimes,
    RankCheck,
    RankHost,
    RankPlace,
)
from rigbench.core.estimate import Estimate, Timing
from rigbench.core.record import Absent, Device, Skipped, Tally
from rigbench.core.screen import show_rooms

RIGHT, WRONG = RankCheck(8, 0, 0, ()), RankCheck(8, 2, 2, (1,))
CPU = Device(kind="cpu", name="EPYC 7502", uuid=Absent("a CPU has no UUID"), threads=1, memory_total_bytes=1 << 36)
CARD = Device(kind="cuda", name="NVIDIA GeForce RTX 4090", uuid="GPU-1", threads=1, memory_total_bytes=24 << 30)


def estimate(value: float, half: float = 0.02) -> Estimate:
    return Estimate(value=value, low=value * (1 - half), high=value * (1 + half), level=0.9, method="test", n=20)


def timing(seconds: float) -> Timing:
    return Timing(
        warmup_seconds=(seconds,),
        seconds=(seconds,) * 9,
        estimate=estimate(seconds),
        target_half_width=0.01,
        ended_by="interval",
        outliers=0,
        drift_per_minute=Absent("no different from noise"),
    )


def size(size_bytes: int, seconds: float, factor: float, check: RankCheck = RIGHT) -> CollectiveSize:
    return CollectiveSize(
        size_bytes=size_bytes,
        rank_seconds=((seconds,) * 10,) * 4,
        timing=timing(seconds),
        algorithm_bytes_per_s=estimate(size_bytes / seconds),
        bus_bytes_per_s=estimate(factor * size_bytes / seconds) if factor else Absent("one rank has no bus"),
        check=check,
    )


def collective(name: str, factor: float, *sizes: CollectiveSize, **changes) -> Collective:
    line = AlphaBeta(estimate(31e-6, 0.04), estimate(14.2e9, 0.03), ())
    fields = {"bus_factor": factor, "fit": line, **changes}
    return Collective(operation=name, sizes=sizes, **fields)


def pair(a: int, b: int, rate: float) -> PairTimes:
    return PairTimes(
        flows=((a, b), (b, a)),
        size_bytes=64 << 20,
        rank_seconds=((1e-3,) * 10,) * 4,
        timing=timing(1e-3),
        bytes_per_s=(estimate(rate), estimate(1.1 * rate)),
        check=RIGHT,
    )


def place(rank: int, host: int, device: Device, ways: Tally | Absent) -> RankPlace:
    return RankPlace(rank=rank, host=host, device=device, ways=ways)


ON_GPUS = Collectives(
    method=1,
    seconds=61.0,
    verdict="fine",
    reason="",
    backend="nccl",
    world_size=4,
    hosts=(RankHost(Absent("there is only one"), "0123456789ab", (0, 1, 2, 3)),),
    ranks=tuple(place(rank, 0, CARD, Tally({"SHM/direct": 4})) for rank in range(4)),
    operations=(
        collective("all_reduce", 1.5, size(16, 33e-6, 1.5), size(1 << 30, 75.6e-3, 1.5)),
        collective("broadcast", 1.0, size(16, 21e-6, 1.0), size(1 << 30, 88e-3, 1.0)),
    ),
    pairs=tuple(pair(a, b, (9 + a + b) * 1e9) for a in range(4) for b in range(a + 1, 4)),
    pairs_at_once=(
        msgspec.structs.replace(
            pair(0, 3, 5e9),
            flows=((0, 3), (3, 0), (1, 2), (2, 1)),
            bytes_per_s=tuple(map(estimate, (5e9, 5e9, 6e9, 6e9))),
        ),
    ),
    links=(),
    host_links=(),
    slowest_link=Absent("no link between hosts was measured"),
    odd_hosts=(),
    not_run=(),
    ended_by="finished",
    dead_ranks=(),
    telemetry=Absent("no sensor was read beside it"),
)


def screen(result: Collectives, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    render.show(result, console)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def test_four_gpus_on_one_screen():
    assert (
        screen(ON_GPUS)
        == """\
collectives, 4 ranks, nccl on cuda (4 × NVIDIA GeForce RTX 4090): fine
  88 results compared value by value on each rank: all right
  transport: SHM/direct (4 channels), as NCCL's log says

                              90 %   bus          90 %                   90 %     β          90 %
 operation   latency      interval  GB/s      interval        α      interval  GB/s      interval  correct
 all_reduce  33.0 µs  32.3 to 33.7  21.3  20.9 to 21.7  31.0 µs  29.8 to 32.2  14.2  13.8 to 14.6    16/16
 broadcast   21.0 µs  20.6 to 21.4  12.2  12.0 to 12.4  31.0 µs  29.8 to 32.2  14.2  13.8 to 14.6    16/16
  latency at 16 B, bus bandwidth at 1 GiB; time = α + bytes/β through all sizes; a repeat takes as long as its
  slowest rank; GB/s is 1e9 bytes/s

 pair           alone, GB/s each way  90 % interval  all pairs at once  90 % interval
 ranks 0 and 1                  10.0    9.8 to 10.2                  –
 ranks 0 and 2                  11.0   10.8 to 11.2                  –
 ranks 0 and 3                  12.0   11.8 to 12.2               5.00   4.90 to 5.10
 ranks 1 and 2                  12.0   11.8 to 12.2               6.00   5.88 to 6.12
 ranks 1 and 3                  13.0   12.7 to 13.3                  –
 ranks 2 and 3                  14.0   13.7 to 14.3                  –
  64 MiB each way at once, the slower way of each pair"""
    )


def test_of_three_hosts_the_odd_one_and_the_slowest_link_come_first():
    links = tuple(
        HostLink(a, b, estimate(24e6 if a == 2 else 118e6), estimate(150e-6))
        for a in range(3)
        for b in range(3)
        if a != b
    )
    result = msgspec.structs.replace(
        ON_GPUS,
        backend="gloo",
        world_size=3,
        hosts=tuple(RankHost(name, f"{name}0000", (rank,)) for rank, name in enumerate(("anna", "bert", "carl"))),
        ranks=tuple(place(it, it, CPU, Tally({f"eth0 10.0.0.{it} to 10.0.0.9": 2})) for it in range(3)),
        operations=(
            collective(
                "all_reduce",
                4 / 3,
                size(12, 210e-6, 4 / 3),
                fit=Absent("a line needs 3 sizes, and there was 1"),
                not_run="slow",
            ),
            collective("reduce", 1.0, fit=Absent("too few sizes were measured"), not_run="gloo does not support it"),
        ),
        pairs=(),
        pairs_at_once=(),
        host_links=links,
        slowest_link=links[4],
        odd_hosts=(OddHost(2, "sending", 24e6, 118e6),),
        not_run=("pairs at once: 2 of 3, ran out of time",),
    )
    assert (
        screen(result)
        == """\
collectives, 3 ranks on 3 hosts, gloo on cpu (EPYC 7502): fine
  odd host out: carl, sending: 24.0 MB/s at best, the others 118 MB/s
  slowest link: carl to anna, 24.0 MB/s (23.5 to 24.5), 150 µs (147 to 153) latency
  8 results compared value by value on each rank: all right
  transport of rank 0: TCP over eth0 10.0.0.0 to 10.0.0.9
  transport of rank 1: TCP over eth0 10.0.0.1 to 10.0.0.9
  transport of rank 2: TCP over eth0 10.0.0.2 to 10.0.0.9

 host  rig       ranks
 anna  anna0000  0
 bert  bert0000  1
 carl  carl0000  2

 from  to      GB/s     90 % interval  latency
 carl  anna  0.0240  0.0235 to 0.0245   150 µs
 carl  bert  0.0240  0.0235 to 0.0245   150 µs
 anna  bert   0.118    0.116 to 0.120   150 µs
 anna  carl   0.118    0.116 to 0.120   150 µs
 bert  anna   0.118    0.116 to 0.120   150 µs
 bert  carl   0.118    0.116 to 0.120   150 µs

                            90 %                                            90 %     β      90 %
 operation   latency    interval   bus GB/s           90 % interval  α  interval  GB/s  interval  correct
 all_reduce   210 µs  206 to 214  0.0000762  0.0000747 to 0.0000777  –               –                8/8
 reduce            –                      –                          –               –            not run
  latency at 12 B, bus bandwidth at 12 B; time = α + bytes/β through all sizes; a repeat takes as long as its
  slowest rank; GB/s is 1e9 bytes/s
  all_reduce: not run: slow
  all_reduce: no line: a line needs 3 sizes, and there was 1
  reduce: not run: gloo does not support it
  not run: pairs at once: 2 of 3, ran out of time"""
    )


def test_wrong_values_are_red_and_told_with_their_rank():
    result = msgspec.structs.replace(
        ON_GPUS,
        verdict="wrong values",
        reason="all_gather of 16 B brought 2 wrong values to rank 1",
        operations=(collective("all_gather", 0.75, size(16, 20e-6, 0.75, WRONG)),),
        pairs=(),
        pairs_at_once=(),
    )
    assert (
        screen(result)
        == """\
collectives, 4 ranks, nccl on cuda (4 × NVIDIA GeForce RTX 4090): wrong values
  all_gather of 16 B brought 2 wrong values to rank 1
  2 of 8 results, compared value by value on each rank, were WRONG
  transport: SHM/direct (4 channels), as NCCL's log says

                              90 %                                                   90 %     β          90 %
 operation   latency      interval  bus GB/s         90 % interval        α      interval  GB/s      interval
 all_gather  20.0 µs  19.6 to 20.4  0.000600  0.000588 to 0.000612  31.0 µs  29.8 to 32.2  14.2  13.8 to 14.6
 operation     correct
 all_gather  6/8 WRONG
  latency at 16 B, bus bandwidth at 16 B; time = α + bytes/β through all sizes; a repeat takes as long as its
  slowest rank; GB/s is 1e9 bytes/s"""
    )


def test_a_hang_before_anything_was_measured_says_so():
    result = msgspec.structs.replace(
        ON_GPUS,
        verdict="hung",
        reason="rank 1 did not arrive within 120 s",
        backend=Absent("it ended before anything was measured"),
        world_size=2,
        hosts=(),
        ranks=(),
        operations=(),
        pairs=(),
        pairs_at_once=(),
    )
    assert screen(result) == "collectives, 2 ranks: hung\n  rank 1 did not arrive within 120 s\n  nothing was measured"


def test_what_cannot_run_says_why():
    class OneRoom:
        def rooms(self):
            return {"collectives": (Skipped("collectives", "one GPU"),)}

    console = Console(file=io.StringIO(), width=110)
    show_rooms(OneRoom(), console)
    assert console.file.getvalue() == "collectives skipped: one GPU\n"
