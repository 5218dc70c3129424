"""Takes out of a stored run what tells whose machine it is, as a capture does, for what leaves the machine.

Equal secrets stay equal. What is known by its place (a process's name) is hidden wherever it is written besides.
"""

from __future__ import annotations

import functools
import getpass
import platform
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from rigbench.document import Run
from rigbench.machine.redact import PERSON, REGISTRY_WORD, UNNAMED, Redaction

PEOPLE, PROCESSES = "user and host names", "process names"
FILES, REGISTRY = "names of files and programs", "registry words"
# Fields that hold a name, by the type of their record: what kind of secret it is, and the word that stands for it.
PLACES = {
    ("gpuprocess", "name"): (PROCESSES, UNNAMED),
    ("gpubeside", "others"): (PROCESSES, UNNAMED),
    ("kernelevent", "process"): (PROCESSES, UNNAMED),
    ("rankhost", "name"): (PEOPLE, "host"),
    ("run", "host"): (PEOPLE, "host"),
    ("exchange", "hosts"): (PEOPLE, "host"),
    ("loadeddata", "name"): (FILES, "data"),
    ("loadeddata", "tokenizer"): (FILES, "tokenizer"),
    ("data", "name"): (FILES, "data"),
    ("logfacts", "name"): (FILES, "log"),
    ("ownmodel", "name"): (FILES, "own model"),
}
# A folder of somebody's, with what lies in it; the system's own name nobody.
SYSTEM = "sys|proc|dev|usr|lib|lib64|etc|bin|sbin|opt|boot"
PATH = re.compile(
    rf"(?<![\w./:~-])(?:~[\w.-]*|/(?!(?:{SYSTEM})/)[^\s/'\",;:()]+)/[^\s'\",;:()]*|\b[A-Za-z]:\\[^\s'\",;()]+"
)
OF_PERSON = re.compile(r"(?:/home/|/Users/|/media/|~|\\Users\\)([\w.-]+)")
IP_4 = r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"
IP_6 = r"(?<![\w:])[\da-fA-F]{1,4}(?::[\da-fA-F]{1,4}){0,6}::(?:[\da-fA-F]{1,4}:)*[\da-fA-F]{1,4}(?![\w:])"
IP = re.compile(f"{IP_4}|{IP_6}|{IP_6.replace('::', ':').replace('{0,6}', '{6}')}")
NOBODYS = ("127.0.0.1", "0.0.0.0")
NAME_AND_ID = re.compile(r"(?<![^\s(,;])[^\s(,;]++ \(pid (\d+)\)")
PROCESS_IDS = re.compile(r"(?:\bpid |\bprocess |\bps -fp |\bin use by )\d+(?:, ?\d+)*\b")
# What distributions call their kernels besides numbers; any other word may be a machine's or a person's name.
KERNEL_WORD = re.compile(
    r"[\d.]+|rc\d+|generic|amd64|arm64|arch\d*|aarch64|x86_64|lowlatency|realtime|rt\d*|hwe|oem|aws|azure|gcp|gke|oracle"
    r"|ibm|kvm|cloud|virtual|server|desktop|default|lts|zen\d*|hardened|microsoft|standard|WSL2|pve|deb\d+u?\d*|bpo|uek"
    r"|fc\d*|v\d+|host|gpu|el\d+(?:_\d+)?|amzn\d*|nvidia|tegra|raspi|64k|lqx\d*|xanmod\d*|cachyos|MANJARO|tiny"
)
COMMON = ("root", "user", "host", "nvidia", "ubuntu", "debian", "python", "python3", "process", "localhost", "models")


@functools.cache
def plain_words() -> frozenset[str]:
    """Names that tell nobody apart: COMMON ones, and what a document's fields and choices are called, without which it
    could not be read."""

    def texts(part: Any) -> Iterator[str]:
        for item in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            yield from texts(item)
        if isinstance(part, dict):
            yield from (*part.get("properties", ()), *map(str, part.get("enum", ())))

    known = [text.lower() for text in texts(msgspec.json.schema(Run))]
    return frozenset((*COMMON, *known, *(word for text in known for word in re.findall(r"\w+", text))))


class Redacted(NamedTuple):
    run: Run
    counts: dict[str, int]  # how often each kind of secret was replaced

    @property
    def words(self) -> str:
        return ", ".join(f"{times} {kind}" for kind, times in self.counts.items())


def names_here() -> tuple[str, str]:
    """This machine's and its user's, "" where it has none: in a container, a number that has no name."""
    try:
        return platform.node(), getpass.getuser()
    except (KeyError, OSError):
        return platform.node(), ""


def redacted(run: Run, host_name: str = "", user_name: str = "") -> Redacted:
    """`host_name`, `user_name`: of this machine, which may be written anywhere in a run that was measured here."""
    document: dict[str, Any] = msgspec.to_builtins(run)
    its = _Secrets()
    its.know(PEOPLE, host_name, "host")
    its.know(PEOPLE, user_name, "user")
    its.learn(document, "", "")
    its.know_all()
    public = msgspec.convert(its.hidden(document, "", ""), Run)
    return Redacted(public, dict(sorted(its.redaction.counts.items())))


class _Secrets:
    def __init__(self) -> None:
        self.redaction = Redaction()
        self._names: dict[str, tuple[str, str]] = {}  # in lower case: what kind of secret it is, and the word for it
        self._known = re.compile("(?!)")
        self._process_ids: dict[str, str] = {}

    def know(self, kind: str, name: str, word: str) -> None:
        """A name that is hidden wherever it stands; others of its kind get another number."""
        name = name.lower()
        if len(name) > 2 and name not in self._names and not (name in plain_words() or name.isdigit()):
            number = sum(known == kind and it.startswith(word) for known, it in self._names.values())
            self._names[name] = kind, f"{word} {number + 1}" if number and word not in (UNNAMED, "…") else word

    def know_all(self) -> None:
        longest_first = sorted(map(re.escape, self._names), key=len, reverse=True)
        if longest_first:
            self._known = re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE)

    def _named(self, found: str) -> tuple[str, str]:
        """What a name stands for that a text has in whatever case: to a pattern ı and İ are an i as well."""
        same = (its for name, its in self._names.items() if re.fullmatch(re.escape(name), found, re.IGNORECASE))
        return self._names.get(found.lower()) or next(same)

    def learn(self, value: Any, record: str, field: str) -> None:
        """The names that stand where such a name stands."""
        if isinstance(value, dict):
            for key, item in value.items():
                self.learn(item, _type(value), key)
        elif isinstance(value, list | tuple):
            for item in value:
                self.learn(item, record, field)
        elif isinstance(value, str):
            for user, _, host in (person.partition("@") for person in PERSON.findall(value)):
                self.know(PEOPLE, user, "user")
                self.know(PEOPLE, host, "host")
            for user in OF_PERSON.findall(value):
                self.know(PEOPLE, user, "user")
            if field == "kernel":
                self.know(PEOPLE, "-".join(_foreign(value)), "host")
            for word in _foreign_registry(value) if field == "driver_overrides" else ():
                self.know(REGISTRY, word, "…")
            if (record, field) in PLACES:
                kind, word = PLACES[record, field]
                for name in (value.partition(" (pid")[0], re.split(r"[/\\]", value)[-1].partition(" (pid")[0]):
                    self.know(kind, name, word)

    def hidden(self, value: Any, record: str, field: str) -> Any:
        if isinstance(value, dict):
            its = _type(value)
            return {self._text(key): self.hidden(item, its, key) for key, item in value.items()}
        if isinstance(value, list | tuple):
            if field == "kernel_words":
                return self.redaction.kernel_words(" ".join(map(str, value))).split()
            if (record, field) == ("training", "command"):  # as it was typed: names, folders, keys
                return [self._counted("command lines", "COMMAND")]
            return [self.hidden(item, record, field) for item in value]
        if field == "pid":
            return int(self._process_id(str(value)))
        if not isinstance(value, str) or field == "type":
            return value
        if field == "kernel":
            for word in _foreign(value):
                value = value.replace(word, self._counted(PEOPLE, "host"))
            return self.redaction.text(value)
        if (record, field) == ("disk", "model"):
            return self.redaction.disk_model(self._text(value))
        if record == "software":
            return value  # versions look like addresses
        if (record, field) in PLACES and value.lower() in plain_words():
            return self._counted(*PLACES[record, field])
        return self._text(value)

    def _text(self, text: str) -> str:
        if len(text) < 3 or text.isdecimal():
            return text
        text = self._known.sub(lambda it: self._counted(*self._named(it[0])), text)
        text = NAME_AND_ID.sub(lambda it: self._counted(PROCESSES, f"{UNNAMED} (pid {it[1]})"), text)
        text = PROCESS_IDS.sub(lambda it: re.sub(r"\d+", lambda number: self._process_id(number[0]), it[0]), text)
        text = PATH.sub(lambda it: self._counted("paths", "PATH"), text)
        text = self.redaction.text(text)
        return IP.sub(lambda it: it[0] if it[0] in NOBODYS else self._counted("IP addresses", "ADDRESS"), text)

    def _process_id(self, process_id: str) -> str:
        return self._counted("process ids", self._process_ids.setdefault(process_id, str(len(self._process_ids) + 1)))

    def _counted(self, kind: str, word: str) -> str:
        self.redaction.counts[kind] += 1
        return word


def _type(record: dict[str, Any]) -> str:
    """Whose fields they are; of what rigbench itself generated no name is a secret."""
    return "" if record.get("kind") == "generated" else str(record.get("type", ""))


def _foreign_registry(overrides: str) -> list[str]:
    return [word for word in re.split(r"[;\s]+", overrides) if not REGISTRY_WORD.fullmatch(word)]


def _foreign(kernel: str) -> list[str]:
    """The words of a kernel's name that no distribution gave it."""
    return [word for word in re.split(r"[-+~]", kernel) if word and not KERNEL_WORD.fullmatch(word)]
