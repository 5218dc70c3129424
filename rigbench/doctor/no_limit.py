"""Says what was measured in a run and does not hold it back, each with its figure. Pure: a record in, words out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rigbench.core import units
from rigbench.core.record import Absent, SensorSeries, Telemetry
from rigbench.dataloader import screen as dataloader
from rigbench.dataloader.record import Dataloader
from rigbench.document import Run
from rigbench.machine.record import Gpu
from rigbench.matmul.record import Matmul
from rigbench.thermals.record import Thermals
from rigbench.topology.record import Topology
from rigbench.train.record import Slice

HELD_BY_POWER = ("sw_power_cap", "hw_power_brake", "hw_slowdown")
HELD_BY_HEAT = ("sw_thermal", "hw_thermal", "hw_slowdown")
LITTLE = 0.02  # of a step


def words(run: Run) -> Iterator[str]:
    """ "data loader (42 times as fast as training needs)": nothing that a reading leaves open is among them.

    Nothing is said of a run on a busy machine: its parts were not measured under one condition.
    """
    if run.disturbed():
        return
    if isinstance(run.dataloader, Dataloader) and dataloader.verdict(run.dataloader)[0] == "ok":
        yield f"data loader ({dataloader.ratio(run.dataloader.headrooms[0].times)} as fast as training needs)"
    synced = [it for it in run.slices if isinstance(it, Slice) and not isinstance(it.exchange, Absent)]
    shares = [it.exchange.exposed.high / it.step_seconds.value for it in synced if not isinstance(it.exchange, Absent)]
    if shares and max(shares) < LITTLE:
        yield f"gradient sync (at most {units.format_share(max(0.0, *shares))} of a step)"
    gpus = run.topology.gpus if isinstance(run.topology, Topology) else ()
    series = [its for sensors in _loads(run) for its in sensors.series if its.device in {gpu.label for gpu in gpus}]
    if gpus:
        yield from _power(gpus, series)
        yield from _heat(run)
        yield from _errors(gpus, series)


def _loads(run: Run) -> Iterator[Telemetry]:
    """The sensors beside everything that computed."""
    held = [*run.slices, *(it for it in (run.matmul, run.thermals) if isinstance(it, Matmul | Thermals))]
    for it in held:
        if isinstance(sensors := getattr(it, "telemetry", None), Telemetry):
            yield sensors


def _power(gpus: Sequence[Gpu], series: Sequence[SensorSeries]) -> Iterator[str]:
    """The card that came nearest to its limit, where none was ever held down by it."""
    reached: list[tuple[float, float]] = []
    for gpu in gpus:
        own = [its for its in series if its.device == gpu.label]
        watts = [it for its in own if isinstance(its.power_watts, tuple) for it in its.power_watts]
        read = [it for it in watts if not isinstance(it, Absent)]
        bits = [its.throttle_bits if isinstance(its.throttle_bits, tuple) else () for its in own]
        answered = all(any(isinstance(it, int) for it in column) for column in bits)
        if isinstance(gpu.power_limit_watts, Absent) or not read or not answered:
            return
        if any(its.throttle_share.get(reason) for its in own for reason in HELD_BY_POWER):
            return
        reached.append((max(read), gpu.power_limit_watts))
    most, limit = max(reached, key=lambda it: it[0] / it[1])
    if most < limit:
        yield f"power limit (at most {most:.0f} of {limit:.0f} W)"


def _heat(run: Run) -> Iterator[str]:
    """Of a heat test alone: shorter loads leave it open."""
    cards = run.thermals.cards if isinstance(run.thermals, Thermals) else ()
    peaks = [it.peak_celsius for it in cards if not isinstance(it.peak_celsius, Absent)]
    held_down = any(one.share for it in cards for one in it.throttling if one.reason in HELD_BY_HEAT)
    if peaks and len(peaks) == len(cards) and all(it.settled.settled for it in cards) and not held_down:
        yield f"heat (at most {max(peaks):.0f} °C, settled)"


def _errors(gpus: Sequence[Gpu], series: Sequence[SensorSeries]) -> Iterator[str]:
    """Counters that stand at 0 on every card, before and after it worked."""
    later = [it for its in series if isinstance(its.pcie_replays, tuple) for it in its.pcie_replays]
    if all(it == 0 for it in (*(gpu.pcie_replays for gpu in gpus), *(it for it in later if isinstance(it, int)))):
        yield "PCIe errors (no replay)"
    if all(gpu.ecc_uncorrected_errors_since_load == 0 for gpu in gpus):
        yield "ECC (no uncorrected error)"
