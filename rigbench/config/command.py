"""The command that shows settings: config."""

from __future__ import annotations

import json
import sys
from typing import Annotated, NamedTuple

import typer

from rigbench.command import SETTINGS, Choice, Common, choices
from rigbench.command import command as marked
from rigbench.core import config as files
from rigbench.core.errors import FINE, RigbenchError, did_you_mean


class Key(NamedTuple):
    """What may stand in rigbench.toml: the commands that take it, and how it is read."""

    key: str
    commands: list[str]
    choice: Choice | None  # None: a common option


@marked()
def config(
    common: Common,
    words: Annotated[
        list[str] | None, typer.Argument(help="Every key of this command, with what it is.", metavar="[COMMAND]")
    ] = None,
) -> int:
    """The settings of rigbench.toml: each key that is set, its value, and the file that it comes from.

    rigbench.toml in the folder goes before the one in your configuration directory, --set before both, an option that
    is typed before all. A key is an option's name: price = "0.30 EUR". What is for one command stands below [COMMAND].

        rigbench config                       what is set, and where
        rigbench config budget                every key of `rigbench budget`
        rigbench budget --set psu-watts=850   for once
    """
    keys, command = _keys(), " ".join(words or ()) or None
    if command is not None and not any(command in key.commands for key in keys):
        near = did_you_mean(command, {name for key in keys for name in key.commands})
        raise RigbenchError(f"no command {command[:40]!r} with keys", f"{near}`rigbench --help` lists the commands")
    given = [(setting, _judged(setting, keys)) for setting in files.settings(command)]
    if common.json:
        rows = [{**setting._asdict(), "used": not wrong, "why not": wrong} for setting, wrong in given]
        sys.stdout.write(json.dumps({"user_file": str(files.user_file()), "settings": rows}, indent=1) + "\n")
        return FINE
    from rigbench.config import screen

    explained = [(it.key, _meaning(it, command)) for it in keys if command in it.commands]
    screen.show(given, explained, str(files.user_file()), common.console())
    return FINE


def _keys() -> list[Key]:
    from rigbench.cli import COMMANDS

    keys: dict[str, Key] = {}
    for entry in COMMANDS:
        function = entry.function
        for choice in choices(function):
            known = keys.setdefault(choice.key, Key(choice.key, [], choice))
            known.commands.append(entry.name)
            if choice.option.private:
                keys[choice.key] = known._replace(choice=choice)
        for name in SETTINGS:
            if name in function.taken:
                keys.setdefault(name, Key(name, [], None)).commands.append(entry.name)
    return list(keys.values())


def _judged(setting: files.Setting, keys: list[Key]) -> str:
    """Why a setting is of no use; "" where it is."""
    import difflib

    known = {key.key: key for key in keys}
    if setting.key not in known:
        near = difflib.get_close_matches(setting.key, known, n=1)
        return f"no such key{f'; did you mean {near[0]}?' if near else ''}"
    key = known[setting.key]
    if setting.command and setting.command not in key.commands:
        return f"{setting.command} has no such key; {', '.join(key.commands[:4])} have it"
    if setting.of_folder and (setting.key == "home" or (key.choice and key.choice.option.private)):
        return "a folder's file may not give it, your own may"
    try:
        if key.choice:
            key.choice.read(setting.value, setting.key)
    except RigbenchError as error:
        return str(error)
    return ""


def _meaning(key: Key, command: str | None) -> str:
    """As this command has it."""
    from rigbench.cli import COMMANDS

    if key.choice is None:
        return {"home": "Where runs are kept.", "device": "cpu, cuda or cuda:N."}[key.key]
    own = (it for entry in COMMANDS if entry.name == command for it in choices(entry.function))
    choice = next(it for it in own if it.key == key.key)
    option, default = choice.option, choice.default
    shown = ""
    if option.read is not None and isinstance(default, str | int | float | bool) and default != "":
        shown = f" [default: {option.read.show(default)}]"
    return f"{option.help}{shown}" + ("" if choice.is_setting else f" Also {choice.name}.")
