"""Does the verdict on P2P follow from what the arms found, and the advice from what is right, then fast?"""

from __future__ import annotations

import io
import math
import statistics

import msgspec
import pytest
from fake_bandwidth import transfer
from rich.console import Console

from rigbench.core import stats
from rigbench.core.estimate import Timing
from rigbench.core.finding import explanation
from rigbench.core.record import Absent, Tally
from rigbench.machine import peers
from rigbench.machine.record import GpuPair, NcclChoice
from rigbench.p2p import arms as p2p_arms
from rigbench.p2p import screen as render
from rigbench.p2p import verdict as findings
from rigbench.p2p.arms import AS_IT_IS, OFF, Setting
from rigbench.p2p.record import P2p, P2pArm, ReduceTimes, ValueCheck

REPLACE = msgspec.structs.replace
MIB16 = 16 << 20
FAR = Setting("P2P at any distance", {"NCCL_P2P_LEVEL": "PHB"})
ENGINE = Setting("host memory by copy engine", {"NCCL_SHM_USE_CUDA_MEMCPY": "1"})
SOCKETS = Setting("P2P off, through sockets", {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}, True)
NO_ANSWER = "no answer within 120 s; its processes were ended"
OUTCOMES = {
    "right": ("finished", ""),
    "wrong": ("finished", ""),
    "hung": ("hung", NO_ANSWER),
    "died": ("died", "rank 1: its process ended with code 1: RuntimeError: NCCL error"),
    "memory": ("died", "rank 0: its process ended with code 1: torch.OutOfMemoryError: CUDA out of memory."),
    "stopped": ("interrupted", ""),
}


def checks(names: tuple[str, ...], wrong: bool) -> tuple[ValueCheck, ...]:
    """A write in each direction of every pair, and an all_reduce at each device."""
    facts = {"both_ways": False, "size_bytes": MIB16, "checked": 5}
    dropped = {"wrong": 5, "wrong_values": 10_485_760, "unchanged_values": 10_485_760, "first_wrong_byte": 0}
    made = [
        ValueCheck(way="copy engine", sources=(one,), destination=other, **facts)
        for one in names
        for other in names
        if one != other
    ]
    made += [ValueCheck(way="all_reduce", sources=names, destination=name, **facts) for name in names]
    return (REPLACE(made[0], **dropped) if wrong else made[0], *made[1:])


def times(rank: int, seconds: tuple[float, ...]) -> ReduceTimes:
    """With two repeats of warm-up."""
    timing = Timing(seconds[:2], seconds[2:], stats.median_estimate(seconds[2:]), 0.01, "interval", 0, Absent("few"))
    return ReduceTimes(rank, MIB16, seconds, Absent("rank 0 decides") if rank else timing)


def arm(setting: Setting, how: str = "right", number: int = 0, seconds: float = 0.0, **facts) -> P2pArm:
    """One try. A hang and a death are met at the all_reduce; before it, everything was right."""
    names = facts.pop("names", ("GPU0", "GPU1"))
    ended, reason = OUTCOMES[how]
    found = checks(names, how == "wrong")
    given = {
        "setting": setting.name,
        "environment": setting.environment,
        "round": number,
        "control": setting.control,
        "ended": ended,
        "reason": reason,
        "dead_ranks": (),
        "at": "" if ended == "finished" else "all_reduce, 16 MiB",
        "at_devices": (),
        "seconds": 9.0,
        "access": {f"{one} {other}": True for one in names for other in names if one != other},
        "steps": len(found),
        "checks": found if ended == "finished" else found[: -len(names)],
        "copies": (),
        "reduces": tuple(times(rank, (9.0, 9.0, *(seconds,) * 3)) for rank in (0, 1)) if seconds else (),
        "transports": Tally({"SHM/direct": 4} if setting is OFF else {"P2P/CUMEM": 4}),
    }
    return P2pArm(**given | facts)


def pair(one: int = 0, other: int = 1, label: str = "PHB", code: int = 0, facts: tuple[str, ...] = ()) -> GpuPair:
    nccl = NcclChoice("shared memory (SHM)", f"{label} is farther than PXB, the default limit for P2P", Absent("none"))
    return GpuPair(one, other, label, label, 0, code, code, 1, 5, facts, nccl)


def answer(*arms: P2pArm, known: tuple[GpuPair, ...] = (pair(),), inherited: dict[str, str] | None = None) -> P2p:
    names = tuple(sorted({name for found in arms for way in found.access for name in way.split()})) or ("GPU0", "GPU1")
    result = P2p(
        devices=names,
        device_names=("NVIDIA GeForce RTX 4090",) * len(names),
        nccl_version="2.29.7",
        arms=arms,
    )
    return findings.judged(result, known, inherited or {})


def screen(result: P2p) -> str:
    out = io.StringIO()
    render.show(result, Console(file=out, width=100))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


RIGHT = "every value arrived, in both directions, with P2P on and with P2P off"
VERDICTS = [
    # control, P2P on, verdict, reason
    (["right"], ["right"], "works", RIGHT),
    (["right"] * 3, ["right"] * 3, "works", RIGHT),
    (["right"], ["wrong"], "broken", "wrong data with P2P as it is, and not with P2P off"),
    (["right"] * 3, ["right", "right", "wrong"], "broken", "wrong data with P2P as it is, and not with P2P off"),
    (["right"], ["hung"], "broken", "it hung with P2P as it is, and not with P2P off"),
    (["right", "stopped"], ["hung"], "broken", "it hung with P2P as it is, and not with P2P off"),
    (["right"], ["died"], "inconclusive", "its processes died 1 of 1 times with P2P on"),
    (["right"], ["died"] * 2, "broken", "its processes died each of 2 times with P2P as it is, and not with P2P off"),
    (["right"], ["died", "right"], "inconclusive", "its processes died 1 of 2 times with P2P on"),
    (["right"], ["memory"] * 2, "inconclusive", "its processes died for want of memory 2 of 2 times with P2P on"),
    (
        ["wrong"],
        ["wrong"],
        "inconclusive",
        "wrong data with P2P as it is, and the control with P2P off got wrong data",
    ),
    (["hung"], ["hung"], "inconclusive", "it hung with P2P as it is, and the control with P2P off hung"),
    (["hung"], ["wrong"], "inconclusive", "wrong data with P2P as it is, and the control with P2P off hung"),
    (
        ["died"],
        ["died"],
        "inconclusive",
        "its processes died 1 of 1 times with P2P on, and the control with P2P off died",
    ),
    (["hung"], ["right"], "inconclusive", "right with P2P on, but the control with P2P off hung"),
    (["memory"], ["right"], "inconclusive", "right with P2P on, but the control with P2P off ran out of memory"),
    (["right", "wrong"], ["right"], "inconclusive", "right with P2P on, but the control with P2P off got wrong data"),
    (["right"], [], "inconclusive", "it ended before everything was checked with P2P on"),
    (["right"], ["stopped"], "inconclusive", "it ended before everything was checked with P2P on"),
    ([], ["right"], "inconclusive", "right with P2P on, but the control with P2P off did not come to its end"),
    (["stopped"], [], "inconclusive", "it ended before everything was checked with P2P on"),
]


@pytest.mark.parametrize(("control", "tried", "verdict", "reason"), VERDICTS)
def test_the_verdict_follows_from_how_the_arms_ended(control, tried, verdict, reason):
    result = answer(*(arm(OFF, how) for how in control), *(arm(AS_IT_IS, how) for how in tried))
    assert (result.verdict, result.reason) == (verdict, reason)
    assert [(item.verdict, item.reason) for item in result.pairs] == [(verdict, reason)]


def test_a_refusal_by_the_driver_is_no_fault_and_no_proof():
    refused = {"access": {"GPU0 GPU1": True, "GPU1 GPU0": False}}
    assert answer(arm(OFF, **refused), arm(AS_IT_IS, **refused)).verdict == "not available"
    assert answer(arm(OFF, **refused), arm(AS_IT_IS, "wrong", **refused)).verdict == "broken"
    unknown = answer(arm(OFF, access={}), arm(AS_IT_IS, access={}))
    assert (unknown.verdict, unknown.reason) == ("inconclusive", "no setting came as far as asking the driver")


def test_an_arm_that_skipped_checks_is_not_right():
    short = arm(AS_IT_IS, checks=checks(("GPU0", "GPU1"), False)[:-1])
    assert answer(arm(OFF), short).verdict == "inconclusive"
    nothing = arm(AS_IT_IS, steps=0, checks=())
    assert answer(arm(OFF), nothing).verdict == "inconclusive"
    unchecked = tuple(REPLACE(check, checked=0) for check in checks(("GPU0", "GPU1"), False))
    assert answer(arm(OFF), arm(AS_IT_IS, checks=unchecked)).verdict == "broken"


@pytest.mark.parametrize("seconds", [1e-6, 1.0])
def test_no_rate_changes_a_verdict(seconds):
    for how in ("right", "wrong", "hung", "died"):
        slow = answer(arm(OFF, seconds=1e-3), arm(AS_IT_IS, how, seconds=seconds))
        assert slow.verdict == answer(arm(OFF), arm(AS_IT_IS, how)).verdict


THREE = ("GPU0", "GPU1", "GPU2")


def test_of_three_gpus_the_pair_that_fails_is_named():
    """A write from GPU0 to GPU1 is lost; the hang of GPU1 with GPU2 leaves the others open."""
    wrong = answer(arm(OFF, names=THREE), arm(AS_IT_IS, "wrong", names=THREE), known=())
    assert [(item.pair, item.verdict) for item in wrong.pairs] == [
        (("GPU0", "GPU1"), "broken"),
        (("GPU0", "GPU2"), "inconclusive"),
        (("GPU1", "GPU2"), "inconclusive"),
    ]
    assert wrong.reason == "1 of 3 pairs: wrong data with P2P as it is, and not with P2P off"
    hung = arm(AS_IT_IS, "hung", names=THREE, at="send/recv GPU1 ↔ GPU2, 4 B", at_devices=("GPU1", "GPU2"))
    result = answer(arm(OFF, names=THREE), hung, known=())
    assert [item.verdict for item in result.pairs] == ["inconclusive", "inconclusive", "broken"]
    assert "P2P as it is: hung at send/recv GPU1 ↔ GPU2, 4 B: " + NO_ANSWER in result.pairs[2].evidence
    assert "P2P as it is: not checked to the end: it hung at send/recv GPU1 ↔ GPU2, 4 B" in result.pairs[0].evidence


def test_one_pair_that_may_and_two_that_may_not_is_p2p_that_works_where_it_can():
    access = {f"{one} {other}": {one, other} == {"GPU0", "GPU1"} for one in THREE for other in THREE if one != other}
    result = answer(arm(OFF, names=THREE, access=access), arm(AS_IT_IS, names=THREE, access=access), known=())
    assert (result.verdict, result.reason) == ("works", f"1 of 3 pairs: {RIGHT}")
    assert [item.verdict for item in result.pairs] == ["works", "not available", "not available"]


def turns(**seconds: tuple[float, ...]) -> list[P2pArm]:
    """Each setting's median all_reduce in every round."""
    settings = {"off": OFF, "default": AS_IT_IS, "far": FAR, "engine": ENGINE}
    return [arm(settings[name], number=n, seconds=s) for name, row in seconds.items() for n, s in enumerate(row)]


def test_a_ratio_is_that_of_rounds_that_took_turns_with_the_spread_between_them():
    result = answer(*turns(off=(3e-3, 3.3e-3, 3.15e-3), default=(1e-3, 1.05e-3, 1.1e-3)))
    ratio = next(item for item in result.speeds if item.what == "all_reduce")
    logs = [math.log(3.0), math.log(3.3 / 1.05), math.log(3.15 / 1.1)]
    half = 2.919985580353726 * statistics.stdev(logs) / math.sqrt(3)  # t(0.95, 2), from a table
    assert ratio.ratio.value == pytest.approx(math.exp(statistics.mean(logs)))
    assert ratio.ratio.low == pytest.approx(math.exp(statistics.mean(logs) - half), rel=1e-5)
    assert ratio.ratio.high == pytest.approx(math.exp(statistics.mean(logs) + half), rel=1e-5)
    assert ratio.faster == "P2P as it is"
    assert ratio.bytes_per_s == pytest.approx(MIB16 / 1.05e-3)
    assert ratio.against_bytes_per_s == pytest.approx(MIB16 / 3.15e-3)


def test_the_time_of_an_all_reduce_is_the_slowest_ranks_and_without_its_warm_up():
    both = times(0, (9.0, 9.0, 1.0, 4.0, 2.0)), times(1, (9.0, 9.0, 3.0, 2.0, 2.5))
    assert REPLACE(arm(OFF), reduces=both).reduce_seconds(MIB16) == (3.0, 4.0, 2.5)
    assert REPLACE(arm(OFF), reduces=both).reduce_seconds(4) == ()


def advised(*arms: P2pArm, **more) -> tuple[dict[str, str], str]:
    advice = answer(*arms, **more).advice
    assert not isinstance(advice, Absent)
    return advice.environment, advice.reason


FAST, SLOW = (1e-3, 1.01e-3, 1e-3), (2e-3, 2.02e-3, 2.01e-3)


def test_the_setting_that_is_surely_fastest_is_advised():
    nothing = {}, "P2P as it is came through right, and nothing else is surely faster"
    assert advised(*turns(off=SLOW, default=FAST)) == nothing
    assert advised(*turns(off=FAST, default=(1e-3, 1.02e-3, 1.01e-3))) == nothing
    assert advised(*turns(off=FAST[:1], default=SLOW[:1])) == nothing  # one round has no interval
    environment, reason = advised(*turns(off=FAST, default=SLOW))
    assert environment == {"NCCL_P2P_DISABLE": "1"}
    # Ratios 2, 2 and 2.01: the mean of the logarithms is that of 2.0033, their deviation 0.00288, t(0.95, 2) 2.920.
    assert reason == "P2P off is 2.00 times as fast as P2P as it is in all_reduce (1.99 to 2.01)"
    assert advised(*turns(off=SLOW, default=SLOW, far=FAST))[0] == {"NCCL_P2P_LEVEL": "PHB"}
    assert advised(*turns(off=(1.5e-3,) * 3, default=SLOW, far=FAST))[0] == {"NCCL_P2P_LEVEL": "PHB"}


def test_a_setting_that_failed_once_is_never_advised_however_fast():
    far = [arm(FAR, number=0, seconds=1e-4), arm(FAR, "wrong", number=1, seconds=1e-4)]
    assert advised(*turns(off=SLOW, default=FAST), *far)[0] == {}
    assert advised(*turns(off=SLOW), arm(AS_IT_IS, "hung")) == ({"NCCL_P2P_DISABLE": "1"}, "P2P off came through right")


def test_where_the_control_fails_too_only_what_came_through_is_named():
    sockets = arm(SOCKETS)
    assert advised(arm(OFF, "died"), arm(AS_IT_IS, "died"), sockets) == (
        {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"},
        "P2P off, through sockets came through right; 2 of the settings tried did not",
    )
    assert advised(arm(OFF, "died"), arm(AS_IT_IS), arm(SOCKETS, "died"))[0] == {}
    assert answer(arm(OFF, "hung"), arm(AS_IT_IS, "hung")).advice == Absent(
        "no setting came through to its end with the right data"
    )


def test_what_this_shell_sets_otherwise_is_told():
    shell = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}
    advice = answer(arm(OFF), arm(AS_IT_IS), inherited=shell).advice
    assert advice.notes == (
        "this shell sets NCCL_P2P_DISABLE=1, which is not advised: unset it",
        "this shell sets NCCL_SHM_DISABLE=1, which is not advised: unset it",
    )
    wrong = answer(arm(OFF), arm(AS_IT_IS, "wrong"), inherited=shell).advice
    assert wrong.notes[-1] == "this shell sets NCCL_SHM_DISABLE=1, which is not advised: unset it"


def names_of(arms: list[P2pArm], *pairs: GpuPair, version: str | Absent = "2.29.7") -> list[tuple[str, dict[str, str]]]:
    others = p2p_arms.others(arms, pairs, p2p_arms.parse_version(version))
    return [(setting.name, setting.environment) for setting in others]


def test_other_settings_are_tried_where_nccl_and_its_version_leave_something_to_gain():
    direct, staged = arm(AS_IT_IS), arm(AS_IT_IS, transports=Tally({"SHM/direct": 4}))
    assert names_of([arm(OFF), direct], pair()) == []
    assert names_of([arm(OFF), staged], pair()) == [("P2P at any distance", {"NCCL_P2P_LEVEL": "PHB"})]
    assert names_of([arm(OFF), staged], pair(label="SYS")) == [("P2P at any distance", {"NCCL_P2P_LEVEL": "SYS"})]
    assert names_of([arm(OFF), arm(AS_IT_IS, transports=Absent("no log"))], pair()) == [
        ("P2P at any distance", {"NCCL_P2P_LEVEL": "PHB"})
    ]
    assert names_of([arm(OFF), arm(AS_IT_IS, "wrong")], pair()) == []
    refused = [REPLACE(it, access={"GPU0 GPU1": False, "GPU1 GPU0": False}) for it in (arm(OFF), staged)]
    by_engine = [("host memory by copy engine", {"NCCL_SHM_USE_CUDA_MEMCPY": "1"})]
    known = {"2.13.4": True, "2.29.7": True, "2.30.4": True, "2.30.7": False, "2.12.12": False, "3.0.1": False}
    for version, knows in known.items():
        assert names_of(refused, pair(code=1), version=version) == (by_engine if knows else [])
    assert names_of(refused, pair(code=1), version=Absent("no NCCL")) == []
    nvlink = [refused[0], REPLACE(refused[1], ended="died")]
    assert names_of(nvlink, pair(label="NV4", code=1), version="2.30.7") == [
        ("NVLink ignored where P2P is refused", {"NCCL_IGNORE_DISABLED_P2P": "1"})
    ]


def test_where_p2p_off_fails_other_ways_through_the_host_are_tried():
    names = [setting.environment for setting in p2p_arms.rescues((2, 23, 0))]
    assert names == [
        {"NCCL_P2P_DISABLE": "1", "NCCL_CUMEM_HOST_ENABLE": "0"},
        {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"},
    ]
    assert [setting.environment for setting in p2p_arms.rescues((2, 22, 3))] == names[1:]
    assert [setting.environment for setting in p2p_arms.rescues(None)] == names[1:]


def test_an_arm_runs_without_what_the_shell_sets():
    shell = {"NCCL_P2P_LEVEL": "SYS", "NCCL_P2P_DISABLE": "0", "NCCL_IB_HCA": "mlx5", "NCCL_SHM_DISABLE": ""}
    inherited = p2p_arms.inherited(shell)
    assert inherited == {"NCCL_P2P_LEVEL": "SYS", "NCCL_P2P_DISABLE": "0"}
    assert p2p_arms.environment(OFF, inherited, "/tmp/%p.log") == {
        "NCCL_P2P_LEVEL": "",
        "NCCL_P2P_DISABLE": "1",
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,ENV",
        "NCCL_DEBUG_FILE": "/tmp/%p.log",
    }


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.29.7", (2, 29, 7)), ("2.30.7.rc1", (2, 30, 7)), ("2.29", None), ("two", None), (Absent("none"), None)],
)
def test_a_version_is_three_numbers(text, version):
    assert p2p_arms.parse_version(text) == version


LOG = """\
rig:4242:4300 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read
rig:4242:4300 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/CUMEM
rig:4242:4300 [0] NCCL INFO Channel 02/0 : 0[1] -> 1[2] via P2P/direct pointer
rig:4242:4300 [0] NCCL INFO Channel 00/1 : 0[0] -> 2[2] via P2P/indirect/1[1]
rig:4242:4300 [0] NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/direct/direct
rig:4242:4300 [0] NCCL INFO Channel 01 : 1[1] -> 0[0] via SHM/direct
rig:4242:4300 [0] NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/CE/direct
rig:4242:4300 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] [send] via NET/Socket/0
rig:4242:4300 [0] NCCL INFO Channel 00/0 : 1[1] -> 0[0] [receive] via NET/Socket/0
rig:4242:4300 [0] NCCL INFO Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA
rig:4242:4300 [0] NCCL INFO P2P is disabled between connected GPUs 0 and 1. You can repress this message with \
NCCL_IGNORE_DISABLED_P2P=1.
"""


def test_the_way_that_nccl_took_is_read_from_its_log():
    """Lines as TOPOLOGY facts and NCCL's source (2.13 to 2.30) have them; a receiver's are the sender's again."""
    assert peers.nccl_transports(LOG) == {
        "NET/IB": 1,
        "NET/Socket": 1,
        "P2P/CUMEM": 2,
        "P2P/direct pointer": 1,
        "P2P/indirect": 1,
        "SHM/CE": 1,
        "SHM/direct": 2,
    }
    assert peers.nccl_transports("") == {}


def told(result: P2p) -> dict[str, str]:
    return {item.code: item.severity for item in findings.diagnose(result)}


def test_findings_name_what_is_broken_and_what_is_slower():
    assert told(answer(*turns(off=SLOW, default=FAST))) == {}
    assert told(answer(arm(OFF), arm(AS_IT_IS, "wrong"))) == {"p2p-broken": "fault"}
    assert told(answer(arm(OFF, "hung"), arm(AS_IT_IS, "hung"))) == {"p2p-control-fails": "warning"}
    assert told(answer(arm(OFF), arm(AS_IT_IS, "stopped"))) == {}
    assert told(answer(*turns(off=FAST, default=SLOW))) == {"p2p-slower": "warning"}
    assert told(answer(*turns(off=SLOW, default=SLOW, far=FAST))) == {"nccl-default-slower": "warning"}
    assert told(answer(*turns(off=FAST, default=SLOW), arm(FAR, "wrong"))) == {"p2p-broken": "fault"}
    for code in ("p2p-broken", "p2p-control-fails", "p2p-slower", "nccl-default-slower"):
        assert explanation(code).sources


def test_a_broken_pair_has_a_cure_even_where_nothing_is_advised():
    result = answer(arm(OFF), arm(AS_IT_IS, "wrong"))
    (found,) = findings.diagnose(REPLACE(result, advice=Absent("nothing came through")))
    assert found.commands == ("export NCCL_P2P_DISABLE=1",)


@pytest.mark.parametrize(("wrong", "rest"), [(3, []), (4, ["and 1 more of the kind, all of them in the JSON"])])
def test_three_wrong_checks_are_listed_and_the_others_counted(wrong, rest):
    facts = {"both_ways": False, "checked": 5, "wrong": 5, "wrong_values": 9, "unchanged_values": 9}
    facts |= {"way": "copy engine", "sources": ("GPU0",), "destination": "GPU1", "first_wrong_byte": 0}
    made = tuple(ValueCheck(size_bytes=MIB16 << step, **facts) for step in range(wrong))
    lines = list(findings._troubles(REPLACE(arm(AS_IT_IS), checks=made), ("GPU0", "GPU1")))
    assert len(lines) == 3 + len(rest)
    assert lines[3:] == rest


def test_a_finding_of_lost_speed_holds_both_measured_rates():
    (found,) = findings.diagnose(answer(*turns(off=FAST, default=SLOW)))
    assert found.cost.sentence == "all_reduce at 8.35 GB/s instead of 16.8 GB/s"  # 16 MiB in 2.01 and in 1 ms
    assert (found.cost.now.source, found.cost.unit) == ("measured", "bytes/s")
    assert found.where == ("GPU0-GPU1",)
    assert found.commands == ("export NCCL_P2P_DISABLE=1",)


FASTER = """\
P2P between GPU0 and GPU1: works
  every value arrived, in both directions, with P2P on and with P2P off
  2 × NVIDIA GeForce RTX 4090; NCCL 2.29.7

  to set   export NCCL_P2P_LEVEL=PHB
  because  P2P at any distance is 2.00 times as fast as P2P as it is in all_reduce (1.99 to 2.01)
  note     this shell sets NCCL_P2P_LEVEL=SYS, which is not advised

GPU0 and GPU1: works
  evidence  P2P off, tried 3 times: 60 of 60 checks right; NCCL went over SHM/direct
            P2P as it is, tried 3 times: 60 of 60 checks right; NCCL went over SHM/direct
            P2P at any distance, tried 3 times: 60 of 60 checks right; NCCL went over P2P/CUMEM
            PHB between them; the driver says: reads OK, writes OK
            NCCL should take shared memory (SHM) by default: PHB is farther than PXB, the default
            limit for P2P

speed against P2P off, settings in turns
                                                      times
                                                 P2P     as          90 %
 what        each    setting              GB/s   off   fast      interval  faster
 all_reduce  16 MiB  P2P as it is         8.35  8.35   1.00  1.00 to 1.00  ambiguous
 all_reduce  16 MiB  P2P at any distance  16.8  8.35   2.00  1.99 to 2.01  P2P at any distance

every try, in order
 try  setting              ended     checks  wrong  all_reduce 16 MiB  NCCL went over
   1  P2P off              finished      20      0            2.00 ms  4 × SHM/direct
   2  P2P off              finished      20      0            2.02 ms  4 × SHM/direct
   3  P2P off              finished      20      0            2.01 ms  4 × SHM/direct
   4  P2P as it is         finished      20      0            2.00 ms  4 × SHM/direct
   5  P2P as it is         finished      20      0            2.02 ms  4 × SHM/direct
   6  P2P as it is         finished      20      0            2.01 ms  4 × SHM/direct
   7  P2P at any distance  finished      20      0            1.00 ms  4 × P2P/CUMEM
   8  P2P at any distance  finished      20      0            1.01 ms  4 × P2P/CUMEM
   9  P2P at any distance  finished      20      0            1.00 ms  4 × P2P/CUMEM
  GB/s is 1e9 bytes/s; all_reduce counts its own bytes once (algbw), by the slowest rank"""


def test_a_desktop_whose_nccl_needs_a_word_to_use_p2p():
    staged = Tally({"SHM/direct": 4})
    arms = [
        REPLACE(it, transports=staged) if not it.environment else it for it in turns(off=SLOW, default=SLOW, far=FAST)
    ]
    assert screen(answer(*arms, inherited={"NCCL_P2P_LEVEL": "SYS"})) == FASTER


LOST = """\
P2P between GPU0 and GPU1: broken
  wrong data with P2P as it is, and not with P2P off
  2 × NVIDIA GeForce RTX 4090; NCCL 2.29.7

  to set   export NCCL_P2P_DISABLE=1
  because  P2P off came through right
  note     torch's own copies between GPUs inside one process (.to, DataParallel) use peer access
           whatever is exported; go through the host there
  note     a known cause is present here: `rigbench explain acs-redirect`
  note     a known cause is present here: `rigbench explain iommu-translating`

GPU0 and GPU1: broken
  evidence  P2P off: 20 of 20 checks right; NCCL went over SHM/direct
            P2P as it is: 5 of 20 checks WRONG; NCCL went over P2P/CUMEM
            P2P as it is: GPU0 → GPU1, 16 MiB by copy engine: 5 of 5 rounds wrong, 10,485,760
            values, the first at byte 0; 10,485,760 still what was there before, so nothing arrived
            PHB between them; the driver says: reads OK, writes OK
            NCCL should take shared memory (SHM) by default: PHB is farther than PXB, the default
            limit for P2P
            cards of one kind: NVIDIA GeForce RTX 4090
            IOMMU: translating (DMA-FQ)
            ACS redirects peer traffic at 0000:00:01.0

every try, in order
 try  setting       ended     checks  wrong  all_reduce 16 MiB  NCCL went over
   1  P2P off       finished      20      0            2.00 ms  4 × SHM/direct
   2  P2P as it is  finished      20      5            1.00 ms  4 × P2P/CUMEM
  GB/s is 1e9 bytes/s; all_reduce counts its own bytes once (algbw), by the slowest rank"""


def test_writes_that_are_dropped_at_an_excellent_rate():
    known = pair(
        facts=(
            "cards of one kind: NVIDIA GeForce RTX 4090",
            "IOMMU: translating (DMA-FQ)",
            "ACS redirects peer traffic at 0000:00:01.0",
        )
    )
    lost = answer(arm(OFF, seconds=2e-3), arm(AS_IT_IS, "wrong", seconds=1e-3), known=(known,))
    assert screen(lost) == LOST


HUNG = """\
P2P between 3 GPUs: broken
  1 of 3 pairs: it hung with P2P as it is, and not with P2P off
  3 × NVIDIA GeForce RTX 4090; NCCL 2.29.7

  to set   export NCCL_P2P_DISABLE=1
  because  P2P off came through right

GPU0 and GPU1, GPU0 and GPU2: inconclusive, it ended before everything was checked with P2P on
  evidence  P2P off: 25 of 25 checks right; NCCL went over SHM/direct
            P2P as it is: 10 of 10 checks right; NCCL went over P2P/CUMEM
            P2P as it is: not checked to the end: it hung at send/recv GPU1 ↔ GPU2, 4 B
            the rig's own facts of this pair: n/a (the driver does not list this pair)

GPU1 and GPU2: broken, it hung with P2P as it is, and not with P2P off
  evidence  P2P off: 25 of 25 checks right; NCCL went over SHM/direct
            P2P as it is: 10 of 10 checks right; NCCL went over P2P/CUMEM
            P2P as it is: hung at send/recv GPU1 ↔ GPU2, 4 B: no answer within 120 s; its processes
            were ended
            the rig's own facts of this pair: n/a (the driver does not list this pair)

every try, in order
 try  setting       ended     checks  wrong  NCCL went over
   1  P2P off       finished      45      0  4 × SHM/direct
   2  P2P as it is  hung          30      0  4 × P2P/CUMEM"""


def test_a_hang_between_two_of_three_gpus():
    hung = arm(AS_IT_IS, "hung", names=THREE, at="send/recv GPU1 ↔ GPU2, 4 B", at_devices=("GPU1", "GPU2"))
    assert screen(answer(arm(OFF, names=THREE), hung, known=())) == HUNG


def copy(way: str, seconds: float):
    """ "GPU0>GPU1" or, both ways, "GPU0=>GPU1", of 64 MiB."""
    size = 64 << 20
    return transfer(f"{way}+@{size}", size * (2 if "=" in way else 1) / seconds / 1e9)


def test_copies_are_weighed_after_all_reduces_and_each_by_what_it_moves():
    def tries(setting: Setting, seconds: tuple[float, ...]) -> list[P2pArm]:
        return [
            arm(setting, number=n, seconds=it, copies=(copy("GPU0>GPU1", 2 * it), copy("GPU0=>GPU1", 4 * it)))
            for n, it in enumerate(seconds)
        ]

    speeds = answer(*tries(OFF, SLOW), *tries(AS_IT_IS, FAST)).speeds
    assert [it.what for it in speeds] == ["all_reduce", "copy GPU0 → GPU1", "copy GPU0 ↔ GPU1"]
    assert [it.size_bytes for it in speeds] == [MIB16, 64 << 20, 64 << 20]
    assert [it.faster for it in speeds] == ["P2P as it is"] * 3
    moved = [MIB16 / 1e-3, (64 << 20) / 2e-3, 2 * (64 << 20) / 4e-3]  # in the fast setting's median round
    assert [it.bytes_per_s for it in speeds] == pytest.approx(moved)


def test_speeds_are_those_of_the_largest_all_reduce():
    def small(found: P2pArm) -> P2pArm:
        return REPLACE(found, reduces=(*(REPLACE(it, size_bytes=4) for it in found.reduces), *found.reduces))

    assert [it.size_bytes for it in answer(*map(small, turns(off=SLOW, default=FAST))).speeds] == [MIB16]


def test_nothing_is_weighed_against_a_control_that_failed_or_where_the_driver_refuses():
    failed = [*turns(off=SLOW[:2], default=FAST), arm(OFF, "died", number=2)]
    assert answer(*failed).speeds == ()
    assert answer(arm(OFF, seconds=2e-3), arm(AS_IT_IS, number=1, seconds=1e-3)).speeds == ()  # they took no turns
    refused = [REPLACE(it, access=dict.fromkeys(it.access, False)) for it in turns(off=SLOW, default=SLOW, engine=FAST)]
    assert {it.setting for it in answer(*refused).speeds} == {ENGINE.name}
    stopped = [*turns(off=SLOW, default=FAST), arm(AS_IT_IS, "stopped", number=3)]
    assert {it.setting for it in answer(*stopped).speeds} == {AS_IT_IS.name}
    without = answer(*turns(off=SLOW, far=FAST), arm(AS_IT_IS, "stopped"))  # what NCCL does by default is not known
    assert (without.advice.environment, told(without)) == ({"NCCL_P2P_LEVEL": "PHB"}, {})
    assert advised(arm(OFF), arm(AS_IT_IS, "stopped"))[0] == {"NCCL_P2P_DISABLE": "1"}  # it has not come through once


WRONG = {"size_bytes": MIB16, "checked": 5, "wrong": 3, "wrong_values": 4_000}
ONE_WAY = {"way": "copy engine", "sources": ("GPU0",), "destination": "GPU1", "both_ways": False}


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        ({}, "GPU0 → GPU1, 16 MiB by copy engine: 3 of 5 rounds wrong, 4,000 values"),
        (
            {"first_wrong_byte": 4096, "unchanged_values": 1_500, "earlier_values": 2_500},
            "GPU0 → GPU1, 16 MiB by copy engine: 3 of 5 rounds wrong, 4,000 values, the first at byte 4,096; "
            "1,500 still what was there before, so nothing arrived; 2,500 what an earlier round had sent",
        ),
        (
            {"way": "kernel", "both_ways": True, "returned_values": 7, "strayed_values": 9},
            "GPU0 → GPU1 while GPU1 → GPU0, 16 MiB by kernel: 3 of 5 rounds wrong, 4,000 values; "
            "7 found at GPU0, which sent them: mirrored; 9 changed where nothing was to be written",
        ),
        (
            {"way": "all_reduce", "sources": ("GPU0", "GPU1")},
            "all_reduce over GPU0, GPU1, 16 MiB, at GPU1: 3 of 5 rounds wrong, 4,000 values",
        ),
        ({"checked": 0, "wrong": 0}, "GPU0 → GPU1, 16 MiB by copy engine: not checked"),
    ],
)
def test_a_check_that_failed_says_what_was_found_where(facts, line):
    assert findings._wrong(ValueCheck(**WRONG | ONE_WAY | facts)) == line


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ((0, 3), "reads OK, writes refused, code 3"),
        ((1, 0), "reads refused, code 1, writes OK"),
        ((Absent("old driver"), 0), "writes OK"),
        ((Absent("old driver"),) * 2, "nothing"),
    ],
)
def test_the_drivers_codes_are_said_and_prove_nothing(codes, said):
    known = REPLACE(pair(), read_code=codes[0], write_code=codes[1], nccl=Absent("no NCCL"), facts=("a fact",))
    (found,) = answer(arm(OFF), arm(AS_IT_IS), known=(known,)).pairs
    assert found.evidence[-2:] == (f"PHB between them; the driver says: {said}", "a fact")


def test_evidence_says_how_an_arm_ended_and_that_nothing_was_checked():
    ends = [arm(AS_IT_IS, "died", at="", checks=()), arm(FAR, "stopped"), arm(ENGINE, transports=Absent("no log"))]
    (found,) = answer(arm(OFF), *ends).pairs
    assert found.evidence[1:6] == (
        "P2P as it is: nothing was checked; NCCL went over P2P/CUMEM",
        f"P2P as it is: died: {OUTCOMES['died'][1]}",
        "P2P at any distance: 10 of 10 checks right; NCCL went over P2P/CUMEM",
        "P2P at any distance: interrupted",
        "host memory by copy engine: 20 of 20 checks right",
    )


def test_a_write_that_failed_is_known_to_fail_in_torchs_own_copies_and_an_all_reduce_is_not():
    def notes(way: str) -> tuple[str, ...]:
        check = ValueCheck(
            **WRONG | ONE_WAY | {"way": way, "sources": ("GPU0", "GPU1") if way == "all_reduce" else ("GPU0",)}
        )
        return answer(arm(OFF), arm(AS_IT_IS, checks=(check, *checks(("GPU0", "GPU1"), False)[1:]))).advice.notes

    assert notes("copy engine") == notes("kernel") == (findings.IN_PROCESS,)
    assert notes("send/recv") == notes("all_reduce") == ()


def test_a_cause_is_named_only_where_a_pair_is_broken():
    known = pair(facts=("ACS isolates 0000:00:01.0",))
    broken = answer(arm(OFF), arm(AS_IT_IS, "hung"), known=(known,)).advice.notes
    assert broken == ("a known cause is present here: `rigbench explain acs-redirect`",)
    assert answer(arm(OFF), arm(AS_IT_IS), known=(known,)).advice.notes == ()
