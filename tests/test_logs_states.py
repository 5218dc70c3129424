"""Does a log in any state (shuffled, cut, resumed, of several ranks, wrapped) give its truth or a refusal, never another?"""

import math
import random
import re
import shlex
from re import _parser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_logs import declared, rate, read, text_of
from written_logs import WRITERS, Training, steady

from rigbench.core.errors import RigbenchError
from rigbench.doctor import topics
from rigbench.logs import columns, formats, rules, scan, source, stretches, times, tokens

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TABLES = {name for name in WRITERS if name.endswith("csv")} | {"factory", "wandb_api"}


def wrapped(text: str, width: int) -> str:
    lines = COLOUR.sub("", text).split("\n")
    return "\n".join(line[at : at + width] for line in lines for at in range(0, max(1, len(line)), width))


def with_decimal_commas(text: str) -> str:
    text = re.sub(r"(?<=\d),(?=\d{3})", "@", text)
    return re.sub(r"(?<=\d)\.(?=\d)", ",", text).replace("@", ".")


def with_noise(text: str) -> str:
    noise = ("/usr/lib/python3.11/site-packages/torch/utils/checkpoint.py:1399: FutureWarning: use 2.5 instead",
             'W0301 10:00:00.123000 139 torch/_dynamo/convert_frame.py:844] [0/8] cache_size_limit (8)', "  File \"a.py\", line 310")  # fmt: skip
    lines = text.split("\n")
    return "\n".join(it for at, line in enumerate(lines) for it in (line, *noise[: (at % 5 == 2) * 3]))


def of_each_rank(text: str, before: str) -> str:
    return "\n".join(before.format(rank) + line for line in text.split("\n") for rank in range(4))


STATES = {
    "wrapped at 120": lambda text: wrapped(text, 120),
    "with decimal commas": with_decimal_commas,
    "with warnings between": with_noise,
    "with carriage returns": lambda text: text.replace("\n", "\r"),
    "under srun -l": lambda text: "\n".join(f"0: {line}" for line in text.split("\n")),
    "of 4 ranks": lambda text: of_each_rank(text, "[rank{}]: "),
    "of 4 ranks under torchrun": lambda text: of_each_rank(text, "[default{}]:"),
    "each line twice": lambda text: "\n".join(line for line in text.split("\n") for _ in range(2)),
    "cut short": lambda text: text[: int(0.8 * len(text))],
    "its end alone": lambda text: "\n".join([*text.split("\n")[:4], *text.split("\n")[-60:]]),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", sorted(set(WRITERS) - TABLES))
def test_a_text_log_gives_its_rate_in_any_state(name, state):
    training = steady(steps=100)
    if (name, state) == ("nemo_bar", "wrapped at 120"):
        return  # a bar is drawn over itself, and is never wrapped
    try:
        reading = read(STATES[state](text_of(name, training)), declared(name, training))
    except RigbenchError as error:
        assert (name, state, error.exit_code) in {(name, "its end alone", 2), (name, "its end alone", 3)}  # noqa: PT017
        return
    assert rate(reading) == pytest.approx(training.rate, rel=0.03), reading.said


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"wandb_api"}))
def test_a_resumed_run_is_counted_once_a_step_and_its_gap_is_no_training(name):
    first, second = steady(steps=60), steady(steps=60, first=41, seed=2)
    reading = read(text_of(name, first) + text_of(name, second), declared(name, first))
    assert rate(reading) == pytest.approx(first.rate, rel=0.03), reading.said


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_run_that_begins_late_is_read_as_one_that_begins_at_once(name):
    training = steady(steps=100, first=5001)
    assert rate(read(text_of(name, training), declared(name, training))) == pytest.approx(training.rate, rel=0.03)


@pytest.mark.parametrize("name", sorted(WRITERS))
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_shuffled_truncated_or_mixed_log_gives_the_truth_or_is_refused(name, data):
    other = data.draw(st.sampled_from(sorted(WRITERS)))
    seconds = data.draw(st.sampled_from([0.05, 0.3, 1.25, 12.0]))
    training = steady(data.draw(st.integers(20, 90)), seconds, data.draw(st.sampled_from([1, 101, 5001])), 0.02)
    text = text_of(name, training)
    state = data.draw(st.sampled_from(["shuffled", "truncated", "mixed", "thinned"]))
    draw = random.Random(data.draw(st.integers(0, 99)))
    if state == "truncated":
        text = text[: draw.randrange(len(text))]
    elif state == "mixed":
        text += text_of(other, training)
    else:
        lines = text.split("\n")
        body = lines[3:]
        body = draw.sample(body, len(body)) if state == "shuffled" else [line for line in body if draw.random() > 0.2]
        if "olmo" in name:
            return  # blocks of lines: without its first a block is the one above's
        text = "\n".join(lines[:3] + body)
    try:
        measured = rate(reading := read(text, declared(name, training)))
    except RigbenchError:
        return
    of_one = 4 if reading.of_one_device and name != "torchtune" else 1
    assert measured * of_one == pytest.approx(training.rate, rel=0.1), (name, state, reading.said)


@pytest.mark.parametrize("it", formats.FORMATS, ids=[it.name for it in formats.FORMATS])
def test_each_formats_example_is_known_as_its_own_and_told_in_the_topic(it):
    raw = scan.scan(source.text_of((it.example + "\n").encode(), "a"), "a")
    assert formats.known(raw) is it
    assert f"- {it.name}: {it.tells}" in topics.topic("formats").text.splitlines()


def patterns() -> list[re.Pattern[str]]:
    found = []
    for module in (columns, formats, rules, scan, source, stretches, times, tokens):
        for value in vars(module).values():
            several = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            found += [it for it in several if isinstance(it, re.Pattern)]
    return found


def test_no_pattern_has_a_repeat_without_an_end():
    """So that a line of any length costs so many steps for each of its characters and no more."""
    assert len(patterns()) > 25
    for pattern in patterns():
        assert _parser.parse(pattern.pattern).getwidth()[1] < 700, pattern.pattern


@pytest.mark.parametrize(
    "unit", ["1", "1,", "1.", "1:", "a ", "a=", "=", " ", "1ms ", "0:00", "step ", "1/1 [", "tokens", "\x1b[3"]
)
def test_long_lines_of_anything_are_read(unit):
    line = unit * (scan.LINE_LIMIT // len(unit))
    scan.scan_lines([f"step {at} {line}" for at in range(20)])
    source.text_of(line.encode(), "a")


AMBIGUOUS = {
    "a number that rises slowly and could be either": (
        "\n".join(f"step {1000 + i} | loss 3.0 | time {60 + i / 2:.1f}s" for i in range(40)), 1024, "only rises"),
    "milliseconds or seconds": (
        "step,dt,loss\n" + "".join(f"{i},{4600 + i % 7},3.1\n" for i in range(20)), 1024, "seconds or milliseconds"),
    "a micro-batch's time beside the clock of steps": (
        "step,dt,_timestamp\n" + "".join(f"{i},{0.25 + i % 3 / 100},{1e9 + 1.08 * i:.3f}\n" for i in range(20)), 1024, "contradicts itself"),
    "the tokens of a step, twice": (
        "tokens per iteration will be: 491,520\n" + "".join(f"step {i}: loss 3, time {1 + i % 3 / 100:.2f}s, 52,000 tok/s\n" for i in range(20)), None, "contradicts itself"),
    "an option that the log contradicts": (
        "".join(f"step {i}: loss 3, time {1 + i % 3 / 100:.2f}s, 52,000 tok/s\n" for i in range(20)), 491520, "contradicts a.log"),
    "micro-batches of which only the last is printed": (
        "".join(f"Epoch 1 | iter {4 * i} step {i} | loss train: 3.2, val: n/a | iter time: {330 + i % 5}.00 ms (step)\n" for i in range(1, 30)), 65536, "micro-batch of 4"),
    "a mean over the run alone": (
        "".join(f"step {i}: loss 3, avg step time {1 + i % 3 / 100:.2f}s\n" for i in range(20)), 1024, "only a mean"),
    "a line for each micro-batch of a step": (
        "".join(f"step {i // 4}/90 micro {i % 4 + 1}/4 | loss 3 | time {250 + i % 7} ms\n" for i in range(80)), 65536, "several lines about each step"),
    "whole seconds of a few steps": (
        "".join(f"2026-03-01 10:00:{i // 4:02d} step {i} loss 3.1\n" for i in range(60)), 1024, "whole seconds"),
    "a batch, where its head says that several are accumulated": (
        "gradient_accumulation_steps: 4\n" + "".join(f"batch {i} loss 3.1 time {0.5 + i % 3 / 100:.3f}s\n" for i in range(40)), 65536, "4 of which are accumulated"),
    "lines of micro-batches, some of which end a step": (
        "".join(f"iter {i}: loss 3.1, iter time: {500 + i % 5}.0ms{' (optimizer.step)' * (i % 4 == 3)}\n" for i in range(80)), 65536, "20 of its 80 lines end an optimizer step"),
    "a time on every tenth step, of one or of ten": (
        "".join(f"step {10 * i} | loss 3.1 | time {20 + i % 3 / 100:.2f}s | tokens seen {655360 * i}\n" for i in range(40)), None, "of one step, or of 10 together"),
    "what a line took, by the name of a clock": (
        "".join(f"step {10 * i} | loss 3.1 | elapsed {20 + i % 3 / 100:.2f}s | tokens seen {655360 * i}\n" for i in range(40)), None, "of one step, or of 10 together"),
    "a time on every tenth step whose rate has no tokens of all devices": (
        "".join(f"step {10 * i} | loss 3.1 | time {20 + i % 3 / 100:.2f}s | tok/s/gpu {5000 + i % 7}\n" for i in range(40)), 1000400, "of one step, or of 10 together"),
    "tokens, rate and time of which neither reading agrees": (
        "tokens per iteration will be: 65,536\n" + "".join(f"step {10 * i} | loss 3.1 | dt {20 + i % 3 / 100:.2f}s | tok/s: {8000 + i % 7}\n" for i in range(40)), None, "contradicts itself"),
    "the time of an interval beside a clock": (
        "step,interval_time,_timestamp\n" + "".join(f"{10 * i},{2 + i % 3 / 100},{1e9 + 20 * i + i % 3 / 100:.3f}\n" for i in range(20)), 1024, r"contradicts itself.*by interval_time and"),
    "two runs of different speed": (
        "".join(f"step {i} | loss 3.1 | dt {s + i % 3 / 100:.2f}s\n" for s in (2, 4) for i in range(40)), 65536, "32,605 tokens/s: two runs in one log"),
    "steps and losses without any time": (
        "epoch,step,train_loss_step\n" + "".join(f"0,{i},3.1\n" for i in range(49, 999, 50)), 65536, "does not say how long"),
}  # fmt: skip


OTHER_WORDS = {
    "a time in parentheses of seconds": "".join(f"iteration {i}/ 900 | consumed tokens: {i * 286000} | elapsed time per iteration (s): {5.5 + i % 3 / 100:.2f} | loss: 3.1\n" for i in range(20)),
    "a name that divides by the step": "".join(f"step {i} | time/step (s): {2 + i % 3 / 100:.2f} | ntokens {104520} | loss: 3.1\n" for i in range(20)),
    "milliseconds since 1970": "step,timestamp,tokens\n" + "".join(f"{i},{1740819120000 + 2000 * i},{104000 * i}\n" for i in range(20)),
    "microseconds of a step": "step,step_time_us,ntokens\n" + "".join(f"{i},{2_000_000 + i % 7},104000\n" for i in range(20)),
    "the time since the last of several": "".join(f"step {10 * i} | loss 3.1 | time since last log {20 + i % 3 / 100:.2f}s | tokens seen {1040520 * i}\n" for i in range(20)),
    "an interval of several steps": "".join(f"loss: 3.1, global_step: {10 * i}, interval_runtime: {20 + i % 3 / 100:.2f}, interval_steps_per_second: 0.5, tokens_seen: {1040520 * i}\n" for i in range(1, 20)),
    "several hosts": "".join(f"node{r:03d}: step {i} loss 3.1 dt {2 + i % 3 / 100:.2f}s tokens seen {104520 * i}\n" for i in range(20) for r in range(3)),
    "workers of Ray": "".join(f"\x1b[36m(TrainWorker pid={100 + r}, ip=10.0.0.{r})\x1b[0m step={i} loss=3.1 dt={2 + i % 3 / 100:.2f}s tokens seen {104520 * i}\n" for i in range(20) for r in range(3)),
    "thousands and millions in letters": "".join(f"step {i} | loss 3 | tok/s: 52.0k | seen {i * 0.052:.3f}M\n" for i in range(20)),
    "with a unit": "".join(f"[{i}/900] step={i} loss=3.1 throughput: 52.0K tokens/s\n" for i in range(20)),
    "seconds since 1970 before each line": "".join(f"{1740819120 + 2 * i}.25 step {i} loss 3.1 tokens {i * 104000}\n" for i in range(20)),
    "syslog's dates over midnight": "".join(f"Mar {1 + (86390 + i) // 86400} {(86390 + i) // 3600 % 24:02d}:{(86390 + i) // 60 % 60:02d}:{(86390 + i) % 60:02d} host train[1]: step {i} loss 3.1 tokens {i * 52000}\n" for i in range(90)),
    "the time of day alone, over midnight": "".join(f"[{(86390 + i) // 3600 % 24:02d}:{(86390 + i) // 60 % 60:02d}:{(86390 + i) % 60:02d}] step {i} loss 3.1 tokens {i * 52000}\n" for i in range(90)),
    "other columns": "wall_time,tokens_local,loss,optimizer_step,tokens_total\n" + "".join(f"{2.0 * i:.2f},{i * 26000},3,{i},{i * 104000}\n" for i in range(20)),
    "a table with semicolons and decimal commas": "step;time;tokens;loss\n" + "".join(f"{i};{2.0 * i:.2f};{i * 104000};3,12\n".replace(".", ",") for i in range(20)),
    "a clock of each micro-batch": "step,batch,elapsed,total_tokens\n" + "".join(f"{i // 4},{i},{0.5 * i:.3f},{i // 4 * 104000}\n" for i in range(80)),
    "tokens behind their number": "".join(f"step {i} | loss 3 | {2.0 * i:.1f} s elapsed | time {2 + i % 3 / 100}s | {i * 104000:,} tokens seen\n" for i in range(40)),
    "minutes": "".join(f"step {i} | loss 3 | elapsed {i * 2 / 60:.4f} min | total tokens {i * 104000:,}\n" for i in range(40)),
    "a data frame's JSON": '{"step": {' + ", ".join(f'"{i}": {i}' for i in range(20)) + '}, "time": {' + ", ".join(f'"{i}": {2.0 * i + 0.125}' for i in range(20)) + '}, "tokens": {' + ", ".join(f'"{i}": {104000 * i}' for i in range(20)) + "}}",
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("step", ["step", "validation step", "eval: step"])
def test_a_line_of_an_evaluation_is_no_training_whatever_step_it_names(step, first):
    lines, at = [], 0.0
    for i in range(100):
        at += 2.0
        train = f"2026-03-01 10:{at // 60:02.0f}:{at % 60:06.3f} step {i} loss 3.1 tokens {i * 104000}"
        if i % 10 == 9 and not first:
            at += 12.0
        evaluation = f"2026-03-01 10:{at // 60:02.0f}:{at % 60:06.3f} {step} {i} val_loss 3.3"
        if i % 10 == 9 and first:
            at += 12.0
            train = f"2026-03-01 10:{at // 60:02.0f}:{at % 60:06.3f} step {i} loss 3.1 tokens {i * 104000}"
        lines += [evaluation, train] if i % 10 == 9 and first else [train, evaluation] if i % 10 == 9 else [train]
    assert rate(read("\n".join(lines) + "\n")) == pytest.approx(52_000, rel=0.02)


@pytest.mark.parametrize("words", OTHER_WORDS)
def test_logs_of_other_programs_are_read_by_the_names_of_their_numbers(words):
    reading = read(OTHER_WORDS[words])
    assert rate(reading) == pytest.approx(52_000, rel=0.02), reading.said


@pytest.mark.parametrize(
    "name",
    [
        "tokens/s/rank",
        "tokens_per_gpu_per_second",
        "tokens/train_per_sec_per_gpu",
        "tokens_per_device_per_sec",
        "tok/s/gpu",
    ],
)
def test_a_rate_of_one_device_is_called_so(name):
    lines = "".join(f"step {i} | loss: 3.1 | {name}: {5000 + i % 7}.5\n" for i in range(20))
    table = f"step,loss,{name}\n" + "".join(f"{i},3.1,{5000 + i % 7}.5\n" for i in range(20))
    for text in (lines, table):
        reading = read(text)
        assert reading.of_one_device
        assert rate(reading) == pytest.approx(5003, rel=0.001)


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_with_both(what):
    text, tokens, said = AMBIGUOUS[what]
    with pytest.raises(RigbenchError, match=said):
        rate(read(text, tokens))


HEAD = "tokens per iteration will be: 104,000\n"
EVERY_TENTH = {  # what stands beside the time of a line, and what must be said of it; a step has 104,000 tokens
    "a rate, the tokens at the head": (HEAD, "tok/s: {rate}", None, "as tok/s and the tokens show"),
    "a rate, the tokens seen": ("", "tok/s: {rate} | tokens seen {seen}", None, "as tok/s and the tokens show"),
    "a rate, the tokens as given": ("", "tok/s: {rate}", 104_000, "as tok/s and the tokens show"),
    "a mean rate, the tokens seen": ("", "avg tok/s: {rate} | tokens seen {seen}", None, "as avg tok/s and the tokens show"),
    "steps/s, the tokens at the head": (HEAD, "steps/s: 0.5", None, "as steps/s show"),
    "one device's rate, one device's tokens": ("", "tok/s/gpu: {rate} | tokens_per_gpu {seen}", None, "as tok/s/gpu and the tokens show"),
    "one device's rate, the tokens as given": ("", "tok/s/gpu: {rate}", 104_000, "as tok/s/gpu and the tokens show"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["dt", "time", "step time"])
@pytest.mark.parametrize("beside", EVERY_TENTH)
@pytest.mark.parametrize("every", [2, 10, 50])
def test_a_time_beside_a_rate_is_of_as_many_steps_as_both_and_the_tokens_allow(beside, name, every):
    head, columns, given, said = EVERY_TENTH[beside]
    for together in (True, False):
        lines = [
            f"step {at} | loss 3.1 | {name}: {2 * (every if together else 1) + at % 3 / 100:.2f}s | "
            + columns.format(rate=52_000 + at % 7, seen=104_000 * at)
            for at in range(0, 40 * every, every)
        ]
        if given and "gpu" in columns and not together:  # or ten times as many devices
            continue
        reading = read(head + "\n".join(lines) + "\n", given)
        made = stretches.between_rows(reading)
        assert rate(reading) == pytest.approx(52_000, rel=0.02)
        assert math.fsum(it.seconds for it in made) == pytest.approx(2 * sum(it.steps for it in made), rel=0.02)
        assert any(f"of {every} steps together, {said}" in it for it in reading.said) == together
        assert not any("taken as one step's" in it for it in reading.said)
        assert not reading.in_doubt


@pytest.mark.parametrize(("more", "other"), [("", "the rate is 10 times this"), ("| tok/s: 52000", "the time is 1/10")])
def test_a_time_that_nothing_decides_is_said_with_what_else_it_may_be(more, other):
    lines = "".join(f"step {10 * i} | loss 3.1 | dt {2 + i % 3 / 100:.2f}s {more}\n" for i in range(40))
    reading = read(lines, None if more else 104_000)
    assert rate(reading) == pytest.approx(52_000, rel=0.02)
    [said] = [it for it in reading.said if "since the line above" in it]
    assert said.startswith("dt is taken as one step's; if it is of the 10 since the line above, " + other)
    assert reading.in_doubt == ("" if more else said)
    every_step = "".join(f"step {i} | loss 3.1 | dt {2 + i % 3 / 100:.2f}s {more}\n" for i in range(40))
    for text, forced in ((lines, {"step_seconds": "dt"}), (every_step, {})):
        assert not any("since the line above" in it for it in read(text, None if more else 104_000, forced).said)


def test_the_user_has_the_last_word_on_what_a_number_is():
    text = "\n".join(f"step {1000 + i} | loss 3.0 | time {60 + i / 2:.1f}s" for i in range(40)) + "\n"
    assert rate(read(text, 1024, {"at_seconds": "time"})) == pytest.approx(2048)
    assert rate(read(text, 1024, {"step_seconds": "time"})) == pytest.approx(1024 / 70, rel=0.01)
    table = "n;dauer;verlust\n" + "".join(f"{i};{4600 + i % 7},5;3,1\n" for i in range(20))
    assert rate(read(table, 4603, {"step": "n", "step_milliseconds": "dauer"})) == pytest.approx(1000, rel=0.01)
    with pytest.raises(RigbenchError, match="no column is called 'nix'"):
        read(table, 1, {"step": "nix"})


def test_hours_count_the_steps_that_no_line_is_about():
    training = steady(steps=300, seconds=4.62)
    made = stretches.between_rows(read(text_of("nanogpt", training)))
    assert math.fsum(it.seconds for it in made) / 3600 == pytest.approx(0.385, abs=0.001)


def test_trainer_state_says_the_whole_run_and_asks_for_the_console():
    entries = [{"epoch": 0.1 * i, "loss": 3.0, "step": 10 * i} for i in range(1, 13)]
    entries.append({"epoch": 1.0, "step": 120, "train_runtime": 240.5, "train_steps_per_second": 0.499})
    with pytest.raises(RigbenchError, match=r"whole run 120 steps in 240.5 s, 0.499 steps/s") as refused:
        read(str({"global_step": 120, "log_history": entries}).replace("'", '"'))
    assert refused.value.exit_code == 3


def test_a_line_that_is_not_understood_is_quoted_with_a_pattern_that_fits():
    with pytest.raises(
        RigbenchError, match=r"first line with numbers is 'Schritt 10 dauerte 250 ms', which"
    ) as refused:
        read("hallo\n" + "".join(f"Schritt {i} dauerte 250 ms\n" for i in range(10, 30)))
    [pattern] = shlex.split(str(refused.value).rpartition(", which ")[2].removesuffix(" fits"))
    raw, roles = rules.by_pattern("Schritt 10 dauerte 250 ms\nSchritt 11 dauerte 251 ms\n", pattern)
    assert [row.step_seconds for row in rules.read(raw, roles, 1.0).rows] == [0.25, 0.251]


def test_an_evaluation_that_nothing_marks_stays_in_the_rate():
    training = steady(steps=200, breaks=dict.fromkeys(range(20, 200, 20), 4.0))
    whole = Training.rate.fget(training) * sum(training.seconds) / (sum(training.seconds) + 36)
    assert rate(read(text_of("deepspeed", training), training.tokens)) == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("count", ["1e308", "9" * 40, "1e15"])
def test_a_step_that_nobody_makes_is_no_step(count):
    lines = "\n".join(f"step {at}/500 | loss 3.2 | 1250.0 ms | 52000 tok/s" for at in range(40)) + "\n"
    found = read(lines.replace("step 30/", f"step {count}  30/"), 65_536.0)
    assert max(row.step for row in found.rows) == 39


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_garbled_log_ends_in_an_answer_or_a_refusal(name):
    draw = random.Random(name)
    whole = text_of(name, steady(30))
    garbage = ["nan", "inf", "-1", "1e309", "9" * 40, "0", ",", '"', "{", "]", "null", "step", "\0", "é", "1e-400", "25:61:61", "Feb 30 10:00:00", "1/0", "%"]  # fmt: skip
    for count in (1, 5, 50, 200) * 3:
        text = list(whole)
        for _ in range(count):
            at = draw.randrange(len(text))
            text[at : at + draw.choice([0, 1, 3, 30])] = draw.choice(garbage)
        try:
            assert rate(read("".join(text), draw.choice([None, 65536.0, 1e300]))) > 0
        except RigbenchError as error:
            assert error.exit_code in (2, 3)  # noqa: PT017
