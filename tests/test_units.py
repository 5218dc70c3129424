"""Is every quantity read as people write it, refused in one clear line, and shown as people read it?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rigbench.core import units
from rigbench.core.errors import BAD_INPUT, RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Figure
from rigbench.core.screen import span


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120M", 120_000_000),
        ("5m", 5_000_000),
        (" 1.5 B ", 1_500_000_000),
        ("124475904", 124_475_904),
        ("124,475,904", 124_475_904),
        ("1.2e8", 120_000_000),
        ("1.1M", 1_100_000),
        ("1T", 10**12),
    ],
)
def test_parameters_are_read_as_people_write_them(text, expected):
    assert units.parse_parameters(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2e18", 1.2e18),
        ("1.2E18", 1.2e18),
        ("1.2EFLOP", 1.2e18),
        ("1.2 EFLOPs", 1.2e18),
        ("300 PFLOP", 3e17),
        ("1.2 zflop", 1.2e21),
        ("5 FLOP", 5.0),
    ],
)
def test_flops_are_read_as_people_write_them(text, expected):
    assert units.parse_flops(text) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16GiB", 17_179_869_184), ("512MB", 512_000_000), ("4096", 4096), ("1.5 KiB", 1536), ("2kB", 2000), ("7 B", 7)],
)
def test_bytes_tell_powers_of_1000_from_powers_of_1024(text, expected):
    assert units.parse_bytes(text, "--memory") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48h", 172_800),
        ("90s", 90),
        ("1h30m", 5400),
        ("2.5 min", 150),
        ("45", 45),
        ("500ms", 0.5),
        ("3 h 12 min", 11_520),
        ("2d 5h", 190_800),
        ("310 µs", 310e-6),
        ("310us", 310e-6),
        ("1 week", 604_800),
        ("1e3", 1000),
    ],
)
def test_durations_are_read_as_people_write_them(text, expected):
    assert units.parse_seconds(text, "--seconds") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"), [("10B", 1e10), ("2.5e9", 2.5e9), ("300M", 3e8), ("8", 8.0), ("2k", 2e3)]
)
def test_counts_are_read_as_people_write_them(text, expected):
    assert units.parse_count(text, "--tokens") == expected


def test_a_plain_number_is_read_within_its_bounds():
    assert units.parse_number(" 0.3071 ", "--price", 0.0001, 1000.0) == 0.3071
    assert units.parse_number("1000", "--price", 0.0001, 1000.0) == 1000.0


P, F, B, S, C = (
    units.parse_parameters,
    units.parse_flops,
    lambda text: units.parse_bytes(text, "--memory"),
    lambda text: units.parse_seconds(text, "--seconds"),
    lambda text: units.parse_count(text, "--tokens"),
)
N = lambda text: units.parse_number(text, "--watts", 0.1, 1e6)  # noqa: E731
CURES = {P: "120M", F: "1.2e18", B: "16GiB", S: "48h", C: "10B", N: "a number from 0.100 to 1,000,000"}


@pytest.mark.parametrize("parse", CURES)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("  \t", "is empty"),
        ("nan", "is not a number"),
        ("-NaN", "is not a number"),
        ("inf", "is not finite"),
        ("-Infinity", "is not finite"),
        ("0", "is zero"),
        ("0.000", "is zero"),
        ("-5", "is negative"),
        ("1e999", "is too large to be a number|is more than 1000 years"),
        ("12 apples", "a unit that I do not know, 'apples'"),
        ("7furlongs", "a unit that I do not know, 'furlongs'"),
        ("1,5", "is not a|no unit|not know"),
        ("1.2.3", "is not a|no unit"),
        ("twelve", "is not a"),
        ("--5", "is not a"),
        ("٣", "is not a"),
    ],
)
def test_what_is_no_positive_quantity_is_refused_in_one_line_with_a_cure(parse, text, why):
    with pytest.raises(RigbenchError, match=why) as refused:
        parse(text)
    message = str(refused.value)
    assert refused.value.exit_code == BAD_INPUT
    assert message.startswith("--")
    assert CURES[parse] in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("parse", "text", "why"),
    [
        (P, "1e30", "is more than a trillion parameters"),
        (P, "120", "fewer than the 10,000 parameters of the smallest decoder"),
        (P, "5G", "not know, 'G'; use K, M, B, T or none"),
        (P, "0M", "is zero"),
        (P, "-5M", "is negative"),
        (F, "1.2 EFLOP/s", "is a rate, operations per second; give a total"),
        (F, "100 TFLOPS/s", "is a rate"),
        (F, "1.2E", "not know, 'E'"),
        (F, "1e31", "more than any computer"),
        (F, "3 GB", "not know, 'GB'"),
        (B, "16G", "not know, 'G'"),
        (B, "0.4", "less than one byte"),
        (B, "2000 PiB", "more than 1 EiB"),
        (S, "1h30", "has no unit after 30"),
        (S, "5 30 s", "has no unit after 5"),
        (S, "-5 min", "is negative"),
        (S, "-1h30m", "is not a|negative|not know"),
        (S, "2000 years", "more than 1000 years"),
        (C, "0.5", "less than one"),
        (C, "1e19", "absurdly many"),
        (N, "300 W", "not know, 'W'; give a number from"),
        (N, "2e6", "above the sensible range"),
        (N, "0.01", "below the sensible range"),
    ],
)
def test_what_makes_no_sense_for_this_option_is_refused(parse, text, why):
    with pytest.raises(RigbenchError, match=why):
        parse(text)


def test_a_long_or_many_lined_text_still_gives_one_short_line():
    with pytest.raises(RigbenchError) as refused:
        units.parse_parameters("5\n" + "x" * 10_000)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250


@given(st.text(max_size=30), st.sampled_from(list(CURES)))
def test_any_text_is_a_positive_finite_quantity_or_one_clear_line(text, parse):
    try:
        answer = parse(text)
    except RigbenchError as refused:
        answer = str(refused)
    assert "\n" not in answer if isinstance(answer, str) else 0 < answer < math.inf


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.format_count(124_475_904), "124.5M"),
        (units.format_count(5_412_000), "5.4M"),
        (units.format_count(1.3e9), "1.3B"),
        (units.format_count(50_304), "50,304"),
        (units.format_count(10e9), "10B"),
        (units.format_count(123_456), "123.5K"),
        (units.format_count(999_960), "1.0M"),
        (units.format_count(2.5e15), "2,500T"),
        (units.format_flop(1.2e18), "1.2 EFLOP"),
        (units.format_flop(8.544e8), "854 MFLOP"),
        (units.format_flop(0), "0 FLOP"),
        (units.format_flops_per_s(142e12), "142 TFLOP/s"),
        (units.format_flops_per_s(999.7e9), "1.00 TFLOP/s"),
        (units.format_bytes(16_857_956_352), "15.7 GiB"),
        (units.format_bytes(17_179_869_184), "16 GiB"),
        (units.format_bytes(512), "512 B"),
        (units.format_bytes(1023 * 1024), "1,023 KiB"),
        (units.format_bytes(2**40), "1 TiB"),
        (units.format_bytes_per_s(26.3e9), "26.3 GB/s"),
        (units.format_bytes_per_s(31.508e9), "31.5 GB/s"),
        (units.format_seconds(11_520), "3 h 12 min"),
        (units.format_seconds(4.21), "4.21 s"),
        (units.format_seconds(0.0123), "12.3 ms"),
        (units.format_seconds(310e-6), "310 µs"),
        (units.format_seconds(4e-9), "4 ns"),
        (units.format_seconds(190_800), "53 h"),
        (units.format_seconds(725), "12 min 5 s"),
        (units.format_seconds(59.97), "1 min"),
        (units.format_seconds(3599.7), "1 h"),
        (units.format_seconds(86_399), "24 h"),
        (units.format_seconds(0.9996), "1.00 s"),
        (units.format_seconds(140 * 86400), "140 d"),
        (units.format_seconds(5 * 31_557_600), "5.00 years"),
        (units.format_seconds(0), "0 s"),
        (units.format_share(0.863), "86 %"),
        (units.format_share(0.004), "0.4 %"),
        (units.format_share(0.042), "4.2 %"),
        (units.format_share(0.0996), "10 %"),
        (units.format_share(1.0), "100 %"),
        (units.format_share(0.0003), "0.03 %"),
        (units.format_share(0.00005), "0.01 %"),
        (units.format_share(0.000049), "<0.01 %"),
        (units.format_share(1e-9), "<0.01 %"),
        (units.format_share(0.0), "0 %"),
        (units.format_plus_minus(0.012), "±1.2 %"),
        (units.format_rate(1234.5), "1,235 tokens/s"),
        (units.format_rate(12.34), "12.3 tokens/s"),
        (units.format_rate(0.0567), "0.0567 tokens/s"),
        (units.format_rate(9.999), "10.0 tokens/s"),
        (units.format_watts(319.7), "320 W"),
        (units.format_watts(1250), "1,250 W"),
        (units.format_money(12.5, "EUR"), "12.50 EUR"),
        (units.format_money(1234.4, "USD"), "1,234 USD"),
        (units.format_money(999.996, "USD"), "1,000 USD"),
        (units.format_money(999.99, "USD"), "999.99 USD"),
        (units.format_money(0.3, "EUR"), "0.30 EUR"),
        (units.format_money(0.3071, "EUR"), "0.307 EUR"),
        (units.format_money(0.00123, "EUR"), "0.00123 EUR"),
        (units.format_money(1e-9, "EUR"), "0.00 EUR"),
        (units.format_money(0.9999, "EUR"), "1.00 EUR"),
        (units.format_significant(37_234), "37,200"),
        (units.format_significant(37_234.0), "37,200"),
        (units.format_significant(9.996), "10.0"),
        (units.format_significant(0.012345), "0.0123"),
        (units.format_significant(-1234.5), "-1,230"),
        (units.format_significant(5), "5"),
        (units.format_significant(0.0), "0"),
        (units.format_significant(1.234e20), "1.23e20"),
        (units.format_significant(3.14159, 5), "3.1416"),
        (units.format_significant(999), "999"),
        (units.format_significant(1000), "1,000"),
        (units.format_share(0.0995), "10 %"),
        (units.format_range(0.0, 7200.0, "seconds"), "0 to 2.0 h"),
        (units.format_span(1.5e-6, 1.5e-6, 1.5e-6, "seconds"), "1.50 µs"),
    ],
)
def test_a_number_is_shown_as_people_read_it(shown, expected):
    assert shown == expected


POSITIVE = st.floats(min_value=1.0, max_value=1e17)


@given(POSITIVE)
def test_flop_and_counts_come_back_from_what_is_shown(value):
    assert units.parse_flops(units.format_flop(value)) == pytest.approx(value, rel=0.0051)
    if value >= 1e4:
        assert units.parse_count(units.format_count(value), "--tokens") == pytest.approx(value, rel=0.051)


@given(st.integers(min_value=1, max_value=2**59))
def test_bytes_come_back_from_what_is_shown(size):
    assert units.parse_bytes(units.format_bytes(size), "--memory") == pytest.approx(size, rel=0.0051, abs=0.5)


@given(st.floats(min_value=1e-6, max_value=1e10))
def test_durations_come_back_from_what_is_shown(seconds):
    shown = units.format_seconds(seconds)
    assert units.parse_seconds(shown, "--seconds") == pytest.approx(seconds, rel=0.009)


@given(st.floats(min_value=1e-5, max_value=1e14), st.integers(min_value=1, max_value=8))
def test_significant_digits_are_within_half_a_unit_of_the_last(value, digits):
    shown = units.format_significant(value, digits)
    assert "e" not in shown
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.5 * 10 ** (1 - digits) * 1.0001)


SPANS = {
    (18468.0, 16668.0, 20448.0, "seconds"): "5.1 h (4.6 to 5.7)",
    (249.0, 235.0, 268.0, "seconds"): "4.2 min (3.9 to 4.5)",
    (0.0691 * 3600, 0.0691 * 3600, 0.0691 * 3600, "seconds"): "4.15 min",
    (59.0, 57.9, 60.4, "seconds"): "59.0 s (57.9 to 60.4)",
    (12.3 * 86400, 10.1 * 86400, 14.8 * 86400, "seconds"): "12 days (10 to 15)",
    (3 * 365.25 * 86400, 2.2 * 365.25 * 86400, 4.1 * 365.25 * 86400, "seconds"): "3.0 years (2.2 to 4.1)",
    (0.00214, 0.00211, 0.00217, "seconds"): "2.14 ms (2.11 to 2.17)",
    (101_234.0, 98_761.0, 103_400.0, "tokens/s"): "101,000 tokens/s (99,000 to 103,000)",
    (12.87e9, 12.81e9, 12.93e9, "bytes/s"): "12.87 GB/s (12.81 to 12.93)",
    (88.04e12, 87.9e12, 88.2e12, "FLOP/s"): "88.04 TFLOP/s (87.90 to 88.20)",
    (3.6, 2.9, 4.4, "kWh"): "3.6 kWh (2.9 to 4.4)",
    (0.97, 0.955, 0.984, "share"): "97.0 % (95.5 to 98.4)",
    (0.0, -0.4, 0.6, "min"): "0.0 min (-0.4 to 0.6)",
    (123456.7, 123456.6, 123456.8, "tokens/s"): "123,500 tokens/s (123,500 to 123,500)",
}


@pytest.mark.parametrize(("value", "low", "high", "unit"), SPANS)
def test_a_number_has_its_interval_in_one_unit_and_no_digit_that_it_does_not_support(value, low, high, unit):
    assert units.format_span(value, low, high, unit) == SPANS[value, low, high, unit]


@given(
    value=st.floats(1e-6, 1e9),
    down=st.floats(0.5, 1.0),
    up=st.floats(1.0, 1.9),
    unit=st.sampled_from(["seconds", "bytes/s", "FLOP/s", "tokens/s", "kWh"]),
)
def test_what_is_shown_is_the_number_to_half_a_half_width(value, down, up, unit):
    """Read back, each of the three is off by less than a quarter of the interval, or one part in a thousand."""
    low, high = value * down, value * up
    text, ends, name = units.span_parts(value, low, high, unit)
    size = next((size for size, its in units.SCALES[unit].steps if its == name), 1.0) if unit in units.SCALES else 1.0
    shown = [float(part.replace(",", "")) * size for part in (text, *ends.split(" to "))] if ends else []
    allowed = max((high - low) / 4, 1e-3 * high)
    for back, true in zip(shown, (value, low, high), strict=False):
        assert abs(back - true) <= allowed
    assert shown == [] or shown[1] <= shown[0] <= shown[2]


def test_a_wide_interval_has_no_middle_and_a_thin_one_says_what_it_covers():
    wide = Estimate(5.0, 3.1, 9.8, 0.9, "", 4)
    assert span(wide, "h") == "3.1 to 9.8 h"
    assert span(Estimate(5.1, 4.6, 5.7, 0.75, "", 3), "h") == "5.1 h (4.6 to 5.7, 75 %)"
    assert span(Estimate(5.1, 5.1, 5.1, 0.0, "", 1), "h") == "5.10 h (one sample)"
    assert span(Figure(5.1, "predicted", "", 4.6, 5.7), "h") == "5.1 h (4.6 to 5.7)"
    assert span(Figure(5.1, "declared", ""), "h") == "5.10 h"


@pytest.mark.parametrize(
    ("parse", "most", "more", "why"),
    [
        (P, "1T", "1.01T", "is more than a trillion parameters"),
        (F, "1e30", "1.01e30", "more than any computer could do"),
        (B, "1 EB", "1 ZB", "a unit that I do not know, 'ZB'"),
        (B, "1EiB", "1.01EiB", "is more than 1 EiB"),
        (S, "1000 years", "1000.5 years", "is more than 1000 years"),
        (C, "1e18", "1.01e18", "is absurdly many"),
        (N, "1000000", "1000001", "is above the sensible range; give a number from 0.100 to 1,000,000"),
    ],
)
def test_the_most_that_makes_sense_is_taken_and_no_more(parse, most, more, why):
    assert parse(most) > 0
    with pytest.raises(RigbenchError, match=why):
        parse(more)


@pytest.mark.parametrize(
    ("parse", "least", "less", "why"),
    [
        (P, "10000", "9999", "is fewer than the 10,000 parameters"),
        (B, "1", "0.99", "is less than one byte"),
        (C, "1", "0.99", "is less than one"),
        (N, "0.1", "0.099", "is below the sensible range"),
        (F, "0.5", "0.0", "is zero"),
        (S, "1e-9", "0", "is zero"),
    ],
)
def test_the_least_that_makes_sense_is_taken_and_no_less(parse, least, less, why):
    assert parse(least) > 0
    with pytest.raises(RigbenchError, match=why):
        parse(less)


SECONDS = {
    1e-9: "ns", 1e-6: "us µs μs", 1e-3: "ms", 1: "s sec secs second seconds", 60: "m min mins minute minutes",
    3600: "h hr hrs hour hours", 86_400: "d day days", 604_800: "w week weeks", 31_557_600: "year years",
}  # fmt: skip


@pytest.mark.parametrize("size", SECONDS)
def test_every_unit_of_time_is_read(size):
    for unit in SECONDS[size].split():
        assert S(f"2{unit}") == pytest.approx(2 * size, rel=1e-12)


def test_every_prefix_of_operations_bytes_and_counts_is_read_and_shown():
    for power, prefix in enumerate(["", "k", "M", "G", "T", "P", "E", "Z", "Y", "R"]):  # SI, 2022
        assert F(f"2 {prefix}FLOP") == pytest.approx(2 * 1000.0**power)
        assert units.format_flop(2 * 1000.0**power) == f"2 {prefix}FLOP"
        assert units.format_flops_per_s(20 * 1000.0**power) == f"20{'.0' if power else ''} {prefix}FLOP/s"
        assert units.format_span(*[2 * 1000.0**power] * 3, "FLOP") == f"2.00 {prefix}FLOP"
        assert units.format_span(*[2 * 1000.0**power] * 3, "FLOP/s") == f"2.00 {prefix}FLOP/s"
    for power, prefix in enumerate(["", "k", "M", "G", "T", "P", "E"]):
        if power < 6:
            assert B(f"2{prefix}B") == 2 * 1000**power
        assert units.format_bytes_per_s(20 * 1000.0**power) == f"20{'.0' if power else ''} {prefix}B/s"
        assert units.format_span(*[2 * 1000.0**power] * 3, "bytes/s") == f"2.00 {prefix}B/s"
    for power, prefix in enumerate(["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]):
        if power < 6:
            assert B(f"2{prefix}B") == 2 * 1024**power
        assert units.format_bytes(2 * 1024**power) == f"2 {prefix}B"
        assert units.format_span(*[2 * 1024**power] * 3, "bytes") == f"2.00 {prefix}B"
    assert [C(f"2{letter}") for letter in "KMBT"] == [2e3, 2e6, 2e9, 2e12]


@pytest.mark.parametrize(
    ("text", "expected"), [("8", 8), ("1,024", 1024), ("1_000", 1000), (" 12 ", 12), ("5", 5), ("2000", 2000)]
)
def test_a_whole_number_is_read_within_its_bounds(text, expected):
    assert units.parse_whole(text, "--steps", 5, 2000) == expected


@pytest.mark.parametrize("text", ["4", "2001", "", "8.0", "-8", "٨", "eight", "9" * 5000])
def test_what_is_no_whole_number_within_them_is_refused_in_a_short_line(text):
    with pytest.raises(RigbenchError, match="is not a whole number from 5 to 2,000; give one, like 8") as refused:
        units.parse_whole(text, "--steps", 5, 2000)
    assert str(refused.value).startswith(f"--steps {text[:40]!r} is")


@pytest.mark.parametrize(("length", "shown"), [(40, "x" * 40), (41, "x" * 37 + "...")])
def test_a_text_of_up_to_forty_characters_is_quoted_whole(length, shown):
    with pytest.raises(RigbenchError, match=rf"^--params '{shown}' is not a number"):
        P("x" * length)


HOUR, DAY, YEAR = 3600, 86_400, 31_557_600


@pytest.mark.parametrize(
    ("below", "shown_below", "at", "shown_at"),
    [
        (0.9994, "999 ms", 0.9995, "1.00 s"),
        (59.94, "59.9 s", 59.95, "1 min"),
        (3599.4, "59 min 59 s", 3599.5, "1 h"),
        (100 * HOUR - 31, "99 h 59 min", 100 * HOUR - 30, "4 d 4 h"),
        (100 * DAY - 1801, "99 d 23 h", 100 * DAY - 1800, "100 d"),
        (730 * DAY, "730 d", 731 * DAY, "2.00 years"),
        (-5.0, "-5.00 s", 0.0, "0 s"),
    ],
)
def test_a_duration_goes_to_the_next_unit_where_it_would_be_said_so(below, shown_below, at, shown_at):
    assert (units.format_seconds(below), units.format_seconds(at)) == (shown_below, shown_at)


@pytest.mark.parametrize(
    ("below", "shown_below", "at", "shown_at"),
    [
        (0.5e-9, "0.500 ns", 1e-9, "1.00 ns"),
        (0.999e-6, "999 ns", 1e-6, "1.00 µs"),
        (0.999e-3, "999 µs", 1e-3, "1.00 ms"),
        (0.999, "999 ms", 1.0, "1.00 s"),
        (89.9, "89.9 s", 90.0, "1.50 min"),
        (5399.0, "90.0 min", 5400.0, "1.50 h"),
        (172_899.0, "48.0 h", 172_900.0, "2.00 days"),
        (2 * YEAR - DAY, "730 days", 2 * YEAR, "2.00 years"),
        (-172_899.0, "-48.0 h", -172_900.0, "-2.00 days"),
    ],
)
def test_a_number_without_an_interval_has_its_unit_from_its_size_on(below, shown_below, at, shown_at):
    assert units.format_span(below, below, below, "seconds") == shown_below
    assert units.format_span(at, at, at, "seconds") == shown_at


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        # thresholds of rounding, on both sides
        (units.format_count(99_999), "99,999"),
        (units.format_count(100_000), "100K"),
        (units.format_count(999_949), "999.9K"),
        (units.format_count(999_950), "1.0M"),
        (units.format_count(999_950_000), "1.0B"),
        (units.format_count(999.95e9), "1.0T"),
        (units.format_count(2e12), "2T"),
        (units.format_count(-5e6), "-5M"),
        (units.format_significant(1234), "1,230"),
        (units.format_significant(50), "50"),
        (units.format_seconds(5 * DAY + 1800), "5 d 1 h"),
        (units.format_significant(0.00001234), "0.0000123"),
        (units.format_significant(0.000001234), "1.23e-6"),
        (units.format_significant(1.234e14), "123,000,000,000,000"),
        (units.format_significant(1.234e15), "1.23e15"),
        (units.format_flops_per_s(999.4e9), "999 GFLOP/s"),
        (units.format_flops_per_s(999.5e9), "1.00 TFLOP/s"),
        (units.format_flop(2e33), "2,000 QFLOP"),
        (units.format_bytes(2**71), "2,048 EiB"),
        (units.format_bytes_per_s(2e21), "2,000 EB/s"),
        (units.format_bytes(-2048), "-2 KiB"),
        (units.format_bytes_per_s(5.0), "5 B/s"),
        (units.format_bytes_per_s(5.5), "5.50 B/s"),
        (units.format_bytes_per_s(5e3), "5.00 kB/s"),
        (units.format_rate(99.94), "99.9 tokens/s"),
        (units.format_rate(99.95), "100 tokens/s"),
        (units.format_rate(9.994), "9.99 tokens/s"),
        (units.format_rate(9.995), "10.0 tokens/s"),
        (units.format_rate(0.9994), "0.999 tokens/s"),
        (units.format_rate(0.9995), "1.00 tokens/s"),
        (units.format_rate(-12.34), "-12.3 tokens/s"),
        (units.format_share(0.00094), "0.09 %"),
        (units.format_share(0.00096), "0.1 %"),
        (units.format_share(0.0994), "9.9 %"),
        (units.format_share(math.nextafter(0.0995, 0)), "10 %"),  # 9.95 to the last bit
        (units.format_share(-0.042), "-4.2 %"),
        (units.format_share(-1e-9), "-<0.01 %"),
        (units.format_share(12.5), "1,250 %"),
        (units.format_plus_minus(-0.012), "±1.2 %"),
        (units.format_money(999.994, "EUR"), "999.99 EUR"),
        (units.format_money(999.995, "EUR"), "1,000 EUR"),
        (units.format_money(0.9994, "EUR"), "0.999 EUR"),
        (units.format_money(0.9995, "EUR"), "1.00 EUR"),
        (units.format_money(0.0, "EUR"), "0.00 EUR"),
        (units.format_money(-12.5, "EUR"), "-12.50 EUR"),
        (units.format_money(-2000.0, "EUR"), "-2,000 EUR"),
        # the unit of a range is that of the geometric mean of its ends, of one that begins at zero its high end's
        (units.format_range(30.0, 600.0, "seconds"), "0.50 to 10 min"),
        (units.format_range(0.5, 200.0, "seconds"), "0.50 to 200 s"),
        # to the digit in which half of the half width begins
        (units.format_span(50.0, 48.0, 52.0, "kWh"), "50 kWh (48 to 52)"),
        (units.format_span(50.0, 48.01, 52.0, "kWh"), "50.0 kWh (48.0 to 52.0)"),
        (units.format_span(0.5, 0.0, 100.0, "kWh"), "0.5 kWh (0.0 to 100.0)"),
        (units.format_span(9.991, 9.981, 10.001, "kWh"), "9.99 kWh (9.98 to 10.00)"),
        (units.format_span(0.3, -0.04, 0.64, "kWh"), "0.3 kWh (0.0 to 0.6)"),
        (units.format_span(0.001, 0.0, 0.9, "share"), "0.1 % (0.0 to 90.0)"),
    ],
)
def test_a_number_at_the_edge_of_its_notation_is_shown_as_people_read_it(shown, expected):
    assert shown == expected
