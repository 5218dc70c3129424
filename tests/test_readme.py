"""Does the README show what a user sees today, and stay short?

`pytest tests/test_readme.py --renew-screens` writes its screens anew; the diff shows what changed.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RUN = re.compile(r"\b\d{8}-\d{6}-[0-9a-f]{4}\b")  # what a new run is called
SCREENS = dict(re.findall(r"^```console\n\$ rigbench (.*)\n((?:.*\n)*?)```$", README, re.M))


@pytest.mark.parametrize("line", SCREENS)
def test_a_screen_is_the_real_one(line, rigbench, monkeypatch, request):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "96")
    _, out, _ = rigbench(*shlex.split(line))
    shown = "".join(f"{row.rstrip()}\n" for row in out.splitlines())
    if request.config.getoption("--renew-screens"):
        path = ROOT / "README.md"
        path.write_text(path.read_text().replace(f"$ rigbench {line}\n{SCREENS[line]}", f"$ rigbench {line}\n{shown}"))
        return
    assert RUN.sub("20260101-000000-abcd", shown) == RUN.sub("20260101-000000-abcd", SCREENS[line])


def test_it_has_four_screens_in_under_250_lines():
    assert len(SCREENS) == 4
    assert len(README.splitlines()) < 250
