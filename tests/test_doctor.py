"""Does doctor's first screen say what is wrong with a rig, what it costs, and what was not looked at?"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from rigbench import __main__, store
from rigbench.core import profiles
from rigbench.core.estimate import Estimate
from rigbench.core.finding import Finding, Lost, Unit, cost, finding
from rigbench.core.record import Absent
from rigbench.doctor import costs, screen
from rigbench.document import Run
from rigbench.model.recipe import Recipe
from rigbench.model.shape import model_named
from rigbench.predict import ceilings
from rigbench.predict.record import Ceilings

TESTS = Path(__file__).parent
HELD_BACK = {path.name: path for path in (TESTS / "held_back").iterdir()}
THROTTLING = TESTS / "rigs" / "dual-rtx4080s-throttling"
Rigbench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rigbench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Rigbench:
    """Run a command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        out, err = capsys.readouterr()
        return code, "\n".join(line.rstrip() for line in out.splitlines()) + "\n", err

    return call


def only_run(tmp_path: Path) -> Run:
    [path] = (tmp_path / "home" / "runs").glob("*.json")
    return store.read(path)


def drawn(run: Run, width: int) -> str:
    with open("/dev/null", "w") as nowhere:
        console = Console(file=nowhere, width=width, record=True, highlight=False)
        screen.brief(run, console)
        return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


FIRST_SCREEN = """\
1 warning: GPU1 slows itself down at 84 °C, which costs 21 min (14 to 30) of 4.0 h (2.8 to 5.8)
2 × NVIDIA GeForce RTX 4080 SUPER, Intel(R) Core(TM) i7-14700K, driver 595.71.05
composed recording: one real RTX 4080 SUPER recording placed twice, x8/x8; the upper card runs hot
(exponential, tau 95 s, settling at its 84 C target)

      what holds it back                   costs               do
warn  GPU1 slows itself down at 84 °C: 58  21 min (14 to 30)   more air, or a lower power limit
      % of the time, clock −14 % at the    0.032 to 0.089 EUR
      end  throttled
note  GPU0-GPU1 without P2P: gradients go  0 to 35 min         nothing for GeForce cards
      through host memory: the driver's    0 to 0.11 EUR
      code 1  p2p-refused
note  GPU0, GPU1 in a slot with a slower   0 to 31 min         nothing, unless a faster slot is
      link than the card's: 15.8 GB/s of   0 to 0.092 EUR      free
      31.5 GB/s  pcie-slot

note  GPU0, GPU1 with persistence mode off  persistence-off
costs: of 1.2 EFLOP on diy, predicted from the datasheet: no budget is stored
looked at: links and settings, heat (sensors under load)
not looked at: matrix products, bandwidth, P2P data, collectives, the data loader, training: not
  measured; `rigbench run --quick` does it; ECC errors, remapped rows of GPU0, GPU1: not supported;
  ACS: not reported
more: rigbench doctor --verbose; rigbench explain throttled
"""


def test_the_owner_of_a_throttling_rig_reads_what_it_costs_him(rigbench: Rigbench, tmp_path: Path) -> None:
    code, out, _ = rigbench("--replay", str(THROTTLING), "doctor", "-q")
    assert code == 0
    assert drawn(only_run(tmp_path), 100) == FIRST_SCREEN
    assert out.startswith(FIRST_SCREEN[: FIRST_SCREEN.index("\nnote  GPU0, GPU1 with persistence")])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_lost_on_a_narrow_screen(rigbench: Rigbench, tmp_path: Path, width: int) -> None:
    rigbench("--replay", str(THROTTLING), "doctor", "-q")
    run = only_run(tmp_path)
    assert drawn(run, 100).count("\n") <= 40
    text = drawn(run, width)
    assert max(map(len, text.splitlines())) <= width
    numbers = re.findall(r"\d[\d.,]*", drawn(run, 100))
    assert sorted(re.findall(r"\d[\d.,]*", text)) == sorted(numbers)


def test_a_finding_that_is_accepted_does_not_count(rigbench: Rigbench) -> None:
    rig = ("--replay", str(HELD_BACK["hw-slowdown"]), "doctor")
    assert rigbench(*rig, "-q")[0] == 1
    code, out, _ = rigbench(*rig, "--accept", "throttled", "--because", "the fan comes on Monday")
    assert code == 0
    assert "accepted: GPU1 slowed down by hardware slowdown" in out
    assert "because the fan comes on Monday" in out.replace("\n", " ")
    assert out.startswith("no problem in what was looked at")
    assert rigbench(*rig, "-q")[0] == 0
    assert rigbench("--replay", str(THROTTLING), "doctor", "-q")[1].startswith("1 warning")  # another rig
    assert rigbench(*rig, "-q", "--forget", "throttled")[0] == 1
    code, _, err = rigbench(*rig, "--forget", "throttled")
    assert (code, "is not accepted on this rig" in err) == (2, True)


def test_what_cannot_be_accepted_is_bad_usage(rigbench: Rigbench, tmp_path: Path) -> None:
    rig = ("--replay", str(THROTTLING), "doctor")
    code, _, err = rigbench(*rig, "--accept", "throtled", "--because", "x")
    assert (code, "did you mean throttled" in err) == (2, True)
    assert rigbench(*rig, "--accept", "throttled")[0] == 2
    assert rigbench(*rig, "--because", "x")[0] == 2
    (tmp_path / "home" / "accepted.json").write_text("[]")
    code, _, err = rigbench(*rig)
    assert (code, "is not what rigbench wrote" in err) == (2, True)


def test_json_has_every_finding_with_its_hours_and_money(rigbench: Rigbench) -> None:
    document = json.loads(rigbench("--replay", str(THROTTLING), "doctor", "--json")[1])
    assert document["examined"]["training"].startswith("1.2 EFLOP on diy")
    heat = next(item for item in document["findings"] if item["code"] == "throttled")
    hours = heat["lost"]["hours"]
    assert 0 < hours["low"] < hours["value"] < hours["high"] < document["examined"]["hours"]["value"]
    # GPU1's clock ends 14 % below GPU0's and its own at first; a step that were products alone would lose as much.
    assert hours["value"] < 0.15 * document["examined"]["hours"]["value"]
    assert heat["lost"]["money"]["value"] > 0


def case(cards: int, **its: object) -> costs.Case:
    """1e9 tokens of a 120M model on RTX 4080 SUPER, both ways 15.8 GB/s."""
    model = model_named("120M")
    recipe = Recipe(
        precision="bf16", compiled=True, micro_batch=8, ranks=cards, strategy="ddp" if cards > 1 else "single"
    )
    limits = ceilings.of_gpu(profiles.gpu("rtx-4080-super"), "cards", cards)
    assert isinstance(limits, Ceilings)
    ways = {f"GPU{index}": 15.8e9 for index in range(cards)}
    rows = (costs.Row(model, recipe, 1e9),)
    nothing = Absent("not known")
    return costs.Case("a test", rows, limits, None, nothing, nothing, ways)._replace(**its)  # type: ignore[arg-type]


def of(code: str, unit: Unit, now: float, possible: float, *where: str) -> Finding:
    return finding(code, "warning", ["e"], where, cost("s", unit, now, possible, "b"))


def hours_of(found: list[Finding], its: costs.Case) -> dict[str, float]:
    priced, _ = costs.priced(found, its)
    return {item.code: item.lost.hours.value for item in priced if isinstance(item.lost, Lost)}


def test_half_the_clock_costs_what_the_step_model_says_of_half_the_peak() -> None:
    its = case(1)
    whole = costs.priced([], its)[1].hours
    held = [of("throttled", "hertz", 1e9, 2e9, "GPU0")]
    lost, slower = hours_of(held, its)["throttled"], costs.priced(held, its)[1].hours
    assert isinstance(whole, Estimate)
    assert isinstance(slower, Estimate)
    assert lost == pytest.approx(slower.value - whole.value)
    assert 0.2 * whole.value < lost < whole.value  # products double, memory and launches do not
    assert hours_of(held, its._replace(hours=whole * 2))["throttled"] == pytest.approx(
        lost * 2 * whole.value / slower.value
    )


def test_all_wait_for_the_slowest_way_so_that_curing_one_of_two_saves_nothing() -> None:
    both = [of("pcie-slot", "bytes/s", 15.8e9, 31.5e9, "GPU0", "GPU1")]
    one = [of("pcie-slot", "bytes/s", 15.8e9, 31.5e9, "GPU0"), of("pcie-width", "bytes/s", 15.8e9, 31.5e9, "GPU1")]
    assert hours_of(both, case(2))["pcie-slot"] > 0.1
    assert hours_of(one, case(2)) == {"pcie-slot": 0.0, "pcie-width": 0.0}
    assert hours_of(both, case(1)) == {"pcie-slot": 0.0}  # one card exchanges no gradients
    assert hours_of(both, case(2, over_nvlink=True)) == {"pcie-slot": 0.0}


def test_without_p2p_costs_time_between_two_cards_and_none_on_one() -> None:
    refused = [finding("p2p-refused", "information", ["e"], ["GPU0-GPU1"], "not measured")]
    assert hours_of(refused, case(2, direct=True))["p2p-refused"] > 0.1
    assert hours_of(refused, case(1))["p2p-refused"] == 0


def test_what_cannot_be_priced_says_why_and_stays_in_the_list() -> None:
    lost = finding("gpu-lost", "fault", ["e"], ["GPU0"], "all of it")
    slot = finding("rebar-off", "warning", ["e"], (), "only a measurement tells")
    for its, reason in ((case(1), "only a measurement tells"), (Absent("nothing is known"), "nothing is known")):
        priced, examined = costs.priced([slot, lost], its)
        assert [item.code for item in priced] == ["gpu-lost", "rebar-off"]
        assert priced[1].lost == Absent(reason)
        assert isinstance(examined.hours, Absent) == isinstance(its, Absent)


def test_faults_come_first_then_what_costs_most() -> None:
    def lost(code: str, severity: str, hours: float, low: float | None = None) -> object:
        made = finding(code, severity, ["e"], ["GPU0"], "x")  # type: ignore[arg-type]
        its = Lost(Estimate(hours, hours if low is None else low, hours, 0.9, "", 0), Absent("no price"), "")
        return costs.msgspec.structs.replace(made, lost=its)

    listed = [
        lost("p2p-refused", "information", 4.0, low=0.0),
        lost("pcie-slot", "information", 3.0),
        lost("gpu-lost", "fault", 0.0),
        lost("throttled", "warning", 1.0),
        finding("rebar-off", "warning", ["e"], ["GPU0"], "x"),
        finding("numa-split", "information", ["e"], ["GPU0"], "x"),
    ]
    order = [item.code for item in costs.ranked(listed)]  # type: ignore[arg-type]
    assert order == ["gpu-lost", "pcie-slot", "throttled", "p2p-refused", "rebar-off", "numa-split"]


def test_doctor_takes_the_newest_measurements_of_the_rig_and_says_of_when(rigbench: Rigbench, tmp_path: Path) -> None:
    """Rooms of other runs are judged and named with their run and age, and stay out of this run's document."""
    rig = ("--replay", str(THROTTLING), "doctor")
    rigbench(*rig, "-q")
    mine = only_run(tmp_path)
    measured = store.read(TESTS / "runs/xeon-2.5ghz-2-cores/run-quick-every-probe.json")
    measured = msgspec.structs.replace(measured, rig=mine.rig)
    died = msgspec.structs.replace(measured.collectives, verdict="died", reason="rank 1 ended")
    store.Store(tmp_path / "home").save(msgspec.structs.replace(measured, collectives=died))
    code, out, _ = rigbench(*rig, "--json")
    document = json.loads(out)
    assert code == 1
    assert document["findings"][0]["code"] == "collectives-wrong"
    assert document["collectives"]["reason"] == "not asked for"
    [of_others] = [text for text in document["examined"]["looked_at"] if measured.id in text]
    assert of_others.startswith("matrix products, bandwidth, P2P data, collectives, the data loader, training (run ")
    assert re.search(r"\d+ days? ago\)$", of_others)
    assert document["unchecked"][0]["what"] == "ECC errors"


# ---- Rigs whose owners were told too little.


def found(rigbench: Rigbench, name: str) -> tuple[int, dict[str, dict[str, object]], str]:
    code, out, _ = rigbench("--replay", str(HELD_BACK[name]), "doctor", "--json")
    return code, {item["code"]: item for item in json.loads(out)["findings"]}, rigbench("report")[1]


def test_a_card_that_its_hardware_holds_down_under_load_is_a_fault(rigbench: Rigbench) -> None:
    code, findings, _ = found(rigbench, "hw-slowdown")
    its = findings["throttled"]
    assert (code, its["severity"], its["where"]) == (1, "fault", ["GPU1"])
    evidence = " ".join(its["evidence"])  # type: ignore[arg-type]
    for words in ("hardware slowdown (0x8)", "hardware thermal slowdown (0x40)", "91 °C", "26 °C hotter than GPU0"):
        assert words in evidence


def test_a_card_that_is_lost_under_load_and_a_power_brake_are_faults(rigbench: Rigbench) -> None:
    code, out, _ = rigbench("--replay", str(TESTS / "heat" / "lost-midway"), "doctor", "-q")
    assert code == 1
    assert out.startswith("1 fault: GPU1 lost: no longer answering on the bus\n")
    code, out, _ = rigbench("--replay", str(TESTS / "heat" / "power-brake"), "doctor", "-q")
    assert code == 1
    assert out.startswith("1 fault: GPU1 slowed down by hardware power brake at 66 °C")


def test_a_cap_far_below_the_limit_is_told_with_both_numbers(rigbench: Rigbench) -> None:
    code, findings, _ = found(rigbench, "a100-240-of-400")
    its = findings["power-cap-low"]
    assert (code, its["severity"], its["where"]) == (0, "warning", ["GPU0"])
    assert its["detail"] == "240 W of 400 W, 900 MHz"
    assert "power" in str(its["cure"])
    out = rigbench("--replay", str(HELD_BACK["a100-240-of-400"]), "thermals", "-q")[1]
    assert "power limit at 240 W of 400 W" in out
    assert "normal under load" not in out


def test_the_card_on_the_slow_slot_is_named_with_what_it_costs_all(rigbench: Rigbench) -> None:
    code, findings, _ = found(rigbench, "x4-among-x16")
    its = findings["odd-link"]
    assert (code, its["severity"], its["where"]) == (0, "warning", ["GPU0"])
    sentence = its["cost"]["sentence"]  # type: ignore[index]
    assert sentence == "every gradient sync of all cards runs at 3.94 GB/s, where 7.88 GB/s would be the next slowest's"
    ways, without = its["evidence"]  # type: ignore[misc]
    assert ways == "GPU0 has 3.94 GB/s, GPU2 has 7.88 GB/s, GPU1 has 15.8 GB/s, GPU3 has 15.8 GB/s"
    assert re.fullmatch(r"predicted: \S+ h \(.*\) on all 4 cards, \S+ h \(.*\) on the other 3", without)
    assert "GPU0" not in findings["pcie-slot"]["where"]  # type: ignore[operator]


def test_a_switch_without_p2p_is_slower_than_two_sockets_and_doctor_says_why(rigbench: Rigbench) -> None:
    code, findings, _ = found(rigbench, "two-behind-a-switch")
    its = findings["switch-without-p2p"]
    assert (code, its["where"]) == (0, ["GPU0", "GPU1"])
    up, apart, order = its["evidence"]  # type: ignore[misc]
    assert up.startswith("GPU0-GPU1 (PIX)")
    assert "at most 15.8 GB/s each way" in up
    assert apart == "GPU0-GPU2 (SYS), GPU1-GPU2 (SYS): over two uplinks, at most 31.5 GB/s each way"
    assert "not the order of speed" in order
    assert "shared-uplink" not in findings


def test_a_tunnel_is_not_taken_for_a_slow_slot(rigbench: Rigbench) -> None:
    code, findings, _ = found(rigbench, "thunderbolt-egpu")
    assert (code, list(findings)) == (0, ["tunnelled-link"])
    assert findings["tunnelled-link"]["lost"]["hours"]["value"] == 0  # type: ignore[index]
    assert "the loader's copies" in " ".join(findings["tunnelled-link"]["evidence"])  # type: ignore[arg-type]
    out = rigbench("--replay", str(HELD_BACK["thunderbolt-egpu"]), "topology", "-v")[1]
    assert "expect 2.00 to 4.00" in out
    assert "a tunnel's ports report gen 1, whatever it carries" in out


def test_a_chip_with_the_hosts_memory_gets_no_advice_about_a_slot(rigbench: Rigbench) -> None:
    code, findings, _ = found(rigbench, "gb10")
    assert (code, list(findings)) == (0, ["unified-memory"])
    out = rigbench("--replay", str(HELD_BACK["gb10"]), "topology", "-v")[1]
    assert "unified memory, shared with the CPU: see the host's memory" in out
    assert "seat the card" not in out
    out = rigbench("--replay", str(HELD_BACK["gb10"]), "topology")[1]
    assert "unified memory, shared with the CPU" in out
    assert "lanes are connected" not in out


def test_a_composed_recording_says_so_wherever_it_is_shown(rigbench: Rigbench) -> None:
    for words in (("doctor", "-q"), ("thermals",), ("monitor",), ("topology", "-v")):
        out = rigbench("--replay", str(THROTTLING), *words)[1]
        assert "composed recording: one real RTX 4080 SUPER recording placed twice" in out, words
