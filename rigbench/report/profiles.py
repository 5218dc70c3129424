"""Looks a profile up by its name, and checks them all."""

from __future__ import annotations

import msgspec

from rigbench.core import profiles
from rigbench.core.errors import RigbenchError, did_you_mean
from rigbench.core.profiles import Electricity, GpuProfile, RigProfile
from rigbench.model import shape
from rigbench.model.counts import total_parameters
from rigbench.model.shape import Series, SeriesModel

Named = GpuProfile | RigProfile | Series | SeriesModel | Electricity


def check() -> str:
    """Reads every profile, shipped and the user's own; one line on what there is. The first that is wrong is said."""
    ids = {gpu.id for gpu in profiles.gpus()}
    for rent in profiles.prices().cloud:
        if rent.gpu not in ids:
            raise RigbenchError(
                f"prices.toml rents out {rent.gpu!r}, which has no GPU profile", "use an id of gpus.toml"
            )
    profiles.electricity()
    names = shape.series_names()
    counts = (
        f"{len(ids)} GPUs",
        f"{len(names)} series ({', '.join(names)})",
        f"{len(shape.models())} published models",
        f"{len(profiles.prices().electricity)} electricity prices",
        f"{len(profiles.prices().cloud)} cloud prices",
        f"{len(profiles.rigs())} rigs",
    )
    return f"profiles are well formed: {', '.join(counts)}"


def check_published() -> tuple[int, int]:
    """How many published shapes have their authors' total exactly, and how many as near as their family says."""
    exact = near = 0
    for entry in shape.models():
        published = entry.published_parameters
        if not isinstance(published, int):
            continue
        ours = total_parameters(entry.shape)
        if abs(ours - published) > entry.published_within * published:
            raise RigbenchError(
                f"models.toml: {entry.name} is said to have {published:,} parameters, and its shape has {ours:,}",
                "mend its shape or its published_parameters (published_within of the family allows a share)",
            )
        exact += ours == published
        near += ours != published
    return exact, near


def as_json(what: str | None = None) -> str:
    """Every profile, or the one of that name, as indented JSON."""
    everything = {
        "gpus": profiles.gpus(),
        "series": shape.all_series(),
        "models": shape.models(),
        "prices": profiles.prices(),
        "rigs": profiles.rigs(),
    }
    return msgspec.json.format(msgspec.json.encode(named(what) if what else everything), indent=2).decode() + "\n"


def named(what: str) -> Named:
    """The GPU, rig, series, model or electricity price of that name."""
    entries: dict[str, Named] = {entry.id: entry for entry in profiles.prices().electricity}
    entries |= {model.name: model for model in shape.models()}
    entries |= shape.all_series()
    entries |= {rig.name: rig for rig in profiles.rigs()}
    entries |= {gpu.id: gpu for gpu in profiles.gpus()}
    if what not in entries:
        raise RigbenchError(f"no profile {what!r}", did_you_mean(what, entries) + "`rigbench profiles` lists them")
    return entries[what]


TEMPLATES = {
    "cpu-docker": "cpu.Dockerfile",
    "cuda-docker": "cuda.Dockerfile",
    "sbatch": "sbatch.sh",
    "slurm-health": "slurm-health.sh",
    "systemd": "rigbench-monitor.service",
    "ci": "ci.yml",
}


def template(name: str) -> str:
    """A file to begin with, as it is shipped.

    Raises:
        RigbenchError: there is none of that name.
    """
    if name not in TEMPLATES:
        raise RigbenchError(f"no template is called {name[:40]!r}", f"there are {', '.join(TEMPLATES)}")
    return (profiles.folders()[0] / "templates" / TEMPLATES[name]).read_text()
