"""Runs whose pages are tried: of a CPU, a throttling pair, eight cards, one that measured nothing, a foe."""

from __future__ import annotations

import functools
import typing
from pathlib import Path
from typing import Any

import msgspec

from rigbench import store
from rigbench.core import profiles
from rigbench.core.record import Skipped
from rigbench.document import Run
from rigbench.machine.rig import Rig
from rigbench.topology import survey, verdict

ROOT = Path(__file__).parents[1]
CPU_RUN = ROOT / "tests" / "runs" / "xeon-2.5ghz-2-cores" / "run-quick-every-probe.json"
SMALL_RUN = ROOT / "tests" / "runs" / "schema-1.json"
NO_DRIVER = "no NVIDIA driver found (libnvidia-ml.so.1)"
HOSTILE = "</script></style><script>window.foe=1</script><img src=x onerror=window.foe=1>\"' $x$ \u202e\x1b[31m {{7*7}}"


def cpu() -> Run:
    return store.read(CPU_RUN)


def replayed(name: str, base: Run) -> Run:
    """A run whose topology is that of a recorded rig, with its findings."""
    rig = Rig.replay(ROOT / "tests" / "rigs" / name)
    topology = survey.run(rig, profiles.match_gpu)
    return msgspec.structs.replace(base, topology=topology, findings=verdict.diagnose(topology))


def nothing() -> Run:
    rooms = ("topology", "bandwidth", "p2p", "collectives", "matmul", "dataloader", "thermals", "budget", "capacity")
    skipped: dict[str, Any] = {room: Skipped(room, NO_DRIVER) for room in rooms}
    return msgspec.structs.replace(cpu(), slices=(Skipped("slices", NO_DRIVER),), unchecked=(), warnings=(), **skipped)


def foe(run: Run, name: str = HOSTILE) -> Run:
    """Every free text of the run is hostile, one of them ten thousand characters long."""
    made = _turned(run, name)
    return msgspec.structs.replace(made, warnings=(name, 100 * name))


def _turned(value: Any, name: str, kind: Any = None) -> Any:
    """A record whose fields of text say something else; those that take certain words alone stay."""
    if isinstance(value, msgspec.Struct):
        kinds = _kinds(type(value))
        fields = {field: getattr(value, field) for field in value.__struct_fields__}
        if isinstance(value, Run):
            del fields["id"]  # the name of a file
        return msgspec.structs.replace(value, **{key: _turned(it, name, kinds[key]) for key, it in fields.items()})
    if isinstance(value, tuple):
        return tuple(_turned(it, name, kind) for it in value)
    return name if isinstance(value, str) and _is_text(kind) else value


@functools.cache
def _kinds(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _is_text(kind: Any) -> bool:
    return kind is str or any(_is_text(it) for it in typing.get_args(kind))
