"""Is a link's generation read while the cards work, and is a card that cannot be woken said to be so?"""

import dataclasses
from pathlib import Path

import pytest
import torch

from rigbench import store
from rigbench.core.errors import RigbenchError
from rigbench.core.progress import Silent
from rigbench.core.record import Absent
from rigbench.job import Job
from rigbench.machine.nvml import Nvml
from rigbench.machine.rig import Rig
from rigbench.topology import survey
from rigbench.work import load as waking

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


def crew(begin):
    """A crew that never starts a process: `begin(on_progress)` is what its only member does."""

    class Scripted:
        def __init__(self, probe, options, result_type, limit_seconds, on_progress):
            self.begin, self.outcomes = lambda: begin(on_progress), {}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            begin(None)

        def working(self):
            return [""]

        def listen(self, seconds):
            self.begin()

    return Scripted


def test_generations_come_from_the_load_and_everything_else_from_rest(live, monkeypatch, tmp_path):
    cards, rig = live

    def copy(on_progress) -> None:
        cards.working = on_progress is not None
        if on_progress:
            on_progress(0.1, "copying")

    monkeypatch.setattr(waking, "Crew", crew(copy))
    job = Job(store.Store(tmp_path), rig, "topology", Silent())
    gpu = survey.topology(job, load=True).gpus[0]
    assert (gpu.link_generation_now, gpu.link_generation_awake) == (1, 4)
    assert gpu.power_watts == pytest.approx(27.74)


def test_cards_that_cannot_be_kept_busy_leave_the_reason(live, monkeypatch, tmp_path):
    def refuse(on_progress) -> None:
        if on_progress:
            raise RigbenchError("this torch is a CPU build", "install a CUDA build of torch")

    monkeypatch.setattr(waking, "Crew", crew(refuse))
    job = Job(store.Store(tmp_path), live[1], "topology", Silent())
    awake = survey.topology(job, load=True).gpus[0].link_generation_awake
    assert awake == Absent("the cards could not be kept busy (this torch is a CPU build)")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_the_load_itself_says_why_it_cannot_begin(live):
    assert waking.under_load(live[1], lambda busy: pytest.fail("read without a load")) == Absent(
        "the cards could not be kept busy (this torch is a CPU build)"
    )


def test_a_machine_without_a_driver_starts_no_load(monkeypatch):
    monkeypatch.setattr(waking, "Crew", lambda *_, **__: pytest.fail("a load was started"))
    rig = Rig(Rig.live().sysfs, Nvml(Absent("no driver")))
    assert waking.under_load(rig, lambda busy: None) == Absent("no driver")
