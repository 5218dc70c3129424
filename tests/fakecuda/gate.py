"""Is every statement that measures executed by some test? Compares coverage with the list of those that none executes.

python tests/fakecuda/gate.py CPU.coverage FAKECUDA.coverage [--hazards FILE]    compares; exit 1 if anything differs
python tests/fakecuda/gate.py CPU.coverage FAKECUDA.coverage --renew             writes the counts and the list anew

The list is rigbench/doctor/executed.json. A reason is written by hand: a statement that is listed without one fails.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "rigbench"
LIST = PACKAGE / "doctor/executed.json"
FALSE_ALARMS = Path(__file__).parent / "false_alarms.json"
WHOLE_FOLDERS = ("work", "model", "machine")
MOST_UNEXECUTED = 0.03
FEWEST_STATEMENTS = 7000  # of all files together; the gate guards nothing where it sees few
MOST_UNLISTED = (
    25  # a limit that is passed, a wait, a late sample: what a test reaches only on a machine so slow or quick
)
NO_REASON = "?"


# ------------------------------------------------------------------------------------------------ files and statements


def files() -> list[Path]:
    """Of three folders all, and of a feature's folder the probe and whatever of its own folder it imports."""
    found = {path for folder in WHOLE_FOLDERS for path in (PACKAGE / folder).glob("*.py")}
    for probe in PACKAGE.glob("*/probe.py"):
        found |= imported_from_its_folder(probe)
    return sorted(path for path in found if path.read_text().strip())


def imported_from_its_folder(probe: Path) -> set[Path]:
    """Records and screens say what was measured and measure nothing."""
    found, left = set[Path](), [probe]
    while left:
        path = left.pop()
        if path in found or path.stem in ("record", "screen"):
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
                modules = (REPOSITORY / f"{name.replace('.', '/')}.py" for name in names)
                left += [module for module in modules if module.parent == probe.parent and module.exists()]
    return found


def statements(path: Path) -> dict[int, str]:
    """First line and text of each statement that is executed: no docstrings, nothing for types alone."""
    lines = path.read_text().splitlines()
    return {number: lines[number - 1].strip() for number in starts(ast.parse(path.read_text()))}


def starts(parent: ast.AST, within: bool = False) -> Iterator[int]:
    """Lines where statements begin, decorators, handlers and cases too. In a function a mere annotation is none."""
    if isinstance(parent, ast.If) and ast.unparse(parent.test) == "TYPE_CHECKING":
        return
    if isinstance(parent, ast.AnnAssign) and parent.value is None and within:
        return
    within = isinstance(parent, ast.FunctionDef) or (within and not isinstance(parent, ast.ClassDef))
    if isinstance(parent, ast.stmt | ast.ExceptHandler) and not isinstance(parent, ast.Global | ast.Nonlocal):
        yield parent.lineno
    if isinstance(parent, ast.match_case):
        yield parent.pattern.lineno
    yield from (one.lineno for one in getattr(parent, "decorator_list", []))
    children = list(ast.iter_child_nodes(parent))
    if (
        isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(parent, clean=False) is not None
    ):
        children.remove(parent.body[0])
    for child in children:
        yield from starts(child, within)


# ------------------------------------------------------------------------------------------------------------- coverage


class Seen:
    """What one file of coverage data saw executed, and what coverage itself takes for statements."""

    def __init__(self, data: Path) -> None:
        self._coverage = coverage.Coverage(data_file=str(data), config_file=str(Path(__file__).parent / "coverage.ini"))
        self._coverage.load()

    def of(self, path: Path) -> tuple[set[int], set[int]]:
        """(statements, executed), as lines."""
        _, every, _, missing, _ = self._coverage.analysis2(str(path))
        return set(every), set(every) - set(missing)


def report(cpu: Seen, fake: Seen) -> tuple[dict[str, Any], list[str]]:
    """The counts and what is unexecuted, without reasons; and where coverage and the syntax tree count differently."""
    count, by_cpu, by_fake, unexecuted, troubles = 0, 0, 0, list[dict[str, str]](), list[str]()
    for path in files():
        name, texts = str(path.relative_to(REPOSITORY)), statements(path)
        (every, on_cpu), (_, on_fake) = cpu.of(path), fake.of(path)
        if every != texts.keys():
            odd = sorted(every ^ texts.keys())
            troubles.append(
                f"{name}: coverage counts {len(every)} statements, its syntax {len(texts)}: lines {odd[:9]}"
            )
        count, by_cpu, by_fake = count + len(every), by_cpu + len(on_cpu), by_fake + len(on_fake - on_cpu)
        unexecuted += [{"file": name, "statement": texts.get(at, "")} for at in sorted(every - on_cpu - on_fake)]
    return {"statements": count, "by_cpu_tests": by_cpu, "by_fakecuda": by_fake, "unexecuted": unexecuted}, troubles


# ---------------------------------------------------------------------------------------------------------- comparison


def key(entry: dict[str, str]) -> tuple[str, str]:
    return entry["file"], entry["statement"]


def differences(found: dict[str, Any], listed: dict[str, Any]) -> Iterator[str]:
    now, before = (Counter(map(key, its["unexecuted"])) for its in (found, listed))
    unlisted = sum((now - before).values())
    if unlisted > MOST_UNLISTED:
        yield f"{unlisted} statements are executed by no test and not listed; {MOST_UNLISTED} may be"
    for entry in listed["unexecuted"]:
        if entry["reason"] in ("", NO_REASON):
            yield f"{entry['file']}: listed without a reason: {entry['statement']}"
    share = len(found["unexecuted"]) / found["statements"]
    if share > MOST_UNEXECUTED:
        yield f"{share:.1%} of all statements are executed by no test; {MOST_UNEXECUTED:.0%} may be"
    if found["statements"] < FEWEST_STATEMENTS:
        yield f"{found['statements']} statements are too few to be all: fewer than {FEWEST_STATEMENTS}"


def notes(found: dict[str, Any], listed: dict[str, Any]) -> Iterator[str]:
    """What differs one by one: some statements are reached only at some paces of the machine."""
    now, before = (Counter(map(key, its["unexecuted"])) for its in (found, listed))
    for (file, statement), times in (now - before).items():
        yield f"{file}: executed by no test{f', {times} times' if times > 1 else ''}, and not listed: {statement}"
    for file, statement in before - now:
        yield f"{file}: listed as executed by no test, and it is: {statement}"


def hazards(path: Path) -> list[str]:
    """What fake devices took for wrong on real ones, but for false alarms: (kind, words, process, where) a line."""
    alarms = json.loads(FALSE_ALARMS.read_text())

    def is_known(kind: str, words: str, process: str, where: str) -> bool:
        process = "python" if Path(process).name.startswith("python") else process  # a program of the tests
        return any(it["kind"] == kind and process in it["processes"] and it["where"] in where for it in alarms)

    lines = sorted(set(path.read_text().splitlines())) if path.exists() else []
    return [f"hazard: {line}" for line in lines if not is_known(*line.split("\t"))]


def renewed(found: dict[str, Any], listed: dict[str, Any]) -> dict[str, Any]:
    reasons = {key(entry): entry["reason"] for entry in listed["unexecuted"]}
    entries = [entry | {"reason": reasons.get(key(entry), NO_REASON)} for entry in found["unexecuted"]]
    import torch

    counts = {name: found[name] for name in ("statements", "by_cpu_tests", "by_fakecuda")}
    facts = {"torch": torch.__version__.partition("+")[0], "date": datetime.date.today().isoformat()}
    return counts | facts | {"unexecuted": entries}


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("cpu", type=Path)
    asked.add_argument("fakecuda", type=Path)
    asked.add_argument("--hazards", type=Path)
    asked.add_argument("--renew", action="store_true")
    words = asked.parse_args()
    found, troubles = report(Seen(words.cpu), Seen(words.fakecuda))
    listed = json.loads(LIST.read_text()) if LIST.exists() else {"unexecuted": []}
    if words.renew:
        listed = renewed(found, listed)
        LIST.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n")
    troubles += differences(found, listed)
    troubles += hazards(words.hazards) if words.hazards else []
    by_cpu, by_fake, left = found["by_cpu_tests"], found["by_fakecuda"], len(found["unexecuted"])
    print(f"{found['statements']:,} statements that measure, in {len(files())} files")
    print(f"executed by the CPU's tests: {by_cpu:,}; on fake CUDA devices: {by_fake:,} more; by none: {left}")
    print("\n".join([*troubles, *(f"note: {line}" for line in notes(found, listed))]))
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
