"""The settings of rigbench.toml: of the folder one works in, before those of the user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.files import opened, reason, toml

FILE = "rigbench.toml"
LARGEST_BYTES = 1 << 16
CURE = "write KEY = VALUE, and what is for one command alone below [COMMAND]"


class Setting(NamedTuple):
    """One key of a file, as text, which the option of that name reads as if it had been typed."""

    key: str
    value: str
    origin: str  # the file
    command: str  # "" for every command that has the option
    of_folder: bool  # not the user's own file


def user_file() -> Path:
    """Nowhere, of a user who has no home."""
    import platformdirs

    try:
        return Path(platformdirs.user_config_dir("rigbench", appauthor=False), FILE)
    except RuntimeError:
        return Path(os.devnull, FILE)


def settings(command: str | None = None) -> list[Setting]:
    """Those for a command (None: all), nearest first: the folder's before the user's, a command's before all's."""
    return [
        setting
        for path, of_folder in ((Path(FILE), True), (user_file(), False))
        for setting in _of_file(path, of_folder)
        if command is None or setting.command in ("", command)
    ]


def _of_file(path: Path, of_folder: bool) -> list[Setting]:
    try:
        if not path.is_file():  # nor a pipe, which would be waited for
            return []
        with opened(path) as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise RigbenchError(f"cannot read {path}: {reason(error)}", "mend or remove it") from error
    if len(raw) > LARGEST_BYTES:
        raise RigbenchError(f"{path} is larger than {LARGEST_BYTES >> 10} KiB", "settings are a few lines")
    try:
        document = toml(raw)
    except ValueError as error:
        raise RigbenchError(f"{path} is not TOML: {error}", CURE) from error
    where = str(path) if of_folder else str(path).replace(os.path.expanduser("~"), "~", 1)
    tables = {key: value for key, value in document.items() if isinstance(value, dict)}
    plain = {key: value for key, value in document.items() if key not in tables}
    return [
        Setting(key.replace("_", "-"), _text(value, f"{path}: {key}"), where, command, of_folder)
        for command, table in (*tables.items(), ("", plain))
        for key, value in table.items()
    ]


def _text(value: object, where: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    with contextlib.suppress(ValueError):  # a hexadecimal number of 5,000 digits
        if isinstance(value, str | int | float) and "\0" not in (text := str(value)):
            return text
    raise RigbenchError(f"{where} is neither text nor a number nor true or false", CURE)


def typed(words: list[str], command: str) -> Iterator[Setting]:
    """Those of --set KEY=VALUE."""
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise RigbenchError(f"--set {word[:60]!r} is not KEY=VALUE", f"`rigbench config {command}` lists the keys")
        yield Setting(key.strip().replace("_", "-"), value.strip(), "--set", command, False)
