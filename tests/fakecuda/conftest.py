"""Fake rigs for tests: each a home, a driver, a host and CUDA devices of its own."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import pty
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import build
import fake_host
import fake_rig
import folding
import msgspec
import pytest
from fake_rig import DUAL_4080, RIGS

from rigbench.document import Run

HERE = Path(__file__).parent
QUIET = HERE.parent / "quiet"
LAUNCHER = HERE / "small_run.py"
LIMIT_SECONDS = 900
HAZARDS = "hazards.txt"
WIDE = 1000  # columns: a longer number moves no word to another line


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("fakecuda")
            item.add_marker(pytest.mark.timeout(2 * LIMIT_SECONDS))


class Done:
    """How a command ended, what it wrote, and the run that it stored."""

    def __init__(self, code: int, out: str, err: str, home: Path) -> None:
        self.code, self.out, self.err = code, out, err
        runs = sorted((home / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime)
        self._last = runs[-1] if runs else None

    @property
    def run(self) -> Run:
        assert self._last, self.err
        return msgspec.json.decode(self._last.read_bytes(), type=Run)

    @property
    def document(self) -> dict[str, Any]:
        """What --json printed: the whole of standard output."""
        return json.loads(self.out)

    def ended(self, code: int) -> Done:
        assert self.code == code, f"exit {self.code}\n{self.err}\n{self.out[-3000:]}"
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return self


class FakeRig:
    """A recorded rig with CUDA devices; its variables may be changed before a command is run."""

    def __init__(self, folder: Path, recording: Path, built: Path) -> None:
        self.folder, self.home, self.built, self.recording = folder, folder / "home", built, recording
        self.variables = fake_rig.clean(os.environ)
        self.driver(recording / "nvml.txt")
        self.variables |= {
            "FAKE_SYSFS": str(fake_host.tree(recording, folder / "host")),
            "FAKECUDA_LOG": str(folder / HAZARDS),
            "RIGBENCH_HOME": str(self.home),
        }

    def driver(self, recording: Path) -> None:
        """Answer from another recording (an nvml.txt)."""
        self.variables |= fake_rig.variables(recording, self.built)
        self.variables["PYTHONPATH"] = f"{QUIET}{os.pathsep}{self.variables['PYTHONPATH']}"

    def edited(self, *edits: tuple[str, str]) -> None:
        """Answer from the same recording, with texts (regular expressions) replaced."""
        text = Path(self.variables["FAKE_NVML_FILE"]).read_text()
        for old, new in edits:
            text, count = re.subn(old, new, text, flags=re.MULTILINE)
            assert count, old
        path = self.folder / "nvml.txt"
        path.write_text(text)
        self.driver(path)

    def memory(self, *mib: int) -> None:
        """So much on each card, by torch and by the driver."""
        lines = [
            f"{card} nvmlDeviceGetMemoryInfo = 0 {size << 20} {(size - 400) << 20} {400 << 20}\n"
            f"{card} nvmlDeviceGetMemoryInfo_v2 = 0 {size << 20} 0 {(size - 400) << 20} {400 << 20}\n"
            for card, size in enumerate(mib)
        ]
        path = self.folder / "nvml.txt"
        path.write_text(Path(self.variables["FAKE_NVML_FILE"]).read_text() + "".join(lines))
        self.driver(path)
        self.variables |= {"FAKECUDA_MEMORY_MIB": ",".join(map(str, mib)), "FAKECUDA_OTHERS_MIB": "0"}

    def command(self, *words: str, small: bool = False) -> list[str]:
        return [sys.executable, *([str(LAUNCHER)] if small else ["-m", "rigbench"]), *words]

    def run(self, *words: str, small: bool = False, **more: str) -> Done:
        """The real command line in a real process; `small`: with the plan of `run` made small."""
        done = subprocess.run(
            self.command(*words, small=small),
            env=self.variables | more,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr, self.home)

    def screen(self) -> str:
        """What `report` shows of the last run, on a terminal so wide that no line is broken."""
        ours, theirs = pty.openpty()
        wide = self.variables | {"COLUMNS": str(WIDE), "TERM": "xterm", "NO_COLOR": "1"}
        process = subprocess.Popen(
            self.command("report", "--verbose"), env=wide, stdout=theirs, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        parts = []
        with contextlib.suppress(OSError):  # the other side is closed
            while part := os.read(ours, 1 << 16):
                parts.append(part)
        os.close(ours)
        assert process.wait() == 0
        return b"".join(parts).decode().replace("\r\n", "\n")

    def hazards(self) -> list[str]:
        path = self.folder / HAZARDS
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="session")
def built() -> Path:
    """The libraries, built once for this torch and source."""
    if why := build.why_not():
        warnings.warn(f"CUDA branches were NOT run on fake devices: {why}", stacklevel=1)
        pytest.skip(why)  # a failure in CI: tests/conftest.py
    return build.built()


@pytest.fixture
def make_rig(built: Path, tmp_path: Path) -> Iterator[Callable[..., FakeRig]]:
    """A rig by the name of its recording; hazards of all tests come together where FAKECUDA_LOG says."""
    yield lambda name=DUAL_4080: FakeRig(tmp_path, RIGS / name, built)
    found, log = tmp_path / HAZARDS, os.environ.get("FAKECUDA_LOG")
    if log and found.exists():
        with open(log, "a") as file:
            file.write(found.read_text())


@pytest.fixture
def rig(make_rig: Callable[..., FakeRig]) -> FakeRig:
    """Two RTX 4080 SUPER."""
    return make_rig()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a folded screen with screens/NAME.txt; a difference fails as a diff."""

    def compare(name: str, screen: str) -> None:
        path, found = HERE / "screens" / f"{name}.txt", folding.folded(screen)
        if request.config.getoption("--renew-screens"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(found)
        expected = path.read_text() if path.exists() else ""
        lines = [text.splitlines() for text in (expected, found)]
        diff = "\n".join(difflib.unified_diff(*lines, f"screens/{name}.txt", "now", lineterm=""))
        assert not diff, f"the screen differs; if it is meant to, renew it with --renew-screens\n{diff}"

    return compare
