"""Is a command that rigbench watches as it would be without, and what it says of its steps true?"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import inspect
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import watched_programs
from test_monitor_screens import Terminal

from rigbench import alarms, hooks
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.document import ROOMS, Run
from rigbench.watch import forecast, relay, screen
from rigbench.watch.record import Beside, Options, SeenSteps
from rigbench.watch.session import Session
from rigbench.watch.steps import HookSteps, LogSteps, period
from rigbench.watch.watching import Watching

PROGRAMS = [sys.executable, watched_programs.__file__]
XID_79 = "NVRM: Xid (PCI:0000:01:00): 79, pid=1234, name=python, GPU has fallen off the bus."


def watched(
    folder: Path, program: Sequence[str], *words: str, stdin: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "rigbench", "--home", str(folder), "watch", *words, "--", *program]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, capture_output=True, input=stdin, env=environment, timeout=120)


def document(folder: Path) -> dict[str, object]:
    (path,) = (folder / "runs").glob("*.json")
    found: dict[str, object] = json.loads(path.read_text())["watched"]
    return found


def test_steps_of_a_log(tmp_path: Path) -> None:
    """By its output alone: its own count of tokens a second, what it printed, nothing else on its standard output."""
    done = watched(tmp_path, [*PROGRAMS, "steps", "100"])
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "number of parameters: 123.59M"
    assert len(lines) == 103
    own = float(lines[-1].removeprefix("own rate "))
    its = document(tmp_path)
    steps = its["steps"]
    assert steps["source"] == "the output"  # type: ignore[index]
    assert steps["unit"] == "tokens"  # type: ignore[index]
    assert steps["tokens_per_step"] == 4096  # type: ignore[index]
    assert steps["rate"]["value"] == pytest.approx(own, rel=0.02)  # type: ignore[index]
    assert its["exit_code"] == 0
    verdict = done.stderr.decode().splitlines()[0]
    assert re.match(r"ok +watch: [\d,]+ tokens/s \(.*\), 100 steps in .*; it ended well", verdict), verdict
    assert not list(tmp_path.glob(".rigbench-*"))
    again = [sys.executable, "-m", "rigbench", "--home", str(tmp_path), "report"]
    for words in ([], ["-v"], ["-q"]):
        shown = subprocess.run([*again, *words], capture_output=True, text=True, timeout=60)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert verdict in shown.stdout
    assert f"rigbench report {next((tmp_path / 'runs').glob('*.json')).stem} --verbose" in done.stderr.decode()


def test_every_room_of_a_run_has_a_first_screen_that_is_called_alike() -> None:
    """By show_rooms, with the result, the console, whether it is quiet, and the run's id."""
    kinds = {kind for room in ROOMS for kind in _records(get_type_hints(Run)[room])}
    for feature in {kind.__module__.rpartition(".")[0] for kind in kinds} - {"rigbench.core"}:
        screen = importlib.import_module(f"{feature}.screen")
        if hasattr(screen, "brief") and not hasattr(screen, "brief_run"):
            inspect.signature(screen.brief).bind(None, None, True, "RUN")


def _records(kind: object) -> set[type]:
    """The records in a field's type: of `tuple[A | B, ...] | C` these three."""
    return (
        {kind} if isinstance(kind, type) and not get_args(kind) else set().union(*map(_records, get_args(kind)), set())
    )


def test_steps_of_the_hook(tmp_path: Path) -> None:
    done = watched(tmp_path, [*PROGRAMS, "hooked", "80"], "--json")
    run = json.loads(done.stdout)
    steps = run["watched"]["steps"]
    assert (steps["source"], steps["unit"], steps["step"][-1]) == ("the hook", "tokens", 80)
    assert steps["tokens_per_step"] == pytest.approx(1000)
    assert steps["rate"]["value"] < 1000 / watched_programs.STEP_SECONDS
    assert steps["rate"]["value"] == pytest.approx(1000 / steps["step_seconds"]["value"], rel=0.1)
    assert run["watched"]["own"]["hook_seconds_per_step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("by", [3600, -3600])
@pytest.mark.parametrize("how", ["hook", "dated", "step time", "rate"])
def test_a_clock_that_jumps(tmp_path: Path, how: str, by: int) -> None:
    """By an hour in the midst, the training's and rigbench's: its speed, its end and its place among the runs stay."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: no clock of our own; install gcc")
    library, ahead = tmp_path / "day_clock.so", tmp_path / "ahead"
    source = Path(__file__).parent / "day_clock.c"
    subprocess.run(["gcc", "-std=gnu11", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source], check=True)
    ahead.write_text("0")
    clock = {"LD_PRELOAD": str(library), "DAY_CLOCK_AHEAD": str(ahead)}
    words = [] if how in ("hook", "rate") else ["--tokens-per-step", str(watched_programs.TOKENS)]
    done = watched(tmp_path, [*PROGRAMS, "clocked", how, str(by), "100"], *words, env=clock)
    assert done.returncode == 0, done.stderr.decode()
    own = float(done.stdout.decode().splitlines()[-1].removeprefix("own rate "))
    its = document(tmp_path)
    assert its["steps"]["rate"]["value"] == pytest.approx(own, rel=0.1)  # type: ignore[index]
    assert its["steps"]["step_seconds"]["value"] == pytest.approx(watched_programs.TOKENS / own, rel=0.1)  # type: ignore[index]
    assert its["seconds"] < 60  # type: ignore[operator]
    assert its["alarms"] == []
    if how != "hook":  # which does not say how many steps there will be
        for told in its["forecasts"]:  # type: ignore[attr-defined]
            assert told["whole_seconds"]["value"] == pytest.approx(its["seconds"], rel=0.2)
        assert its["forecasts"]
    listed = [sys.executable, "-m", "rigbench", "--home", str(tmp_path), "report"]
    shown = subprocess.run(listed, capture_output=True, text=True, timeout=60)
    assert done.stderr.decode().splitlines()[0] in shown.stdout


def test_lines_whose_dates_jump() -> None:
    """By an hour and back: the time between two lines is that of the others."""
    jumps = [0, 0, 3600, 3600, -3600, 0]
    days = [datetime.datetime(2026, 11, 29, 12) + datetime.timedelta(seconds=2 * n + jumps[n // 10]) for n in range(60)]
    log = LogSteps()
    feed(log, lines([f"{day:%Y-%m-%d %H:%M:%S} step {n} loss 2.5" for n, day in enumerate(days)], every=2.0))
    seen = log.seen(1000)
    assert seen is not None
    rate, pace = forecast.rate(seen), forecast.pace(seen.wall)
    assert isinstance(rate, Estimate)
    assert rate.value == pytest.approx(500.0, rel=0.01)
    assert isinstance(pace, Estimate)
    assert pace.value == pytest.approx(2.0)


@pytest.mark.parametrize("together", [1, 10])
def test_a_time_of_one_step_or_of_ten_is_told_by_when_lines_came(together: int) -> None:
    log = LogSteps()
    feed(log, lines([f"step {10 * n} loss 2.5 dt {0.2 * together + n % 3 / 1000:.3f}s" for n in range(60)], every=2.0))
    seen = log.seen(1000)
    assert seen is not None
    rate = forecast.rate(seen)
    assert isinstance(rate, Estimate)
    assert rate.value == pytest.approx(5000.0, rel=0.01)
    assert "of one step or of several: its time from when each line came" in seen.said


def test_a_bar_without_tokens(tmp_path: Path) -> None:
    done = watched(tmp_path, [*PROGRAMS, "bar"], "--json")
    steps = json.loads(done.stdout)["watched"]["steps"]
    assert (steps["unit"], steps["total_steps"], steps["step"][-1]) == ("steps", 60, 60)
    assert b"60/60" in done.stderr  # with --json what it writes goes to standard error


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    watched(tmp_path, [*PROGRAMS, "broken"])
    assert "step 21 loss nan" in document(tmp_path)["steps"]["loss_broke"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("program", "code", "written"),
    [
        ([*PROGRAMS, "killed"], 137, b""),
        (["bash", "-c", "echo out; echo err >&2; exit 7"], 7, b"out\n"),
        ([*PROGRAMS, "away"], 5, b"leaving\n"),
        ([*PROGRAMS, "binary"], 0, bytes(range(256)) * 400 + b"\n"),
        (["bash", "-c", "exec >&- 2>&-; sleep 0.2"], 0, b""),
        (["true"], 0, b""),
    ],
)
def test_it_ends_as_without(tmp_path: Path, program: list[str], code: int, written: bytes) -> None:
    done = watched(tmp_path, program)
    assert (b"something that it started goes on" in done.stderr) == ("away" in program)
    assert (done.returncode, done.stdout.removesuffix(b"still here\n")) == (code, written), done.stderr.decode()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--", "no-such-command"], "there is no command no-such-command"),
        (["--", ""], "there is no command ''"),
        (["--", watched_programs.__file__], "watched_programs.py is not executable"),
        (["--budget", "nosuch", "--", "true"], "nosuch"),
        ([], "COMMAND"),
        (["--steps", "0", "--", "true"], "--steps"),
    ],
)
def test_nothing_is_started(tmp_path: Path, words: list[str], what: str) -> None:
    command = [sys.executable, "-m", "rigbench", "--home", str(tmp_path), "watch", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert what in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`| head`: the command is told, as it would be without rigbench, and ends by SIGPIPE."""
    command = [sys.executable, "-m", "rigbench", "--home", str(tmp_path), "watch", "--", "yes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(60) in (128 + signal.SIGPIPE, 1)  # yes tells a write error where SIGPIPE is ignored


def test_what_is_written_is_bounded(tmp_path: Path) -> None:
    done = watched(tmp_path, [*PROGRAMS, "flood", "40"])
    assert len(done.stdout) == (40 << 20) + len("the end\n")
    assert done.stdout.endswith(b"the end\n")


def test_an_end_that_was_asked_for(tmp_path: Path) -> None:
    done = watched(tmp_path, [*PROGRAMS, "steps", "100000"], "--steps", "50")
    assert done.returncode == 130
    its = document(tmp_path)
    assert its["ended_by"] == "--steps"
    assert its["steps"]["step"][-1] < 400  # type: ignore[index]
    assert b"ended by --steps" in done.stderr


def test_signals_are_its_own(tmp_path: Path) -> None:
    """One that is sent to rigbench reaches the command, which may ignore it."""
    command = [sys.executable, "-m", "rigbench", "--home", str(tmp_path), "watch", "--", *PROGRAMS, "stubborn"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"heard 15\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"heard 2\n"
        assert process.wait(60) == 0


@pytest.mark.slow
def test_a_stop_by_the_user_is_no_stall(tmp_path: Path) -> None:
    """Ctrl-Z for longer than any step takes, then fg."""
    command = [sys.executable, "-m", "rigbench", "--home", str(tmp_path), "watch", "--", *PROGRAMS, "steps", "150"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        while not process.stdout.readline().startswith(b"iter 50:"):
            pass
        process.send_signal(signal.SIGTSTP)
        time.sleep(alarms.LEAST_STALL_SECONDS + 2)
        process.send_signal(signal.SIGCONT)
        rest, _ = process.communicate(timeout=60)
    assert b"iter 149:" in rest
    assert document(tmp_path)["alarms"] == []


def test_somebody_removes_what_a_watch_keeps(tmp_path: Path) -> None:
    """Its folder, while it runs: less is known, the command's end is its own."""
    remove = f"rm -rf {tmp_path}/.rigbench-* {tmp_path}/watch; sleep 1.5; exit 6"
    done = watched(tmp_path, ["bash", "-c", remove])
    assert done.returncode == 6, done.stderr.decode()
    assert b"internal error" not in done.stderr


def test_rigbench_is_killed(tmp_path: Path) -> None:
    """By -9: the command goes on, its output where it was, and nothing of rigbench is left when it ends."""
    command = [sys.executable, "-m", "rigbench", "--home", str(tmp_path), "watch", "--", *PROGRAMS, "steps", "80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        for _ in range(10):
            process.stdout.readline()
        process.kill()
        rest = process.stdout.read().decode()
    assert "iter 79: " in rest
    assert "own rate" in rest
    assert list(tmp_path.glob(".rigbench-*/output.1"))
    watched(tmp_path, ["true"])
    assert not list(tmp_path.glob(".rigbench-*"))


def appears(terminal: Terminal, pattern: str) -> str:
    """The screen as soon as it shows what fits a pattern."""
    deadline = time.monotonic() + 30
    while not re.search(pattern, seen := terminal.screen()):
        assert time.monotonic() < deadline, f"{pattern!r} did not appear in:\n{seen}"
        time.sleep(0.05)
    return seen


def test_in_a_terminal(tmp_path: Path) -> None:
    """Keys, size, Ctrl-C and Ctrl-Z are the command's; the panel stands below and goes."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed: watch is not tested in a real terminal; install tmux")
    home = tmp_path / "home"
    start = f"env PS1='$ ' {sys.executable} -m rigbench --home {home} watch -- {' '.join(PROGRAMS)}"
    terminal = Terminal(tmp_path)
    terminal.start(100, 20, "bash --norc")
    try:
        terminal.tmux("send-keys", "-t", "watch", f"{start} asks", "Enter")
        appears(terminal, r"\n\?")
        terminal.tmux("send-keys", "-t", "watch", "hello", "Enter")
        seen = appears(terminal, r"got 'hello' on a terminal: True, .*columns=100, lines=19")
        assert seen.count("hello") == 2, seen  # as it was typed, echoed once, and as it was read
        appears(terminal, r"saved as")
        terminal.tmux("send-keys", "-t", "watch", f"clear; {start} steps 100000", "Enter")
        appears(terminal, r"rigbench · [\d,]+ tokens/s")
        terminal.tmux("send-keys", "-t", "watch", "C-z")
        appears(terminal, r"Stopped")
        terminal.tmux("send-keys", "-t", "watch", "fg", "Enter")
        appears(terminal, r"rigbench · [\d,]+ tokens/s")
        terminal.tmux("send-keys", "-t", "watch", "C-c")
        seen = appears(terminal, r"KeyboardInterrupt[\s\S]*ended by the user[\s\S]*saved as")
        assert "rigbench · " not in seen.split("KeyboardInterrupt")[1]
    finally:
        terminal.tmux("kill-server")


def drawn(*pieces: bytes) -> bytes:
    """What a terminal is sent of a command's pieces, and of a panel after each."""
    main, side = os.openpty()
    termios.tcsetwinsize(main, (24, 100))
    outlet = relay.Outlet(side)
    for piece in pieces:
        outlet.write(piece)
        outlet.panel("PANEL")
    outlet.close()
    os.close(side)
    sent = b""
    with contextlib.suppress(OSError):
        while piece := os.read(main, 1 << 16):
            sent += piece
    os.close(main)
    return sent


def test_a_panel_leaves_the_cursor_in_its_column() -> None:
    """Of a prompt that waits for an answer: nothing is sent that returns to the line's start."""
    sent = drawn(b"(Pdb) ")
    assert b"PANEL" in sent
    assert b"\r" not in sent


@pytest.mark.parametrize("way", [b"1049", b"47"])
@pytest.mark.parametrize("cut", [0, 3, 8])
def test_no_panel_is_drawn_on_a_whole_screen(way: bytes, cut: int) -> None:
    """In one piece with a whole page, or in two; after it there is one again."""
    begin, page, end = b"\x1b[?%bh" % way, b"x" * 2000, b"\x1b[?%bl" % way
    pieces = [begin[:cut], begin[cut:] + page] if cut else [begin + page]
    assert b"PANEL" not in drawn(*pieces).replace(b"\x1b[r", b"")
    assert b"PANEL" in drawn(*pieces, page + end + b"$ ").rpartition(end)[2]


# ------------------------------------------------------------------------------------------------------- in the middle


def test_prometheus_reads_the_training(tmp_path: Path) -> None:
    """Over loopback, from inside the command, the machine's readings and the training's own."""
    code = f"""
import sys, time, urllib.request
sys.path.insert(0, {str(Path(watched_programs.__file__).parent)!r})
import watched_programs
watched_programs.steps("120")
time.sleep(2.5)
for line in urllib.request.urlopen("http://127.0.0.1:" + sys.argv[1] + "/metrics").read().decode().splitlines():
    if "rigbench_training" in line and line[0] != "#":
        print(line.split()[0])
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = watched(tmp_path, [sys.executable, "-c", code, port], "--openmetrics", port)
    assert done.stdout.decode().splitlines()[-2:] == [
        "rigbench_training_tokens_per_second",
        "rigbench_training_steps_total",
    ]


def test_a_hook_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hooks.FOLDER, raising=False)
    monkeypatch.setattr(hooks, "_writer", None)
    hooks.step(tokens=5)
    assert hooks._writer is False


def test_a_hook_that_cannot_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(hooks.FOLDER, str(tmp_path / "gone"))
    monkeypatch.setattr(hooks, "_writer", None)
    hooks.step(tokens=5)


def test_a_hook_file_that_somebody_cuts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that was mapped into memory would end the watch by a signal."""
    monkeypatch.setenv("RIGBENCH_WATCH", str(tmp_path))
    monkeypatch.setattr(hooks, "_writer", None)
    for _ in range(3000):
        hooks.step(tokens=8)
    [file], steps = tmp_path.iterdir(), HookSteps(tmp_path)
    os.truncate(file, hooks.HEADER.size + 2000 * hooks.ENTRY.size + 5)
    steps.look()
    assert steps.done == 2000
    os.truncate(file, 7)
    steps.look()
    assert steps.done == 2000


def test_ranks_and_a_ring_that_goes_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two ranks with other shares of the tokens; rank 0 calls it more often than the ring has entries."""
    moment = 0.0
    monkeypatch.setattr(hooks, "_clock", lambda: moment)
    writers = [hooks._Writer(str(tmp_path / f"steps.{rank}.77")) for rank in (0, 1)]
    steps = HookSteps(tmp_path)
    for step in range(hooks.CAPACITY + 5000):
        moment = step * 0.5
        writers[0].step(100.0)
        if step < 5000:
            writers[1].step(300.0)
        if step == 5000:
            steps.look()
    steps.look()
    seen = steps.seen(None)
    assert seen is not None
    assert seen.unit == "tokens"
    rate = forecast.rate(seen)
    assert isinstance(rate, Estimate)
    assert rate.value == pytest.approx(400 / 0.5)
    assert len(seen.wall) <= 4097


def lines(text: Sequence[str], every: float = 1.0) -> list[tuple[float, bytes]]:
    return [(every * number, f"{line}\n".encode()) for number, line in enumerate(text)]


def feed(log: LogSteps, pieces: Sequence[tuple[float, bytes]]) -> None:
    for piece in pieces:
        log.add([piece])


def test_lines_without_any_time() -> None:
    """Their step is dated by when they came; an evaluation between is a pause of the wall's clock alone."""
    log = LogSteps()
    feed(log, lines([f"step {step} | loss {3 - step / 100:.3f}" for step in range(40)], every=2.0))
    seen = log.seen(1000)
    assert seen is not None
    rate = forecast.rate(seen)
    assert isinstance(rate, Estimate)
    assert rate.value == pytest.approx(500.0)
    assert "when each line came" in " ".join(seen.said)


def test_a_bar_whose_clock_is_coarse() -> None:
    """tqdm counts whole seconds: what 60 steps of 0.1 s took is known from when they came; at 0 none was done."""
    bar = [f"{step:3d}%|#  | {step}/60 [00:{step // 10:02d}<00:09, 9.9it/s]" for step in range(61)]
    log = LogSteps()
    feed(log, lines(bar, every=0.1))
    seen = log.seen(512)
    assert seen is not None
    assert log.done == 60
    rate = forecast.rate(seen)
    assert isinstance(rate, Estimate)
    assert rate.value == pytest.approx(5120.0)
    assert rate.half_width < 0.01
    assert "when each line came" in seen.said[-1]


def test_a_bar_is_dated_by_when_it_was_drawn() -> None:
    """Not by the carriage return before the next drawing, which comes a step later: 8 steps in 7 s, and a late end."""
    log = LogSteps()
    feed(log, [(float(step), f"\r{step}/8 [00:00<00:00, 1.00s/it]".encode()) for step in range(1, 9)])
    feed(log, [(30.0, b"\n")])
    seen = log.seen(None)
    assert seen is not None
    assert seen.wall == [(float(step), step) for step in range(1, 9)]


def test_words_that_change_beside_a_step_take_no_memory_without_end() -> None:
    """As a training that prints what its model says, which may say "step" too."""
    log, letters = LogSteps(), random.Random(1)
    for step in range(2000):
        word = "".join(letters.choices("abcdefgh", k=6))
        log.add([(float(step), f"iter {step} | loss 2.5\n{word} step: {step} of 9999\n".encode())])
        log._looks = 4  # whatever the pace
    assert len(log._marks) <= 32
    assert len(log._totals) <= 32
    assert log.done == 2000


def test_few_tokens_a_step_are_tokens_too() -> None:
    """nanoGPT's example for a laptop: 12 sequences of 64."""
    log = LogSteps()
    head = ["tokens per iteration will be: 768", "number of parameters: 0.80M"]
    feed(log, lines([*head, *(f"iter {n}: loss 4.1, time 50.0ms, mfu 0.01%" for n in range(40))]))
    seen = log.seen(None)
    assert seen is not None
    assert (seen.unit, seen.reading.tokens_per_step) == ("tokens", 768.0)


def test_output_without_steps() -> None:
    log = LogSteps()
    feed(log, lines(["loading", "step by step", "12 files", "\x1b[31mred\x1b[0m"]))
    assert log.seen(None) is None
    assert log.why


def test_what_nccl_warns_of() -> None:
    """Its warnings and a hang that torch tells of, whatever stands before them, in a flood too; no mention of it."""
    log = LogSteps()
    flood = b"x\n" * 5000
    log.add(
        [
            (1.0, b"NCCL version 2.27.3\nbox:1:2 [0] NCCL INFO Using network Socket\nbox:1:2 [0] net.cc:94 NCCL WA"),
            (2.0, b"RN Got async event : \x1b[31mport error\n" + flood),
            (3.0, b"[rank0]:[E1129 PG.cpp:616] [Rank 0] Watchdog caught collective operation timeout: SeqNum=12\n"),
        ]
    )
    assert log.warned == [
        (2.0, "Got async event : port error"),
        (3.0, "Watchdog caught collective operation timeout: SeqNum=12"),
    ]


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (0.5, "before the first steps"),
        (12.4, "at step 13"),
        (20.1, "at step 21, which took 5.00 s where one takes 1.00 s"),
        (25.9, "at step 21, which took 5.00 s where one takes 1.00 s"),  # read a second after it came
        (99.0, "after step 40"),
    ],
)
def test_what_the_kernel_wrote_stands_beside_the_step_that_slowed(after: float, words: str) -> None:
    at = tuple(float(step + 4 * (step > 20)) for step in range(1, 41))
    why = Absent("not told")
    steps = SeenSteps(
        source="the output", said=(), unit="steps", at_seconds=at, step=tuple(range(1, 41)), rate=why,
        step_seconds=why, total_steps=why, tokens_per_step=why,
    )  # fmt: skip
    event = Beside(
        source="kernel", severity="warning", text="it was hot", count=3, first_seconds=after, last_seconds=99.0
    )
    assert f", {words}: kernel: it was hot, 3 times" in screen.words(event, steps)


def test_a_line_in_two_pieces_and_no_line_at_all() -> None:
    log = LogSteps()
    pieces = [(float(step), part) for step in range(30) for part in (f"step {step} lo".encode(), b"ss 2.0\r\n")]
    feed(log, [*pieces, (31.0, b"\xff\x00" * 5000), (32.0, b"\n")])
    seen = log.seen(10)
    assert seen is not None
    assert [step for _, step in seen.wall] == list(range(30))


def test_pace_has_the_pauses_in_it() -> None:
    """A minute's evaluation every 100 steps of a second: 1.6 s of the wall's clock a step."""
    random.seed(5)
    at, wall = 0.0, []
    for step in range(1, 1001):
        at += random.uniform(0.9, 1.1) + (60.0 if step % 100 == 0 else 0.0)
        wall.append((at, step))
    pace = forecast.pace(wall)
    assert isinstance(pace, Estimate)
    assert pace.low < 1.6 < pace.high
    assert pace.value == pytest.approx(1.6, rel=0.06)


def test_the_end_is_within_its_interval() -> None:
    """Told at a fifth of the way, of trainings whose steps resemble their neighbours: 18 of 20 and more."""
    held = 0
    for seed in range(20):
        draw = random.Random(seed)
        at, slow, wall = 0.0, 1.0, []
        for step in range(1, 1501):
            slow = 0.95 * slow + 0.05 * draw.uniform(0.9, 1.1)
            at += slow * draw.uniform(0.97, 1.03) * (20 if step == 1 else 1)
            wall.append((at, step))
        pace = forecast.pace(wall[:300])
        assert isinstance(pace, Estimate)
        rest = forecast.rest(pace, 299, 1200)
        held += rest.low <= wall[-1][0] - wall[299][0] <= rest.high
    assert held >= 18


def test_lines_out_of_a_buffer() -> None:
    """Five steps of a second each come at once: a second a step, whichever gaps they leave."""
    wall = [(5.0 * (step // 5 + 1) + 0.001 * (step % 5), step) for step in range(100)]
    pace = forecast.pace(wall)
    assert isinstance(pace, Estimate)
    assert pace.value == pytest.approx(1.0)
    assert pace.high - pace.low < 0.02


@pytest.mark.parametrize("seconds", [6, 11])
def test_a_load_that_repeats(seconds: int) -> None:
    random.seed(1)
    load = [(0.2 if second % seconds < 2 else 0.95) + random.uniform(-0.03, 0.03) for second in range(240)]
    assert period(load, 1.0) == pytest.approx(seconds, abs=0.5)


def test_loads_that_do_not_repeat() -> None:
    random.seed(2)
    assert period([random.random() for _ in range(240)], 1.0) is None
    assert period([0.99] * 240, 1.0) is None
    assert period([1.0] * 10, 1.0) is None
    assert period([second / 240 for second in range(240)], 1.0) is None


def test_what_a_training_imports(tmp_path: Path) -> None:
    """The hook is light, and none of the trainers is imported by it."""
    code = "import sys, rigbench.hooks as h; h.step(); print([m for m in sys.modules if m.split('.')[0] in " \
        "('torch','transformers','lightning','numpy','rich','typer','msgspec')])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


def test_a_training_that_stands_still_and_a_kernel_that_tells_why(tmp_path: Path) -> None:
    """Every alarm once, to a command, in the output's terminal line and in the document; a card fell off the bus."""
    kernel, told = tmp_path / "kernel.log", tmp_path / "told"
    kernel.write_text("")
    told.write_text("")
    program = f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(Path(watched_programs.__file__).parent)!r})
import watched_programs
watched_programs.steps("60")
print("step 61 loss nan", flush=True)
while b"step 61" not in b"".join(it.read_bytes() for it in pathlib.Path(os.environ["RIGBENCH_WATCH"]).glob("output.*")):
    time.sleep(0.02)
for _ in range(2):
    print("box:31:44 [1] misc/socket.cc:58 NCCL WARN Connect to 10.0.0.2<49321> failed", file=sys.stderr, flush=True)
with open({str(kernel)!r}, "a") as file:
    file.write("[ 100.000001] {XID_79}\\n")
while "stall" not in pathlib.Path({str(told)!r}).read_text():
    time.sleep(0.1)
"""
    home = tmp_path / "home"
    words = ["--alert-cmd", f'echo "$RIGBENCH_ALARM_CODE: $(cat)" >> {told}']
    done = watched(home, [sys.executable, "-c", program], *words, env={"RIGBENCH_KERNEL_LOG": str(kernel)})
    assert done.returncode == 0, done.stderr.decode()
    its = document(home)
    codes = [it["code"] for it in its["alarms"]]  # type: ignore[attr-defined, index]
    assert sorted(codes) == ["kernel", "nan", "stall"]
    after = {it["code"]: it["after_seconds"] for it in its["alarms"]}  # type: ignore[attr-defined, index]
    last = its["steps"]["at_seconds"][-1]  # type: ignore[index]
    assert last < after["kernel"] <= its["seconds"]  # type: ignore[operator]
    assert last + alarms.LEAST_STALL_SECONDS < after["stall"] <= its["seconds"]  # type: ignore[operator]
    assert [it["event"]["code"] for it in its["monitor"]["kernel"]] == ["xid-79"]  # type: ignore[attr-defined, index]
    assert sorted(line.partition(":")[0] for line in told.read_text().splitlines()) == ["kernel", "nan", "stall"]
    beside = {it["source"]: it for it in its["beside"]}  # type: ignore[attr-defined, index]
    assert beside["NCCL"]["count"] == 2
    assert beside["NCCL"]["text"] == "Connect to 10.0.0.2<49321> failed"
    assert beside["kernel"]["text"].startswith("0000:01:00.0: the card fell off the bus (Xid 79); ")
    assert last < beside["kernel"]["first_seconds"] <= its["seconds"]  # type: ignore[operator]
    seen = done.stderr.decode()
    assert seen.count("no step for") == 2  # when it came, and at the end
    assert "NCCL: Connect to 10.0.0.2<49321> failed, 2 times" in " ".join(seen.split())
    assert "the card fell off the bus (Xid 79)" in seen


def test_what_the_kernel_writes_as_a_command_starts_and_as_it_ends_is_told(tmp_path: Path) -> None:
    """A card that is gone when the training opens it, and a training that ends with its card, between two readings."""
    kernel, told = tmp_path / "kernel.log", tmp_path / "told"
    kernel.write_text("[ 1.0] NVRM: Xid (PCI:0000:02:00): 79, pid=1, name=python, GPU has fallen off the bus.\n")
    program = f"open({str(kernel)!r}, 'a').write('[ 100.000001] {XID_79}\\n')"
    words = ["--alert-cmd", f'echo "$RIGBENCH_ALARM_CODE" >> {told}']
    done = watched(tmp_path / "home", [sys.executable, "-c", program], *words, env={"RIGBENCH_KERNEL_LOG": str(kernel)})
    assert done.returncode == 0, done.stderr.decode()
    its = document(tmp_path / "home")
    seen = [(it["event"]["code"], it["event"]["device"]) for it in its["monitor"]["kernel"]]  # type: ignore[index]
    assert seen == [("xid-79", "0000:01:00.0")]
    assert [it["code"] for it in its["alarms"]] == ["kernel"]  # type: ignore[attr-defined, index]
    assert its["alarms"][0]["after_seconds"] <= its["seconds"]  # type: ignore[index, operator]
    assert told.read_text() == "kernel\n"


def test_looks_without_end(tmp_path: Path) -> None:
    """A training of months is looked at hundreds of thousands of times."""
    now, looked = [1e3], []

    class Quiet:
        started_seconds, folder = now[0], tmp_path

        def read(self) -> list[object]:
            return []

    watching = Watching(Quiet(), Options(), Absent("no price"), None, lambda device: None, clock=lambda: now[0])  # type: ignore[arg-type]
    watching._log.seen = lambda tokens: looked.append(now[0])  # type: ignore[assignment, func-returns-value, method-assign]
    for _ in range(3000):
        now[0] += 5000.0
        watching.look()
    assert len(looked) == 3000
    watching.look(final=True)
    took = watching.seconds
    now[0] += 3.0  # for a webhook that hangs
    assert watching.seconds == took == 3000 * 5000.0
    watching.close()


def test_what_is_said_after_the_command_has_ended_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that the driver hangs, which is known only after its limit."""
    with Session([sys.executable, "-c", "pass"], tmp_path, False, False) as session:
        while not session.poll():
            session.wait(1.0)
        session.line("rigbench: warning: the driver\x1b does not answer")
    assert capsys.readouterr().err == "rigbench: warning: the driver\ufffd does not answer\n"


def test_a_command_beside_which_no_thread_may_run_is_said_not_to_start(monkeypatch, tmp_path):
    def none(*_of: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(relay, "Relay", none)
    ours, theirs = socket.socketpair()
    assert relay.main([str(theirs.detach()), str(tmp_path), "-", "-", "true"]) == 2
    assert json.loads(ours.recv(4096)) == {"failed": "can't start new thread"}
