"""The laws of the house that no linter holds: sizes, two lists, and a new probe that touches no other feature."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rigbench.cli import COMMANDS
from rigbench.document import ROOMS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rigbench"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BUDGETS = {name: int(lines) for name, lines in re.findall(r"^\| `([\w.]+)/?` \|[^|]*\| (\d+) \|", CONTRIBUTING, re.M)}
FOLDERS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
FEATURES = {command.feature for command in COMMANDS}


def lines_of(*files: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


@pytest.mark.parametrize("folder", [*FOLDERS, "rigbench"])
def test_a_folder_is_no_larger_than_was_decided(folder):
    """`rigbench` stands for the modules at its top."""
    files = PACKAGE.glob("*.py") if folder == "rigbench" else (PACKAGE / folder).rglob("*.py")
    assert lines_of(*files) <= BUDGETS[folder]


def test_every_budget_is_of_a_folder_that_exists():
    assert set(BUDGETS) == {*FOLDERS, "rigbench"}


def test_the_lists_of_commands_and_of_rooms_are_the_only_places_that_name_every_feature():
    rooms = {room for room in ROOMS if (PACKAGE / room).is_dir()}
    names = {name: {it for it in FEATURES | rooms if _names(name, it)} for name in PACKAGE.rglob("*.py")}
    assert [file.name for file, features in names.items() if features >= FEATURES] == ["cli.py"]
    naming = {file.relative_to(PACKAGE).as_posix() for file, features in names.items() if features >= rooms}
    assert naming == {"cli.py", "document.py"}


def _names(file: Path, feature: str) -> bool:
    text = file.read_text()
    return bool(re.search(rf"rigbench\.{feature}\b|import {feature}\b|[\"']{feature}[\"']", text))


def test_a_module_begins_with_what_it_is():
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        if file.name != "__init__.py":
            first = (ast.get_docstring(tree) or "").splitlines()
            assert first, f"{file} says nothing"
            assert not first[0].endswith("?"), f"{file}: {first[0]}"


BROAD = {
    "__main__.py": "the last line of defence: one line, and the log",
    "dataloader/sources.py": "the user's own code, imported, called, iterated: quoted with the line of it that failed",
    "model/tokenizer.py": "a library that raises Exception itself; what is of a narrower kind goes on",
    "train/own.py": "the user's own code",
    "train/probe.py": "the user's own code; whatever it is goes on",
    "work/process.py": "a worker's boundary: its parent quotes it",
}


def test_what_may_be_anything_is_caught_at_the_boundaries_alone():
    found = [
        file.relative_to(PACKAGE).as_posix()
        for file in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or any(f"'{it}'" in ast.dump(node.type) for it in ("Exception", "BaseException")))
    ]
    assert list(dict.fromkeys(found)) == list(BROAD)


def test_the_toy_probe_of_the_guide_needs_its_folder_and_the_two_lists_alone(tmp_path):
    """The diff in CONTRIBUTING.md, put on a copy of the package: its command, its help, its record, its report."""
    shutil.copytree(PACKAGE, tmp_path / "rigbench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    diff = re.search(r"^```diff\n(.*?)^```", CONTRIBUTING, re.M | re.S)[1]
    touched = set(re.findall(r"^\+\+\+ b/(\S+)", diff, re.M))
    assert {name for name in touched if "/naps/" not in name} == {"rigbench/cli.py", "rigbench/document.py"}
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)

    def rigbench(*words: str) -> str:
        path = os.pathsep.join((str(tmp_path), os.environ["PYTHONPATH"]))
        environment = os.environ | {"PYTHONPATH": path, "RIGBENCH_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-P", "-m", "rigbench", *words]
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout

    assert re.fullmatch(r"a nap of 2\.00 ms takes [\d.]+ ms \(.+ to .+\)\n", rigbench("naps", "--nap", "2ms"))
    assert "a nap of 2.00 ms takes" in rigbench("report")
    assert "--nap TIME" in rigbench("naps", "--help")
    assert "\n  naps " in rigbench("--help")


def test_ci_installs_known_versions_of_all_that_is_asked_for():
    """Of what .[dev] asks for, torch alone is pinned elsewhere: in .ci/run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    of_tests = re.search(r"\[(.*)\]", extras["test"][0])[1].split(",")
    asked = {it for name in ("test", "page-test", "dev", *of_tests) for it in extras[name]}
    names = {re.match(r"[\w.-]+", it)[0].replace("_", "-").lower() for it in (*project["dependencies"], *asked)}
    pinned = re.findall(r"^([\w.-]+)==[\d.]+\w*$", (ROOT / ".ci" / "constraints.txt").read_text(), re.M)
    assert names - {"rigbench", "torch"} <= set(pinned)
    assert "torch" not in pinned
