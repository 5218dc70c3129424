"""Is every log of a training read for what it says, and refused where it can be read in two ways?"""

import bz2
import gzip
import lzma

import pytest
from written_logs import WRITERS, Training, steady

from rigbench.core.errors import RigbenchError
from rigbench.logs import rules, scan, source, stretches


def text_of(name: str, training: Training) -> str:
    return "\n".join(WRITERS[name][0](training)) + "\n"


def read(text: str | bytes, tokens: float | None = None, columns: dict[str, str] | None = None) -> stretches.Reading:
    raw = text if isinstance(text, bytes) else text.encode()
    return rules.read(scan.scan(source.text_of(raw, "a.log"), "a.log"), columns or {}, tokens, "a.log")


def rate(reading: stretches.Reading) -> float:
    return stretches.steady(stretches.between_rows(reading), "a.log").rate.value


def declared(name: str, training: Training) -> float | None:
    return None if WRITERS[name][2] else float(training.tokens)


@pytest.mark.parametrize("name", WRITERS)
def test_what_each_program_writes_is_read_as_its_own_and_gives_its_rate(name):
    training = steady(steps=100)
    reading = read(text_of(name, training), declared(name, training))
    assert reading.format == WRITERS[name][1]
    assert rate(reading) == pytest.approx(training.rate, rel=0.02), reading.said


@pytest.mark.parametrize(
    "line",
    [
        "step {0} loss 2.790 tokens/s 52000",
        "step {0}/200 loss 2.790 tokens/s 52000 lr 1e-4",
        "step {0} loss 2.790 ms 1260 tokens/s 52000",
        "step {0} tokens/s 52000 loss 2.790",
        "step {0} loss 2.790 52000 tokens/s",
        "step {0} loss 2.790 time 1260 ms 52000 tokens/s",
    ],
)
def test_a_unit_behind_a_loss_is_the_name_of_what_follows(line):
    reading = read("".join(f"{line}\n".replace("{0}", str(step)) for step in range(1, 41)))
    assert rate(reading) == pytest.approx(52_000, rel=0.01), reading.said


def test_a_month_in_letters_that_only_look_alike_is_none():
    text = "".join(f"\u017fep 12 10:00:{at} step {at} loss 2.790 tokens/s 52000\n" for at in range(10, 50))
    with pytest.raises(RigbenchError, match="which: --columns"):  # of the times, which are no clock then
        read(text)


def test_a_log_of_rates_alone_is_read_with_a_steps_tokens_given_as_without():
    text = "".join(f"step {step} loss 2.790 tokens/s 52000\n" for step in range(1, 41))
    for given in (None, 65536.0):
        reading = read(text, given)
        assert rate(reading) == pytest.approx(52_000)
        assert "the log has no times" in reading.said[-1]


# Nothing says that evaluations were.
UNMARKED = {"deepspeed", "titan_2024", "olmo", "olmo_core", "wandb_api", "dates_alone"}


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - UNMARKED))
def test_evaluations_between_and_a_slow_start_do_not_bend_the_rate(name):
    training = steady(steps=200, breaks=dict.fromkeys(range(20, 200, 20), 4.0))
    usual = training.rate
    training.seconds[:5] = [25.0, 4.0, 3.0, 2.5, 2.5]
    reading = read(text_of(name, training), declared(name, training))
    assert rate(reading) == pytest.approx(usual, rel=0.05), reading.said


@pytest.mark.parametrize("name", WRITERS)
def test_the_hours_are_those_of_all_steps_not_of_the_printed_ones(name):
    training = steady(steps=200)
    made = stretches.between_rows(read(text_of(name, training), declared(name, training)))
    if name != "torchtune":  # tells no time
        assert sum(it.seconds for it in made) == pytest.approx(sum(training.seconds), rel=0.06)
    assert sum(it.steps for it in made) == pytest.approx(200, abs=11)


PACKERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "UTF-8 with BOM": lambda raw: b"\xef\xbb\xbf" + raw,
    "UTF-16 of PowerShell": lambda raw: raw.decode().encode("utf-16"),
    "UTF-16 without BOM": lambda raw: raw.decode().encode("utf-16-be"),
    "Windows' line ends": lambda raw: raw.replace(b"\n", b"\r\n"),
    "a gzip cut short": lambda raw: gzip.compress(raw)[:-20],
}


@pytest.mark.parametrize("how", PACKERS)
@pytest.mark.parametrize("name", ["nanogpt", "litgpt_csv", "factory"])
def test_packed_and_encoded_logs_are_read_as_their_plain_twins(name, how):
    training = steady(steps=100)
    reading = read(PACKERS[how](text_of(name, training).encode()), declared(name, training))
    assert rate(reading) == pytest.approx(training.rate, rel=0.02)


def test_what_cannot_be_unpacked_says_so():
    for raw, what in ((b"\x1f\x8b" + b"x" * 90, "cannot be unpacked"), (b"\x28\xb5\x2f\xfd" + b"x" * 90, "zstd"),
                      (bytes(range(256)) * 100, "is no text")):  # fmt: skip
        with pytest.raises(RigbenchError, match=what):
            read(raw)
