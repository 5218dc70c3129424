"""What can the hardware do at most, by its datasheet or by this rig's stored probes?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rigbench.bandwidth.record import Bandwidth
from rigbench.collectives.record import Collectives
from rigbench.core import profiles
from rigbench.core.estimate import Estimate
from rigbench.core.profiles import GpuProfile, RigProfile
from rigbench.core.record import Absent, Device, Figure, Skipped
from rigbench.dataloader.record import Dataloader
from rigbench.document import Run
from rigbench.matmul.record import Matmul
from rigbench.predict.record import Ceilings, LinkCeiling, ProductRate

DTYPES: tuple[profiles.Dtype, ...] = ("bf16", "fp16", "tf32", "fp32")
# Host seconds for one kernel of eager code, Python, autograd and autocast included, on a desktop's processor: published
# GPT-2 124M loops at micro-batch 1 need 1 to 5 ms a layer for the 65 kernels of its two passes. Assumed, not fitted.
LAUNCH_SECONDS = (25e-6, 12e-6, 50e-6)
CPU_LAUNCH_SECONDS = (10e-6, 5e-6, 20e-6)
# Bytes per second and lane of PCIe, by generation, after its line code; what an all_reduce's ring sees of a slot where
# peers copy directly, and where every copy goes through host memory; what it sees of NVLink (nccl-tests, large sizes).
PCIE_LANE_BYTES_PER_S = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}
DIRECT_SHARE, STAGED_SHARE, NVLINK_SHARE = 0.7, 0.3, 0.75
SWITCHED_GB_PER_S = 200  # less is a bridge between two cards
LINK_LATENCY_SECONDS = 30e-6  # of an all_reduce of a few bytes within a host, published nccl-tests: 15 to 60 µs

Room = TypeVar("Room")
ROOMS = ("topology", "bandwidth", "collectives", "matmul", "dataloader")  # that ceilings are read from


def from_rig(profile: RigProfile) -> Ceilings | Absent:
    """A rig that one does not have, by its cards' datasheet; Absent where that gives no peak."""
    return of_gpu(profiles.gpu(profile.gpu), profile.name, profile.count)


def of_gpu(gpu: GpuProfile, name: str, count: int) -> Ceilings | Absent:
    """`count` cards of one datasheet."""
    peaks: dict[str, Figure] = {}
    peaks |= {dtype: figure for dtype, figure in profiles.peaks(gpu.id).items() if dtype in DTYPES}
    bandwidth = profiles.memory_bandwidth(gpu.id)
    if not peaks or isinstance(bandwidth, Absent):
        return Absent(f"the profile {gpu.id} has no peak or no memory bandwidth with a source")
    return Ceilings(
        kind="cuda",
        name=name,
        count=count,
        source="datasheet",
        matmul_flops_per_s=peaks,
        memory_bytes_per_s=bandwidth,
        launch_seconds=_assumed(LAUNCH_SECONDS, "assumption: host seconds a kernel of eager code"),
        tdp_watts=gpu.figure("power_limit_watts", 1.0),
        feed_hertz=_feed(gpu),
        link=_link(gpu, count) if count > 1 else Absent("one card"),
        data_tokens_per_s=Absent("not measured: data is taken to keep up"),
        compute_capability=gpu.compute_capability,
        rests_on=(f"profile {gpu.id}",),
    )


def from_runs(runs: Sequence[Run]) -> Ceilings | Absent:
    """This rig, by its stored probes, newest first; what no probe has measured comes from the card's datasheet.

    Absent where neither a matmul probe with a bandwidth probe nor a datasheet says what the device can do.
    """
    matmul, matmul_run = _newest(runs, "matmul", Matmul)
    bandwidth, bandwidth_run = _newest(runs, "bandwidth", Bandwidth)
    device = matmul.device if matmul else _device(bandwidth)
    if device is None:
        return Absent("no stored run has measured matrix products; run `rigbench matmul`")
    known = _datasheet(device, _count(runs))
    triad = _memory_rate(bandwidth, device, bandwidth_run)
    memory = known.memory_bytes_per_s if isinstance(known, Ceilings) and isinstance(triad, Absent) else triad
    if isinstance(memory, Absent):
        return Absent(f"the memory's bandwidth is not known ({memory.reason}); run `rigbench bandwidth`")
    rates = {} if matmul is None else _measured_rates(matmul, matmul_run)
    peaks = known.matmul_flops_per_s if isinstance(known, Ceilings) else {}
    if not rates and not peaks:
        return Absent("no matmul ceiling is stored; run `rigbench matmul`")
    collectives, _ = _newest(runs, "collectives", Collectives)
    loader, loader_run = _newest(runs, "dataloader", Dataloader)
    rests_on = [run for run in (matmul_run, bandwidth_run if isinstance(triad, Figure) else "", loader_run) if run]
    cpu = device.kind == "cpu"
    of_card = known if isinstance(known, Ceilings) else None
    return Ceilings(
        kind=device.kind,
        name=device.name,
        count=_count(runs),
        source="measured" if rates else "datasheet",
        matmul_flops_per_s=dict(rates or peaks),
        memory_bytes_per_s=memory,
        launch_seconds=_assumed(CPU_LAUNCH_SECONDS if cpu else LAUNCH_SECONDS, "assumption: host seconds a kernel"),
        tdp_watts=of_card.tdp_watts if of_card else Absent("no profile of this device"),
        feed_hertz=of_card.feed_hertz if of_card else Absent("no profile of this device"),
        link=_link_of(collectives, of_card),
        data_tokens_per_s=_loader_rate(loader, loader_run),
        compute_capability=of_card.compute_capability if of_card else Absent("no profile of this device"),
        products=() if matmul is None else _products(matmul),
        rests_on=tuple(dict.fromkeys(rests_on)) or (of_card.rests_on if of_card else ()),
    )


def _newest(runs: Sequence[Run], room: str, kind: type[Room]) -> tuple[Room | None, str]:
    for run in runs:
        found = getattr(run, room)
        if isinstance(found, kind):
            return found, run.id
    return None, ""


def _device(bandwidth: Bandwidth | None) -> Device | None:
    """Of a rig whose products were not measured: the first device that copied, a GPU before the host."""
    devices = [device for part in (bandwidth.parts if bandwidth else ()) for device in part.devices]
    return next((device for device in devices if device.kind == "cuda"), devices[0] if devices else None)


def _datasheet(device: Device, count: int) -> Ceilings | Absent:
    if device.kind == "cpu":
        return Absent("a processor has no profile")
    memory = device.memory_total_bytes
    found = profiles.match_gpu(None, device.name, None if isinstance(memory, Absent) else memory)
    return found if isinstance(found, Absent) else of_gpu(profiles.gpu(found), device.name, count)


def _measured_rates(matmul: Matmul, run: str) -> dict[str, Figure]:
    """The sustained ceiling by dtype."""
    return {
        dtype: _figure(rate, f"sustained ceiling, run {run}")
        for dtype, rate in matmul.best_flops_per_s.items()
        if dtype in DTYPES
    }


def _products(matmul: Matmul) -> tuple[ProductRate, ...]:
    return tuple(
        ProductRate(shape.m, shape.n, shape.k, shape.dtype, shape.flops_per_s.value) for shape in matmul.shapes
    )


def _memory_rate(bandwidth: Bandwidth | None, device: Device, run: str) -> Figure | Absent:
    """The fastest copy or triad inside the device's memory, past the caches."""
    if bandwidth is None:
        return Absent("no stored run has measured bandwidth")
    own = [
        transfer
        for part in bandwidth.parts
        for transfer in part.transfers
        if transfer.source == transfer.destination
        and not transfer.warm
        and transfer.check.correct
        and _is_host(transfer.source) == (device.kind == "cpu")
    ]
    if not own:
        return Absent(f"no copy inside the memory of {device.name} is stored")
    best = max(own, key=lambda transfer: transfer.bytes_per_s.value)
    return _figure(best.bytes_per_s, f"{best.operation}, run {run}")


def _is_host(place: str) -> bool:
    return place == "host" or place.startswith(("node ", "all nodes"))


def _link_of(collectives: Collectives | None, of_card: Ceilings | None) -> LinkCeiling | Absent:
    """As an all_reduce was measured, else the cards' slots or switch by their datasheet."""
    fits = [] if collectives is None else [it.fit for it in collectives.operations if it.operation == "all_reduce"]
    for fit in fits:
        if not isinstance(fit, Absent):
            return LinkCeiling(_figure(fit.latency_seconds, "fit"), _figure(fit.bytes_per_s, "fit of all_reduce"))
    return of_card.link if of_card else Absent("no stored run has fitted an all_reduce")


def _loader_rate(loader: Dataloader | None, run: str) -> Figure | Absent:
    if loader is None or not loader.sweeps:
        return Absent("not measured: data is taken to keep up")
    return _figure(loader.sweeps[0].knee.tokens_per_s, f"loader at its knee, run {run}")


def _count(runs: Iterable[Run]) -> int:
    """Alike cards in the newest run that counted them."""
    for run in runs:
        if isinstance(run.topology, Skipped | Absent):
            continue
        gpus = getattr(run.topology, "gpus", ())
        if gpus:
            return sum(gpu.name == gpus[0].name for gpu in gpus)
    return 1


def _feed(gpu: GpuProfile) -> Figure | Absent:
    clock = gpu.figure("boost_clock_mhz", 1e6)
    if isinstance(clock, Absent) or isinstance(gpu.multiprocessors, Absent):
        return Absent(f"no clock or no multiprocessors in the profile {gpu.id}")
    return Figure(clock.value * gpu.multiprocessors, "datasheet", f"{gpu.multiprocessors} multiprocessors at boost")


def _link(gpu: GpuProfile, count: int) -> LinkCeiling:
    """NVLink where the card is built for a switch of it, else its slot: a bridge may or may not be there."""
    latency = Figure(LINK_LATENCY_SECONDS, "declared", "assumption")
    to_algorithm = count / (2 * (count - 1))
    slotted = any(word in name for name in gpu.names for word in ("PCIe", "NVL", "RTX"))
    if gpu.nvlink_gb_per_s_per_direction >= SWITCHED_GB_PER_S and not slotted:
        rate = NVLINK_SHARE * gpu.nvlink_gb_per_s_per_direction * 1e9
        return LinkCeiling(latency, Figure(rate * to_algorithm, "datasheet", f"NVLink, {NVLINK_SHARE:.0%} of it"))
    slot = PCIE_LANE_BYTES_PER_S.get(gpu.pcie_generation, PCIE_LANE_BYTES_PER_S[4]) * gpu.pcie_lanes
    direct = gpu.p2p_over_pcie.startswith("yes")
    share, words = (DIRECT_SHARE, "peer copies") if direct else (STAGED_SHARE, "through host memory")
    basis = f"PCIe {gpu.pcie_generation}.0 x{gpu.pcie_lanes}, {words}, {share:.0%} of it"
    return LinkCeiling(latency, Figure(share * slot * to_algorithm, "datasheet", basis))


def _figure(estimate: Estimate, basis: str) -> Figure:
    return Figure(estimate.value, "measured", basis, estimate.low, estimate.high)


def _assumed(triple: tuple[float, float, float], basis: str) -> Figure:
    value, low, high = triple
    return Figure(value, "declared", basis, low, high)
