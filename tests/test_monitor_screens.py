"""Does a live watch fit terminals of any size, as text and for real through tmux?"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fakenvml.library import FakeDriver
from rich.console import Console
from test_first_screens import NUMBER, printed
from test_monitor import HOT, MOVING
from test_monitor_parts import header

from rigbench.core.record import Absent
from rigbench.monitor import limits, live_screen
from rigbench.monitor import live as monitor_live
from rigbench.monitor.live_screen import View
from rigbench.monitor.record import (
    Gone,
    GpuSlow,
    GpuTick,
    HostTick,
    Monitor,
    MonitorCard,
    MonitorProcess,
    MonitorSlow,
    MonitorTick,
)
from rigbench.monitor.screen import brief, show
from rigbench.monitor.summary import Fold

GIB = 1 << 30


def watched(gpus: int = 2, seconds: int = 65) -> tuple[Monitor, live_screen.Charts]:
    """Cards of which the last does little, the first is at its power limit."""
    fold = Fold(header(gpu_count=gpus))
    names = [f"GPU{index}" for index in range(gpus)]
    for name in names:
        fold.add(
            MonitorCard(
                at_seconds=0.0,
                device=name,
                name="NVIDIA GeForce RTX 4080 SUPER",
                uuid=name,
                memory_total_bytes=16 * GIB,
                power_limit_watts=320.0,
                target_celsius=84.0,
                slowdown_celsius=96.0,
            )
        )
    process = MonitorProcess(
        pid=4242,
        kind="compute",
        name="python",
        memory_bytes=13 * GIB,
        children=4,
        cores=3.9,
        children_at_limit=1,
    )
    fold.add(MonitorSlow(0.0, {name: GpuSlow(1.2e9, 3e8, (process,)) for name in names}))
    for second in range(seconds):
        ticks = {
            name: GpuTick(
                utilisation_share=0.1 if name == names[-1] else 0.99,
                memory_used_bytes=14 * GIB,
                power_watts=120.0 if name == names[-1] else 318.0 + 0.01 * second,
                temperature_celsius=60.0 + second / 10,
                sm_clock_hertz=2.55e9,
                throttle_bits=0x4 if name == names[0] else 0,
                fan_share=Absent("not supported") if name == names[-1] else 0.45,
            )
            for name in names
        }
        host = HostTick(
            busy_share=0.31,
            cores_at_limit=2,
            load_average=5.2,
            memory_used_bytes=22 * GIB,
            disk_read_bytes_per_s=21e7,
            disk_write_bytes_per_s=0.0,
        )
        fold.add(MonitorTick(float(second), ticks, host))
    return fold.record(), fold.charts()


def frame(width: int, height: int, gpus: int = 2, view: View = live_screen.READ, **facts: object) -> str:
    monitor, charts = watched(gpus)
    return live_screen.frame(msgspec.structs.replace(monitor, **facts), charts, width, height, view).plain


def test_the_whole_picture_at_80_columns():
    assert (
        frame(80, 24)
        == """\
watching for 1 min 4 s, every 1 s
GPU0 NVIDIA GeForce RTX 4080 SUPER                       1 min ago          now
  busy    █████████████▉         99 %                     ██████████████████████
  memory  ████████████▎  14 of 16 GiB
  power   ██████████████ 319 of 320 W  note at its limit  ██████████████████████
  clock   2,550 MHz  note power limit  heat 66 of 96 °C  fan 45 %
          PCIe in 1.20 GB/s, out 300 MB/s
GPU1 NVIDIA GeForce RTX 4080 SUPER                       1 min ago          now
  busy    █▍                     10 %  note mostly waits  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
  memory  ████████████▎  14 of 16 GiB
  power   █████▎         120 of 320 W                     ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄
  clock   2,550 MHz  heat 66 of 96 °C  PCIe in 1.20 GB/s, out 300 MB/s
          n/a (not supported): fan
host      CPU █▉     31 %  memory ██     22 of 64 GiB
          read 210 MB/s, written 0 B/s  load 5.2 of 16 cores, 2 fully busy
process   GPU0 4242 python  13 GiB, 4 children, 3.9 cores  note 1 fills a core
          GPU1 4242 python  13 GiB, 4 children, 3.9 cores  note 1 fills a core
warn GPU1 does much less than GPU0: an uneven split of the work (DataParallel,
pipeline stages, evaluation on one card), or it waits for the other
  GPU0 99 % busy, GPU1 10 %, over 1 min; GPU1 was behind at 61 of 61 readings
  next: rigbench collectives (is the link slow?); DistributedDataParallel
    splits evenly
q quit · h help · p pause"""
    )


def test_a_line_a_reading_where_there_is_room():
    assert (
        frame(120, 40)
        == """\
watching for 1 min 4 s, every 1 s
GPU0 NVIDIA GeForce RTX 4080 SUPER                                       1 min ago                                  now
  busy    █████████████████████████████▊         99 %                     ██████████████████████████████████████████████
  memory  ██████████████████████████▎    14 of 16 GiB
  power   █████████████████████████████▉ 319 of 320 W  note at its limit  ██████████████████████████████████████████████
  heat    ████████████████████▊           66 of 96 °C
  fan     █████████████▌                         45 %
  clock   2,550 MHz  note power limit  PCIe in 1.20 GB/s, out 300 MB/s
GPU1 NVIDIA GeForce RTX 4080 SUPER                                       1 min ago                                  now
  busy    ███                                    10 %  note mostly waits  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
  memory  ██████████████████████████▎    14 of 16 GiB
  power   ███████████▎                   120 of 320 W                     ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄
  heat    ████████████████████▊           66 of 96 °C
  clock   2,550 MHz  PCIe in 1.20 GB/s, out 300 MB/s
          n/a (not supported): fan
host      CPU ███▊         31 %  memory ████▏        22 of 64 GiB  read 210 MB/s, written 0 B/s
          load 5.2 of 16 cores, 2 fully busy
process   GPU0 4242 python  13 GiB, 4 children, 3.9 cores  note 1 fills a core
          GPU1 4242 python  13 GiB, 4 children, 3.9 cores  note 1 fills a core
warn GPU1 does much less than GPU0: an uneven split of the work (DataParallel, pipeline stages, evaluation on one card),
or it waits for the other
  GPU0 99 % busy, GPU1 10 %, over 1 min; GPU1 was behind at 61 of 61 readings
  GPU1 holds 14 GiB of 16 GiB
  GPU0 holds 14 GiB of 16 GiB
  next: rigbench collectives (is the link slow?); DistributedDataParallel splits evenly
q quit · h help · p pause"""
    )


def test_a_card_on_a_narrow_terminal():
    assert (
        frame(60, 30, gpus=1)
        == """\
watching for 1 min 4 s, every 1 s
GPU0 NVIDIA GeForce RTX 4080 SUPER        1 min ago     now
  busy    █▏                  10 %  note   ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
  memory  █████████▋  14 of 16 GiB
  power   ████▏       120 of 320 W         ▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄
  heat    ███████▋     66 of 96 °C
  clock   2,550 MHz  note power limit
          PCIe in 1.20 GB/s, out 300 MB/s
          n/a (not supported): fan
host      CPU █▉     31 %  memory ██     22 of 64 GiB
          read 210 MB/s, written 0 B/s
          load 5.2 of 16 cores, 2 fully busy
process   GPU0 4242 python  13 GiB, 4 children, 3.9 cores
          note 1 fills a core
warn GPU0 is often without work while a core is at its limit
and its worker processes are at theirs and the disk is read:
the data may not keep up
  GPU0 10 % busy over 1 min; GPU0 holds 14 GiB of 16 GiB
  CPU 31 % busy, 2.0 cores at their limit, disks read 210
    MB/s, 1.0 worker processes at their limit
  next: rigbench dataloader --data YOUR_FILE
q quit · h help · p pause"""
    )


def rendered(width: int, **settings: object) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, _environ={}, **settings)
    console.print(live_screen.frame(*watched(), width, 40))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_colours_say_what_the_words_beside_them_say(width: int):
    """SGR 2 is dim, 32 green, 33 yellow, 1;33 bold yellow."""
    coloured = rendered(width, color_system="standard")
    assert "\x1b[2mnote " in coloured
    assert "\x1b[1;33mwarn GPU1" in coloured
    assert "\x1b[32m█" in coloured
    codes = set(re.findall(r"\x1b\[([\d;]*)m", coloured))
    assert codes <= {"0", "1", "2", "32", "33", "1;33", "1;31"}
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured).rstrip() == frame(width, 40).rstrip()
    plain = rendered(width, color_system="standard", no_color=True)
    assert not re.search(r"\x1b\[[\d;]*3[0-9]m", plain)


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (limits.busy(0.99), "ok"),
        (limits.busy(0.3), "note mostly waits"),
        (limits.busy(0.0), "note idle"),
        (limits.memory(0.89), "ok"),
        (limits.memory(0.9), "note little left"),
        (limits.memory(0.97), "warn nearly full"),
        (limits.power(0.96), "ok"),
        (limits.power(0.97), "note at its limit"),
        (limits.heat(82.0, 84.0, 96.0), "ok"),
        (limits.heat(83.0, 84.0, 96.0), "warn at its target"),
        (limits.heat(96.0, 84.0, 96.0), "fault too hot"),
        (limits.heat(91.0, Absent("not reported"), 96.0), "warn near its limit"),
        (limits.heat(120.0, Absent("not reported"), Absent("not reported")), "ok"),
        (limits.fan(0.95), "note full speed"),
        (limits.held(["gpu_idle"]), "ok"),
        (limits.held(["sw_power_cap"]), "note power limit"),
        (limits.held(["sw_power_cap", "sw_thermal"]), "warn thermal slowdown by the driver, power limit"),
        (limits.held(["hw_thermal", "sw_thermal"])[:1], "fault"),
        (limits.cores(0.9), "note no core free"),
        (limits.host_memory(0.95), "warn nearly full"),
        (limits.loaders(2), "note 2 fill a core"),
        (limits.loaders(Absent("gone")), "ok"),
    ],
)
def test_a_reading_is_judged_against_its_limit(judged: tuple[str, ...], expected: str):
    assert " ".join(judged).strip() == expected


def test_the_picture_says_what_is_recorded_composed_or_paused():
    assert frame(80, 24, replayed=True).startswith("watching a recorded rig for 1 min 4 s")
    notes = ("composed recording: two cards that never met",)
    assert frame(80, 24, replayed=True, notes=notes).startswith("watching a recorded rig (composed) for 1 min 4 s")
    assert frame(80, 24, view=View(paused=True)).splitlines()[-1].startswith("paused, readings go on · p goes on")
    assert frame(80, 24, view=View(keys=False)).splitlines()[-1] == "Ctrl-C ends it with a summary"
    monitor, charts = watched()
    over = [msgspec.structs.replace(held, holds_now=False) for held in monitor.hints]
    told = live_screen.frame(msgspec.structs.replace(monitor, hints=over), charts, 120, 40).plain
    assert "no more, last after 1 min: warn GPU1 does much less than GPU0" in told
    explained = frame(100, 40, view=View(explained=True), notes=notes)
    assert explained.splitlines()[0] == "what the lines mean"
    assert "two cards that never met" in explained


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize(("width", "height"), [(40, 24), (40, 60), (80, 24), (80, 60), (20, 10), (200, 100), (1, 3)])
def test_a_picture_fits_whatever_the_terminal_is(width: int, height: int, gpus: int):
    lines = frame(width, height, gpus).splitlines()
    assert len(lines) <= max(2, height - 1)
    assert all(len(line) <= max(20, width) for line in lines)


def test_eight_cards_on_a_low_terminal_take_a_line_each():
    lines = frame(80, 24, gpus=8).splitlines()
    assert [line.split()[0] for line in lines[1:9]] == [f"GPU{index}" for index in range(8)]
    assert lines[1] == "GPU0  ███████▉ 99 %  14 of 16 GiB  319 of 320 W  66 °C  45 %  note power limit"


def test_what_is_wrong_with_a_card_stands_in_its_line():
    monitor, charts = watched(gpus=8)
    first, second, *others = monitor.gpus
    lost = msgspec.structs.replace(first, gone=Gone(30.0, "it has fallen off the bus"))
    hot = msgspec.structs.replace(second.temperature_celsius, now=85.0)
    held = msgspec.structs.replace(second, temperature_celsius=hot, throttle_now=("sw_power_cap", "sw_thermal"))
    gpus = (lost, held, *others)
    lines = live_screen.frame(msgspec.structs.replace(monitor, gpus=gpus), charts, 80, 24).plain.splitlines()
    assert lines[1] == "GPU0  fault gone since 30 s: it has fallen off the bus"
    assert lines[2] == "GPU1  █████ 99 %  14 of 16 GiB  319 of 320 W  85 °C  45 %  warn thermal slowdown"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_summary_loses_no_digit_on_a_narrow_terminal(width: int):
    out = io.StringIO()
    show(watched()[0], Console(file=out, width=width, color_system=None))
    assert "…" not in out.getvalue()
    words = " ".join(out.getvalue().split())
    assert "GPU0 99 % busy, GPU1 10 %, over 1 min; GPU1 was behind at 61 of 61 readings" in words
    assert "318 W on average (318 W to 319 W), limit 320 W" in words


def test_lines_tell_a_hint_when_it_comes_and_when_it_goes():
    said: list[str] = []
    lines = monitor_live.Lines(said.append)
    held, charts = watched()
    lines(held, charts)
    lines(held, charts)
    assert sum("hint (warning): GPU1 does much less" in line for line in said) == 1
    over, _ = watched(seconds=20)
    lines(over, charts)
    assert said[-1].startswith("19 s  no more: GPU1 does much less")


def test_without_a_gpu_the_picture_says_why():
    fold = Fold(header(gpu_count=Absent("no NVIDIA driver found")))
    fold.add(MonitorTick(0.0, {}, HostTick(load_average=1.0)))
    assert live_screen.frame(fold.record(), {}, 40, 24).plain.splitlines()[:3] == [
        "watching for 0 s, every 1 s",
        "warn no GPU is seen (no NVIDIA driver",
        "found)",
    ]


class Terminal:
    """A real terminal in tmux, on a server of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "tmux")

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-S", self.socket, "-f", "/dev/null", *words]
        bash = {**os.environ, "SHELL": shutil.which("bash") or ""}  # other shells end with what Ctrl-C ends
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20, env=bash).stdout

    def start(self, width: int, height: int, command: str) -> None:
        self.tmux("new-session", "-d", "-x", str(width), "-y", str(height), "-s", "watch", command)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-t", "watch")

    def wait_for(self, text: str | re.Pattern[str], history: str = "0") -> str:
        """The screen as soon as it shows a text; one that goes by may be missed on a busy machine."""
        wanted = re.compile(re.escape(text)) if isinstance(text, str) else text
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            seen = self.tmux("capture-pane", "-p", "-t", "watch", "-S", history)
            if wanted.search(seen):
                return seen
            time.sleep(0.05)
        raise AssertionError(f"{wanted.pattern!r} did not appear in:\n{seen}")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed: monitor is not tested in a real terminal; install tmux")
    found = Terminal(tmp_path)
    yield found
    subprocess.run(["tmux", "-S", found.socket, "kill-server"], check=False, capture_output=True)


@pytest.mark.parametrize("width", [80, 40])
def test_a_real_terminal_shows_readings_that_move_and_ctrl_c_ends_with_a_summary(
    terminal: Terminal, fake_driver: FakeDriver, tmp_path: Path, width: int
):
    recording = tmp_path / "nvml.txt"
    recording.write_text("\n".join(MOVING) + "\n")
    settings = {**fake_driver.environment(recording), "FAKE_NVML_TICK_MS": "50", "LC_ALL": "C.UTF-8", "COLUMNS": "200"}
    environment = " ".join(f"{name}='{value}'" for name, value in settings.items())
    path = os.environ["PATH"]
    command = f"env PATH='{path}' {environment} '{sys.executable}' -m rigbench monitor --interval 0.1s"
    terminal.start(width, 45, f"{command}; echo ended with $?; sleep 60")
    first = terminal.wait_for("GPU1 Test Card")
    second = terminal.wait_for(re.compile(r"watching for ([2-9]|\d\d) s"))
    for seen in (first, second):
        assert all(len(line) <= width for line in seen.splitlines())
        assert seen.count("GPU0 Test Card") == seen.count("GPU1 Test Card") == 1  # drawn over, not below itself
    heat = [
        next(line for line in seen.splitlines() if " °C" in line).split(" °C")[0].split()[-1]
        for seen in (first, second)
    ]
    assert int(heat[0]) < int(heat[1])
    assert any("████" in line for line in second.splitlines() if line.startswith("  busy "))
    terminal.tmux("send-keys", "-t", "watch", "C-c")
    after = terminal.wait_for("ended with 0", history="-100")
    assert "stopped by the user" in " ".join(after.split())
    assert "watching for" not in after


def test_a_recorded_rig_is_played_on_a_terminal_and_keys_are_heard(terminal: Terminal):
    command = f"env PATH='{os.environ['PATH']}' LC_ALL=C.UTF-8 '{sys.executable}' -m rigbench --replay '{HOT}' monitor"
    terminal.start(80, 24, f"{command} --interval 0.1s; echo ended with $?; sleep 60")
    seen = terminal.wait_for(re.compile(r"watching a recorded rig \(composed\) for [1-9]\d* s"))
    assert "of 96 °C" in seen
    assert "q quit · h help · p pause" in seen
    terminal.tmux("send-keys", "-t", "watch", "p")
    held = terminal.wait_for("paused · p goes on")
    time.sleep(0.3)
    assert terminal.screen() == held  # three readings later
    terminal.tmux("send-keys", "-t", "watch", "h")
    terminal.wait_for("what the lines mean")
    terminal.tmux("send-keys", "-t", "watch", "h", "F1", "Home", "p")  # of which two are no letters
    terminal.wait_for(re.compile(r"watching a recorded rig \(composed\) for ([3-9]|\d\d) s"))
    terminal.tmux("send-keys", "-t", "watch", "q")
    assert "composed recording" in " ".join(terminal.wait_for("ended with 0", history="-100").split())


CRASHING = """
import sys
from rigbench import __main__
from rigbench.monitor import live
pictures = iter(range(3))
frame = live.frame
live.frame = lambda *what: (next(pictures), frame(*what))[1]
sys.argv = ["rigbench", *sys.argv[1:]]
__main__.main()
"""


@pytest.mark.parametrize(
    ("program", "end", "code"),
    [
        (("-m", "rigbench"), b"q", 0),
        (("-m", "rigbench"), b"\x03", 0),
        (("-m", "rigbench"), signal.SIGTERM, 0),
        (("-c", CRASHING), None, 4),
    ],
    ids=["q", "Ctrl-C", "SIGTERM", "a crash"],
)
def test_the_terminal_is_given_back_as_it_was(program: tuple[str, str], end: bytes | int | None, code: int):
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, *program, "--replay", str(HOT), "monitor", "--interval", "0.2s"]
    environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as it:
        seen = b""
        while b"watching a recorded rig (composed) for 0.4 s" not in seen:
            seen += os.read(ours, 1 << 16)
        if end is not None:
            assert not termios.tcgetattr(theirs)[3] & (termios.ICANON | termios.ECHO)
        if isinstance(end, bytes):
            os.write(ours, end)
        elif end is not None:
            it.send_signal(end)
        while it.poll() is None:
            if select.select([ours], [], [], 0.05)[0]:
                os.read(ours, 1 << 16)
    assert it.returncode == code
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_what_a_recorded_file_says_does_nothing_to_the_terminal():
    odd = "\x1b[31m"
    fold = Fold(header(gpu_count=Absent(odd)))
    fold.add(MonitorTick(0.0, {f"GPU0{odd}": GpuTick()}, HostTick()))
    console = Console(file=io.StringIO(), width=100)
    show(fold.record([odd]), console)
    assert odd not in console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_first_screen_of_a_watch_has_every_number_at_any_width(width: int):
    whole = printed(brief, watched()[0])
    assert whole.startswith("warn  monitor: GPU1 does much less")
    assert len(whole.splitlines()) <= 40
    shown = printed(brief, watched()[0], width)
    assert max(map(len, shown.splitlines())) <= width
    assert set(NUMBER.findall(whole)) <= set(NUMBER.findall(shown))
