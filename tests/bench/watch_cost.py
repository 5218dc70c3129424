"""What does `rigbench watch` cost, beside a training that sleeps, at one reading a second?

    python tests/bench/watch_cost.py            four minutes: the cases sleep beside each other

Processor time is read from outside, of each process that is not the training's own, over the whole watch: what loading
rigbench takes is told apart from what watching takes. Cards are those of recordings, behind a driver library of ours.
"""

from __future__ import annotations

import argparse
import os
import platform
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
WANTED = 0.005  # of a core
SETTLED_SECONDS = 10.0  # by then rigbench is loaded
CASES = {  # recording, seconds a step, words for the sleeper, whether rigbench has a terminal
    "no card, 2 lines a second": ("", 0.5, "lines", False),
    "no card, 20 steps a second by the hook": ("", 0.05, "hook", False),
    "no card, 2 lines a second, panel on a terminal": ("", 0.5, "lines", True),
    "2 x RTX 4080 SUPER, 2 lines a second": ("dual-rtx4080s-x8x8", 0.5, "lines", False),
    "4 x RTX 4090, 2 lines a second, panel on a terminal": ("epyc7502-4x4090", 0.5, "lines", True),
}


def sleeper(every: float, how: str, seconds: float) -> None:
    from rigbench import hooks

    print("tokens per iteration will be: 4,096", flush=True)
    began = before = time.perf_counter()
    for step in range(int(seconds / every)):
        time.sleep(every)
        now = time.perf_counter()
        if how == "hook":
            hooks.step(tokens=4096)
        else:
            print(
                f"iter {step}: loss {9 - 8 * (now - began) / seconds:.4f}, time {(now - before) * 1e3:.2f}ms",
                flush=True,
            )
        before = now


def below(root: int) -> Iterator[tuple[int, str]]:
    """A process and its descendants, with their command lines."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def seconds_of(pid: int) -> float:
    """Processor time so far, to the nanosecond, of all its threads."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def part_of(line: str) -> str:
    """Nothing for the training itself."""
    names = {"relay.py": "relay", "driver_child": "driver's child", "journalctl": "journal", "-m rigbench": "rigbench"}
    return next((name for word, name in names.items() if word in line), "")


def case(name: str, seconds: float, library: Path, results: dict[str, str]) -> None:
    recording, every, how, terminal = CASES[name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if recording:
        environment |= {
            "LD_LIBRARY_PATH": str(library),
            "FAKE_NVML_FILE": str(ROOT / "tests/rigs" / recording / "nvml.txt"),
        }
    with tempfile.TemporaryDirectory() as home:
        program = [sys.executable, __file__, "--sleeper", str(every), how, str(seconds + 2 * SETTLED_SECONDS)]
        command = [sys.executable, "-m", "rigbench", "--home", home, "watch", "--", *program]
        main, side = pty.openpty()
        streams = side if terminal else subprocess.DEVNULL
        run = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=streams, stdout=streams, stderr=streams)
        os.close(side)
        threading.Thread(target=lambda: _drain(main), daemon=True).start()
        time.sleep(SETTLED_SECONDS)
        lines = dict(below(run.pid))
        parts = {pid: part_of(line) for pid, line in lines.items() if part_of(line)}
        before, began = {pid: seconds_of(pid) for pid in parts}, time.monotonic()
        time.sleep(seconds)
        shares = {parts[pid]: (seconds_of(pid) - before[pid]) / (time.monotonic() - began) for pid in parts}
        loaded = sum(before.values())
        run.wait()
    each = ", ".join(f"{part} {share:.3%}" for part, share in shares.items())
    whole = sum(shares.values())
    results[name] = f"{whole:.2%} of a core ({each}); {loaded:.2f} s in the first {SETTLED_SECONDS:.0f} s: {name}"
    print(results[name], flush=True)


def _drain(main: int) -> None:
    try:
        while os.read(main, 1 << 16):
            pass
    except OSError:  # its last user is gone
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--into", type=Path, default=ROOT / "reports" / "watch")
    parser.add_argument("--sleeper", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sleeper:
        sleeper(float(options.sleeper[0]), options.sleeper[1], float(options.sleeper[2]))
        return
    from fakenvml import library

    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        library.build(Path(folder))
        threads = [threading.Thread(target=case, args=(name, options.seconds, Path(folder), results)) for name in CASES]
        for thread in threads:
            thread.start()
            time.sleep(1.5)
        for thread in threads:
            thread.join()
    head = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, {platform.processor() or platform.machine()}, "
    head += (
        f"Linux {platform.release()}; processor time over {options.seconds:g} s, wanted: at most {WANTED:.1%} of a core"
    )
    options.into.mkdir(parents=True, exist_ok=True)
    path = options.into / f"{datetime.now(UTC):%Y-%m-%d}-{commit}-cost.txt"
    path.write_text("\n".join([head, *(results[name] for name in CASES), ""]))
    print(path.read_text())


if __name__ == "__main__":
    main()
