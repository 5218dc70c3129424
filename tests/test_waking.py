"""Is a link's generation read while the cards work, and is a card that cannot be woken said to be so?"""

import dataclasses
from pathlib import Path

import pytest

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent
from rigbench.job import Job
from rigbench.machine.nvml import Nvml
from rigbench.machine.rig import Rig
from rigbench.topology import survey
from rigbench.work import load as waking
from rigbench.work.copy_load import CopyLoad
from rigbench.work.process import Outcome

RIG = Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8"


class Cards:
    """A driver whose links wake while the copy probe runs: the idle recording at rest, the other one under load."""

    def __init__(self) -> None:
        self.rest, self.busy = (Nvml.replay(RIG / name).driver for name in ("nvml.txt", "load.nvml.txt"))
        self.working, self.trouble = False, None

    def ask(self, scope: str, *calls: str):
        return (self.busy if self.working else self.rest).ask(scope, *calls)


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setattr(waking, "AWAKE_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(waking, "FASTEST_SECONDS", 0.001)
    cards = Cards()
    replayed = Rig.replay(RIG)
    return cards, dataclasses.replace(replayed, nvml=Nvml(cards), replayed=False, load=Nvml(Absent("not read")))


def test_generations_come_from_the_load_and_everything_else_from_rest(live, monkeypatch, tmp_path):
    cards, rig = live

    def copy(probe, options, result_type, *, limit_seconds, on_progress):
        cards.working = True
        on_progress(0.1, "copying")
        return Outcome((CopyLoad(2, 1.0),), "finished")

    joined = waking._Load.join

    def join(load) -> None:
        joined(load)
        cards.working = False

    monkeypatch.setattr(waking.process, "call", copy)
    monkeypatch.setattr(waking._Load, "join", join)
    job = Job(store.Store(tmp_path), rig, "topology", Silent())
    gpu = survey.topology(job, load=True).gpus[0]
    assert (gpu.link_generation_now, gpu.link_generation_awake) == (1, 4)
    assert gpu.power_watts == pytest.approx(27.74)


def test_cards_that_cannot_be_kept_busy_leave_the_reason(live, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise RigbenchError("this torch is a CPU build", "install a CUDA build of torch")

    monkeypatch.setattr(waking.process, "call", refuse)
    job = Job(store.Store(tmp_path), live[1], "topology", Silent())
    awake = survey.topology(job, load=True).gpus[0].link_generation_awake
    assert awake == Absent("the cards could not be kept busy (this torch is a CPU build)")


def test_a_machine_without_a_driver_starts_no_load(monkeypatch):
    monkeypatch.setattr(waking.process, "call", lambda *_, **__: pytest.fail("a load was started"))
    rig = Rig(Rig.live().sysfs, Nvml(Absent("no driver")))
    assert waking.under_load(rig, lambda busy: None) == Absent("no driver")
