"""tests/data/api.json: each use of a library, and the versions that have it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from . import uses
from .source import Library
from .wheels import opened

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "data" / "api.json"
READ = "Python files and stubs in the wheels for Linux x86_64, CPython 3.11; the first release of each minor version"

# Whose members the objects have that the code does not say the class of.
CLASSES = (
    "torch.Tensor",
    "torch.UntypedStorage",
    "torch._C._CudaDeviceProperties",
    "torch._ops.OpOverload",
    "torch._subclasses.fake_tensor.FakeTensorMode",
    "torch.amp.GradScaler",
    "torch.autograd.function.FunctionCtx",
    "torch.cuda.Event",
    "torch.cuda.Stream",
    "torch.device",
    "torch.distributed.TCPStore",
    "torch.distributed.Work",
    "torch.distributed.fsdp.FSDPModule",
    "torch.distributed.tensor.DTensor",
    "torch.dtype",
    "torch.nn.Embedding",
    "torch.nn.Linear",
    "torch.nn.Module",
    "torch.nn.parallel.DistributedDataParallel",
    "torch.optim.Optimizer",
    "torch.utils.data.DataLoader",
    "torch.utils.flop_counter.FlopCounterMode",
)

# What no walk over the code can tell, why, and what it stands for.
COMPUTED = {
    "bitsandbytes.optim.adamw.AdamW8bit(**options)": ("handed through by _eight_bit", ("(lr)", "(betas)")),
    "bitsandbytes.optim.adamw.PagedAdamW8bit(**options)": ("handed through by _eight_bit", ("(lr)", "(betas)")),
    "hasattr(torch.backends.cuda.matmul, name)": ("the keys of a dict", ()),
    "getattr(torch.backends.cuda.matmul, name)": ("the keys of a dict, after hasattr", (".allow_tf32",)),
    "setattr(torch.backends.cuda.matmul, name)": ("the keys of a dict, after hasattr", (".allow_tf32",)),
}


def oldest(library: str) -> str:
    """What pyproject.toml admits, as `2.6`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(it.split(">=")[1].split(",")[0] for it in project["dependencies"] if it.startswith(f"{library}>="))


def wanted(found: uses.Uses, library: str) -> set[str]:
    """Every use that names the library, gated ones and those behind COMPUTED with them."""
    named = {*found.names, *found.gated}
    for computed, (_, parts) in COMPUTED.items():
        name = computed.partition("(")[2].partition(",")[0] if "attr(" in computed else computed.partition("(")[0]
        named |= {name + part for part in parts}
    return {name for name in named if name.startswith(library)}


def read() -> str:
    """The file's text, from the wheels that pip's index has today."""
    found = uses.find(ROOT / "rigbench")
    record: dict[str, object] = {"read": READ}
    with opened() as wheels:
        for name in uses.LIBRARIES:
            versions = wheels.versions(name, oldest(name))
            having: dict[str, list[str]] = {}
            for version in versions:
                library = Library(wheels.read(name, version))
                every = wanted(found, name)
                for owner in (it for it in CLASSES if it.startswith(name)):
                    here = library.members(owner)
                    every |= {f"{owner}.{member}" for member in found.members if member.partition("(")[0] in here}
                for use in every:
                    having.setdefault(use, []).extend([version] if library.has(use) else [])
            record[name] = {
                "versions": versions,
                "uses": {use: "all" if at == versions else " ".join(at) for use, at in sorted(having.items())},
            }
    return json.dumps(record, indent=1) + "\n"
