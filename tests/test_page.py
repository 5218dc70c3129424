"""Is a run's page one file that asks for nothing, tells nobody's secrets, and has every number of the run?"""

from __future__ import annotations

import base64
import builtins
import gzip
import html.parser
import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pages
import pytest
import test_first_capacity as sizes
from test_capture import SECRETS
from test_redacted import secretive  # noqa: F401

from rigbench import store
from rigbench.core.record import Absent
from rigbench.document import NOT_ASKED, ROOMS, Run
from rigbench.report.page import cost, raw
from rigbench.report.page import page as module
from rigbench.report.page.page import LARGEST, Page, page


class Read(html.parser.HTMLParser):
    """What a page is made of: each start tag with its attributes, and the text between tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "path", "use", "rect", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in ("path", "use", "rect") or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def rooms(text: str) -> dict[str, Any]:
    packed = re.findall(r'<script type="text/plain" id="room-(\w+)">([^<]*)</script>', text)
    return {name: json.loads(gzip.decompress(base64.b64decode(room))) for name, room in packed}


@pytest.fixture(scope="module")
def of_cpu() -> Page:
    return page(pages.cpu())


def test_the_page_asks_for_nothing_and_every_part_of_it_is_named(of_cpu: Page) -> None:
    read = Read(of_cpu.text)
    assert read.open == []
    wanted = [
        attrs[name] for _, attrs in read.tags for name in ("src", "href", "xlink:href", "action") if attrs.get(name)
    ]
    assert [it for it in wanted if not it.startswith(("#", "data:"))] == []
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", of_cpu.text)
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {it.removeprefix("#") for it in wanted if it.startswith("#")} <= set(ids)
    drawn = [attrs for tag, attrs in read.tags if tag == "svg" and attrs.get("class") == "chart"]
    assert len(drawn) >= 7
    assert all(it["role"] == "img" and len(it["aria-label"]) > 20 for it in drawn)
    assert len(of_cpu.text.encode()) < LARGEST
    assert of_cpu.thinned == ""


def test_its_policy_forbids_every_request_and_every_other_script(of_cpu: Page) -> None:
    policy = next(attrs["content"] for tag, attrs in Read(of_cpu.text).tags if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_every_number_of_the_run_is_in_it_in_four_digits(of_cpu: Page) -> None:
    run = pages.cpu()
    held = rooms(of_cpu.text)
    document = json.loads(store.encode(run))
    assert held.keys() >= run.rooms().keys() | {"rig", "software"}
    count = 0

    def compare(mine: Any, theirs: Any) -> None:
        nonlocal count
        if isinstance(theirs, dict):
            assert mine.keys() == theirs.keys()
            for key in theirs:
                compare(mine[key], theirs[key])
        elif isinstance(theirs, list):
            assert len(mine) == len(theirs)
            for one, other in zip(mine, theirs, strict=True):
                compare(one, other)
        elif isinstance(theirs, float):
            count += 1
            assert math.isclose(mine, theirs, rel_tol=6e-4)
        else:
            assert mine == theirs

    for name in run.rooms():
        compare(held[name], document[name])
    assert count > 5000


def test_samples_keep_the_digits_that_tell_them_apart() -> None:
    assert raw.rounded((1234.5678, 1234.6789, 1234.9999)) == [1234.5678, 1234.6789, 1234.9999]
    assert raw.rounded((0.123456, 10.0)) == [0.1235, 10.0]
    assert raw.rounded({"a": 123456.0, "b": 7, "c": ()}) == {"a": 123500.0, "b": 7, "c": []}


def test_what_is_too_large_is_thinned_and_says_so(of_cpu: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    run, most = pages.cpu(), len(of_cpu.text.encode()) + 20_000
    monkeypatch.setattr(module, "LARGEST", most)
    chance = random.Random(0)
    many = tuple(chance.random() for _ in range(30_000))
    steps = msgspec.structs.replace(run.slices[0].steps, seconds=many)
    run = msgspec.structs.replace(run, slices=(msgspec.structs.replace(run.slices[0], steps=steps), *run.slices[1:]))
    made = page(run)
    assert len(made.text.encode()) <= most
    assert "2000 at the most; all of them are in 20261121-074413-f877.json" in made.thinned
    assert made.thinned in Read(made.text).text
    assert len(rooms(made.text)["slices"][0]["steps"]["seconds"]) == 2000


def test_no_secret_is_in_a_page_and_no_redact_says_what_it_adds(secretive: Run) -> None:  # noqa: F811
    def left_in(made: Page) -> list[str]:
        written = (made.text + json.dumps(rooms(made.text))).lower()
        return [secret for secret in SECRETS if re.search(rf"(?<![\d.]){re.escape(secret.lower())}(?![\d.])", written)]

    public = page(secretive)
    assert left_in(public) == []
    assert re.match(r"Redacted: \d+ IP addresses, .*UUIDs.*user and host names", public.hidden)
    secret = page(secretive, redact=False)
    assert "alice" in left_in(secret)
    assert re.match(r"Not redacted: it holds \d+ IP addresses, ", secret.hidden)
    assert secret.hidden in Read(secret.text).text


def test_a_run_in_which_everything_was_skipped_says_why_and_draws_nothing() -> None:
    made = page(pages.nothing())
    read = Read(made.text)
    assert not [attrs for tag, attrs in read.tags if tag == "svg"]
    assert read.text.count(pages.NO_DRIVER) >= 12
    assert "nothing was measured" in read.text
    assert "Every probe of this run was skipped" in read.text
    assert "healthy" not in read.text
    empty = msgspec.structs.replace(
        pages.nothing(), **{room: Absent("not asked for") for room in ("topology", "matmul")}
    )
    assert "this run did not measure it; rigbench matmul does" in Read(page(empty).text).text


def test_a_prediction_says_what_it_is_and_nothing_of_a_rigs_health() -> None:
    rooms: dict[str, Any] = {name: () if isinstance(getattr(pages.cpu(), name), tuple) else NOT_ASKED for name in ROOMS}
    rows = (sizes.row(sizes.largest(13), 617_400_000),)
    made = msgspec.structs.replace(
        pages.cpu(), **rooms | {"capacity": sizes.capacity(rows=rows)}, command="capacity", look=True, unchecked=()
    )
    text = " ".join(Read(page(made).text).text.split())
    assert (
        "computed: this run measured nothing itself 120M fits each card of 2xrtx-4080 with 13 sequences of 1,024 tokens"
        in text
    )
    assert "no fault found" not in text
    assert "Of 2xrtx-4080 Computed on Intel(R) Xeon" in text
    assert "Not in this run Cost: this run did not measure it; rigbench budget does What holds it back: the way" in text
    assert text.count("### rigbench capacity: 120M fits each card of 2xrtx-4080 with 13 sequences") == 1


def test_ways_of_training_one_model_are_told_apart() -> None:
    """Five bars were called 5M, and their rates stood in a row without what made them differ."""
    run = store.read(pages.ROOT / "tests/runs/xeon-2.5ghz-2-cores/train-probe-120M-arms.json")
    read = Read(page(run).text)
    drawn = [attrs["aria-label"] or "" for tag, attrs in read.tags if tag == "svg" and attrs.get("class") == "chart"]
    ways = {it.recipe.words for it in run.slices}
    assert len(ways) > 2
    assert sum(all(way in label for way in ways) for label in drawn) == 2  # parts of a step, and peaks of memory
    assert f"tokens/s in {len(ways)} ways of training" in read.text


def test_hostile_text_is_text() -> None:
    made = page(pages.foe(pages.cpu()), redact=False)  # which would hide it as the name of a host
    read = Read(made.text)
    assert [tag for tag, _ in read.tags if tag == "img"] == []
    assert [tag for tag, _ in read.tags].count("script") == 2 + len(rooms(made.text))
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert "window.foe=1" in read.text
    assert "{{7*7}}" in read.text
    assert not re.search("[\x1b\u202e]", made.text)


def test_the_way_from_the_datasheet_adds_up_to_the_hours() -> None:
    budget = pages.cpu().budget
    steps = cost.ladder(pages.cpu(), budget)
    assert [name for name, *_ in steps][:2] == ["at the fastest matmul", "the step's other work"]
    assert math.isclose(math.fsum(hours for _, hours, _ in steps), budget.whole.hours.value)
    assert all(hours > 0 for _, hours, _ in steps)


@pytest.mark.parametrize(("name", "cards"), [("dual-rtx4080s-throttling", 2), ("wrx90-2switch-flat", 8)])
def test_each_card_is_drawn(name: str, cards: int) -> None:
    read = Read(page(pages.replayed(name, pages.nothing())).text)
    drawn = [attrs["aria-label"] for tag, attrs in read.tags if tag == "svg" and attrs.get("class") == "chart"]
    tree = next(label for label in drawn if "GPU0:" in label)
    assert all(f"GPU{number}:" in tree for number in range(cards))


def test_report_writes_it_where_it_is_told(rigbench: Any, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "page.html"
    code, _, said = rigbench("report", pages.SMALL_RUN, "--html", file)
    assert (code, said) == (0, f"rigbench: page: {file} (Redacted: nothing in it named anybody.)\n")
    assert file.read_text().startswith("<!doctype html>")
    code, _, said = rigbench("report", pages.SMALL_RUN, "--html")
    assert f"{tmp_path / 'home' / 'pages' / f'{store.read(pages.SMALL_RUN).id}.html'}" in said
    code, _, said = rigbench("report", pages.SMALL_RUN, "matmul", "--html")
    assert code == 2
    assert "'matmul' is one too many" in said
    assert rigbench("report", pages.SMALL_RUN, "--no-redact")[0] == 2
    assert rigbench("report", pages.SMALL_RUN, "--html", "/proc/x/page.html")[0] == 2


def test_without_what_draws_it_the_cure_is_said(rigbench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def lacking(name: str, *of: Any, **named: Any) -> Any:
        if name == "rigbench.report.page":
            raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
        return whole(name, *of, **named)

    monkeypatch.setattr(builtins, "__import__", lacking)
    code, _, said = rigbench("report", pages.SMALL_RUN, "--html")
    assert (code, said) == (2, "rigbench: no page: jinja2 is not installed; pip install jinja2 matplotlib\n")


def test_a_home_that_cannot_be_written_is_no_news_of_the_charts(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "RIGBENCH_HOME": str(tmp_path)}
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    words = [sys.executable, "-m", "rigbench", "report", str(pages.SMALL_RUN), "--html", str(tmp_path / "page.html")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
