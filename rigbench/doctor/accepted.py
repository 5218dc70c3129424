"""Keeps what a rig's owner has said about findings that he lives with: per rig, a code and the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from rigbench.core import finding
from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason, write_whole
from rigbench.core.finding import Finding

FILE = "accepted.json"
Accepted = dict[str, dict[str, str]]  # by a rig's fingerprint: code and reason


def of(home: Path, fingerprint: str) -> Mapping[str, str]:
    """What is accepted of this rig: reasons by code.

    Raises:
        RigbenchError: the file cannot be read; nothing is accepted by mistake.
    """
    return _read(home).get(fingerprint, {})


def accept(home: Path, fingerprint: str, code: str, because: str) -> None:
    """From now on, until `forget`. RigbenchError where no finding has that code."""
    finding.explanation(code)
    everything = _read(home)
    everything.setdefault(fingerprint, {})[code] = " ".join(because.split())
    _write(home, everything)


def forget(home: Path, fingerprint: str, code: str) -> None:
    """Let it count again. RigbenchError where it was not accepted on this rig."""
    everything = _read(home)
    if code not in everything.get(fingerprint, {}):
        listed = ", ".join(everything.get(fingerprint, {})) or "nothing"
        raise RigbenchError(f"{code[:60]!r} is not accepted on this rig", f"accepted is {listed}")
    del everything[fingerprint][code]
    _write(home, everything)


def marked(findings: Iterable[Finding], reasons: Mapping[str, str]) -> tuple[Finding, ...]:
    return tuple(msgspec.structs.replace(item, accepted=reasons.get(item.code, "")) for item in findings)


def _read(home: Path) -> Accepted:
    try:
        return msgspec.json.decode(read_regular(home / FILE), type=Accepted)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RigbenchError(f"cannot read {home / FILE} ({reason(error)})", "check its permissions") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RigbenchError(f"{home / FILE} is not what rigbench wrote ({error})", "mend or remove it") from None


def _write(home: Path, everything: Accepted) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_whole(home / FILE, msgspec.json.format(msgspec.json.encode(everything), indent=1) + b"\n")
    except OSError as error:
        raise RigbenchError(f"cannot write {home / FILE} ({reason(error)})", "choose a folder with --home") from None
