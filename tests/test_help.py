"""Does a person find the option he needs, on any terminal, and do his settings reach the command he types?"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rigbench import help
from rigbench.cli import COMMANDS
from rigbench.command import choices
from rigbench.core import config


def function_of(entry):
    module = importlib.import_module(f"rigbench.{entry.feature}.command")
    return module, entry.name.replace("-", "_").replace(" ", "_")


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def called(monkeypatch):
    """Every command, replaced by one that keeps what it is called with."""
    calls = []
    for entry in COMMANDS:
        module, name = function_of(entry)
        real = getattr(module, name)

        def keep(*given, _name=entry.name, **named):
            calls.append((_name, given[0], named))
            return 0

        monkeypatch.setattr(module, name, functools.wraps(real)(keep))
    return calls


@pytest.fixture
def places(monkeypatch, tmp_path) -> tuple[Path, Path]:
    """(the folder one works in, the user's own file)"""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    own = config.user_file()
    own.parent.mkdir(parents=True)
    return tmp_path / "here" / config.FILE, own


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_every_command_has_its_whole_sentence_at_any_width(columns, rigbench, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, page, err = rigbench("--help")
    assert (code, err) == (0, "")
    assert max(map(len, page.splitlines())) <= min(columns, help.WIDEST) or columns == 40
    for entry in COMMANDS:
        assert f" {entry.name} {entry.says}" in words_of(page)
    assert page.index("Start here") < page.index("Plan, no GPU needed") < page.index("Measure one thing")


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_a_page_has_examples_first_and_every_option_with_its_whole_text(entry, columns, rigbench, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, page, err = rigbench(*entry.name.split(), "-h")
    assert (code, err) == (0, "")
    assert rigbench(*entry.name.split(), "--help")[1] == page
    assert all(len(line) <= columns or "rigbench" in line for line in page.splitlines())
    examples = page[page.index("\nExamples\n") :].split("\n\n")[0]
    assert examples.count("rigbench ") >= 3
    assert page.index("Examples") < page.index("-h, --help")
    for choice in choices(getattr(*function_of(entry))):
        if choice.is_setting:
            assert f"  {choice.name}" not in page
            assert choice.key in words_of(page[page.index("\nSettings\n") :])
        else:
            assert words_of(choice.option.help) in words_of(page)


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_example_is_a_command_line_that_is_taken(entry, called, rigbench, places):
    function = getattr(*function_of(entry))
    lines = [words for words, _ in help.examples(function.__doc__.replace("\n    ", "\n"))]
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[0] == "rigbench"
        code, _, err = rigbench(*words[1:])
        assert (code, err) == (0, ""), line
    assert entry.name in {name for name, _, _ in called}


def test_the_budget_asks_for_at_most_twenty_options_and_keeps_the_rest_as_settings():
    [budget] = [entry for entry in COMMANDS if entry.name == "budget"]
    own = choices(getattr(*function_of(budget)))
    on_line = [choice.key for choice in own if not choice.is_setting]
    assert len(on_line) <= 20
    assert {"flops", "hours", "params", "optimizer", "compile", "price", "wall-watts"} <= set(on_line)


WRONG = {
    "budget --flop 1e18": "No such option: --flop; did you mean --flops? `rigbench budget --help` lists its options",
    "run --foo": "No such option: --foo; `rigbench run --help` lists its options",
    "budget --psu-watts 850": "rigbench budget takes no --psu-watts; write --set psu-watts=VALUE, or put psu-watts",
    "bugdet": "Did you mean 'budget'?",
    "budget --set psu=850": "--set psu: budget has no such key",
    "budget --set psu-wats=850": "did you mean psu-watts",
    "budget --set psu-watts": "--set 'psu-watts' is not KEY=VALUE",
    "budget --set psu-watts=many": "--set psu-watts 'many' is not a number",
    "budget --set exact-flops=perhaps": "--set exact-flops 'perhaps' is not one of them; use on or off",
    "budget --set place=germany --price '0.30 EUR'": "price and place exclude each other",
    "config nothing": "no command 'nothing'",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_with_what_would_be_right(line, rigbench, places):
    code, out, err = rigbench(*shlex.split(line))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert WRONG[line] in err


def watts_of(called):
    return called[-1][2]["watts"]


def test_what_is_typed_goes_before_the_folder_and_the_folder_before_the_user(called, rigbench, places):
    here, own = places
    own.write_text('psu-watts = 500\nhost-watts = 80\nprice = "0.10 EUR"\n[train-probe]\npsu-watts = 600\n')
    here.write_text("psu-watts = 700\n")
    assert rigbench("budget")[0] == 0
    assert (watts_of(called).psu_watts, watts_of(called).host_watts) == (700.0, 80.0)
    assert called[-1][2]["prices"].price.per_kwh == 0.10
    rigbench("budget", "--set", "psu-watts=800")
    assert watts_of(called).psu_watts == 800.0
    here.unlink()
    rigbench("train-probe")
    assert watts_of(called).psu_watts == 600.0


def test_a_setting_gives_way_to_its_rival_that_is_nearer(called, rigbench, places):
    here, own = places
    own.write_text('host-watts = 80\nplace = "germany-household"\n')
    rigbench("budget", "--wall-watts", "500", "--price", "0.30 EUR")
    assert (watts_of(called).wall_watts, called[-1][2]["prices"].price.per_kwh) == (500.0, 0.30)
    here.write_text("wall-watts = 450\n")
    rigbench("budget")
    assert watts_of(called).wall_watts == 450.0


def test_what_a_file_says_of_this_rig_is_not_said_of_others(called, rigbench, places):
    places[1].write_text("host-watts = 80\n")
    rigbench("budget", "--on", "rtx-4090")
    assert not isinstance(watts_of(called).host_watts, float)
    rigbench("budget", "--on", "rtx-4090", "--set", "host-watts=90")
    assert watts_of(called).host_watts == 90.0


def test_a_folders_file_names_no_code_and_no_place_to_write(called, rigbench, places):
    here, own = places
    for line, command in (('model = "evil:make"', "train-probe"), ('home = "/tmp/x"', "topology")):
        here.write_text(line)
        code, _, err = rigbench(command)
        assert code == 2
        assert "in this folder may not give" in err
        assert not called
    here.unlink()
    own.write_text('home = "~/elsewhere"\n')
    monkey = os.environ.pop("RIGBENCH_HOME")
    rigbench("topology")
    os.environ["RIGBENCH_HOME"] = monkey
    assert called[-1][1].home == Path("~/elsewhere").expanduser()


HOSTILE = {
    "not TOML": (b"price =", "is not TOML"),
    "not text": (b"\xff\xfe\x00", "is not TOML"),
    "too long": (b"#" * 70_000, "is larger than 64 KiB"),
    "a list": (b"psu-watts = [1]", "is neither text nor a number"),
    "deep": (b"a = " + b"[" * 5000, "is not TOML"),
    "escapes": (b'psu-watts = "\\u001b[31m"', "is not a number"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_settings_is_one_line(name, called, rigbench, places):
    raw, words = HOSTILE[name]
    places[0].write_bytes(raw)
    code, out, err = rigbench("budget")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert "\x1b" not in err


def test_a_pipe_in_the_files_place_is_not_waited_for(called, rigbench, places):
    os.mkfifo(places[0])
    assert rigbench("budget")[0] == 0


def test_config_says_where_each_value_comes_from_and_which_are_of_no_use(rigbench, places):
    here, own = places
    own.write_text('psu-watts = 500\nprise = "0.1 EUR"\n[topology]\nprice = "1 EUR"\n')
    here.write_text('psu-watts = 700\nmodel = "net:make"\n')
    code, out, _ = rigbench("config")
    assert code == 0
    rows = [words_of(line) for line in out.splitlines()]
    assert "psu-watts 700 all rigbench.toml" in rows
    assert "replaced by the one above" in words_of(out)
    document = json.loads(rigbench("config", "--json")[1])
    why_not = {row["key"]: row["why not"].partition("; budget")[0] for row in document["settings"]}
    assert why_not == {
        "psu-watts": "",
        "model": "a folder's file may not give it, your own may",
        "price": "topology has no such key",
        "prise": "no such key; did you mean price?",
    }
    of_budget, of_training = (words_of(rigbench("config", command)[1]) for command in ("budget", "train-probe"))
    assert "The power supply's rating" in of_budget
    assert ("mynet:make" in of_budget, "mynet:make" in of_training) == (False, True)


COMPLETED = {
    "rigbench bud": ["budget"],
    "rigbench budget --on 2xrtx-409": ["2xrtx-4090", "2xrtx-4090-d", "2xrtx-4090-laptop"],
    "rigbench budget --on rtx-3090,dual-rtx-4": ["rtx-3090,dual-rtx-4080", "rtx-3090,dual-rtx-4090"],
    "rigbench budget --on rtx-409": ["rtx-4090", "rtx-4090-d", "rtx-4090-laptop"],
    "rigbench budget --opti": ["--optimizer"],
    "rigbench train-probe --optimizer adamw8": ["adamw8bit"],
    "rigbench train-probe --model gpt2-m": ["gpt2-medium"],
    "rigbench explain logits-d": ["logits-dominate"],
    "rigbench doctor --accept logits-d": ["logits-dominate"],
    "rigbench run --only t": ["topology", "training", "thermals"],
}


@pytest.mark.parametrize("line", COMPLETED)
def test_a_shell_completes_names_options_and_values(line):
    words = line.split(" ")
    environment = os.environ | {
        "_RIGBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([sys.executable, "-m", "rigbench"], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == COMPLETED[line], done.stderr
