"""What does every GPU command answer on two fake RTX 4080s? A record to compare before and after a change.

python tests/fakecuda/smoke.py OUT.json                 runs the commands (some five minutes of CPU time on two cores)
python tests/fakecuda/smoke.py OUT.json --again RAW     folds what an earlier run kept with --raw RAW anew
python tests/fakecuda/smoke.py --compare A.json B.json  what differs, as a unified diff; exit 1 if anything does

OUT.json holds, for every command, two layers. `coarse` knows no field names: exit code, what standard error and the
screen said, and the rows of every table with their statuses. `record` is the JSON document with all that varies
between two runs replaced by its type. The rules for that are below: by type and name of a field, never by its place.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
RIG = "dual-rtx4080s-x8x8"
LIMIT_SECONDS = 900
SCREEN_COLUMNS = 4000  # nothing is wrapped, so that a longer number moves no word to another line
SMALL = "--params 5M --layers 2 --width 64 --vocab 512 --seq 32 --micro-batch 2 --seconds 1s --share"
# In this order, in one home: what a command finds of those before it is part of its answer.
COMMANDS = {
    "bandwidth": "bandwidth --seconds 4s --largest 1MiB",
    "p2p": "p2p --times 1 --limit 3min",
    "collectives": "collectives --sizes 8,1KiB,64KiB --seconds 15s",
    "thermals": "thermals --minutes 0.1 --ambient 24",
    "arms": f"train-probe {SMALL} --arms all",
    "single": f"train-probe {SMALL} --strategy single",
    "ddp": f"train-probe {SMALL} --strategy ddp",
    "fsdp2": f"train-probe {SMALL} --strategy fsdp2",
    "fsdp2-offload": f"train-probe {SMALL} --strategy fsdp2-offload",
    "data-parallel": f"train-probe {SMALL} --strategy data-parallel",
    "accelerate": f"train-probe {SMALL} --strategy accelerate",
    "budget": "budget --flops 1e15 --params 5M",
    "budget-stored": "budget --flops 1e15 --params 5M --plan",
    # Last: whether it has time for a ceiling would decide what the others' steps are compared with.
    "matmul": "matmul --params 5M --micro-batch 1 --dtypes bf16,fp8 --seconds 24s --hot-seconds 4s",
}


# ------------------------------------------------------------------------------------------------------------- running


def cache_for(build: Path) -> Path:
    """The built libraries: one folder for each torch, Python and source, made where it is missing."""
    import torch

    sources = [HERE / "fakecuda.cpp", HERE / "libcuda.c", HERE / "build.py"]
    sources += sorted((REPOSITORY / "tests/fakenvml").glob("*.[cp]*"))
    key = hashlib.sha256(f"{torch.__version__} {sys.version}".encode())
    for path in sources:
        key.update(path.read_bytes())
    folder = build / key.hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "_fakecuda.so").exists():
        tell("building _fakecuda.so")
        subprocess.run([sys.executable, HERE / "build.py", folder], check=True, stdout=sys.stderr)
    if not (folder / "libcuda.so.1").exists():
        target = ["-o", folder / "libcuda.so.1", HERE / "libcuda.c"]
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", *target], check=True)
    if not (folder / "libnvidia-ml.so.1").exists():
        sys.path.insert(0, str(REPOSITORY / "tests"))
        from fakenvml import library

        library.build(folder)
    return folder


def environment(checkout: Path, built: Path) -> dict[str, str]:
    """As environment.sh, without a shell, and nothing of the user's that rigbench or torch would obey."""
    recorded = REPOSITORY / "tests/rigs" / RIG / "nvml.txt"
    text = recorded.read_text()
    uuids = re.findall(r"^\d+ nvmlDeviceGetUUID.*?(GPU-[0-9a-f-]+)", text, re.MULTILINE)
    names = re.findall(r'^\d+ nvmlDeviceGetName.*?"([^"]+)"', text, re.MULTILINE)
    foreign = ("RIGBENCH_", "FAKE", "CUDA_", "NCCL_", "TORCH", "PYTORCH", "GLOO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "LD_LIBRARY_PATH": str(built),
        "FAKE_NVML_FILE": str(recorded),
        "FAKECUDA": "1",
        "FAKECUDA_BUILD": str(built),
        "FAKECUDA_DEVICES": str(len(uuids)),
        "FAKECUDA_UUIDS": ",".join(uuids),
        "FAKECUDA_NAME": ",".join(names),
        "PYTHONPATH": f"{HERE}{os.pathsep}{checkout}",
        "NO_COLOR": "1",
    }


def tell(line: str) -> None:
    sys.stderr.write(f"smoke: {line}\n")
    sys.stderr.flush()


def run_all(raw: Path, checkout: Path, built: Path, names: list[str]) -> None:
    """Every command into raw/NAME.json, .err, .exit and .screen."""
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        variables = environment(checkout, built)
        home = Path(folder) / "home"
        for name in names:
            began, before = time.monotonic(), set(home.glob("runs/*.json"))
            words = [sys.executable, "-m", "rigbench", *COMMANDS[name].split(), "--json", "--home", str(home)]
            with (raw / f"{name}.json").open("wb") as out, (raw / f"{name}.err").open("wb") as err:
                try:
                    done = subprocess.run(
                        words, env=variables, cwd=folder, stdout=out, stderr=err, timeout=LIMIT_SECONDS, check=False
                    ).returncode
                except subprocess.TimeoutExpired:
                    done = -1
            made = sorted(set(home.glob("runs/*.json")) - before)
            shown = "".join(screen(path, home, variables, folder) for path in made)
            (raw / f"{name}.screen").write_text(shown)
            (raw / f"{name}.exit").write_text(f"{done}\n")  # last: with it, the command's files are whole
            tell(f"{name}: exit {done}, {time.monotonic() - began:.0f} s")


def screen(run: Path, home: Path, variables: dict[str, str], folder: str) -> str:
    """What `report` shows of a stored run, on a terminal so wide that no line is broken."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "rigbench", "report", str(run), "--home", str(home)]
    wide = variables | {"COLUMNS": str(SCREEN_COLUMNS), "TERM": "xterm"}
    parts: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the other side is closed
                return
            if not part:
                return
            parts.append(part)

    process = subprocess.Popen(words, env=wide, cwd=folder, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    process.wait(LIMIT_SECONDS)
    reader.join()
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


# ------------------------------------------------------------------------------------------------------------- folding

STAMP = re.compile(r"\b\d{4}-\d\d-\d\dT[\d:]+Z|\b\d{8}-\d{6}-[0-9a-f]{4}\b")
FINGERPRINT = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12}\b")
# A number as people read it, with what stands for its size: 1.2 GB/s and 980 MB/s are the same. Not the 0 of GPU0.
NUMBER = re.compile(
    r"(?<![\w.-])(?:±\s?)?[<>]?-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
    r"(?:\s?(?:(?P<time>ns|µs|ms|s|min|h|hours?|days?)|(?:[kKMGTPE]i?)?(?P<unit>B/s|bytes/s|FLOP/s|FLOP|B|W|Hz|J))(?![\w/]))?"
)
MANY = re.compile(r"#(?:s)?(?:\s#(?:s)?)+")


# What a screen says only where times happened to be so, and shapes or bars that a search found.
PASSING = re.compile(
    r"#×#×#|[▁▂▃▄▅▆▇█▏▎▍▌▋▊▉]|faster than that|time was up|were not measured|no line:|is the slowest|differed by"
    r"|burst|of load|of rest|^datasheet|^efficiency|own products|^layer +m|all at once|all devices at once|^stopped"
    r"|^(?:(?:bf16|fp8) ?)+$|^# warnings?\b|for information$|^of matmul|^fastest|^least memory|^worth a choice"
)
SHARE_OF_MATMUL = re.compile(
    r"\bof matmul\b|\bmatmul:? (?:#\s?%? of the fastest \w+ matmul of run STAMP|n/a \(no \w+ matmul was[^)]*\))"
)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ABSENT_HERE = re.compile(r"n/a(?: \(([^()]*(?:\([^()]*\))?[^()]*)\))?")
UNITS = {
    *"kKMGTµmn",
    "B",
    "C",
    "W",
    "J",
    "Hz",
    "FLOP/s",
    "B/s",
    "correct",
    "one",
    "sample",
    "or",
}  # by a number, or by none
WORD = re.compile(r"[^\W\d_][\w/.'’·-]*")


def plain(text: str) -> str:
    """Text without what varies: ids, times, numbers, and the prefixes of their units."""
    text = STAMP.sub("STAMP", text)
    text = NUMBER.sub(lambda it: f"# {it['unit']}" if it["unit"] else "#", text)
    return re.sub(r"[ \t]+", " ", MANY.sub("#", FINGERPRINT.sub("RIG", text))).strip()


def said(line: str) -> str:
    """The words of a line on the screen; "" where it is one that comes and goes."""
    text = plain(ESCAPE.sub("", line))
    if PASSING.search(text):
        return ""
    text = SHARE_OF_MATMUL.sub("", text)
    text = ABSENT_HERE.sub(lambda it: "" if not it[1] or NOISY.search(it[1]) else it[0], text)
    return " ".join(word for word in WORD.findall(text) if word not in UNITS)


def without_passing_findings(lines: list[str]) -> list[str]:
    """A finding is a block of lines up to an empty one; its first line ends with its code."""
    kept, passing = [], False
    for line in lines:
        words = ESCAPE.sub("", line).split()
        passing = bool(words) and (passing or words[-1] in FINDINGS_BY_SPEED)
        if not passing:
            kept.append(line)
    return kept


def without_passing(value: Any) -> Any:
    """The document without those findings."""
    if isinstance(value, list):
        kept = [it for it in value if not (isinstance(it, dict) and it.get("code") in FINDINGS_BY_SPEED)]
        return [without_passing(item) for item in kept]
    return {key: without_passing(item) for key, item in value.items()} if isinstance(value, dict) else value


def without_repeats(lines: list[str]) -> list[str]:
    """Empty lines, and lines like the one before, are left out."""
    return [line for line, before in zip(lines, ["", *lines], strict=False) if line and line != before]


def fold(raw: Path) -> dict[str, Any]:
    found = {}
    for name, words in COMMANDS.items():
        if not (raw / f"{name}.exit").exists():
            continue
        text = (raw / f"{name}.json").read_text()
        try:
            document = without_passing(json.loads(text)) if text.strip() else None
        except ValueError:
            document = {"not JSON": plain(text).splitlines()}
        errors = [plain(line) for line in (raw / f"{name}.err").read_text().splitlines()]
        screens = without_passing_findings((raw / f"{name}.screen").read_text().splitlines())
        shown = without_repeats([said(line) for line in screens])
        coarse = {
            "exit": int((raw / f"{name}.exit").read_text()),
            "stderr": errors,
            "screen": shown,
            "rows": rows(document),
        }
        found[name] = {"command": words, "coarse": coarse, "types": types(document), "record": shape(document)}
    return found


# Why a figure that is measured may be missing in one run and there in the next: the machine was busy, or time was up.
NOISY = re.compile(
    r"noise|scatter|too few|too short|fewer than|time was up|not reached|no time|not measured|of a load|reaches zero"
    r"|on no line|no interval|not finished|could not be timed|moved by|no reading|too small|largest size|hardly ever"
    r"|no \w+ matmul was measured on this device"  # there was no time for its ceiling
    r"|no datasheet peak for this device and dtype"  # so said, too, of a ceiling that was not measured
    r"|not settled|does not count|was not run again"
)
# Records that are measured through and through: their fields are listed, what is in them is not.
MEASURED = {
    "timing",
    "estimate",
    "energy",
    "heatfit",
    "matmullook",
    "microbatchtry",
    "steps",
    "exchange",
    "compile",
    "matmulshape",
}
INSTEAD = {
    "estimate",
    "matmulphase",
    "matmulfleet",
    "alphabeta",
}  # whole records that stand where a noisy reason may stand
WHOLE_NUMBERS_VARY = {"ceiling", "heatload", "slice", "vram", "matmulfleet", "matmulcheck", "judged"}
# Fields that say how a sampling went or which of several was fastest: they come and go with the machine's load. Then
# those that belong to the machine, not to the answer.
VARIES = re.compile(
    r"^(outliers|repeats|steady_from|checked|n|points|faster|fastest|least_memory|pareto|slowest|slowest_link|deciding"
    r"|fingerprint|cpu_model|kernel|pid|port|threads|python|torch|rigbench|bitsandbytes)$|^slowest_|_rank$"
)
ENDS = {"finished", "interval", "time limit", "sample limit"}
WHO = re.compile(r"(ranks|devices|gpus|where|pair|labels)$")  # lists of whole numbers that are not samples
FINDINGS_BY_SPEED = {
    "communication-bound", "launch-bound", "data-bound", "compile-pays", "checkpointing-trades", "p2p-slower",
    "nccl-default-slower", "logits-dominate",
}  # fmt: skip
NUMBER_HERE = "number"


def shape(value: Any, key: str = "") -> Any:
    """The value with all that is measured replaced by what it is."""
    if isinstance(value, dict):
        return shape_of_record(value)
    if isinstance(value, list):
        return shape_of_list(value, key)
    if isinstance(value, str):
        if key in ("ended_by", "search_ended_by") and value in ENDS:
            return "ended"
        return "str" if VARIES.search(key) else plain(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return NUMBER_HERE
    return "int" if VARIES.search(key) else value


def shape_of_record(value: dict[str, Any]) -> Any:
    kind = value.get("type")
    if kind == "absent":
        return NUMBER_HERE if NOISY.search(value["reason"]) else f"absent: {plain(value['reason'])}"
    if kind in INSTEAD:
        return NUMBER_HERE
    if kind == "figure":
        if value["source"] in ("measured", "predicted"):
            return NUMBER_HERE
        return {name: item if isinstance(item, float) else shape(item, name) for name, item in value.items()}
    if kind in MEASURED:
        return f"{kind}: {' '.join(sorted(value))}"
    if kind is None and value and all(shape(item) == NUMBER_HERE for item in value.values()):
        return {"*": NUMBER_HERE}
    found = {name: shape(item, name) for name, item in value.items()}
    if kind in WHOLE_NUMBERS_VARY:
        found = {name: "int" if type(item) is int else item for name, item in found.items()}
    return found


def shape_of_list(items: list[Any], key: str) -> Any:
    items = [item for item in items if not (isinstance(item, str) and NOISY.search(item))]
    folded = [shape(item, key) for item in items]
    if all(isinstance(item, int | float) for item in items) and not WHO.search(key):
        return "numbers"
    if all(item == NUMBER_HERE or isinstance(item, int) for item in folded) and not WHO.search(key):
        return "numbers"
    if VARIES.search(key) and all(isinstance(item, str) for item in items):
        return "strs"
    if all(isinstance(item, dict) and item.get("type") in MEASURED for item in items):
        return sorted({json.dumps(item) for item in folded})
    return folded


# What a command measures only if time is left.
SOMETIMES = INSTEAD - {"estimate"} | {"matmullane", "matmulshape", "matmullook", "productrate", ""}


def types(document: Any) -> dict[str, list[str]]:
    """Of every field of every record that is not just missing: which types were seen in it, all records together."""
    found: dict[str, set[str]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, dict):
            for key, item in value.items():
                kind = item.get("type", "mapping") if isinstance(item, dict) else type(item).__name__
                if kind == "list" and value.get("type") not in MEASURED:
                    kinds = {it.get("type", "mapping") if isinstance(it, dict) else type(it).__name__ for it in item}
                    kind = f"list of {', '.join(sorted(kinds - {'absent'}))}" if kinds - {"absent"} else "absent"
                owner = value.get("type", "")
                if (
                    key != "share_of_measured_matmul"
                    and kind != "absent"
                    and not {owner, kind.removeprefix("list of ")} & SOMETIMES
                ):
                    found.setdefault(f"{owner}.{key}", set()).add(kind)
                walk(item)

    walk(document)
    return {key: sorted(found[key]) for key in sorted(found)}


STATUS = ("outcome", "status", "verdict", "ended", "severity", "correct", "wrong", "not_run", "reason")
LABEL = ("label", "name", "operation", "way", "dtype", "code", "strategy")


def rows(document: Any) -> list[str]:
    """Every record with a label and a status, whatever its type and wherever it stands."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, dict):
            label = next((value[name] for name in LABEL if isinstance(value.get(name), str)), None)
            states = [state(value[name]) for name in STATUS if isinstance(value.get(name), str | int)]
            if label and any(states):
                found.append(" | ".join([plain(label), *filter(None, states)]))
            for item in value.values():
                walk(item)

    walk(document)
    return found


def state(value: str | int) -> str:
    if isinstance(value, str):
        return plain(value)
    return {True: "right", False: "wrong"}[value] if isinstance(value, bool) else f"{value} wrong"


def lines_of(folded: dict[str, Any]) -> list[str]:
    return json.dumps(folded, indent=1, ensure_ascii=False).splitlines()


def compare(one: Path, other: Path) -> int:
    a, b = (lines_of(json.loads(path.read_text())) for path in (one, other))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    different = list(difflib.unified_diff(a, b, str(one), str(other), lineterm="", n=4))
    print("\n".join(different) if different else "the same")
    return 1 if different else 0


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("out", nargs="?", type=Path)
    asked.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"))
    asked.add_argument("--again", type=Path, metavar="RAW")
    asked.add_argument("--raw", type=Path, metavar="DIR", help="keep the commands' own output there")
    asked.add_argument("--checkout", type=Path, default=REPOSITORY, help="whose rigbench runs (default: this one's)")
    asked.add_argument("--build", type=Path, default=Path.home() / ".cache/rigbench-fakecuda", metavar="DIR")
    asked.add_argument("--only", metavar="A,B", help=f"some of {', '.join(COMMANDS)}")
    words = asked.parse_args()
    if words.compare:
        return compare(*words.compare)
    if words.out is None:
        asked.error("OUT.json is missing")
    if words.again:
        folded = fold(words.again)
    else:
        with tempfile.TemporaryDirectory(prefix="smoke-raw-") as folder:
            raw = words.raw or Path(folder)
            names = words.only.split(",") if words.only else list(COMMANDS)
            run_all(raw.absolute(), words.checkout.absolute(), cache_for(words.build.absolute()), names)
            folded = fold(raw)
    words.out.write_text("\n".join(lines_of(folded)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
