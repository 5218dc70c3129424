"""Real processes where little is as usual: locales, clocks, limits, closed streams, odd homes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from . import inside
from .inputs import RIGS, STORED

HANG_SECONDS = 60.0  # of a whole process, beside whatever else runs here
COMMANDS = (
    ("report", "--verbose", str(STORED)), ("--replay", str(RIGS[1]), "topology"), ("budget", "--on", "rtx-4080"), ("report", "--list"),
    ("--replay", str(RIGS[0]), "monitor"), ("--help",), ("doctor", str(STORED)), ("compare", str(STORED), str(STORED)),
)  # fmt: skip
VARIABLES = (
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "POSIX"}, {"LANG": "de_DE.UTF-8"},
    {"LC_ALL": "tr_TR.UTF-8"}, {"LC_ALL": "nonsense"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "utf-16"}, {"PYTHONIOENCODING": "ascii:strict"}, {"PYTHONUTF8": "1"},
    {"TZ": "Pacific/Kiritimati"}, {"TZ": "nonsense"}, {"TZ": ":/dev/zero"}, {"TERM": "dumb"}, {"TERM": ""}, {"TERM": "x" * 999},
    {"COLUMNS": "1"}, {"COLUMNS": "20"}, {"COLUMNS": "0"}, {"COLUMNS": "-5"}, {"COLUMNS": "x"}, {"COLUMNS": "100000"},
    {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"PYTHONWARNINGS": "error"}, {"PYTHONOPTIMIZE": "2"}, {"PYTHONDEVMODE": "1"},
    {"PYTHONHASHSEED": "0"}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONDONTWRITEBYTECODE": "1"}, {"HOME": "/nonexistent"}, {"HOME": ""},
    {"TMPDIR": "/nonexistent"}, {"TMPDIR": "/proc"}, {"XDG_DATA_HOME": "/proc/1"}, {"RIGBENCH_HOME": "/proc/self"}, {"PATH": ""},
    {"RIGBENCH_HOME": ""}, {"RIGBENCH_HOME": "/dev/null"}, {"RIGBENCH_PROFILES": "/dev/null"}, {"RIGBENCH_PROFILES": "/"},
    {"CUDA_VISIBLE_DEVICES": "7,x"}, {"CUDA_VISIBLE_DEVICES": ""}, {"OMP_NUM_THREADS": "x"}, {"RANK": "x"}, {"WORLD_SIZE": "-1"},
    {"WORLD_SIZE": "2", "RANK": "1"}, {"SOURCE_DATE_EPOCH": "-1"}, {"MPLCONFIGDIR": "/proc"}, {"PYTHONSAFEPATH": "1"},
)  # fmt: skip
# What a shell does before, or around: {} is the command.
SHELLS = (
    "{} >/dev/null", "{} >/dev/full", "{} 2>/dev/full", "{} >&-", "{} 2>&-", "{} <&-", "{} <&- >&- 2>&-", "{} | head -1", "{} | true",
    "{} </dev/zero", "{} >/dev/full 2>&1", "ulimit -n 20; {}", "ulimit -n 8; {}", "ulimit -f 0; {}", "ulimit -f 1; {}", "ulimit -t 30; {}",
    "ulimit -s 512; {}", "ulimit -s unlimited; {}", "ulimit -v 600000; {}", "ulimit -c 0; {}", "umask 777; {}", "umask 0; {}",
    "trap '' INT TERM HUP PIPE; {}", "cd /proc/self; {}", "cd /; {}", "mkdir gone; cd gone; rmdir ../gone; {}", "nice -n 19 {}",
    "setsid {}", "exec 9</dev/zero; {}", "{} & wait $!", "chmod 000 home; {}; code=$?; chmod 755 home; exit $code",
    "mkfifo home/index.sqlite; {}", "mkfifo home/runs; {}", "ln -s /dev/zero home/accepted.json; {}", "ln -s . home/runs; {}",
    "ln -s runs home/runs; {}", "mkdir -p home/index.sqlite home/accepted.json; {}", "touch home/runs; {}",
    "mkdir home/runs; mkfifo home/runs/20260101-000000-aaaa.json; {}", "mkdir home/runs; ln -s /dev/zero home/runs/20260101-000000-aaaa.json; {}",
    "mkdir -p home/runs/20260101-000000-aaaa.json; {}", "mkdir home/runs; ln -s /nowhere home/runs/20260101-000000-aaaa.json; {}",
    "mkdir home/runs; head -c 999999 /dev/urandom >home/runs/20260101-000000-aaaa.json; {}",
)  # fmt: skip
HOMES = (
    "a b",
    "a\nb",
    "[0-9]*?",
    "-x",
    "é",
    "\u202e",
    "'\"",
    "x" * 200,
    "~",
    "$HOME",
    "%s",
    "{}",
    "a/../b",
    os.fsdecode(b"a\xffb"),
)
# Clocks, by a module that Python imports at its start.
CLOCK = "import time, datetime as d\nnow = time.time\ntime.time = lambda: {}\n"
CLOCKS = (
    "now() - 400 * 86400",
    "now() + 30 * 365 * 86400",
    "now() + (hash(now()) % 2) * 7200",
    "-86400.0",
    "0.0",
    "2.0**33",
)


class How(NamedTuple):
    kind: str
    code: int


def end(command: list[str], environment: dict[str, str], folder: Path | None = None) -> How:
    """How a real process ended: a kind of failure, or nothing."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=HANG_SECONDS
        )
    except subprocess.TimeoutExpired:
        return How(f"no end after {time.monotonic() - began:.0f} s", -1)
    text = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode not in inside.CONTRACT:
        return How(f"exit code {done.returncode}: {text[-300:]}", done.returncode)
    if b"Traceback" in done.stderr or b"internal error" in done.stderr:
        return How(f"not one line: {text[-500:]}", done.returncode)
    raw = inside.raw_in(re.sub("\x1b\\[[0-9;]*m", "", text)) if environment.get("PYTHONIOENCODING") != "utf-16" else ""
    return How(f"raw {raw}" if raw else "", done.returncode)


def cases() -> list[tuple[str, dict[str, str], str, str]]:
    """(what it is, variables, the shell's line, the home's name), for each of which some commands are tried."""
    found = [(str(it)[:60], it, "{}", "home") for it in VARIABLES]
    found += [(it, {}, it, "home") for it in SHELLS]
    found += [(f"home {it!r}"[:60], {"RIGBENCH_HOME": it}, "{}", it) for it in HOMES]
    return found + [(f"clock {it}", {"CLOCK": it}, "{}", "home") for it in CLOCKS]


def tried(scratch: Path) -> int:
    failures, tried = 0, 0
    for number, (name, variables, shell, home) in enumerate(cases()):
        for words in (COMMANDS[number % len(COMMANDS)], COMMANDS[(number + 3) % len(COMMANDS)]):
            folder = scratch / f"case{tried}"
            (folder / home).mkdir(parents=True, exist_ok=True)
            given = {"PATH": os.environ["PATH"], "HOME": str(folder), "RIGBENCH_HOME": str(folder / home)} | variables
            given["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", str(Path.cwd()))])
            if clock := given.pop("CLOCK", ""):
                (folder / "sitecustomize.py").write_text(CLOCK.format(clock))
            typed = " ".join(f"'{word}'" for word in (sys.executable, "-m", "rigbench", *words))
            how = end(["/bin/bash", "-c", shell.replace("{}", typed)], given, folder)
            tried += 1
            # Where the reader or the file size limit ends a process, its shell says so.
            allowed = (
                how.kind
                and ("ulimit -v" in shell or "ulimit -n 8" in shell or "ulimit -f" in shell)
                and "Traceback" not in how.kind
            )
            if how.kind and not allowed:
                failures += 1
                print(f"FAIL {name}: {words}: {how.kind}", flush=True)
    print(f"{tried - failures} of {tried} processes in {len(cases())} odd environments kept the contract")
    return 1 if failures else 0
