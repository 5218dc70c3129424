"""What does a page do in a real browser: on the network, with a foe's names, for a screen reader, on a phone?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pages
import pytest

from rigbench import store
from rigbench.document import Run
from rigbench.report.page.page import page

pytestmark = pytest.mark.page
WIDTHS, SCHEMES = (360, 800, 1400), ("light", "dark")
STORED = {
    "series": pages.ROOT / "reports" / "intel-xeon-2-cores" / "scaling-tiny.json",
    "watched": pages.ROOT / "tests" / "runs" / "watched-two-rtx-4080-super.json",
    "arms": pages.CPU_RUN.with_name("train-probe-120M-arms.json"),
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LACKING = "no page was opened: it needs Chromium (apt-get install chromium) and pip install -e .[page-test]"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip(LACKING)
    if CHROMIUM is None:
        pytest.skip(LACKING)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield started
        started.close()


def throttling(home: Path) -> Run:
    """A pair with the heat that its recording has, and what is predicted for two such cards."""
    rig = pages.ROOT / "tests" / "rigs" / "dual-rtx4080s-throttling"
    run = pages.replayed(rig.name, pages.nothing())
    for words in (("--replay", rig, "thermals"), ("budget", "--on", "2xrtx-4080")):
        command = [sys.executable, "-m", "rigbench", "--home", home, "--quiet", *words]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    for path in (home / "runs").glob("*.json"):
        stored = store.read(path)
        run = msgspec.structs.replace(run, **{room: getattr(stored, room) for room in stored.rooms()})
    return run


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    pair = throttling(folder / "home")
    runs = {
        "cpu": pages.cpu(),
        "pair": pair,
        "eight": pages.replayed("wrx90-2switch-flat", pages.cpu()),
        "nothing": pages.nothing(),
        "foe": pages.foe(pair),
        **{name: store.read(path) for name, path in STORED.items()},
    }
    for name, run in runs.items():
        (folder / f"{name}.html").write_text(page(run, redact=name != "foe").text)
    return {name: folder / f"{name}.html" for name in runs}


class Tab:
    """A page that is open, and what it did: requests beyond its own file, and words on the console."""

    def __init__(self, browser: Any, file: Path, width: int = 1400, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda it: self.asked.append(it.url))
        self.page.on("console", lambda it: self.said.append(it.text))
        self.page.on("pageerror", lambda it: self.said.append(str(it)))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())


NAMES = ("cpu", "pair", "eight", "nothing", "foe", *STORED)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_executed_or_broken_at_any_width(browser, files, name, request):
    shots = request.config.getoption("--shots")
    for width in WIDTHS:
        for scheme in SCHEMES if shots or width == WIDTHS[0] else SCHEMES[:1]:
            with Tab(browser, files[name], width, scheme) as tab:
                assert [it for it in tab.asked if not it.startswith(("data:", files[name].as_uri()))] == []
                assert tab.said == []
                assert tab.page.evaluate("window.foe") is None
                wide = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, f"{width} px: {wide} too wide"
                if shots:
                    tab.page.screenshot(path=Path(shots, f"{name}-{width}-{scheme}.png"), full_page=True)


@pytest.mark.parametrize(("name", "scheme"), [(name, SCHEMES[place % 2]) for place, name in enumerate(NAMES)])
def test_axe_finds_nothing_serious(browser, files, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with Tab(browser, files[name], 1400, scheme) as tab:
        for box in tab.page.locator("details").all():
            box.evaluate("it => { it.open = true }")
        if tab.page.locator("#raw button.raw").count():
            tab.page.locator("#raw button.raw").first.click()
            tab.page.locator(".viewer").wait_for()
        found = Axe().run(tab.page).response["violations"]
        serious = {it["id"]: it["nodes"][0]["html"][:200] for it in found if it["impact"] in ("serious", "critical")}
        assert serious == {}


def test_the_sliders_compute_another_budget(browser, files):
    with Tab(browser, files["pair"]) as tab:
        whole = "#cost-table [data-row=whole] [data-is={}]".format

        def ends(its: str) -> list[float]:
            return [float(number.replace(",", "")) for number in re.findall(r"[\d.,]+", tab.text(whole(its)))]

        hours, money = ends("hours"), ends("money")
        slide = "(it, to) => { it.value = to; it.dispatchEvent(new Event('input', { bubbles: true })) }"
        tab.page.locator("#price").evaluate(slide, 2 * 0.2872)
        assert ends("hours") == pytest.approx(hours, rel=0.02)
        assert ends("money") == pytest.approx([2 * it for it in money], rel=0.1)
        tab.page.locator("#flops").evaluate(slide, 100)
        assert tab.text("#flops-out") == "1.2e19 FLOP"
        # Compilation and warm-up, an eighth of an hour, do not grow.
        assert ends("hours")[0] == pytest.approx(10 * hours[0], rel=0.05)
        assert "In all" in tab.page.locator("#said").inner_text()
        rate = tab.text("#cost-table [data-row='4'] [data-is=tokens]")
        tab.page.locator("#split").select_option("compute-optimal")
        assert tab.text("#cost-table [data-row='4'] [data-is=tokens]") != rate
        tab.page.locator("#sliders button[type=reset]").click()
        tab.page.locator("#flops-out", has_text="1.2e18 FLOP").wait_for()
        assert ends("hours") == pytest.approx(hours, rel=0.02)
        assert tab.said == []
    with Tab(browser, files["cpu"]) as tab:
        assert tab.text("#cost-table [data-row=whole] [data-is=kwh]") == "n/a"
        tab.page.locator("#watts").fill("100")
        low, high = map(float, re.findall(r"[\d.]+", tab.text("#cost-table [data-row=whole] [data-is=kwh]"))[1:])
        whole = pages.cpu().budget.whole.hours
        assert (low, high) == pytest.approx(
            (whole.low / 10, whole.high / 10), rel=0.02
        )  # in as many digits as it tells


def test_raw_samples_are_one_click_away_and_a_csv_two(browser, files, tmp_path):
    run = pages.cpu()
    with Tab(browser, files["cpu"]) as tab:
        tab.page.locator("#step button.raw").first.click()
        viewer = tab.page.locator("#step .viewer")
        viewer.wait_for()
        viewer.locator("input").fill(".slices[0].steps.seconds")
        row = viewer.locator("tbody tr").first
        assert row.locator("th").inner_text() == ".slices[0].steps.seconds"
        shown = [float(it) for it in row.locator("td").inner_text().split()]
        assert shown == pytest.approx(run.slices[0].steps.seconds, rel=1e-3)
        with tab.page.expect_download() as download:
            viewer.locator("button", has_text="CSV").click()
        download.value.save_as(tmp_path / "samples.csv")
        lines = (tmp_path / "samples.csv").read_text().splitlines()
        assert lines[0] == "path,value"
        assert lines[1].startswith(".slices[0].steps.seconds[0],")
        assert len(lines) == 1 + len(shown)
        # Each button has rows: no path of the page leads nowhere.
        tab.page.evaluate("document.querySelectorAll('button.raw[aria-expanded=false]').forEach(it => it.click())")
        tab.page.locator(".viewer").nth(tab.page.locator("button.raw").count() - 1).wait_for(state="attached")
        assert [it for it in tab.page.locator(".viewer .source").all_inner_texts() if it == "0 rows"] == []
        assert tab.said == []
        assert len(tab.asked) == 1


def test_keys_alone_reach_everything_and_the_button_turns_it_dark(browser, files):
    with Tab(browser, files["cpu"]) as tab:
        tab.page.keyboard.press("Tab")
        assert tab.page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
        ground = "getComputedStyle(document.body).backgroundColor"
        light = tab.page.evaluate(ground)
        tab.page.locator("#theme").focus()
        tab.page.keyboard.press("Enter")
        assert tab.page.evaluate(ground) != light
        assert tab.page.locator("#theme").get_attribute("aria-pressed") == "true"
        tab.page.locator(".sortable th button").first.focus()
        tab.page.keyboard.press("Enter")
        assert tab.page.locator("th[aria-sort=ascending]").count() == 1


def test_it_prints_on_few_pages_without_its_buttons(browser, files):
    with Tab(browser, files["pair"]) as tab:
        printed = tab.page.pdf(format="A4")
        assert printed.count(b"/Type /Page\n") <= 3
        tab.page.emulate_media(media="print")
        assert not tab.page.locator("#theme").is_visible()
        assert tab.page.locator("#holds-back svg").first.is_visible()
        assert tab.page.locator("#holds-back th", has_text="how bad").first.is_visible()
        assert tab.page.locator("#holds-back th button", has_text="how bad").first.is_visible()
