"""Does the gate fail where it must, and do screens fold alike where they are?"""

import folding
import pytest

gate = pytest.importorskip("gate", reason="coverage is not installed", exc_type=ImportError)
PLACE = "rigbench/work/timing.py"


def found(*statements: str, count: int = 8000) -> dict:
    return {"statements": count, "unexecuted": [{"file": PLACE, "statement": it} for it in statements]}


def listed(*statements: str, reason: str = "needs a real GPU") -> dict:
    return {"unexecuted": [{"file": PLACE, "statement": it, "reason": reason} for it in statements]}


def test_what_is_listed_with_its_reason_and_executed_by_none_passes():
    assert list(gate.differences(found("pass", "pass", "a()"), listed("a()", "pass", "pass"))) == []


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (found(*["a()"] * 27), listed("a()"), "26 statements are executed by no test and not listed; 25 may be"),
        (found("a()"), listed("a()", reason="?"), f"{PLACE}: listed without a reason: a()"),
        (found(count=900), listed(), "900 statements are too few to be all: fewer than 7000"),
        (
            found(*["a()"] * 300),
            listed(*["a()"] * 300),
            "3.8% of all statements are executed by no test; 3% may be",
        ),
    ],
)
def test_every_difference_is_said(now, before, said):
    assert list(gate.differences(now, before)) == [said]


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (found("a()"), listed(), f"{PLACE}: executed by no test, and not listed: a()"),
        (found("a()", "a()"), listed("a()"), f"{PLACE}: executed by no test, and not listed: a()"),
        (found(), listed("a()"), f"{PLACE}: listed as executed by no test, and it is: a()"),
    ],
)
def test_a_few_statements_that_depend_on_the_machines_pace_are_noted_and_pass(now, before, said):
    assert list(gate.differences(now, before)) == []
    assert list(gate.notes(now, before)) == [said]


def test_the_syntax_tree_has_as_many_statements_as_coverage_counts():
    from coverage.parser import PythonParser

    files = gate.files()
    assert gate.PACKAGE / "p2p/checks.py" in files  # a probe's own method
    assert gate.PACKAGE / "p2p/screen.py" not in files
    for path in files:
        parser = PythonParser(filename=str(path), exclude="if TYPE_CHECKING:")
        parser.parse_source()
        assert gate.statements(path).keys() == parser.statements, path


def test_a_hazard_is_an_alarm_unless_it_is_known_to_be_false(tmp_path):
    log = tmp_path / "hazards.txt"
    log.write_text(
        "one more context\ton cuda:1, by an allocation\tranks rigbench.p2p.probe\t-\n"
        "one more context\ton cuda:0, by Event.synchronize\tranks rigbench.train.probe\t-\n"
    )
    (said,) = gate.hazards(log)
    assert "ranks rigbench.train.probe" in said


def test_screens_fold_alike_where_only_numbers_differ():
    one = "GPU0  NVIDIA GeForce RTX 4080, gen 4 x8\n  copy  3.14 GB/s ±2.0 %\n\n  rate  n/a (2 samples are too few)\n"
    other = "GPU0  NVIDIA GeForce RTX 4080, gen 4 x8\n  copy   980 MB/s\n\n  rate  1,200 tokens/s ±5 %\n"
    assert folding.folded(one).splitlines()[:3] == folding.folded(other).splitlines()[:3]
    assert folding.folded(one) != folding.folded(one.replace("4080", "4090"))
    assert folding.folded(one) != folding.folded(one.replace("x8", "x4"))
