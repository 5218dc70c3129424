"""Finds what the hardware can do at most, by its datasheet or by this rig's stored probes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from rigbench.bandwidth.record import Bandwidth
from rigbench.collectives.record import Collectives
from rigbench.core import profiles
from rigbench.core.estimate import Estimate
from rigbench.core.profiles import PCIE_LANE_BYTES_PER_S, GpuProfile, RigProfile
from rigbench.core.record import Absent, Device, Figure
from rigbench.dataloader.record import Dataloader
from rigbench.document import Run
from rigbench.machine.cuda_map import peak_of
from rigbench.machine.record import Gpu
from rigbench.matmul.record import Matmul
from rigbench.predict import cards
from rigbench.predict.record import Ceilings, LinkCeiling, ProductRate
from rigbench.topology.record import Topology

DTYPES = ("bf16", "fp16", "tf32", "fp32", "fp8")
# Host seconds for one kernel of eager code, Python, autograd and autocast included, on a desktop's processor: published
# GPT-2 124M loops at micro-batch 1 need 1 to 5 ms a layer for the 65 kernels of its two passes. Assumed, not fitted.
LAUNCH_SECONDS = (25e-6, 12e-6, 50e-6)
CPU_LAUNCH_SECONDS = (10e-6, 5e-6, 20e-6)
# What an all_reduce's ring sees of a slot where
# peers copy directly, and where every copy goes through host memory; what it sees of NVLink (nccl-tests, large sizes).
PINNED_SHARE = 0.8  # of a slot, by copies between pinned host memory and a card; assumed
DIRECT_SHARE, STAGED_SHARE, NVLINK_SHARE = 0.7, 0.3, 0.75
SWITCHED_GB_PER_S = 200  # less is a bridge between two cards
LINK_LATENCY_SECONDS = 30e-6  # of an all_reduce of a few bytes within a host, published nccl-tests: 15 to 60 µs

NO_PROFILE = Absent("no profile of this device")
NO_LOADER = Absent("not measured: data is taken to keep up")

Room = TypeVar("Room")
ROOMS = ("topology", "bandwidth", "collectives", "matmul", "dataloader")  # that ceilings are read from


def from_rig(profile: RigProfile) -> Ceilings | Absent:
    """A rig that is not here, by its cards' datasheet; Absent where that gives no peak."""
    gpu = profiles.gpu(profile.gpu)
    found = of_gpu(gpu, profile.name, profile.count)
    if isinstance(found, Absent):
        return found
    slot = profile.slot_bytes_per_s
    host = found.host_bytes_per_s if isinstance(slot, Absent) else _to_host(slot, profile.slot_basis)
    link = found.link if profile.count < 2 else _link(gpu, profile.count, profile)
    share = 1.0 if isinstance(profile.clock_share, Absent) else profile.clock_share
    return msgspec.structs.replace(
        found,
        link=link,
        host_bytes_per_s=host,
        matmul_flops_per_s={name: _at_clock(peak, share) for name, peak in found.matmul_flops_per_s.items()},
        feed_hertz=found.feed_hertz if isinstance(found.feed_hertz, Absent) else _at_clock(found.feed_hertz, share),
        heat=profile.heat,
    )


def _at_clock(figure: Figure, share: float) -> Figure:
    """What heat leaves of it: all cards wait for the slowest one."""
    if share == 1:
        return figure
    return msgspec.structs.replace(
        figure, value=share * figure.value, basis=f"{figure.basis}, at the hot card's {share:.2f} of its clock"
    )


def of_gpu(gpu: GpuProfile, name: str, count: int) -> Ceilings | Absent:
    """`count` cards of one datasheet."""
    peaks = {str(dtype): figure for dtype, figure in profiles.peaks(gpu.id).items() if dtype in DTYPES}
    bandwidth = profiles.memory_bandwidth(gpu.id)
    if not peaks or isinstance(bandwidth, Absent):
        return Absent(f"the profile {gpu.id} has no peak or no memory bandwidth with a source")
    clock, feed = gpu.figure("boost_clock_mhz", 1e6), gpu.multiprocessors
    return Ceilings(
        kind="cuda",
        name=name,
        count=count,
        source="datasheet",
        matmul_flops_per_s=peaks,
        memory_bytes_per_s=bandwidth,
        launch_seconds=_assumed(LAUNCH_SECONDS, "assumption: host seconds a kernel of eager code"),
        tdp_watts=gpu.figure("power_limit_watts", 1.0),
        feed_hertz=Absent(f"no clock or no multiprocessors in the profile {gpu.id}")
        if isinstance(clock, Absent) or isinstance(feed, Absent)
        else Figure(clock.value * feed, "datasheet", f"{feed} multiprocessors at boost"),
        link=_link(gpu, count) if count > 1 else Absent("one card"),
        host_bytes_per_s=_to_host(
            PCIE_LANE_BYTES_PER_S.get(gpu.pcie_generation, PCIE_LANE_BYTES_PER_S[4]) * gpu.pcie_lanes,
            f"PCIe {gpu.pcie_generation}.0 x{gpu.pcie_lanes}, assumed",
        ),
        data_tokens_per_s=NO_LOADER,
        gpu=gpu.id,
        compute_capability=cards.capability(gpu.compute_capability),
        rests_on=(f"profile {gpu.id}",),
    )


def from_runs(runs: Sequence[Run], gpus: Sequence[Gpu] = ()) -> Ceilings | Absent:
    """This rig, by its stored probes, newest first; what no probe has measured comes from the card's datasheet.

    `gpus` are those that will train; none: all that are alike. Of unlike ones the slowest counts: by what was measured
    on such a one, else by its datasheet. Absent where neither a matmul probe with a bandwidth probe nor a datasheet
    says what the device can do.
    """
    slowest = min(gpus, key=peak_of) if len({gpu.name for gpu in gpus}) > 1 else None
    matmul, matmul_run = _newest(runs, "matmul", Matmul)
    if slowest and matmul and matmul.device.name != slowest.name:
        if isinstance(slowest.profile, Absent):
            return Absent(f"no profile of {slowest.name}, the slowest of these cards")
        return of_gpu(profiles.gpu(slowest.profile), f"{len(gpus)} cards as slow as {slowest.name}", len(gpus))
    bandwidth, bandwidth_run = _newest(runs, "bandwidth", Bandwidth)
    loader, loader_run = _newest(runs, "dataloader", Dataloader)
    collectives, _ = _newest(runs, "collectives", Collectives)
    if matmul:
        device = matmul.device
    else:  # the first device that copied, a GPU before the host
        copied = [device for part in (bandwidth.parts if bandwidth else ()) for device in part.devices]
        if not copied:
            return Absent("no stored run has measured matrix products; run `rigbench matmul`")
        device = next((device for device in copied if device.kind == "cuda"), copied[0])
    cpu, count, card = device.kind == "cpu", len(gpus) or _count(runs), None
    if not cpu:
        memory = device.memory_total_bytes
        known = profiles.match_gpu(None, device.name, None if isinstance(memory, Absent) else memory)
        sheet = known if isinstance(known, Absent) else of_gpu(profiles.gpu(known), device.name, count)
        card = None if isinstance(sheet, Absent) else sheet
    triad = _memory_rate(bandwidth, device, bandwidth_run)
    memory_rate = card.memory_bytes_per_s if card and isinstance(triad, Absent) else triad
    if isinstance(memory_rate, Absent):
        return Absent(f"the memory's bandwidth is not known ({memory_rate.reason}); run `rigbench bandwidth`")
    sustained = matmul.sustained_flops_per_s if matmul else {}
    rates = {
        str(dtype): _figure(
            rate, f"{'sustained ceiling' if dtype in sustained else 'fastest product'}, run {matmul_run}"
        )
        for dtype, rate in {**(matmul.best_flops_per_s if matmul else {}), **sustained}.items()
        if dtype in DTYPES
    }
    if not rates and not card:
        return Absent("no matmul ceiling is stored; run `rigbench matmul`")
    link = _fitted_link(collectives, 1 if cpu else count) if collectives else None
    sweep = loader.sweeps[0] if loader and loader.sweeps else None
    rests_on = [run for run in (matmul_run, bandwidth_run if isinstance(triad, Figure) else "", loader_run) if run]
    return Ceilings(
        kind=device.kind,
        name=device.name,
        count=count,
        source="measured" if rates else "datasheet",
        matmul_flops_per_s=rates or (card.matmul_flops_per_s if card else {}),
        memory_bytes_per_s=memory_rate,
        launch_seconds=_assumed(CPU_LAUNCH_SECONDS if cpu else LAUNCH_SECONDS, "assumption: host seconds a kernel"),
        tdp_watts=card.tdp_watts if card else NO_PROFILE,
        feed_hertz=card.feed_hertz if card else NO_PROFILE,
        link=link or (card.link if card else Absent("no stored run has fitted an all_reduce")),
        gpu=card.gpu if card else "",
        compute_capability=card.compute_capability if card else 0.0,
        data_tokens_per_s=_figure(sweep.knee.tokens_per_s, f"loader with as many workers as it needs, run {loader_run}")
        if sweep
        else NO_LOADER,
        products=tuple(ProductRate(it.m, it.n, it.k, it.dtype, it.flops_per_s.value) for it in matmul.shapes)
        if matmul
        else (),
        rests_on=tuple(dict.fromkeys(rests_on)) or (card.rests_on if card else ()),
    )


def _fitted_link(its: Collectives, count: int) -> LinkCeiling | None:
    """By the times of all_reduce, of which `count` cards send another share than those that were measured."""
    fits = (one.fit for one in its.operations if one.operation == "all_reduce")
    fit = next((fit for fit in fits if not isinstance(fit, Absent)), None)
    if fit is None:
        return None
    ring = 1.0 if count < 2 else _sent(its.world_size) / _sent(count)
    return LinkCeiling(_figure(fit.latency_seconds, "fit"), _figure(fit.bytes_per_s * ring, "fit of all_reduce"))


def _newest(runs: Sequence[Run], room: str, kind: type[Room]) -> tuple[Room | None, str]:
    return next(((held, run.id) for run in runs if isinstance(held := getattr(run, room), kind)), (None, ""))


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
        and transfer.source.startswith(("host", "node ", "all nodes")) == (device.kind == "cpu")
    ]
    if not own:
        return Absent(f"no copy inside the memory of {device.name} is stored")
    best = max(own, key=lambda transfer: transfer.bytes_per_s.value)
    return _figure(best.bytes_per_s, f"{best.operation}, run {run}")


def _count(runs: Iterable[Run]) -> int:
    """Alike cards in the newest run that counted them."""
    for run in runs:
        if isinstance(run.topology, Topology) and (gpus := run.topology.gpus):
            return sum(gpu.name == gpus[0].name for gpu in gpus)
    return 1


def _sent(ranks: int) -> float:
    """What a ring's rank sends for each byte that is reduced."""
    return 2 * (ranks - 1) / ranks if ranks > 1 else 1.0


def _to_host(slot: float, basis: str) -> Figure:
    return Figure(PINNED_SHARE * slot, "declared", f"{basis}, {PINNED_SHARE * 100:.0f} % of it")


def _link(gpu: GpuProfile, count: int, rig: RigProfile | None = None) -> LinkCeiling:
    """NVLink where the card is built for a switch of it and no slot is said, else its slot: a bridge may or may not be
    there. What the rig does not say is assumed: the card's whole link, and peers as such cards usually are.
    """
    latency = Figure(LINK_LATENCY_SECONDS, "declared", "assumption")
    to_algorithm = count / (2 * (count - 1))
    slotted = any(word in name for name in gpu.names for word in ("PCIe", "NVL", "RTX"))
    if gpu.nvlink_gb_per_s_per_direction >= SWITCHED_GB_PER_S and not slotted and not (rig and rig.slot_by_user):
        rate = NVLINK_SHARE * gpu.nvlink_gb_per_s_per_direction * 1e9
        return LinkCeiling(
            latency, Figure(rate * to_algorithm, "datasheet", f"NVLink, {NVLINK_SHARE * 100:.0f} % of it")
        )
    slot = PCIE_LANE_BYTES_PER_S.get(gpu.pcie_generation, PCIE_LANE_BYTES_PER_S[4]) * gpu.pcie_lanes
    direct, told = gpu.p2p_over_pcie.startswith("yes"), "assumed"
    where = f"PCIe {gpu.pcie_generation}.0 x{gpu.pcie_lanes}, assumed"
    if rig and not isinstance(rig.slot_bytes_per_s, Absent):
        slot, where = rig.slot_bytes_per_s, rig.slot_basis
    if rig and not isinstance(rig.p2p, Absent):
        direct, told = rig.p2p, rig.p2p_basis
    share, words = (DIRECT_SHARE, "peer copies") if direct else (STAGED_SHARE, "through host memory")
    basis = f"{where}; {words}, {told}; {share * 100:.0f} % of it"
    return LinkCeiling(latency, Figure(share * slot * to_algorithm, "datasheet", basis))


def _figure(estimate: Estimate, basis: str) -> Figure:
    return Figure(estimate.value, "measured", basis, estimate.low, estimate.high)


def _assumed(triple: tuple[float, float, float], basis: str) -> Figure:
    value, low, high = triple
    return Figure(value, "declared", basis, low, high)
