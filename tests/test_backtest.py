"""Does a log that is handed back say whether the prediction held, whatever form and state it is in?"""

import io
import json
import math
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from budget_slices import DIY, M5, M15, plan, request, stored, whole
from rich.console import Console

from rigbench import __main__, store
from rigbench.backtest import command, screen, verdict
from rigbench.backtest.record import LogFacts
from rigbench.budget import rates
from rigbench.budget.record import Rate
from rigbench.core import stats
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.job import Job
from rigbench.logs import rules
from rigbench.logs.stretches import LogRow, Reading
from rigbench.machine.rig import Rig

FACTS = LogFacts("log.csv", "abc", "CSV", 0, (), (), (), ())


class Silent:
    stage = update = close = lambda *_: None


def stated(value: float, width: float = 0.05) -> Rate:
    estimate = Estimate(
        value=value, low=value * (1 - width), high=value * (1 + width), level=0.90, method="stated", n=3
    )
    return Rate(tokens_per_s=estimate, source="measured", rests_on=("r 5M",), widened_by=())


def compare(rows, predicted=1000.0, tokens_per_step=None):
    reading = Reading("CSV", rows, tokens_per_step)
    return verdict.compare("r1", "5M", stated(predicted), reading, FACTS, "2026-11-21T00:00:00Z")


def clocked(seconds, every=10):
    at = [math.fsum(seconds[:index]) for index in range(len(seconds) + 1)]
    return [LogRow(step=index * every, at_seconds=at[index]) for index in range(len(at))]


NANOGPT = """tokens per iteration will be: 491,520
step 0: train loss 10.9885, val loss 10.9898
iter 0: loss 10.9886, time 21500.12ms, mfu -100.00%
iter 10: loss 9.2, time 250.00ms, mfu 30.10%
iter 20: loss nan, time 260.00ms, mfu 30.10%
iter 30: loss 8.2, time 240.00ms, mfu 30.10%
iter 40: loss 8.0, time 250.00ms, mfu 30.10%
"""


def test_a_pattern_of_ones_own_names_its_groups():
    pattern = r"\[(?P<time>[^\]]+)\] it=(?P<step>\d+) seen=(?P<tokens>[\d,]+)"
    raw, roles = rules.by_pattern(
        "[2026-11-21 10:00:00] it=5 seen=5,120\n[2026-11-21 10:00:02] it=6 seen=6,144", pattern
    )
    rows = rules.read(raw, roles).rows
    assert [(row.step, row.tokens) for row in rows] == [(5, 5120.0), (6, 6144.0)]
    assert rows[1].at_seconds - rows[0].at_seconds == 2


@pytest.mark.parametrize(
    ("pattern", "what"),
    [("(", "--pattern is not a regular expression"), (r"(?P<iteration>\d+)", None), (r"(\d+)", "no group named step")],
)
def test_a_pattern_that_cannot_work_is_refused(pattern, what):
    if what is None:
        assert rules.by_pattern("7", pattern)[0].rows[0].items["iteration"].value == 7
        return
    with pytest.raises(RigbenchError, match=what):
        rules.by_pattern("7", pattern)


def test_the_actual_rate_is_total_tokens_over_total_seconds_without_the_first_stretch():
    seconds = [30.0, 10.0, 11.0, 9.0, 10.5, 10.0, 9.5]
    result = compare(clocked(seconds), tokens_per_step=1024.0)
    assert result.actual_tokens_per_s.value == pytest.approx(6 * 10 * 1024 / 60.0)
    assert result.wall_tokens_per_s == pytest.approx(7 * 10 * 1024 / 90.0)
    assert result.error_share == pytest.approx(1.024 - 1)
    assert result.inside
    assert len(result.seconds) == 6
    assert result.hours_predicted.low == pytest.approx(70 * 1024 / 1050 / 3600)


def test_the_middle_that_is_shown_is_the_one_that_the_error_is_of():
    result = compare(clocked([10.0] * 9), predicted=1146.5, tokens_per_step=1024.0)
    console = Console(record=True, width=100, file=io.StringIO())
    screen.brief(result, console)
    text = console.export_text()
    middle = re.search(r"predicted +([\d,]+) tokens/s \(", text)
    assert middle
    assert f"{1 - 1024 / float(middle[1].replace(',', '')):.0%}".replace("%", " % slower") in text


def test_a_rate_outside_the_stated_interval_is_outside():
    assert not compare(clocked([10.0] * 9), predicted=1100.0, tokens_per_step=1024.0).inside


def test_a_pause_a_restart_and_a_changed_batch_are_named_and_do_not_bend_the_rate():
    rows = [
        LogRow(step=step, at_seconds=at, tokens=tokens, loss=loss)
        for step, at, tokens, loss in [
            (0, 0, 0, 9.0), (10, 10, 10240, 8.0), (20, 20, 20480, 7.0), (30, 30, 30720, math.nan), (40, 40, 40960, 6.0),
            (50, 4000, 51200, 6.0),  # the night, asleep
            (40, 4020, 40960, 6.0),  # restarted from a checkpoint
            (50, 4030, 51200, 6.0), (60, 4050, 71680, 6.0), (70, 4070, 92160, 5.0),
        ]
    ]  # fmt: skip
    result = compare(rows)
    assert result.actual_tokens_per_s.value == pytest.approx(1024)
    assert result.log.pauses == ((50, 3960.0),)
    assert result.log.resets == (40,)
    assert result.log.non_finite_losses == (30,)
    assert result.log.batch_changes == ((60, 2048.0),)
    assert result.wall_tokens_per_s < 30


@pytest.mark.parametrize(
    ("rows", "tokens", "what"),
    [
        ([LogRow(step=i) for i in range(9)], 8.0, "how long its steps took"),
        (clocked([1.0] * 9), None, "how many tokens"),
        (clocked([1.0] * 3), 8.0, "3 usable stretches"),
        ([], 8.0, "0 usable stretches"),
        ([LogRow(step=5, at_seconds=float(i)) for i in range(9)], 8.0, "0 usable stretches"),
    ],
)
def test_a_log_that_tells_too_little_says_what_is_missing(rows, tokens, what):
    if what == "0 usable stretches" and rows:
        what = "does not say|usable"
    with pytest.raises(RigbenchError, match=what):
        compare(rows, tokens_per_step=tokens)


def results(count: int, spread: float, width: float = 0.05, seed: int = 0):
    """Back-tests whose true error is normal with this spread in logarithms."""
    random.seed(seed)
    made = []
    for index in range(count):
        actual = 1000 * math.exp(random.gauss(0, spread))
        one = compare(clocked([10240 / actual] * 9), tokens_per_step=1024.0)
        one = msgspec.structs.replace(
            one, predicted=stated(1000.0, width), log=msgspec.structs.replace(FACTS, sha256=str(index))
        )
        low, high = 1000 * (1 - width), 1000 * (1 + width)
        made.append(msgspec.structs.replace(one, inside=low <= actual <= high))
    return made


def test_coverage_counts_and_bounds_itself():
    found = rates.coverage(results(40, spread=0.025))
    assert found.backtests == 40
    assert found.inside in range(34, 41)
    low, high = stats.binomial_interval(38, 40)
    tails = [math.fsum(math.comb(40, k) * p**k * (1 - p) ** (40 - k) for k in range(38, 41)) for p in (low, high)]
    assert tails[0] == pytest.approx(0.05)  # 38 or more of 40 where the share is the low end
    assert 1 - tails[1] + math.comb(40, 38) * high**38 * (1 - high) ** 2 == pytest.approx(0.05)  # and 38 or fewer
    assert stats.binomial_interval(0, 3) == pytest.approx((0.0, 1 - 0.05 ** (1 / 3)))
    assert stats.binomial_interval(3, 3) == pytest.approx((0.05 ** (1 / 3), 1.0))


def test_the_same_log_against_the_same_prediction_counts_once():
    one = results(1, 0.01)[0]
    assert rates.coverage([one, one, one]).backtests == 1


def test_of_one_log_the_last_back_test_counts_whatever_it_was_compared_with():
    wrong, right = results(1, 0.01)[0], results(1, 0.01)[0]
    wrong = msgspec.structs.replace(wrong, run_id="an earlier run", model="5M", inside=False)
    found = rates.coverage([wrong, right])
    assert (found.backtests, found.inside) == (1, 1)
    assert rates.coverage([right, wrong]).inside == 0


def test_the_next_interval_is_widened_where_the_stated_ones_failed_and_tightened_only_by_many():
    assert rates.coverage(results(2, spread=0.5)).widen_by == 1.0
    assert rates.coverage(results(5, spread=0.5)).widen_by > 2.0
    assert rates.coverage(results(8, spread=0.001)).widen_by == 1.0
    assert rates.coverage(results(60, spread=0.005)).widen_by == pytest.approx(0.5)


def scored(scores: list[float], history_factor: float = 1.0):
    """Back-tests off by so many of the half-widths that were stated."""
    made = []
    for index, score in enumerate(scores):
        predicted = msgspec.structs.replace(stated(1000.0, 0.05), history_factor=history_factor)
        side = math.log(predicted.tokens_per_s.high / predicted.tokens_per_s.value)
        one = compare(clocked([10.24 / math.exp(score * side)] * 9), tokens_per_step=1024.0)
        log = msgspec.structs.replace(FACTS, sha256=str(index))
        made.append(msgspec.structs.replace(one, predicted=predicted, log=log))
    return made


@pytest.mark.parametrize(("count", "rank"), [(9, 9), (10, 10), (18, 18), (19, 18), (29, 27), (99, 90)])
def test_the_next_interval_reaches_to_the_score_of_the_stated_rank(count, rank):
    """Of n + 1 exchangeable scores the next is among the lowest rank with probability rank / (n + 1), at least 90 %."""
    assert rank / (count + 1) >= 0.9 > (rank - 1) / (count + 1)
    scores = [float(score) for score in range(1, count + 1)]
    assert rates.coverage(scored(scores)).widen_by == pytest.approx(rank, rel=1e-6)
    assert rates.coverage(scored(scores, history_factor=2.0)).widen_by == pytest.approx(2 * rank, rel=1e-6)


def test_an_error_is_counted_in_half_widths_of_its_own_side_and_so_few_do_not_tighten():
    lopsided = msgspec.structs.replace(stated(1000.0), tokens_per_s=Estimate(1000.0, 800.0, 1020.0, 0.9, "stated", 3))
    below, above = scored([1.0, 1.0])[:2]
    off = [(below, 1000 * 0.8**1.5), (above, 1000 * 1.02**3)]  # 1.5 half-widths below, 3 above
    made = [
        msgspec.structs.replace(
            it,
            predicted=lopsided,
            actual_tokens_per_s=msgspec.structs.replace(it.actual_tokens_per_s, value=actual),
            error_share=share,
        )
        for (it, actual), share in zip(off, (0.2, 0.4), strict=True)
    ]
    third = [
        msgspec.structs.replace(it, log=msgspec.structs.replace(FACTS, sha256=name))
        for it, name in zip(made, ("a", "b"), strict=True)
    ]
    assert rates.coverage([made[0], *third[:1]]).widen_by == 1.0  # two are too few
    found = rates.coverage([made[0], *third[:1], msgspec.structs.replace(made[0], log=third[1].log)])
    assert found.widen_by == pytest.approx(1.5)
    found = rates.coverage([made[0], made[1], third[0]])
    assert found.widen_by == pytest.approx(3.0)
    assert rates.coverage(scored([4.0, 3.0, 2.0, 1.0])).widen_by == pytest.approx(4.0)
    assert rates.coverage(scored([0.1] * 8)).widen_by == 1.0
    assert rates.coverage(scored([0.7] * 9)).widen_by == pytest.approx(0.7)
    assert found.median_error_share == pytest.approx(0.2)
    assert found.stated == 0.9
    doubtful = msgspec.structs.replace(lopsided, tokens_per_s=Estimate(1000.0, 800.0, 1020.0, 0.5, "one step", 1))
    assert rates.coverage([made[0], msgspec.structs.replace(made[1], predicted=doubtful)]).stated == 0.5
    assert (found.low, found.high) == stats.binomial_interval(found.inside, 3)


def test_a_rate_corrected_by_history_is_as_much_wider_and_says_so():
    few, many = rates.coverage(scored([2.0, 2.0])), rates.coverage(scored([2.0, 2.0, 2.0]))
    assert rates.corrected(stated(1000.0), few) == stated(1000.0)
    its = rates.corrected(stated(1000.0), many)
    assert (its.tokens_per_s.low, its.tokens_per_s.high) == pytest.approx((1000 * 0.95**2, 1000 * 1.05**2))
    assert its.history_factor == pytest.approx(2.0)
    assert its.widened_by == ("half-width × 2.00: the worst of 3 back-tests; 9 are needed to tighten",)


def test_back_tests_of_this_rig_made_in_the_same_way_come_oldest_first():
    one, two, other, older = scored([1.0, 2.0, 3.0, 4.0])
    other, older = msgspec.structs.replace(other, rig="h200"), msgspec.structs.replace(older, method=-1)
    runs = [SimpleNamespace(backtest=it) for it in (two, None, other, older, one)]  # the newest first
    assert rates.backtests(runs) == [one, two]
    assert rates.backtests(runs, "h200") == [other]


def test_an_interval_widened_by_history_holds_as_often_as_it_says():
    """1,000 rigs whose stated ±5 % are really ±20 %: after 39 back-tests the next must lie inside 90 times in 100."""
    random.seed(1)
    held = 0
    for _ in range(1000):
        errors = [abs(random.gauss(0, 0.10)) for _ in range(39)]
        factor = max(rates.LEAST_FACTOR, sorted(error / 0.05 for error in errors)[36 - 1])
        held += abs(random.gauss(0, 0.10)) <= factor * 0.05
    assert 875 <= held <= 925


@pytest.fixture
def rigbench(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RIGBENCH_HOME", str(tmp_path / "home"))

    def call(*words: str):
        monkeypatch.setattr(sys, "argv", ["rigbench", *words])
        code = __main__._run()
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def predicting(tmp_path) -> str:
    """A stored run of this machine with two slices, of which back-tests can be made."""
    job = Job(store.Store(tmp_path / "home"), Rig.live(), "train-probe", Silent())
    job.keep(slices=(whole(M5, 1000.0), whole(M15, 400.0)))
    job.finish("finished")
    return job.run.id


def test_a_log_is_handed_back_and_kept_and_summed_up(rigbench, predicting, tmp_path):
    log = tmp_path / "train.csv"
    log.write_text("step,seconds,tokens\n" + "".join(f"{i},{i * 1.01},{i * 1024}\n" for i in range(30)))
    code, out, _ = rigbench("backtest", predicting, str(log), "--model", "5M")
    assert code == 0
    assert out.splitlines()[0] == "ok    backtest: 5M: 1.4 % faster than predicted, inside the interval"
    assert "measured over 28 stretches of train.csv (CSV)" in " ".join(out.split())
    code, out, _ = rigbench("backtest", "--summary", "--json")
    assert code == 0
    assert json.loads(out)["inside"] == json.loads(out)["backtests"] == 1
    code, out, _ = rigbench("backtest", "--summary")
    assert "1 of 1 inside" in out
    assert "too few to correct an interval by" in " ".join(out.split())


def test_a_longer_run_of_rigbench_itself_is_a_log(rigbench, predicting, tmp_path):
    job = Job(store.Store(tmp_path / "home"), Rig.live(), "train-probe", Silent())
    slice_ = whole(M5, 1000.0)
    steps = msgspec.structs.replace(slice_.steps, ended_at_seconds=tuple(1.1 * i for i in range(40)))
    job.keep(slices=(msgspec.structs.replace(slice_, steps=steps),))
    job.finish("finished")
    code, out, _ = rigbench("backtest", predicting, job.run.id, "--model", "5M", "--json")
    assert code == 0
    result = json.loads(out)["backtest"]
    assert result["actual_tokens_per_s"]["value"] == pytest.approx(1024 / 1.1)
    assert not result["inside"]


def test_tensorboard_events_are_read_by_their_own_library(rigbench, predicting, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra rigbench[tensorboard] is not installed")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "events"))
    for step in range(20):
        values = [
            Summary.Value(tag="train/loss", simple_value=9.0),
            Summary.Value(tag="tokens", simple_value=step * 1024),
        ]
        writer.add_event(Event(wall_time=1.7e9 + step * 1.02, step=step, summary=Summary(value=values)))
    writer.close()
    code, out, err = rigbench("backtest", predicting, str(tmp_path / "events"), "--model", "5M", "--json")
    assert code == 0, err
    assert json.loads(out)["backtest"]["actual_tokens_per_s"]["value"] == pytest.approx(1024 / 1.02, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("backtest",), 2, "a back-test needs a run and a log"),
        (("backtest", "--summary"), 3, "no back-test of this rig is stored"),
        (("backtest", "--summary", "x"), 2, "--summary takes no run"),
        (("backtest", "RUN", "nowhere.log", "--model", "5M"), 2, "there is no log nowhere.log"),
        (("backtest", "none", "LOG"), 2, "no stored run is called 'none'"),
        (("backtest", "RUN", "LOG"), 2, "predicts 5M, 15M; say which with --model NAME"),
        (("backtest", "RUN", "LOG", "--model", "7B"), 2, "not 7B"),
        (("backtest", "RUN", "UNTOLD", "--model", "5M"), 2, "give --tokens-per-step"),
        (("backtest", "RUN", "EMPTY", "--model", "5M"), 2, "no line of empty.log gives a step"),
        (("backtest", "RUN", "LOG", "--model", "5M", "--columns", "x=y"), 2, "is not ROLE=NAME"),
        (("backtest", "RUN", "LOG", "--model", "5M", "--tokens-per-step", "-3"), 2, "--tokens-per-step"),
    ],
)
def test_bad_words_get_one_line_and_their_exit_code(rigbench, predicting, tmp_path, words, code, said):
    (tmp_path / "empty.log").write_text("nothing here\n")
    (tmp_path / "a.log").write_text(NANOGPT)
    places = {"RUN": predicting, "LOG": str(tmp_path / "a.log"), "EMPTY": str(tmp_path / "empty.log")}
    (tmp_path / "untold.log").write_text(NANOGPT.partition("\n")[2])
    places["UNTOLD"] = str(tmp_path / "untold.log")
    got, _, err = rigbench(*(places.get(word, word) for word in words))
    assert got == code
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_log_of_bytes_and_one_that_is_unreadable_end_in_one_line(rigbench, predicting, tmp_path):
    junk = tmp_path / "junk.log"
    junk.write_bytes(bytes(range(256)) * 100)
    assert rigbench("backtest", predicting, str(junk), "--model", "5M")[0] == 2
    Path(tmp_path / "cut.json").write_text('{"schema": 1, "id"')
    code, _, err = rigbench("backtest", predicting, str(tmp_path / "cut.json"), "--model", "5M")
    assert (code, "was cut short" in err) == (2, True)


def test_a_budget_learns_from_the_rigs_back_tests():
    slices = [stored(model, rate) for model, rate in zip(DIY, (1000, 900, 700, 400, 150), strict=True)]
    before = plan(request(1.2e18), slices).series[0].rate
    failed = rates.coverage(results(5, spread=0.3))
    after = plan(request(1.2e18), slices, history=failed).series[0].rate
    assert math.log(after.tokens_per_s.high / after.tokens_per_s.value) == pytest.approx(
        failed.widen_by * math.log(before.tokens_per_s.high / before.tokens_per_s.value)
    )
    assert (
        after.widened_by[-1]
        == f"half-width × {failed.widen_by:.2f}: the worst of 5 back-tests; 9 are needed to tighten"
    )
    assert after.history_factor == failed.widen_by


def slow_nanogpt(milliseconds: float) -> str:
    lines = [f"iter {i}: loss 3.2, time {milliseconds + i % 3:.2f}ms, mfu 10.00%" for i in range(20)]
    return "\n".join(["number of parameters: 123.59M", "tokens per iteration will be: 65,536", *lines]) + "\n"


def test_a_log_is_good_or_not_for_a_card_without_any_stored_run(rigbench, tmp_path, monkeypatch):
    name = "in fp32, without torch.compile"  # each other way is one more step to record, which takes seconds
    monkeypatch.setattr(command, "OTHERWISE", {name: command.OTHERWISE[name]})
    log = tmp_path / "train.log"
    log.write_text(slow_nanogpt(600))
    code, out, _ = rigbench("backtest", "--on", "rtx-4090", str(log))
    assert code == 0
    assert out.splitlines()[0].endswith("on rtx-4090: 109,000 tokens/s is as it should be")
    log.write_text(slow_nanogpt(1600))
    code, out, _ = rigbench("backtest", "--on", "rtx-4090", "--model", "120M", str(log), "--json")
    result = json.loads(out)["backtest"]
    assert result["type"] == "reach"
    assert result["share"] < 0.5
    assert [cause["words"] for cause in result["causes"]] == [name]
    assert rigbench("backtest", "--summary")[0] == 3  # of hardware that is not here, it is no back-test of this rig


def test_a_pasted_line_is_a_log_of_one_line(rigbench):
    line = "step   31/90 | loss 3.51 (+0.10z)| norm 0.91 (-0.20z)| lr 6.00e-04 | 51.2 ms | 55.0% bf16 MFU | 80000 tok/s"
    code, out, _ = rigbench("backtest", "--on", "rtx-4090", "--model", "gpt2-124m", line)
    assert code == 0
    assert "backtest: gpt2 on rtx-4090" in out
    assert "80,000 tokens/s, of one or two lines: no interval, a pasted line (llm.c)" in " ".join(out.split())


def test_a_log_may_come_by_standard_input(rigbench, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("step 31 | 51.2 ms | 80000 tok/s\n"))
    code, out, _ = rigbench("backtest", "--on", "rtx-4090", "--model", "120M", "-")
    assert code == 0
    assert "80,000 tokens/s, of one or two lines: no interval, standard input (text)" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--on", "rtx-4090"), 2, "--on takes a log alone"),
        (("--on", "rtx-4090", "a", "b"), 2, "--on takes a log alone"),
        (("--on", "rtx-4090", "--summary"), 3, "no back-test of a prediction for rtx-4090 is stored"),
        (("--on", "rtx-4090", "nowhere.log"), 2, "cannot read nowhere.log"),
        (("--on", "rtx-4090", "iter 3: loss 2, time 5.1ms"), 2, "--tokens-per-step"),
        (
            ("--on", "rtx-4090", "iter 3: loss 2, time 5.1ms", "--tokens-per-step", "4096"),
            2,
            "say its size, as --model",
        ),
    ],
)
def test_what_a_log_on_named_hardware_lacks_is_said(rigbench, words, code, said):
    got, _, err = rigbench("backtest", *words)
    assert (got, said in err, len(err.strip().splitlines())) == (code, True, 1), err


def test_the_rate_of_one_device_is_not_held_against_that_of_several():
    reading = Reading(
        "torchtitan", [LogRow(i, i * 2.0, tokens_per_s=10_000.0) for i in range(20)], None, of_one_device=True
    )
    with pytest.raises(RigbenchError, match="the prediction is for 4"):
        verdict.compare("r1", "5M", stated(1000.0), reading, FACTS, "2026-11-21T00:00:00Z", cards=4)


def test_a_log_handed_back_again_takes_the_place_of_the_first_try():
    """First with the tokens of one GPU of eight, by mistake."""
    wrong, right = (compare(clocked([10.0] * 9), tokens_per_step=tokens) for tokens in (128.0, 1024.0))
    counted = rates.coverage([wrong, right])
    assert (counted.backtests, counted.inside) == (1, 1)
    console = Console(record=True, width=120, file=io.StringIO())
    screen.show_all([wrong, right], counted, console)
    rows = [row for row in console.export_text().splitlines() if "5M" in row]
    assert [("done again below" in row, "inside" in row) for row in rows] == [(True, False), (False, True)]


def test_a_prediction_for_named_hardware_is_corrected_by_its_own_back_tests_alone(rigbench, predicting, tmp_path):
    log = tmp_path / "train.log"
    code, out, _ = rigbench("budget", "--params", "5M", "--tokens", "1e9", "--on", "rtx-4090", "--json")
    before = json.loads(out)["budget"]["series"][0]["rate"]
    for number in range(rates.FEWEST_TO_WIDEN):
        log.write_text(slow_nanogpt(20_000 + number))
        code, said, _ = rigbench("backtest", json.loads(out)["id"], str(log))
        assert code == 0
        assert "--summary --on rtx-4090" in " ".join(said.split())
    code, _, said = rigbench("backtest", "--summary")
    assert (code, "rigbench backtest --summary --on rtx-4090" in said) == (3, True)
    code, summed, _ = rigbench("backtest", "--on", "rtx-4090", "--summary")
    assert (code, "back-tests of rtx-4090" in summed) == (0, True)
    _, out, _ = rigbench("budget", "--params", "5M", "--tokens", "1e9", "--on", "rtx-4090", "--json")
    after = json.loads(out)["budget"]["series"][0]["rate"]
    assert after["history_factor"] > 1 == before["history_factor"]
    assert rigbench("budget", "--params", "5M", "--tokens", "1e9", "--on", "rtx-4080")[0] == 0


def test_a_back_test_that_was_a_mistake_is_forgotten_and_widens_nothing(rigbench, predicting, tmp_path):
    log = tmp_path / "train.log"
    log.write_text(slow_nanogpt(20_000))
    assert rigbench("backtest", predicting, str(log), "--model", "5M")[0] == 0
    log.write_text(slow_nanogpt(21_000))
    assert rigbench("backtest", predicting, str(log), "--model", "5M")[0] == 0
    _, out, _ = rigbench("backtest", "--summary", "--json")
    assert json.loads(out)["backtests"] == 2
    one = next(path.stem for path in (tmp_path / "home" / "runs").glob("*.json") if path.stem != predicting)
    no_such = "no back-test is stored that is, or is of"
    for wrong, said in {"20000101": no_such, predicting[:-1] + "x": no_such, "": "--forget is empty"}.items():
        code, _, err = rigbench("backtest", "--forget", wrong)
        assert (code, said in err) == (2, True)
    code, _, err = rigbench("backtest", "--forget", one, "--summary")
    assert (code, "--forget names all it takes" in err) == (2, True)
    code, out, _ = rigbench("backtest", "--forget", one, "--json")
    assert (code, json.loads(out)) == (0, [one])
    _, out, _ = rigbench("backtest", "--summary", "--json")
    assert json.loads(out)["backtests"] == 1
    code, _, err = rigbench("backtest", "--forget", predicting)
    assert (code, f"the back-test of run {predicting} by train.log" in err) == (0, True)
    assert rigbench("backtest", "--summary")[0] == 3
    assert rigbench("report", predicting)[0] == 0  # what predicted stays
