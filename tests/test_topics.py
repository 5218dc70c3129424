"""Do topics read well, say no number of their own, and name the cards whose results lie in reports/?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rigbench.doctor import topics
from rigbench.doctor.screen import laid_out
from rigbench.doctor.topics import Executed, GpuFacts, RealCard, Unexecuted

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "rigbench/doctor"
FACTS = GpuFacts(
    Executed(
        statements=812,
        by_cpu_tests=31,
        by_fakecuda=778,
        torch="9.8.7",
        date="2027-01-02",
        unexecuted=(
            Unexecuted("model/optim.py", "return built", "no kernels there"),
            Unexecuted("machine/accelerator.py", "self._torch.cuda.empty_cache()", "nothing ran out of memory"),
            Unexecuted("model/optim.py", "built = kernel(groups)", "no kernels there"),
        ),
    ),
    (),
)


def test_no_number_stands_in_the_text_itself():
    text = (FOLDER / "topics/gpu.md").read_text()
    assert re.findall(r"\d+", text.replace("FSDP2", "")) == []


def test_every_fact_is_in_the_text_and_every_place_is_filled():
    written = set(re.findall(r"\$(\w+)", (FOLDER / "topics/gpu.md").read_text()))
    assert written == set(topics.gpu_words(FACTS))


def test_statements_stand_by_file_and_reason_each_reason_once():
    assert topics.gpu_words(FACTS)["unexecuted"].splitlines() == [
        "- machine/accelerator.py: nothing ran out of memory",
        "",
        "      self._torch.cuda.empty_cache()",
        "",
        "- model/optim.py: no kernels there",
        "",
        "      return built",
        "      built = kernel(groups)",
    ]
    assert topics.gpu_words(FACTS)["cards"].startswith("None yet.")


def test_a_card_is_named_with_how_its_pieces_ended():
    card = RealCard("H100", "590.1", "2.13.0", "2027-01-02", "reports/h100/one_shot", {"main": "ok", "vram": "failed"})
    words = topics.gpu_words(msgspec.structs.replace(FACTS, real_cards=(card,)))
    line = "- H100, driver 590.1, torch 2.13.0, 2027-01-02: main ok, vram failed (reports/h100/one_shot)"
    assert words["cards"] == line


@pytest.mark.parametrize("width", [40, 80])
def test_a_text_is_broken_to_the_width_and_keeps_its_lines(width):
    text = "A paragraph that is\nlonger than it looks, in words and words and words and words of it.\n\n## Then\n\n"
    text += "- one item, which is so long that it has to be broken somewhere, and hangs\n- two\n\n    kept  so\n"
    lines = laid_out(text, width)
    assert max(map(len, lines)) <= width
    assert lines[-1] == "    kept  so"
    assert "## Then" in lines
    assert "- two" in lines
    item = lines[lines.index("## Then") + 2 : lines.index("- two")]
    assert item[0].startswith("- one item")
    assert all(line.startswith("  ") for line in item[1:])
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """What the file in the package tells; until it is there, one of these facts stands in its place."""
    if not (FOLDER / "executed.json").exists():
        shutil.copytree(FOLDER, tmp_path / "doctor")
        (tmp_path / "doctor/executed.json").write_bytes(msgspec.json.encode(FACTS.executed))
        monkeypatch.setattr(topics, "FOLDER", tmp_path / "doctor")
    return json.loads(topics.FOLDER.joinpath("executed.json").read_text())


def test_the_files_in_the_wheel_can_be_read_and_shown_in_eighty_columns(rigbench, executed):
    parts = executed["by_cpu_tests"] + executed["by_fakecuda"] + len(executed["unexecuted"])
    assert executed["statements"] == parts
    code, out, err = rigbench("explain", "gpu")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for number in (executed["statements"], executed["by_cpu_tests"], executed["by_fakecuda"]):
        assert re.search(rf"  {number}$", out, re.M)
    assert executed["torch"] in out
    assert all(one["file"] in out for one in executed["unexecuted"])
    told = json.loads(rigbench("explain", "gpu", "--json")[1])
    assert told["code"] == "gpu"
    assert told["facts"]["executed"] == executed
    assert {"type": "topictitle", "code": "gpu", "title": told["title"]} in json.loads(rigbench("explain", "--json")[1])
    assert "gpu " in rigbench("explain")[1].rpartition("topics\n")[2]


def test_the_cards_named_are_those_with_results_in_reports(tmp_path):
    derived = [sys.executable, str(ROOT / "tests/gpu/real_cards.py"), str(ROOT)]
    done = subprocess.run(derived, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads((FOLDER / "real_cards.json").read_text())
    summary = {
        "tiny": False,
        "started_at": "2027-01-02T03:04:05+00:00",
        "card": {"name": "H100", "driver": "590.1"},
        "software": {"torch": "2.13.0"},
        "groups": [{"name": "main", "status": "ok"}, {"name": "vram", "status": "timed out"}],
    }
    for name, changes in (("one", {}), ("fake", {"tiny": True})):
        folder = tmp_path / "reports" / name / "one_shot"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary | changes))
    done = subprocess.run([*derived[:2], str(tmp_path)], capture_output=True, text=True, check=True)
    (card,) = msgspec.json.decode(done.stdout, type=tuple[RealCard, ...])
    assert card.groups == {"main": "ok", "vram": "timed out"}
    assert (card.name, card.date, card.folder) == ("H100", "2027-01-02", "reports/one/one_shot")
