"""Does a live watch fit terminals of any size, as text and for real through tmux?"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakenvml.library import FakeDriver
from rich.console import Console
from test_monitor import MOVING
from test_monitor_parts import header

from rigbench.core.record import Absent
from rigbench.monitor import live as monitor_live
from rigbench.monitor.record import (
    GpuSlow,
    GpuTick,
    HostTick,
    Monitor,
    MonitorCard,
    MonitorProcess,
    MonitorSlow,
    MonitorTick,
)
from rigbench.monitor.screen import show
from rigbench.monitor.summary import Fold

GIB = 1 << 30


def watched(gpus: int = 2, seconds: int = 65) -> tuple[Monitor, dict[str, list[tuple[float, float]]]]:
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
    return fold.record(), {name: fold.chart(name) for name in names}


def frame(width: int, height: int, gpus: int = 2) -> str:
    return monitor_live.frame(*watched(gpus), width, height).plain


def test_the_whole_picture_at_80_columns():
    assert (
        frame(80, 40)
        == """\
watching for 1 min 4 s, every 1 s; Ctrl-C ends it with a summary
GPU0 NVIDIA GeForce RTX 4080 SUPER
  busy   99 %  █████████████████████████████████████████████████████████████
  now    14 GiB of 16 GiB, 319 W of 320 W, 66 °C, 2,550 MHz, fan 45 %
  held   now: power limit; power limit 100 % of the time
  PCIe   in 1.20 GB/s, out 300 MB/s; 20 ms of every 5 s
  in use python 4242: 13 GiB, 3.9 cores, 4 children
GPU1 NVIDIA GeForce RTX 4080 SUPER
  busy   10 %  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
  now    14 GiB of 16 GiB, 120 W of 320 W, 66 °C, 2,550 MHz; n/a: fan
  held   clocks free all the time
  PCIe   in 1.20 GB/s, out 300 MB/s; 20 ms of every 5 s
  in use python 4242: 13 GiB, 3.9 cores, 4 children
host
  now    CPU 31 % busy of 16 cores, 2 at their limit, load 5.2, 22 GiB of 64
         GiB, read 210 MB/s, written 0 B/s
hint (warning): GPU1 does much less than GPU0: an uneven split of the work
(DataParallel, pipeline stages, evaluation on one card), or it waits for the
other
  GPU0 99 % busy, GPU1 10 %, over 1 min; GPU1 was behind at 61 of 61 readings
  GPU1 holds 14 GiB of 16 GiB
  GPU0 holds 14 GiB of 16 GiB
  next: rigbench collectives (is the link slow?); DistributedDataParallel
    splits evenly"""
    )


@pytest.mark.parametrize("gpus", [1, 2, 8])
@pytest.mark.parametrize(("width", "height"), [(40, 24), (40, 60), (80, 24), (80, 60), (20, 10), (200, 100), (1, 3)])
def test_a_picture_fits_whatever_the_terminal_is(width: int, height: int, gpus: int):
    lines = frame(width, height, gpus).splitlines()
    assert len(lines) <= max(2, height - 1)
    assert all(len(line) <= max(20, width) for line in lines)


def test_eight_cards_on_a_low_terminal_take_a_line_each():
    lines = frame(80, 24, gpus=8).splitlines()
    assert [line.split()[0] for line in lines[1:9]] == [f"GPU{index}" for index in range(8)]
    assert lines[1] == "GPU0 99 %, 14 GiB of 16 GiB, 319 W of 320 W, 66 °C, 2,550 MHz, fan 45 %, power l"


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
    assert monitor_live.frame(fold.record(), {}, 40, 24).plain.splitlines()[:2] == [
        "watching for 0 s, every 1 s; Ctrl-C ends",
        "no GPU is seen (no NVIDIA driver found)",
    ]


class Terminal:
    """A real terminal in tmux, on a server of its own."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "tmux")

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-S", self.socket, "-f", "/dev/null", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout

    def start(self, width: int, height: int, command: str) -> None:
        self.tmux("new-session", "-d", "-x", str(width), "-y", str(height), "-s", "watch", command)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-t", "watch")

    def wait_for(self, text: str, history: str = "0") -> str:
        """The screen as soon as it shows a text."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            seen = self.tmux("capture-pane", "-p", "-t", "watch", "-S", history)
            if text in seen:
                return seen
            time.sleep(0.05)
        raise AssertionError(f"{text!r} did not appear in:\n{seen}")


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
    second = terminal.wait_for("watching for 2 s")
    for seen in (first, second):
        assert all(len(line) <= width for line in seen.splitlines())
        assert seen.count("GPU0 Test Card") == seen.count("GPU1 Test Card") == 1  # drawn over, not below itself
    heat = [
        next(line for line in seen.splitlines() if " °C" in line).split(" °C")[0].split()[-1]
        for seen in (first, second)
    ]
    assert int(heat[0]) < int(heat[1])
    bars = next(line for line in second.splitlines() if line.startswith(("  busy   9", "  busy   100")))
    assert "██████" in bars
    terminal.tmux("send-keys", "-t", "watch", "C-c")
    after = terminal.wait_for("ended with 0", history="-100")
    assert "stopped by the user" in " ".join(after.split())
    assert "watching for" not in after


def test_what_a_recorded_file_says_does_nothing_to_the_terminal():
    odd = "\x1b[31m"
    fold = Fold(header(gpu_count=Absent(odd)))
    fold.add(MonitorTick(0.0, {f"GPU0{odd}": GpuTick()}, HostTick()))
    console = Console(file=io.StringIO(), width=100)
    show(fold.record([odd]), console)
    assert odd not in console.file.getvalue()
