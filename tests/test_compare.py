"""Does a comparison say what changed, no more often than it promises, and refuse what cannot be compared?"""

from __future__ import annotations

import json
import math
import random
import shutil
from itertools import combinations
from pathlib import Path

import msgspec
import numpy as np
import pytest
from privileges import ordinary
from test_first_screens import holds

from rigbench import store, tables
from rigbench.compare import screen, sides, verdict
from rigbench.compare.record import LEVEL, Comparison
from rigbench.core.estimate import Estimate
from rigbench.core.record import Skipped
from rigbench.core.stats import rate_estimate
from rigbench.document import Run
from rigbench.tables import Row
from rigbench.train.record import Slice
from rigbench.work.record import Disturbance

RUN = Path(__file__).parent / "runs" / "schema-1.json"
WHOLE = Path(__file__).parent / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
RUN_ID = store.read(RUN).id
NOISE = (0.4, -0.9, 0.2, 0.7, -0.5, 0.1, -0.3, 0.8)  # per cent, of runs one after the other


@pytest.fixture
def home(tmp_path) -> store.Store:
    """Where the fixture `rigbench` keeps its runs."""
    return store.Store(tmp_path / "home")


def run_of(number: int, speed: float = 1.0, **changes: object) -> Run:
    """The stored run again, each of its slices so many times as fast, give or take NOISE."""
    run = store.read(RUN)
    slices = tuple(
        msgspec.structs.replace(it, items_per_s=it.items_per_s * (speed * (1 + NOISE[(number + place) % 8] / 100)))
        for place, it in enumerate(run.slices)
        if isinstance(it, Slice)
    )
    when = f"2026-01-{number:02}T00:00:00Z"
    return msgspec.structs.replace(run, id=f"202601{number:02}-000000-aaaa", started_at=when, slices=slices, **changes)


def three_and_three(home: store.Store, speed: float = 0.87, **changes: object) -> None:
    for number in range(1, 7):
        its = {"label": "before"} if number < 4 else {"label": "after", **changes}
        home.save(run_of(number, 1.0 if number < 4 else speed, **its))


def test_three_runs_a_side_tell_a_change(rigbench, home):
    software = msgspec.structs.replace(store.read(RUN).software, torch="2.14.0")
    three_and_three(home, software=software)
    code, out, err = rigbench("compare", "before", "after")
    assert (code, err) == (0, "")
    whole = "\n".join(line.rstrip() for line in out.splitlines()) + "\n"
    assert whole == SCREEN
    assert rigbench("compare", "after", "before", "-q")[1].startswith("ok    compare: better in 3 of 6, worse in none")


CHANGED = "  changed  torch 2.13.0+cpu → 2.14.0\n"
SCREEN = """\
warn  compare: worse in 3 of 6: training 5M adamw −13 % (−24 to −1)
  changed  torch 2.13.0+cpu → 2.14.0
 what                         before           after                    change  verdict
 training 5M adamw    2,452 tokens/s  2,129 tokens/s         −13 % (−24 to −1)  slower
 training 30M adamw     583 tokens/s    508 tokens/s  −12.9 % (−14.7 to −11.1)  slower
 training 120M adamw    142 tokens/s    124 tokens/s         −13 % (−21 to −4)  slower
  before   before, 3 runs: Intel(R) Xeon(R) Processor @ 2.50GHz
  after    after, 3 runs: Intel(R) Xeon(R) Processor @ 2.50GHz
  besides  3 the same
  how sure  of rigs that did not change at most 10 % get any verdict but same or ambiguous (20 ways
            to share the runs out, all numbers together); 90 % intervals between runs; same: surely
            within 3.0 %
  more      --verbose: every number; --json: every unit's
"""


def test_no_width_cuts_a_number_and_quiet_is_the_verdict_and_the_table(rigbench, home):
    three_and_three(home)
    made = msgspec.json.decode(rigbench("compare", "before", "after", "--json")[1], type=Comparison)
    holds(lambda its, console, quiet: screen.show(its, console, False, quiet), made, SCREEN.replace(CHANGED, ""))
    assert rigbench("compare", "before", "after", "-q")[1] in rigbench("compare", "before", "after")[1]


def test_one_run_a_side_is_ambiguous_however_large_the_difference(rigbench, home):
    home.save(run_of(1))
    home.save(run_of(2, 0.5))
    code, out, _ = rigbench("compare")
    assert code == 0
    assert "ambiguous: one run a side says nothing of how the next one would differ; run it 3 times" in " ".join(
        out.split()
    )
    document = json.loads(rigbench("compare", "--json")[1])
    assert {row["verdict"] for row in document["pairs"][0]["rows"]} == {"ambiguous"}
    assert rigbench("compare", "--fail-over", "5%")[0] == 3


def test_stored_repeats_of_both_runs_count_and_are_said(rigbench, home):
    for number in range(1, 7):
        home.save(run_of(number, 1.0 if number < 4 else 0.87))
    code, out, _ = rigbench("compare", "20260103", "20260104")
    assert code == 0
    assert "3 runs, 2 of them stored repeats" in " ".join(out.split())
    assert out.startswith("warn  compare: worse in 3 of 6")
    home.save(run_of(7, 0.2, look=True))  # nothing measured
    home.save(run_of(8, 0.2, command="train-probe"))  # another way to measure
    document = json.loads(rigbench("compare", "20260103", "20260104", "--json")[1])["pairs"][0]
    assert [len(document[side]["runs"]) for side in ("before", "after")] == [3, 3]


def test_a_run_against_itself_is_the_same(rigbench, home):
    code, out, _ = rigbench("compare", str(RUN), str(RUN))
    assert (code, out.splitlines()[0]) == (0, "ok    compare: the same in all 6 numbers")


def test_the_sides_may_change_places(home):
    olds, news = ([run_of(number, speed) for number in numbers] for speed, numbers in ((1, (1, 2, 3)), (0.95, (4, 5))))
    forth, back = judged(olds, news), judged(news, olds)
    opposite = {"faster": "slower", "slower": "faster", "better": "worse", "worse": "better"}
    assert {row.name: opposite.get(row.verdict, row.verdict) for row in forth} == {
        row.name: row.verdict for row in back
    }
    other = {(row.name, row.metric): row for row in back}
    for row in forth:
        again = other[row.name, row.metric]
        assert opposite.get(row.verdict, row.verdict) == again.verdict
        assert (row.p, row.ratio.low) == (pytest.approx(again.p), pytest.approx(1 / again.ratio.high))


def judged(olds, news, level=LEVEL):
    units = [[tables.measured(run) for run in side] for side in (olds, news)]
    rows = {verdict.key(row): row for side in units for its in side for row in its.rows}
    return verdict.compared(*([verdict.unit([its]) for its in side] for side in units), rows, 0.03, level)[0]


def test_what_was_measured_otherwise_is_refused_alone(rigbench, home):
    bf16 = []
    for place, its in enumerate(store.read(RUN).slices):
        recipe = msgspec.structs.replace(its.recipe, precision="bf16") if place == 0 else its.recipe
        bf16.append(msgspec.structs.replace(its, recipe=recipe))
    home.save(run_of(1))
    home.save(msgspec.structs.replace(run_of(2), slices=tuple(bf16)))
    pair = json.loads(rigbench("compare", "--json")[1])["pairs"][0]
    assert {it["reason"] for it in pair["refused"]} == {"dtype fp32 against bf16"}
    assert len(pair["rows"]) == 4
    out = rigbench("compare")[1]
    assert "slices 5M adamw items_per_s: dtype fp32 against bf16" in " ".join(out.split())


def test_nothing_in_common_is_no_answer(rigbench, home):
    other = run_of(2)
    device = msgspec.structs.replace(other.slices[0].device, name="another processor")
    slices = tuple(msgspec.structs.replace(it, device=device) for it in other.slices)
    home.save(run_of(1))
    home.save(msgspec.structs.replace(other, slices=slices))
    code, out, err = rigbench("compare")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "nothing compares (slices 5M adamw items_per_s: device cpu Intel(R) Xeon(R) Processor @ 2.50GHz" in err


def test_what_was_measured_on_a_busy_machine_is_left_out_and_said(rigbench, home):
    busy = Disturbance(room="slices", place=0, evidence=("rigbench waited for a processor 40 % of the time",))
    home.save(run_of(1))
    home.save(run_of(2, disturbances=(busy,)))
    pair = json.loads(rigbench("compare", "20260101", "20260102", "--json")[1])["pairs"][0]
    assert pair["refused"][0]["name"] == "slices of 20260102-000000-aaaa"
    assert pair["refused"][0]["reason"].startswith("the machine was busy: rigbench waited")
    assert {row["what"] for row in pair["rows"]} == {"30M adamw", "120M adamw"}


@pytest.mark.parametrize(("threshold", "code"), [("5%", 1), ("0.05", 1), ("20 %", 0)])
def test_ci_fails_on_what_got_worse_by_more_than_was_said(rigbench, home, threshold, code):
    three_and_three(home)
    assert rigbench("compare", "before", "after", "--fail-over", threshold)[0] == code
    assert rigbench("compare", "after", "before", "--fail-over", threshold)[0] == 0


def test_others_of_its_kind_are_compared_by_rig_and_the_place_is_said(rigbench, home, tmp_path):
    folder = store.Store(tmp_path / "others")
    for number, speed in zip(range(2, 12), (1.01, 1.02, 0.99, 1, 1.03, 1.01, 1.0, 0.98, 1.02, 1.01), strict=True):
        its = run_of(number, speed)
        rig = msgspec.structs.replace(its.rig, fingerprint=f"{number:012x}")
        folder.save(msgspec.structs.replace(its, rig=rig))
    home.save(run_of(1, 0.8))
    code, out, _ = rigbench("compare", "20260101", str(folder.runs))
    words = " ".join(out.split())
    assert code == 0
    assert "10 rigs" in words
    assert "11 of 11" in words
    pair = json.loads(rigbench("compare", "20260101", str(folder.runs), "--json")[1])["pairs"][0]
    rates = [row for row in pair["rows"] if row["metric"] == "items_per_s"]
    assert {(row["verdict"], row["place"]) for row in rates} == {("faster", "11 of 11")}


BAD = {
    "a label that does not exist": (("nobody", "nothing"), 2, "no stored run and no label is called 'nobody'"),
    "half of a file": (("half.json", str(RUN)), 2, "half.json was cut short"),
    "a foreign file": (("foreign.json", str(RUN)), 2, "is not a rigbench run (it has no schema number)"),
    "a folder of nothing": (("empty", str(RUN)), 2, "empty holds no run that can be read"),
    "nothing stored": ((), 3, "no run is stored in"),
    "no samples": (("bare.json", str(RUN)), 3, "which holds no number that compares"),
    "commas alone": ((",,", str(RUN)), 2, "',,' names no run"),
    "on both sides": ((f"{RUN},{WHOLE}", str(WHOLE)), 2, "stands on both sides"),
    "its folder": ((str(RUN), "alone"), 3, f"alone holds no run besides {RUN_ID};"),
    "its folder first": (("alone", str(RUN)), 3, f"alone holds no run besides {RUN_ID};"),
    "a folder of some of them": ((f"{RUN},{WHOLE}", "alone"), 3, "alone holds no run besides those of the other side;"),
    "a folder that holds it": (("both", str(RUN)), 2, f"run {RUN_ID} stands on both sides"),
    "a hostile name": (("\x1b[31m<script>\u202e", str(RUN)), 2, "no stored run and no label is called"),
    "a name too long for a file": (("x" * 10_000, str(RUN)), 2, "no stored run and no label is called"),
    "a path too long for a file": (("x" * 10_000 + ".json", str(RUN)), 2, "file name too long"),
    "no share": ((str(RUN), str(WHOLE), "--fail-over", "much"), 2, "--fail-over 'much'"),
    "a share of all": ((str(RUN), str(WHOLE), "--fail-over", "100%"), 2, "is no share"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compared_is_one_line(rigbench, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    Path("half.json").write_bytes(RUN.read_bytes()[:5000])
    Path("foreign.json").write_text('{"results": []}')
    Path("empty").mkdir()
    for folder, runs in {"alone": (RUN,), "both": (RUN, WHOLE)}.items():
        Path(folder).mkdir()
        for run in runs:
            shutil.copy(run, folder)
    bare = msgspec.structs.replace(store.read(RUN), slices=(), matmul=Skipped("matmul", "no time"))
    Path("bare.json").write_bytes(store.encode(bare))
    words, expected, said = BAD[case]
    code, out, err = rigbench("compare", *words)
    assert (code, out, err.count("\n")) == (expected, "", 1), err
    assert said in err
    assert "\x1b" not in err


def test_a_name_as_long_as_a_file_leaves_the_screen_a_screen(rigbench, home):
    long = "<script>\x1b[31m" + "x" * 10_000
    for number in (1, 2):
        its = run_of(number, label=long)
        slices = tuple(
            msgspec.structs.replace(it, model=msgspec.structs.replace(it.model, name=long + it.model.name))
            for it in its.slices
        )
        home.save(msgspec.structs.replace(its, slices=slices, rig=msgspec.structs.replace(its.rig, cpu_model=long)))
    for words in (("compare",), ("fleet",), ("compare", "-v")):
        code, out, _ = rigbench(*words)
        assert code == 0
        assert len(out.splitlines()) <= 60
        assert "\x1b" not in out


def test_a_folder_that_may_not_be_read_is_said_and_a_bad_file_in_one_is_left_out(rigbench, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with ordinary():
        code, _, err = rigbench("compare", str(RUN), str(closed))
    assert (code, err.count("\n")) == (2, 1)
    assert "permission denied" in err
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "one.json").write_bytes(WHOLE.read_bytes())
    (mixed / "half.json").write_bytes(RUN.read_bytes()[:5000])
    code, out, err = rigbench("compare", str(RUN), str(mixed))
    assert (code, err) == (0, f"rigbench: not used: {mixed}/half.json was cut short\n")
    assert out


def test_a_temperature_differs_by_degrees_and_is_cooler(home):
    row = Row("thermals", "GPU1 under load", "steady_celsius", "°C", "lower", 84, 83, 85, 0.9, 9, (), True)
    its = verdict.key(row)
    sides = [[{its: (math.log(value), 0.001)} for value in values] for values in ((84, 83.5, 84.2), (75, 75.4, 74.8))]
    [made] = verdict.compared(*sides, {its: row}, 0.03, LEVEL)[0]
    assert (made.verdict, screen.word(made)) == ("better", "cooler")
    assert screen.name(made) == "thermals GPU1 under load settles at"
    assert screen.change(made) == "−9 °C (−9 to −8)"


def test_labels_are_given_to_all_runs_or_to_none(rigbench, home):
    home.save(run_of(1))
    code, _, err = rigbench("report", "20260101", "20270101", "--label", "before")
    assert (code, home.load("20260101-000000-aaaa").label) == (2, "")
    assert rigbench("report", "20260101", "--label", "before")[0] == 0
    assert home.load("20260101-000000-aaaa").label == "before"
    assert " label before, " in rigbench("report", "--list")[1]
    for bad in ("", "a,b", "a/b", "x" * 50, "\x1b[1m"):
        code, _, err = rigbench("report", "20260101", "--label", bad)
        assert (code, err.count("\n")) == (2, 1)


def test_changed_settings_are_said(home):
    old = run_of(1)
    environment = {**old.software.environment, "NCCL_P2P_DISABLE": "1"}
    new = run_of(2, software=msgspec.structs.replace(old.software, environment=environment, nvidia_driver="595.71"))
    said = list(sides.changes(*(sides.Chosen("", [tables.measured(it)], [it]) for it in (old, new))))
    assert said == ["nvidia driver n/a → 595.71", "NCCL_P2P_DISABLE not set → 1"]


# Runs of a rig that does not change, by shape: logarithms of 12 numbers, of as many runs as are asked for.
SHAPES = {
    "equal": lambda its, runs: its.normal(size=(runs, 12)),
    "correlated": lambda its, runs: 0.8 * its.normal(size=(runs, 1)) + 0.6 * its.normal(size=(runs, 12)),
    "skewed": lambda its, runs: -its.exponential(size=(runs, 12)),
    "very skewed": lambda its, runs: -np.exp(its.normal(size=(runs, 12))),
    "two states": lambda its, runs: -3.0 * (its.random((runs, 1)) < 0.3) + 0.1 * its.normal(size=(runs, 12)),
    "equal but in scale": lambda its, runs: its.normal(size=(runs, 12)) * np.geomspace(0.1, 10, 12),
    "autocorrelated steps": lambda its, runs: np.array([[_steps(its) for _ in range(12)] for _ in range(runs)]),
}


def _steps(its) -> float:
    """A run's rate, of 40 steps of which neighbours are alike (AR(1), 0.7), beside what the run itself is off by."""
    noise, its_steps = 0.0, []
    for shock in its.normal(size=40):
        noise = 0.7 * noise + shock
        its_steps.append(math.exp(0.02 * noise))
    return 100 * math.log(rate_estimate(1.0, its_steps).value) + 0.5 * its.normal()


def alarms(
    shape: str, before: int, after: int, trials: int, change: float = 0.0, seed: int = 14
) -> tuple[float, float]:
    """Shares of comparisons in which a number that did not change got a verdict, and in which the one that did got it;
    `change` of the first number, in logarithms."""
    generator = np.random.default_rng(seed)
    names = [("room", f"{number}", "seconds", ()) for number in range(12)]
    rows = {it: Row(*it[:3], "seconds", "lower", 1, 1, 1, 0.9, 5, (), True) for it in names}
    false = found = 0
    for _ in range(trials):
        logs = 0.01 * SHAPES[shape](generator, before + after)
        logs[before:, 0] += change
        units = [{it: (run[place], 0.003) for place, it in enumerate(names)} for run in logs]
        made, _ = verdict.compared(units[:before], units[before:], rows, 0.03, LEVEL)
        assert not any(row.ratio.low <= 1 <= row.ratio.high for row in made if row.verdict in ("slower", "faster"))
        told = {row.what for row in made if row.verdict in ("slower", "faster")}
        false += bool(told - ({"0"} if change else set()))
        found += "0" in told
    return false / trials, found / trials


@pytest.mark.parametrize("sides", [(3, 3), (9, 1)], ids=str)
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "autocorrelated steps"])
def test_an_unchanged_rig_is_called_changed_no_more_often_than_stated(shape, sides):
    """At most 10 of 100; of 120 that are expected at 10 % up to 20 come in 99 of 100 seeds, and this seed is fixed."""
    assert alarms(shape, *sides, trials=120)[0] <= 20 / 120


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rate_of_false_alarms_and_the_power_are_those_stored(shape):
    """tests/data/compare.json, 2,000 comparisons each (20,000 of two states, 9 against 1): the topic tells them."""
    stored = json.loads((Path(__file__).parent / "data" / "compare.json").read_text())[shape]
    trials = 300
    for name, (false, found) in stored.items():
        before, after, change = name.split()
        again = alarms(shape, int(before), int(after), trials, float(change), seed=15)
        assert again[0] == pytest.approx(false, abs=0.06)
        assert again[1] == pytest.approx(found, abs=0.1)
        assert false <= 1 - LEVEL + 0.015  # two standard errors of 2,000


# Eight runs of one machine that nobody changed, one after the other, while others used it: tokens/s of 5M, peak bytes.
REPEATS = (
    *((558.3, 1625370624), (480.4, 1417359360), (392.3, 1417232384), (484.2, 1479004160)),
    *((716.2, 1683476480), (611.6, 1683513344), (549.7, 1465270272), (735.1, 1417244672)),
)


@pytest.mark.parametrize("each", [3, 4])
def test_repeats_of_an_unchanged_machine_are_seldom_called_changed(each):
    """All ways to share out runs that followed each other: in at most a tenth anything is said of them."""
    keys = [("slices", name, "seconds", ()) for name in ("rate", "memory")]
    rows = {it: Row(*it[:3], "seconds", "lower", 1, 1, 1, 0.9, 5, (), True) for it in keys}
    units = [{it: (math.log(value), 0.01) for it, value in zip(keys, run, strict=True)} for run in REPEATS]
    told = [
        any(row.verdict in ("slower", "faster") for row in verdict.compared(before, after, rows, 0.03, LEVEL)[0])
        for start in range(len(units) - 2 * each + 1)
        for way in combinations(range(start, start + 2 * each), each)
        for after in [[units[place] for place in way]]
        for before in [[units[place] for place in range(start, start + 2 * each) if place not in way]]
    ]
    assert sum(told) <= 0.1 * len(told)


def test_a_change_of_a_twentieth_is_found_with_three_runs_a_side():
    false, found = alarms("equal", 3, 3, 100, change=math.log(1.05))
    assert found >= 0.85
    assert false <= 0.2


def test_all_numbers_changed_are_all_found():
    """One number's change must not hide another's."""
    olds, news = [run_of(number) for number in (1, 2, 3)], [run_of(number, 1.2) for number in (4, 5, 6)]
    told = [row.verdict for row in judged(olds, news) if row.metric == "items_per_s"]
    assert told == ["faster"] * 3


def test_many_runs_are_shared_out_by_a_sample_that_is_always_the_same():
    generator = random.Random(1)
    keys = [("room", "a", "seconds", ())]
    units = [{keys[0]: (generator.gauss(0, 0.01), 0.0)} for _ in range(24)]
    first, again = (verdict.judge(units[:12], units[12:], keys) for _ in range(2))
    assert (first.splits, first.p) == (verdict.MOST_SPLITS, again.p)


def one_number(before, after, better="lower", level=LEVEL, same=0.03, unit="seconds"):
    row = Row("room", "a", "time", unit, better, 1, 1, 1, 0.9, 5, (), True)
    key = verdict.key(row)
    units = [[{key: (math.log(value), 0.0)} for value in side] for side in (before, after)]
    (found,), splits = verdict.compared(*units, {key: row}, same, level)
    return found, splits


def test_a_ratio_is_a_t_interval_of_all_units_of_both_sides():
    found, splits = one_number((1.00, 1.02, 1.04), (1.10, 1.12, 1.14))
    logs = [[math.log(it) for it in side] for side in ((1.00, 1.02, 1.04), (1.10, 1.12, 1.14))]
    middle = (sum(logs[1]) - sum(logs[0])) / 3
    squares = sum((it - sum(side) / 3) ** 2 for side in logs for it in side)
    half = 2.131847 * math.sqrt(squares / 4) * math.sqrt(2 / 3)  # the table's t for four degrees of freedom
    assert (splits, found.ratio.n, found.ratio.level, found.verdict) == (20, 6, 0.9, "slower")
    ends = (math.exp(middle - half), math.exp(middle), math.exp(middle + half))
    assert (found.ratio.low, found.ratio.value, found.ratio.high) == pytest.approx(ends, rel=1e-6)


def test_two_units_against_one_have_an_interval_and_one_against_one_has_none():
    assert one_number((1.0, 1.1), (2.0,))[0].ratio.level == 0.9
    assert one_number((1.0,), (2.0,))[0].ratio.level == 0.0
    assert one_number((1.0, 1.1), (2.0,))[0].verdict == "ambiguous"
    assert one_number((1.0, 1.1), (2.0,), level=0.6)[0].verdict == "slower"  # by a third of the ways to share out


def test_a_change_that_its_interval_does_not_show_is_ambiguous():
    """All of one side above all of the other, so that no way to share them out is as far apart; but they vary more."""
    apart = (1.00, 1.01, 1.02), (1.03, 2.0, 4.0)
    for ends, better in ((apart, "lower"), (apart[::-1], "higher"), (apart[::-1], "lower")):
        found, _ = one_number(*ends, better=better)
        assert found.p <= 1 - LEVEL + verdict.TOLERANCE
        assert found.ratio.low < 1 < found.ratio.high
        assert (found.verdict, found.ratio.level) == ("ambiguous", 0.9)


def test_what_got_worse_is_first_whatever_its_unit_and_nothing_in_common_is_nothing():
    slower, worse, faster = (
        one_number((1.0, 1.0, 1.0), (1.2, 1.2, 1.2), unit="seconds")[0],
        one_number((1.0, 1.0, 1.0), (1.1, 1.1, 1.1), unit="°C")[0],
        one_number((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), unit="seconds")[0],
    )
    assert [it.verdict for it in (slower, worse, faster)] == ["slower", "worse", "faster"]
    assert sorted((faster, worse, slower), key=verdict._weight) == [slower, worse, faster]
    assert verdict.compared([{}], [{}], {}, 0.03, LEVEL) == ((), 0)
    itself = verdict.itself(slower)
    assert (itself.ratio.value, itself.ratio.low, itself.ratio.high, itself.verdict, itself.p) == (1, 1, 1, "same", 1)


def test_a_number_below_one_is_a_number_and_what_both_sides_have_is_not_refused():
    row = Row("room", "a", "share", "share", "higher", 0.5, 0.5, 0.5, 0.9, 5, (("dtype", "bf16"),), True)
    run = msgspec.structs.replace(tables.measured(run_of(1)), rows=(row,))
    assert verdict.unit([run]) == {verdict.key(row): (math.log(0.5), 0.0)}
    other = msgspec.structs.replace(row, under=(("dtype", "fp32"),))
    both, one = {verdict.key(it): it for it in (row, other)}, {verdict.key(other): other}
    assert verdict.refused(both, one) == verdict.refused(one, both) == ()
    (refused,) = verdict.refused({verdict.key(row): row}, one)
    assert refused.reason == "dtype bf16 against fp32"


# ---- against a second, plain implementation, and at the two sides of each bound

KEYS = tuple(("room", f"{number}", "seconds", ()) for number in range(10))


def plainly(before, after, keys) -> tuple[list[float], list[float], list[float], list[int]]:
    """Differences, step-down p, what units vary by and degrees of freedom, a number and a way at a time."""
    units, count, half_a_percent = [*before, *after], len(before) + len(after), 0.005
    own = []
    for its in keys:
        errors = [unit[its][1] for unit in units if its in unit]
        own.append(sum(error**2 for error in errors) / len(errors))

    def of(way, its):
        sides = [
            [unit[its][0] for place, unit in enumerate(units) if its in unit and (place in way) == w] for w in (1, 0)
        ]
        if not all(sides):
            return 0.0, 0.0, 0
        means = [sum(side) / len(side) for side in sides]
        freedom = len(sides[0]) + len(sides[1]) - 2
        squares = sum((it - mean) ** 2 for side, mean in zip(sides, means, strict=True) for it in side)
        return means[0] - means[1], math.sqrt(squares / freedom) if freedom else 0.0, freedom

    def statistic(way, place):
        difference, deviation, freedom = of(way, keys[place])
        if not freedom:
            return 0.0
        ends = [sum(keys[place] in unit for at, unit in enumerate(units) if (at in way) == side) for side in (1, 0)]
        between = deviation**2 + own[place] + half_a_percent**2
        return abs(difference) / math.sqrt(between * (1 / ends[0] + 1 / ends[1]))

    observed_way = tuple(range(len(before), count))
    table = {
        way: [statistic(way, place) for place in range(len(keys))] for way in combinations(range(count), len(after))
    }
    observed = table[observed_way]
    left = sorted(range(len(keys)), key=lambda place: -observed[place])
    p, least = [0.0] * len(keys), 0.0
    while left:
        as_large = [max(row[place] for place in left) >= observed[left[0]] - 1e-12 for row in table.values()]
        least = p[left[0]] = max(least, sum(as_large) / len(table))
        left = left[1:]
    found = [of(observed_way, its) for its in keys]
    spread = [max(deviation, math.sqrt(own[place])) for place, (_, deviation, _) in enumerate(found)]
    return [difference for difference, _, _ in found], p, spread, [freedom for _, _, freedom in found]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sides", [(3, 3), (2, 4), (1, 3), (2, 1), (1, 1)], ids=str)
def test_a_plain_implementation_judges_the_same(sides, seed):
    """Numbers of all scales, some of which some units lack; a third of them changed."""
    generator = random.Random(seed)
    units = [
        {
            its: (
                place + generator.gauss(0, 0.002 * 1.5**place) + (late and place % 3 == 0) * 0.02,
                0.001 * (place % 4 + late),
            )
            for place, its in enumerate(KEYS)
            if generator.random() < 0.8 or (late, at) in ((0, 0), (1, sides[0]))
        }
        for at in range(sum(sides))
        for late in [int(at >= sides[0])]
    ]
    its = verdict.judge(units[: sides[0]], units[sides[0] :], KEYS)
    differences, p, spread, freedom = plainly(units[: sides[0]], units[sides[0] :], KEYS)
    assert its.differences == pytest.approx(differences, abs=1e-12)
    assert its.p == pytest.approx(p, abs=1e-12)
    assert its.deviations == pytest.approx(spread, abs=1e-12)
    assert its.freedom == freedom
    assert its.splits == math.comb(sum(sides), sides[1])


def test_a_number_that_a_side_lacks_differs_in_nothing():
    units = [
        *({KEYS[0]: (1.0 + place, 0.0)} for place in range(3)),
        *({KEYS[1]: (2.0 * place, 0.0)} for place in range(3)),
    ]
    its = verdict.judge(units[:3], units[3:], KEYS[:2])
    assert (its.differences, its.freedom, its.p) == ([0, 0], [0, 0], [1, 1])


@pytest.mark.parametrize(
    ("before", "after", "least"),
    [(1, 1, 1.0), (2, 2, 1 / 3), (1, 3, 1 / 4), (3, 1, 1 / 4), (3, 3, 1 / 10), (9, 1, 1 / 10), (12, 12, 1 / 2000)],
)
def test_the_smallest_p_is_that_of_a_difference_that_nobody_overlooks(before, after, least):
    assert verdict.least_p(before, after) == pytest.approx(least)
    units = [{KEYS[0]: (0.001 * place + (place >= before), 0.0)} for place in range(before + after)]
    its = verdict.judge(units[:before], units[before:], KEYS[:1])
    assert its.p == pytest.approx([least], abs=0.001 if before == 12 else 1e-12)
    assert its.splits == min(4000, math.comb(before + after, after))


def test_as_many_ways_as_are_tried_at_most_are_all_tried(monkeypatch):
    monkeypatch.setattr(verdict, "MOST_SPLITS", 20)
    assert len({tuple(row) for row in verdict._splits(3, 3)}) == 20
    assert verdict._splits(3, 3)[0].tolist() == [0, 0, 0, 1, 1, 1]
    monkeypatch.setattr(verdict, "MOST_SPLITS", 19)
    assert verdict._splits(3, 3).shape == (19, 6)
    assert verdict._splits(3, 3)[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert (verdict._splits(3, 3).sum(1) == 3).all()


@pytest.mark.parametrize(
    ("before", "after", "level", "more"),
    [
        (3, 3, 0.9, 0),  # 2 of 20 ways
        (2, 2, 0.9, 1),  # 1 of 10
        (3, 1, 0.9, 1),
        (1, 1, 0.9, 8),
        (9, 1, 0.9, 0),
        (9, 1, 0.91, 1),
        (1, 1, 0.95, 10),  # 18 would do it: three a side are said instead
    ],
)
def test_so_many_more_runs_would_let_a_difference_be_told(before, after, level, more):
    assert verdict.more_units(before, after, level) == more
    if more < 10:
        assert verdict.least_p(before, after + more) <= 1 - level + 1e-6
        assert not more or verdict.least_p(before, after + more - 1) > 1 - level


def test_a_unit_is_the_median_of_its_runs_and_of_each_the_mean_of_its_repeats():
    row = Row("room", "a", "time", "seconds", "lower", 1.0, 0.9, 1.1, 0.9, 5, (), True)
    values = ([(1.0, 0.1), (4.0, 0.2)], [(3.0, 0.02)], [(10.0, 0.05), (0.0, 0.0)])  # of nothing there is no logarithm
    runs = [
        msgspec.structs.replace(
            tables.measured(run_of(1)),
            rows=tuple(
                msgspec.structs.replace(row, value=value, low=value * math.exp(-half), high=value * math.exp(half))
                for value, half in its
            ),
        )
        for its in values
    ]
    (log, error) = verdict.unit(runs)[verdict.key(row)]
    assert log == pytest.approx(math.log(3.0))  # of 2, 3 and 10
    assert error == pytest.approx(0.05 / 1.6449, rel=1e-4)  # of 0.2, 0.02 and 0.05, a 90 % interval's in deviations
    assert verdict.unit(runs[:1])[verdict.key(row)] == pytest.approx((math.log(2.0), 0.2 / 1.6449), rel=1e-4)
    for bare in ({"level": 0.0}, {"low": 0.0}, {"low": 1.0, "high": 1.0}, {"low": -1.0}):
        assert verdict._error(msgspec.structs.replace(row, **bare)) == 0.0


def test_both_sides_are_shown_as_geometric_means_and_one_run_a_side_has_no_interval():
    found, _ = one_number((1.0, 4.0), (3.0, 12.0, 6.0))
    assert (found.before, found.after) == pytest.approx((2.0, 6.0))
    assert (found.before_units, found.after_units) == (pytest.approx((1.0, 4.0)), pytest.approx((3.0, 12.0, 6.0)))
    assert found.ratio.value == pytest.approx(3.0)
    one = one_number((2.0,), (3.0,))[0].ratio
    assert (one.low, one.value, one.high) == pytest.approx((1.5, 1.5, 1.5))
    assert (one.level, one.n) == (0.0, 1)
    wild = one_number((1e-9, 1e9), (1.0,))[0].ratio  # an interval without end has one at e^20
    assert (wild.low, wild.high) == pytest.approx((math.exp(-20), math.exp(20)))
    assert verdict.itself(found).ratio == Estimate(1.0, 1.0, 1.0, 1.0, "the same run on both sides", 1)


@pytest.mark.parametrize("ratio", [1.0299, 1 / 1.0299, 1.0301, 1 / 1.0301])
@pytest.mark.parametrize("each", [1, 2])
def test_the_same_is_within_three_per_cent_either_way_and_needs_two_degrees_of_freedom(ratio, each):
    found, _ = one_number((1.0, 1.0), (ratio,) * each)
    is_near = 1 / 1.03 < ratio < 1.03
    assert found.verdict == ("same" if is_near and each == 2 else "ambiguous")


ROW = Row("room", "a", "time", "seconds", "lower", 1, 1, 1, 0.9, 5, (), True)


@pytest.mark.parametrize(
    ("ends", "freedom", "p", "row", "said"),
    [
        ((1 / 1.03, 1.0, 1.03), 4, 0.1, {}, "same"),  # the bound is within
        ((1 / 1.031, 1.0, 1.0), 4, 1.0, {}, "ambiguous"),
        ((1.0, 1.0, 1.031), 4, 1.0, {}, "ambiguous"),
        ((1.1, 1.2, 1.3), 1, 0.1, {}, "slower"),
        ((1.1, 1.2, 1.3), 0, 0.1, {}, "ambiguous"),
        ((0.99, 1.2, 1.3), 4, 0.1, {}, "ambiguous"),  # its interval holds no change
        ((1.1, 1.2, 1.3), 4, 0.1001, {}, "ambiguous"),
        ((1.1, 1.2, 1.3), 4, 0.1, {"better": ""}, "ambiguous"),
        ((1.1, 1.2, 1.3), 4, 0.1, {"better": "higher", "unit": "tokens/s"}, "faster"),
        ((0.7, 0.8, 0.9), 4, 0.1, {"better": "higher", "unit": "bytes/s"}, "slower"),
        ((0.7, 0.8, 0.9), 4, 0.1, {}, "faster"),
        ((0.7, 0.8, 0.9), 4, 0.1, {"unit": "bytes"}, "better"),
        ((0.7, 0.8, 0.9), 4, 0.1, {"better": "higher", "unit": "share"}, "worse"),
    ],
)
def test_a_verdict_follows_from_the_interval_p_and_which_way_is_better(ends, freedom, p, row, said):
    low, value, high = ends
    ratio = Estimate(value, low, high, 0.9, "by hand", 6)
    assert verdict._verdict(ratio, freedom, p, msgspec.structs.replace(ROW, **row), 0.03, LEVEL) == said


def test_numbers_stand_by_verdict_and_within_it_the_largest_change_first():
    made = one_number((1.0, 1.0), (1.5, 1.5))[0]
    order = [("worse", 0.8), ("slower", 1.1), ("faster", 1.5), ("better", 1.4), ("ambiguous", 1 / 1.6), ("same", 1.7)]
    rows = [
        msgspec.structs.replace(made, verdict=word, ratio=msgspec.structs.replace(made.ratio, value=value))
        for word, value in reversed(order)
    ]
    assert [(it.verdict, it.ratio.value) for it in sorted(rows, key=verdict._weight)] == order
    mixed = {its: msgspec.structs.replace(ROW, what=its[1]) for its in KEYS[:3]}
    sides = [[{its: (n * late, 0.0) for n, its in enumerate(KEYS[:3])} for _ in range(3)] for late in (0, 1)]
    assert [it.what for it in verdict.compared(*sides, mixed, 0.03, LEVEL)[0]] == ["2", "1", "0"]


def under(what: str, **conditions: str) -> dict[verdict.Key, Row]:
    row = msgspec.structs.replace(ROW, what=what, under=tuple(conditions.items()))
    return {verdict.key(row): row}


def test_what_is_refused_is_said_with_its_conditions_before_what_a_side_lacks():
    before = under("alone here") | under("both", dtype="bf16") | under("a", dtype="fp32", batch="4")
    after = under("alone there") | under("both", dtype="bf16") | under("a", dtype="bf16", cards="2", batch="4")
    assert [(it.name, it.reason) for it in verdict.refused(before, after)] == [
        ("room a time", "dtype fp32 against bf16, cards none against 2"),
        ("room alone here time", "only in before"),
        ("room alone there time", "only in after"),
    ]
    # Where one of two conditions is shared, the other is said from whichever side it is met on.
    shared, here, there = under("a", dtype="bf16"), under("a", dtype="fp32"), under("a", dtype="fp16")
    (refused,) = verdict.refused(shared | here, there | shared)
    assert refused.reason == "dtype fp32 against fp16"
    assert verdict.refused(shared, shared | there) == verdict.refused(shared | there, shared) == ()


@pytest.mark.parametrize(
    ("better", "one", "others", "place"),
    [
        ("higher", 2.0, (1.0, 2.0, 3.0, 4.0), "3 of 5"),
        ("lower", 2.0, (1.0, 2.0, 3.0, 4.0), "2 of 5"),
        ("higher", 5.0, (1.0, 2.0), "1 of 3"),
        ("", 2.0, (1.0, 3.0), ""),
    ],
)
def test_the_place_of_one_rig_is_one_more_than_those_ahead(better, one, others, place):
    made = msgspec.structs.replace(one_number((1.0, 1.0), (1.5, 1.5))[0], better=better)
    for ends in (((one,), others), (others, (one,))):
        its = msgspec.structs.replace(made, before_units=ends[0], after_units=ends[1])
        assert verdict.placed(its).place == place
    several = msgspec.structs.replace(made, before_units=(1.0, 2.0), after_units=(1.0, 2.0, 3.0))
    assert verdict.placed(several) == several
