"""`torch>=2.6` and `bitsandbytes>=0.45` as promises: what rigbench uses of them is in every version that it admits."""

from __future__ import annotations

import importlib
import inspect
import json
from functools import reduce
from typing import Any

import pytest
import torch
import torch.distributed as dist
from api import record, uses

from rigbench.collectives.operations import Operation
from rigbench.train import parallel
from rigbench.work import products

RENEW = "renew tests/data/api.json: pytest -m slow tests/test_api.py, with a package index in reach"

# A member of this name is not torch's where rigbench uses it.
OTHERS_MEMBERS = {
    "torch.Tensor.index": "a device's number",
    "torch.distributed.tensor.DTensor.index": "a device's number",
    "torch.Tensor.rename": "of a file",
    "torch.distributed.tensor.DTensor.rename": "of a file",
    "torch.distributed.TCPStore.check": "of a cache of traces, and of tokens",
    "torch.distributed.TCPStore.clone": "of a tensor",
    "torch.distributed.TCPStore.append": "of a list",
    "torch.Tensor.indices": "of a group's cards",
    "torch.distributed.tensor.DTensor.indices": "of a group's cards",
    "torch.Tensor.name": "of everything but a tensor",
    "torch.distributed.tensor.DTensor.name": "of everything but a tensor",
    "torch.UntypedStorage.fill_": "of a tensor",
}
EVERY_OBJECTS = ("__name__", "__init__")
# Asked for together with another member, which comes and goes with it.
ASKED_WITH = {"set_custom_reduce_scatter": "set_custom_all_gather"}


@pytest.fixture(scope="module")
def found() -> uses.Uses:
    return uses.find(record.ROOT / "rigbench")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads(record.FILE.read_text())


def versions_with(stored: dict[str, Any], use: str) -> list[str] | None:
    """None: the file does not know this use."""
    library = stored[use.partition(".")[0].partition("(")[0]]
    at = library["uses"].get(use)
    return library["versions"] if at == "all" else at if at is None else at.split()


def test_the_walk_finds_the_uses_that_anybody_can_see(found: uses.Uses) -> None:
    """It would pass every other test if it found nothing."""
    assert len(found.names) >= 200
    assert len({name for name in found.names if "(" in name}) >= 80
    assert len(found.members) >= 400
    seen = {
        "torch.nn.functional.scaled_dot_product_attention(enable_gqa)",  # through `as F`
        "torch.cuda.Event(enable_timing)",  # through self._torch
        "torch.float8_e4m3fn",  # by getattr, from a table
        "torch._scaled_mm(use_fast_accum)",  # from a dict
        "torch.distributed.all_gather_single(group)",  # through a name for either of two
        "torch.distributed.fsdp.CPUOffloadPolicy(pin_memory)",  # imported in a function
        "bitsandbytes.optim.adamw.PagedAdamW8bit",
    }
    assert seen - set(found.names) == set()


def test_what_the_walk_cannot_resolve_is_said_with_its_reason(found: uses.Uses) -> None:
    assert set(found.unresolved) == set(record.COMPUTED)


def test_the_file_begins_with_what_the_project_admits(stored: dict[str, Any]) -> None:
    for library in uses.LIBRARIES:
        oldest = record.oldest(library)
        assert stored[library]["versions"][0].startswith(f"{oldest}.")


def test_every_use_is_in_the_oldest_and_the_newest_version_or_is_asked_for_first(
    found: uses.Uses, stored: dict[str, Any]
) -> None:
    asked_for = {name.removeprefix("?.") for name in found.gated}
    missing = []
    for library in uses.LIBRARIES:
        ends = {stored[library]["versions"][0], stored[library]["versions"][-1]}
        for use in sorted(record.wanted(found, library)):
            having = versions_with(stored, use)
            assert having is not None, f"{use} is not in the file; {RENEW}"
            name = use.partition("(")[0]
            alone = name.rpartition(".")[2]
            if not ends <= set(having) and name not in asked_for and alone not in asked_for:
                missing.append(f"{use}: only in {having}; used at {found.names.get(use)}")
    assert missing == []


def test_every_member_of_torchs_objects_is_in_the_oldest_and_the_newest_version_or_is_asked_for_first(
    found: uses.Uses, stored: dict[str, Any]
) -> None:
    asked_for = {name.rpartition(".")[2] for name in found.gated}
    ends = {stored["torch"]["versions"][0], stored["torch"]["versions"][-1]}
    checked = missing = 0
    for owner in record.CLASSES:
        for use in found.members:
            name, member = f"{owner}.{use}", use.partition("(")[0]
            if name in OTHERS_MEMBERS or member in EVERY_OBJECTS:
                continue
            having = versions_with(stored, name)
            if having is None:
                assert not _live(f"{owner}.{member}"), f"{name} is not in the file; {RENEW}"
                continue
            checked += 1
            gate = ASKED_WITH.get(member, member)
            if having and not ends <= set(having) and gate not in asked_for:  # in none: it is another object's
                missing += 1
                print(f"{name}: only in {having}; used at {found.members[use]}")
            if gate != member:
                assert having == versions_with(stored, f"{owner}.{gate}")
    assert checked >= 200
    assert missing == 0


def _live(dotted: str) -> bool:
    """Whether the installed library has it: asked of the library itself, not of its text."""
    owner: Any = None
    parts = dotted.split(".")
    for count in range(1, len(parts) + 1):
        try:
            owner = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            rest = parts[count - 1 :]
            break
    else:
        return True
    try:
        reduce(getattr, rest, owner)
    except AttributeError:
        return False
    return True


def test_the_file_agrees_with_the_torch_that_is_installed(found: uses.Uses, stored: dict[str, Any]) -> None:
    """Two sources: what a wheel's text says, and what Python finds."""
    minor = ".".join(torch.__version__.split(".")[:2])
    here = next((it for it in stored["torch"]["versions"] if it.startswith(f"{minor}.")), None)
    assert here, f"torch {torch.__version__} is not in the file; {RENEW}"
    differing, compared = [], 0
    for use in record.wanted(found, "torch"):
        name, _, keyword = use.removesuffix(")").partition("(")
        told = here in (versions_with(stored, use) or ())
        if not keyword:
            compared += 1
            differing += [use] if told != _live(name) else []
            continue
        try:
            *owner, last = name.split(".")
            signature = inspect.signature(getattr(importlib.import_module(".".join(owner)), last))
        except (ImportError, AttributeError, ValueError, TypeError):
            continue  # compiled: Python knows no signature
        taken = signature.parameters
        if any(it.kind is it.VAR_KEYWORD for it in taken.values()):
            continue
        compared += 1
        differing += [use] if told != (keyword in taken) else []
    assert compared >= 150
    assert differing == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_file_is_what_the_published_wheels_say() -> None:
    before, now = record.FILE.read_text(), record.read()
    record.FILE.write_text(now)
    assert now == before, "tests/data/api.json is written anew: look at what changed, and commit it"
    assert "://" not in now


# What is asked for first, in a torch that does not have it.


@pytest.mark.parametrize("lacking", [(), ("all_gather_single", "reduce_scatter_single")])
def test_collectives_give_the_same_values_under_the_names_of_an_older_torch(
    lacking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in lacking:
        monkeypatch.delattr(dist, name, raising=False)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        for name in ("all_gather", "reduce_scatter"):
            operation = Operation(name, 64, 0, 1, "cpu", None)  # type: ignore[arg-type]
            operation.load(0)
            operation.work()
            assert operation.wrong_values(0) == 0
    finally:
        dist.destroy_process_group()


def test_arithmetic_that_an_older_torch_cannot_ask_for_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class OfOld:
        allow_tf32 = False

    class Card:
        device = type("Device", (), {"kind": "cuda"})
        torch_device = "cuda:0"

    monkeypatch.setattr(torch.backends.cuda, "matmul", OfOld())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert products.unavailable("fp16-acc16", Card()) == f"torch {torch.__version__} cannot ask for it; 2.7 can"
    with products.arithmetic_chosen("tf32", "cuda"):
        assert OfOld.allow_tf32 is False  # the class's; the object's own was set
        assert torch.backends.cuda.matmul.allow_tf32 is True
    assert torch.backends.cuda.matmul.allow_tf32 is False
    assert not hasattr(torch.backends.cuda.matmul, "allow_fp16_accumulation")


def test_shards_of_an_older_torch_are_trained_without_the_time_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed.device_mesh
    import torch.distributed.fsdp

    monkeypatch.setattr(torch.distributed.device_mesh, "init_device_mesh", lambda *_: None)
    monkeypatch.setattr(torch.distributed.fsdp, "fully_shard", lambda *_, **__: None)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)

    class Model(torch.nn.Module):
        blocks = ()

    assert parallel._sharded(Model(), "cpu", 1.0).apart is None
    Model.set_custom_all_gather = lambda self, comm: None
    assert parallel._sharded(Model(), "cpu", 1.0).apart is not None
