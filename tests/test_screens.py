"""Is the first screen of every command, in a real terminal of any width, what its golden file says?

`pytest tests/test_screens.py --renew-screens` writes tests/screens anew; the diff shows what changed. Runs are stored,
replayed or composed: nothing is measured.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import test_collectives_screen as groups
import test_compare as comparing
import test_first_backtest as logs
import test_first_capacity as sizes
import test_first_train as variants
import test_fleet as hosts
import test_matmul_screen as products
import test_monitor_screens as cards
import test_p2p_verdict as peers
import test_scaling_series as scaled
from test_first_screens import NUMBER, STORED
from test_monitor_screens import Terminal, terminal

from rigbench import __main__, store
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Figure
from rigbench.document import NOT_ASKED, ROOMS, Run
from rigbench.predict.record import NOT_ASKED as NOT_WORKED_OUT
from rigbench.predict.record import CapacityRow
from rigbench.store import Store
from rigbench.watch.record import Forecast, Own, SeenSteps, Training
from rigbench.work import verdict as trust
from rigbench.work.record import Disturbance

__all__ = ["terminal"]
TESTS = Path(__file__).parent
HOT = TESTS / "rigs" / "dual-rtx4080s-throttling"
GOLDEN = TESTS / "screens"
WIDTHS = (100, 60, 80, 120)
MOST_LINES = 40
LONG = {"help", "budget-help", "explain-topic", "report-list"}  # pages to be read and lists, not answers
# By the golden file's name: the command, where {name} is a run stored beforehand, by its id.
COMMANDS = {
    "help": "--help",
    "budget-help": "budget --help",
    "run": "report {run}",
    "doctor": "report {doctor}",
    "doctor-slot": "report {doctor-slot}",
    "topology": "report {topology}",
    "topology-partly": "report {topology-partly}",
    "thermals": "report {thermals}",
    "monitor": "monitor --from {watch}",
    "bandwidth": "report {bandwidth}",
    "p2p": "report {p2p}",
    "collectives": "report {collectives}",
    "matmul": "report {matmul}",
    "dataloader": "report {dataloader}",
    "train-probe": "report {slice}",
    "train-probe-arms": "report {arms}",
    "train-probe-on": "report {arms-on}",
    "budget": "report {budget}",
    "budget-on": "report {budget-on}",
    "budget-on-several": "report {budget-several}",
    "capacity": "report {capacity}",
    "capacity-one": "report {capacity-one}",
    "backtest": "report {backtest}",
    "watch": "report {watched}",
    "busy": "report {busy}",
    "run-killed": "report {killed}",
    "compare": "compare before/runs after/runs",
    "fleet": "fleet hosts/runs",
    "capture": "--replay {hot} capture -o recording",
    "pack": "pack stories.txt -o stories.bin --force",
    "scaling-run": "report {scaling-run}",
    "scaling-fit": "report {scaling-fit}",
    "report-list": "report --list",
    "profiles": "profiles",
    "profiles-one": "profiles rtx-4080",
    "profiles-series": "profiles diy",
    "explain": "explain",
    "explain-one": "explain throttled",
    "explain-topic": "explain scaling",
    "config": "config",
}
ANSWERED = {  # commands whose run is stored for `report`
    "doctor": f"--replay {HOT} doctor",
    "doctor-slot": f"--replay {TESTS / 'held_back' / 'x4-among-x16'} doctor",
    "topology": f"--replay {TESTS / 'rigs' / 'dual-rtx4080s-x8x8'} topology",
    "topology-partly": f"--replay {TESTS / 'rigs' / 'epyc7502-4x4090'} topology",
    "thermals": f"--replay {HOT} thermals",
    "budget-on": "budget --on 2xrtx-4080 --flops 1.2e18 --hours 48",
    "budget-several": "budget --on rtx-3090,2xrtx-4080,h200",
    "scaling-fit": f"scaling fit {TESTS / 'data' / 'losses.csv'}",
}
EMPTY: dict[str, object] = {room: () if room in ("slices", "scaling") else NOT_ASKED for room in ROOMS}
AFTER_BANDWIDTH = {room: it for room, it in EMPTY.items() if room not in ("topology", "bandwidth")}
ESCAPE = re.compile(r"\x1b\[[0-9;:]*m")


def runs(home: Path, answered: Callable[[str], Run]) -> dict[str, str]:
    """Stores a run for each feature, alike every time; their ids by name."""
    whole, reports = store.read(STORED), STORED.parent
    empty = msgspec.structs.replace(whole, findings=(), unchecked=(), **EMPTY)

    def of(command: str, **rooms: object) -> Run:
        return msgspec.structs.replace(empty, command=command, **rooms)

    fits = (
        sizes.row(sizes.largest(13), 617_400_000),
        sizes.row(sizes.largest(29, loss_chunks=8), 617_400_000, loss_chunks=8),
    )
    tries = peers.turns(off=peers.SLOW, default=peers.SLOW, far=peers.FAST)
    stored = {
        "run": whole,
        "budget": store.read(reports / "budget.json"),
        "slice": store.read(reports / "train-probe-120M.json"),
        "arms": store.read(reports / "train-probe-120M-arms.json"),
        "arms-on": of("train-probe", arms=variants.on_two_4080s()),
        "bandwidth": of("bandwidth", bandwidth=whole.bandwidth),
        "dataloader": of("dataloader", dataloader=whole.dataloader),
        "matmul": of("matmul", matmul=products.RESULT),
        "collectives": of("collectives", collectives=groups.ON_GPUS),
        "p2p": of("p2p", p2p=peers.answer(*tries, inherited={"NCCL_P2P_LEVEL": "SYS"})),
        "capacity": of("capacity", capacity=sizes.capacity(rows=fits)),
        "capacity-one": of("capacity", capacity=sizes.capacity(rows=tuple(map(alone, fits)))),
        "backtest": of("backtest", backtest=logs.outside()),
        "watched": of("watch", watched=watched()),
        "killed": msgspec.structs.replace(whole, status="running", ended=("topology", "bandwidth"), **AFTER_BANDWIDTH),
        "busy": msgspec.structs.replace(whole, disturbances=tuple(busy())),
    }
    for name, words in ANSWERED.items():
        its = answered(words)
        if "--replay" not in words:  # the machine that the tests run on
            its = msgspec.structs.replace(its, rig=whole.rig, software=whole.software)
        software = msgspec.structs.replace(its.software, torch=Absent("not asked"), rigbench="0.1.0")
        stored[name] = msgspec.structs.replace(its, software=software, started_at=whole.started_at)
    stored["scaling-run"] = of("scaling run", **scaled.series())
    for path in (home / "runs").glob("*.json"):
        path.unlink()
    ids = {name: f"20260101-{number:06d}-abcd" for number, name in enumerate(stored)}
    for name, its in stored.items():
        Store(home).save(msgspec.structs.replace(its, id=ids[name]))
    return ids


def alone(row: CapacityRow) -> CapacityRow:
    """Of one model that was asked for: the series' largest is not worked out."""
    return msgspec.structs.replace(row, model=NOT_WORKED_OUT)


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, level=0.9, method="a test", n=90)


def watched() -> Training:
    """A training on two cards, of which one hardly works, a tenth of its way."""
    rate, rest = estimate(84_000.0, 83_000.0, 85_000.0), estimate(9_000.0, 8_800.0, 9_200.0)
    its, _ = cards.watched()
    steps = SeenSteps(
        source="the output", said=("step", "loss"), unit="tokens", at_seconds=(1.0, 2.0), step=(1, 2), rate=rate,
        step_seconds=estimate(1.0, 0.99, 1.01), total_steps=10_000, tokens_per_step=84_000.0,
    )  # fmt: skip
    told = Forecast(
        told_after_seconds=1_000.0, done_share=0.1, rest_seconds=rest, whole_seconds=rest, currency="EUR",
        kwh=Figure(4.0, "predicted", "a test", 3.8, 4.2), money=Figure(1.2, "predicted", "a test", 1.1, 1.3),
    )  # fmt: skip
    return Training(
        method=1, command=("python", "train.py"), started_at="2026-01-01T00:00:00Z", seconds=1_000.0, exit_code=130,
        ended_by="the user", steps=steps, forecasts=(told,), model_flops_share=Figure(0.31, "measured", "a test"),
        monitor=its, findings=tuple(held.hint for held in its.hints),
        own=Own(cpu_seconds=2.0, start_cpu_seconds=0.5, wall_seconds=1_000.0),
    )  # fmt: skip


def busy() -> Iterator[Disturbance]:
    """Probes of the stored run, as if something else had run on both processors meanwhile."""
    for room, place, waited in (("bandwidth", 0, 3.0), ("matmul", 0, 12.0), ("slices", 0, 14.0), ("slices", 2, 15.0)):
        its = Disturbance(
            room=room, place=place, wall_seconds=20.0, running_seconds=20.0 - waited, waiting_seconds=waited,
            others_seconds=waited + 1.0,
        )  # fmt: skip
        yield trust.judged(its)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    home = tmp_path / "home"
    monkeypatch.setenv("RIGBENCH_HOME", str(home))

    def answered(words: str) -> Run:
        monkeypatch.setattr(sys, "argv", ["rigbench", "--json", *words.split()])
        assert __main__._run() == 0
        return msgspec.json.decode(capsys.readouterr().out, type=Run)

    ids = runs(home, answered)
    watch = tmp_path / "watch.jsonl"
    monkeypatch.setattr(sys, "argv", f"rigbench -q --replay {HOT} monitor --record {watch}".split())
    assert __main__._run() == 0
    for number in range(1, 7):
        side = store.Store(tmp_path / ("before" if number < 4 else "after"))
        side.save(comparing.run_of(number, 1.0 if number < 4 else 0.87))
    for number, speed in enumerate((*hosts.HOSTS, 0.8)):
        its = comparing.run_of(1, speed)
        rig = msgspec.structs.replace(its.rig, fingerprint=f"{number:012x}")
        store.Store(tmp_path / "hosts").save(msgspec.structs.replace(its, rig=rig, id=f"20260101-{number:06}-aaaa"))
    (tmp_path / "stories.txt").write_text("Once upon a time there was a rig.\n" * 100)
    places = {**ids, "watch": str(watch), "hot": str(HOT)}
    return {name: [word.format(**places) for word in line.split()] for name, line in COMMANDS.items()}


def test_every_first_screen_in_a_real_terminal(terminal: Terminal, commands, tmp_path: Path, request):
    """Colour at every width, and once more without it."""
    passes = [(True, width) for width in WIDTHS] + [(False, WIDTHS[0])]
    file = tmp_path / "commands.json"
    file.write_text(json.dumps([(colour, commands) for colour, _ in passes]))
    settings = (
        f"RIGBENCH_HOME={tmp_path}/home HOME=/home/somebody XDG_CONFIG_HOME=/home/somebody/.config LC_ALL=C.UTF-8"
    )
    path = f"PATH='{os.environ['PATH']}' PYTHONPATH='{os.environ['PYTHONPATH']}:{TESTS.parent}'"
    driver = f"'{sys.executable}' '{TESTS / 'screens_in_terminal.py'}' {file}"
    program = f"cd {tmp_path}; env -u COLUMNS -u LINES {settings} {path} {driver}"
    size = ("-x", "100", "-y", "50")
    lines = ("set-option", "-g", "history-limit", "20000")
    terminal.tmux("start-server", ";", *lines, ";", "new-session", "-d", *size, "-s", "watch", f"{program}; sleep 60")
    seen = []
    for number, (_, width) in enumerate(passes):
        terminal.wait_for(f"=== pass {number}")
        terminal.tmux("resize-window", "-t", "watch", "-x", str(width), "-y", "50")
        terminal.tmux("send-keys", "-t", "watch", "Enter")
        terminal.wait_for(f"=== end {number}")
        seen.append(parts(terminal.tmux("capture-pane", "-p", "-e", "-J", "-t", "watch", "-S", "-20000")))
        terminal.tmux("clear-history", "-t", "watch")
    coloured, plain = seen[0], seen[-1]
    wrong = []
    for name in COMMANDS:
        whole = ESCAPE.sub("", coloured[name])
        golden = GOLDEN / f"{name}.txt"
        if request.config.getoption("--renew-screens"):
            golden.write_text(f"$ rigbench {COMMANDS[name]}\n{whole}")
        elif golden.read_text() != f"$ rigbench {COMMANDS[name]}\n{whole}":
            wrong.append(f"{name} differs from {golden}; --renew-screens, where it is meant to:\n{whole}")
        if len(whole.splitlines()) > MOST_LINES and name not in LONG:
            wrong.append(f"{name} has {len(whole.splitlines())} lines")
        if plain[name] != whole:
            wrong.append(f"{name} without colour is\n{plain[name]!r}")
        for width, screens in zip(WIDTHS, seen, strict=False):
            shown = ESCAPE.sub("", screens[name])
            lines = [line for line in shown.splitlines() if name not in LONG or not line.startswith("  rigbench ")]
            if any(len(line) > width for line in lines):  # command lines are not broken
                wrong.append(f"{name} is wider than {width} columns:\n{shown}")
            lost = set(NUMBER.findall(whole)) - set(NUMBER.findall(shown))
            if lost:
                wrong.append(f"{name} at {width} columns lost {lost}:\n{shown}")
    assert not wrong, "\n\n".join(wrong)
    assert {path.stem for path in GOLDEN.iterdir()} == set(COMMANDS)


def parts(captured: str) -> dict[str, str]:
    """Each command's own screen, without spaces at the ends of lines."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in captured.splitlines():
        bare = ESCAPE.sub("", line).rstrip()
        if bare.startswith("=== "):
            name = bare.removeprefix("=== ")
            found[name] = []
        elif name:
            found[name].append(line.rstrip() if "\x1b" in line else bare)
    return {name: "".join(f"{line}\n" for line in trimmed(lines)) for name, lines in found.items()}


def trimmed(lines: list[str]) -> list[str]:
    while lines and not ESCAPE.sub("", lines[-1]).strip():
        lines = lines[:-1]
    return lines


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("profiles rtx-4080x", "no profile 'rtx-4080x'; did you mean rtx-4080"),
        ("config bugdet", "did you mean budget? `rigbench --help` lists"),
        ("budget --set hostwatts=80", "did you mean host-watts or psu-watts?"),
        ("run --only topologie", "is no stage of this run; did you mean topology? its stages"),
        (f"report {STORED} matmull", "holds no matmull; did you mean matmul? it holds"),
        ("backtest --on rtx-4090 /dev/null", "no line of null gives a step"),
    ],
)
def test_a_slip_of_the_finger_gets_one_line_with_what_is_near(rigbench, line, said):
    code, out, err = rigbench(*line.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
