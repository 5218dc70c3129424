"""Changes one place of the pure parts at a time and runs the tests of that part: how many changes do they notice?

`python -m tests.fuzz.mutants --keep FILE` tries 200, drawn with a seed, and those that once survived; begun again with
the same FILE, it goes on: of a part whose source or tests have changed since, first delete its lines there. A change
that cannot be noticed stands in equivalent.toml with its reason. It prints each survivor and the share killed, which is
over those that are not equivalent.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 120  # a mutant that runs on is noticed: the tests end with it
# Modules that take values and give values, and the tests that are about them; none needs more than five seconds.
PARTS = {
    "core/stats.py": "stats timing",
    "core/estimate.py": "estimate stats units contradictions",
    "core/units.py": "units first_budget budget_screen",
    "predict/allocator.py": "allocator_replica",
    "predict/terms.py": "terms",
    "budget/rates.py": "budget_rates backtest",
    "budget/laws.py": "laws budget_screen budget_plan",
    "budget/money.py": "wall energy budget_overheads budget_screen",
    "budget/plan.py": "budget_plan forecasting budget_amounts budget_cards budget_overheads budget_screen",
    "topology/verdict.py": "findings",
    "topology/links.py": "findings",
    "monitor/verdict.py": "monitor_parts",
    "thermals/verdict.py": "thermals_parts thermals_screens",
    "thermals/fit.py": "heatfit_parts thermals_parts",
    "bandwidth/verdict.py": "bandwidth_verdict shares doctor_rooms collectives_screen links",
    "p2p/verdict.py": "p2p_verdict doctor_rooms",
    "collectives/alphabeta.py": "alphabeta",
    "compare/verdict.py": "compare",
    "fleet/verdict.py": "fleet",
    "machine/pci.py": "pci links topology",
    "model/counts.py": "counts flops shape config_json",
    "scaling/law.py": "scaling_law",
}
COMPARED = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
WORDS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Pow: "*", ast.Mod: "*"}


class Mutant(NamedTuple):
    file: str  # below rigbench/
    start: int  # of what is replaced, in characters
    end: int
    new: str
    line: str  # as it stood, and as it would
    changed: str

    @property
    def key(self) -> str:
        return f"{self.file}: {self.line} -> {self.changed}"


def mutants(file: str) -> Iterator[Mutant]:
    """All changes of a module, of one operator, one number or one word each."""
    source = (ROOT / "rigbench" / file).read_text()
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))

    def place(line: int, column: int) -> int:
        text = source[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(text.encode()[:column].decode())

    def change(start: int, end: int, new: str) -> Mutant:
        first, last = source.rfind("\n", 0, start) + 1, source.find("\n", end)
        line, changed = source[first:last], source[first:start] + new + source[end:last]
        return Mutant(file, start, end, new, " ".join(line.split()), " ".join(changed.split()))

    def span(node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno
        assert node.end_col_offset is not None
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)

    def between(left: ast.expr, right: ast.expr, new: str) -> Mutant:
        """The operator of two operands, whatever parentheses and line ends stand about it."""
        start, end = span(left)[1], span(right)[0]
        gap = source[start:end]
        head = len(gap) - len(gap.lstrip(" \n)"))
        tail = len(gap) - len(gap.rstrip(" \n("))
        return change(start + head, end - tail, new)

    def walk(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield between(node.left, node.comparators[0], COMPARED[type(node.ops[0])])
        elif isinstance(node, ast.BinOp) and type(node.op) in WORDS and not isinstance(node.left, ast.JoinedStr):
            yield between(node.left, node.right, WORDS[type(node.op)])
        elif isinstance(node, ast.BoolOp):
            yield between(node.values[0], node.values[1], "or" if isinstance(node.op, ast.And) else "and")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            start = span(node)[0]
            yield change(start, start + (3 if isinstance(node.op, ast.Not) else 1), "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield change(*span(node), str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            yield change(*span(node), str(node.value + 1))
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield change(*span(node), repr(node.value * 2 or 1.0))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
            yield change(*span(node.func), "max" if node.func.id == "min" else "min")
        for name, below in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
                continue  # inside a formatted string positions are not those of the file before Python 3.12
            for one in below if isinstance(below, list) else [below]:
                if isinstance(one, ast.AST):
                    yield from walk(one)

    for mutant in walk(ast.parse(source)):
        ast.parse(source[: mutant.start] + mutant.new + source[mutant.end :])  # else the change is ours to mend
        yield mutant


def once_survived(text: str) -> Iterator[Mutant]:
    """Of survived.toml: changes that the tests once did not notice."""
    for entry in tomllib.loads(text)["mutant"]:
        source = (ROOT / "rigbench" / entry["file"]).read_text()
        if source.count(entry["old"]) != 1:
            sys.exit(f"survived.toml: {entry['file']} has {source.count(entry['old'])} times {entry['old']!r}")
        start = source.index(entry["old"])
        yield Mutant(entry["file"], start, start + len(entry["old"]), entry["new"], entry["old"], entry["new"])


def lot(seed: int, mutant: Mutant) -> bytes:
    """Its number in the draw: of its own words alone, so that a change elsewhere draws hardly any others."""
    return hashlib.sha256(f"{seed} {mutant.key}".encode()).digest()


def killed_by(mutant: Mutant, copy: Path) -> str:
    """What of its tests noticed it; empty where none did."""
    whole = (ROOT / "rigbench" / mutant.file).read_text()
    target = copy / "rigbench" / mutant.file
    target.write_text(whole[: mutant.start] + mutant.new + whole[mutant.end :])
    try:
        return failing(mutant.file, copy)
    finally:
        target.write_text(whole)


def failing(file: str, copy: Path) -> str:
    """The first of a part's tests that fails; empty where all pass."""
    tests = [f"tests/test_{name}.py" for name in PARTS[file].split()]
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            words, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "it ran on"
    if done.returncode == 0:
        return ""
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return failed[0] if failed else f"pytest ended with {done.returncode}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--keep", type=Path, required=True, help="what was found so far, a line a mutant")
    ask.add_argument("--mutants", type=int, default=200)
    ask.add_argument("--seed", type=int, default=20261129)
    ask.add_argument("--jobs", type=int, default=2, help="so many at once")
    ask.add_argument("--parts", nargs="*", default=list(PARTS), help="files below rigbench/")
    asked = ask.parse_args()
    here = Path(__file__).parent
    equivalent = tomllib.loads((here / "equivalent.toml").read_text())
    every = list({mutant.key: mutant for file in asked.parts for mutant in mutants(file)}.values())
    drawn = sorted(every, key=lambda mutant: lot(asked.seed, mutant))[: asked.mutants]
    old = [it for it in once_survived((here / "survived.toml").read_text()) if it.file in asked.parts]
    found = {}
    if asked.keep.exists():
        found = {it["mutant"]: it["killed_by"] for it in map(json.loads, asked.keep.read_text().splitlines())}
    began = time.monotonic()
    left = {mutant.key: mutant for mutant in old + drawn if mutant.key not in equivalent and mutant.key not in found}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(asked.jobs) as jobs:
        copies: Queue[Path] = Queue()
        for number in range(asked.jobs):
            copies.put(copy := Path(folder) / str(number) / "rigbench")
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache"))

        def tried(mutant: Mutant | str) -> str:
            copy = copies.get()
            try:
                return failing(mutant, copy) if isinstance(mutant, str) else killed_by(mutant, copy)
            finally:
                copies.put(copy)

        files = list(dict.fromkeys(it.file for it in old + drawn))
        for file, wrong in zip(files, jobs.map(tried, files), strict=True):
            if wrong:
                sys.exit(f"the tests of {file} fail as it stands: {wrong}")
        for number, (key, killer) in enumerate(zip(left, jobs.map(tried, left.values()), strict=True)):
            found[key] = killer
            with asked.keep.open("a") as kept:
                kept.write(json.dumps({"mutant": key, "killed_by": killer}) + "\n")
            print(f"{number + 1} of {len(left)}: {killer or 'SURVIVED ' + key}", flush=True)
    for name, some in (("drawn", drawn), ("once survived", old)):
        judged = [it.key for it in some if it.key not in equivalent]
        dead = sum(bool(found[key]) for key in judged)
        share = f"{dead} of {len(judged)} killed ({dead / len(judged):.1%})" if judged else "none"
        print(f"{name}: {share}; {len(some) - len(judged)} equivalent, of {len(every)} changes; seed {asked.seed}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
