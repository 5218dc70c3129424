"""Does what is said of the predictions' accuracy agree with the benchmark's stored result?"""

from __future__ import annotations

import csv
from pathlib import Path

import published
import published_score

ROOT = Path(__file__).parents[1]
TOPIC = ROOT / "rigbench" / "doctor" / "topics" / "accuracy.md"


def test_the_topic_has_the_stored_table() -> None:
    lines = published_score.topic_lines(published_score.stored())
    assert len(lines) == len(published_score.TOPIC)
    shown = [line for line in TOPIC.read_text("utf-8").splitlines() if line in lines]
    assert shown == lines


def test_the_readme_has_its_heart() -> None:
    by = {(it.known, it.kind): it for it in published_score.stored()}
    nothing, run = (by[known, "without fp8 and toys"] for known in ("nothing", "a run on this card"))
    words = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"off by {nothing.alike * 100:.0f} % in the median" in words
    assert f"the 90 % interval held {nothing.held * 100:.0f} % of runs and {nothing.held_alike * 100:.0f} % of" in words
    assert f"with one run of the program on that card {run.alike * 100:.0f} %" in words


def test_the_one_look_at_sources_set_aside_is_reported_as_it_fell() -> None:
    with (published.DATA / "accuracy_set_aside.csv").open(encoding="utf-8") as file:
        by = {(row["known"], row["kind"]): row for row in csv.DictReader(file)}
    its, run = (by[known, "without fp8 and toys"] for known in ("nothing", "a run on this card"))
    text = TOPIC.read_text("utf-8")
    assert (
        f"{its['rows']} runs of {its['sources']} sources without fp8 off by {100 * float(its['alike']):.1f} %" in text
    )
    assert f"{run['rows']} runs off by {100 * float(run['alike']):.1f} %" in text
    assert float(its["held"]) == 1.0
