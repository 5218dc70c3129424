"""Does a job keep what its probes hand over, whatever becomes of them, and does it know the runs of this rig?"""

import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest
from fake_probe import Options, Result

from rigbench import store
from rigbench.core.progress import Silent
from rigbench.core.record import Absent, Device, Skipped, Telemetry
from rigbench.job import Interrupted, Job
from rigbench.machine.rig import Rig

RIG = Path(__file__).parent / "rigs" / "dual-rtx4080s-x8x8"


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    return Job(store.Store(tmp_path), Rig.replay(RIG), "train-probe", Silent())


def measure(job: Job, act: str, limit_seconds: float = 30.0, **more):
    return job.measure("fake_probe", Options(act), Result, limit_seconds=limit_seconds, **more)


def kept(job: Job) -> store.Run:
    return store.read(job.store.find(job.run.id))


def test_a_record_gets_the_sensors_beside_it_and_what_only_the_parent_knows(job):
    result = measure(job, "finish", complete=lambda result: msgspec.structs.replace(result, note="completed"))
    assert (result.steps, result.note, result.events) == (7, "completed", ())
    assert isinstance(result.telemetry, Telemetry)
    assert job.faults == []


def test_a_probe_that_dies_is_a_fault_and_an_event_of_what_it_had_handed_over(job):
    result = measure(job, "die")
    assert (result.steps, result.note) == (3, "so far")
    assert len(result.events) == 1
    assert "as the system does when memory runs out" in result.events[0]
    assert job.faults == [f"fake_probe: {result.events[0]}"]


def test_a_probe_that_hands_nothing_over_is_skipped_with_its_reason_and_kept(job):
    result = measure(job, "crash", room="slices")
    assert isinstance(result, Skipped)
    assert "ZeroDivisionError: one over none" in result.reason
    assert kept(job).slices == (result,)
    assert measure(job, "crash") == result  # kept nowhere
    assert len(kept(job).slices) == 1


def test_ctrl_c_keeps_nothing_of_what_measured_nothing(job):
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(Interrupted):
        measure(job, "early stop", room="matmul")
    assert kept(job).matmul == Skipped("fake_probe", "stopped before anything was measured")


def test_the_runs_of_this_rig_are_its_own_and_those_stored_before(job):
    def keep(run_id: str, **changes: object) -> None:
        job.store.save(msgspec.structs.replace(job.run, id=run_id, **changes))

    room = Skipped("matmul", "no torch")
    keep("20260101-000000-aaaa", matmul=room)
    keep("20260103-000000-cccc")
    stranger = msgspec.structs.replace(job.run.rig, fingerprint="another")
    keep("20260102-000000-bbbb", rig=stranger, matmul=room)
    (job.store.runs / "20260104-000000-dddd.json").write_text("{")
    job.keep(warnings=("this run is stored too",))
    assert [entry.id for entry in job.earlier] == ["20260103-000000-cccc", "20260101-000000-aaaa"]
    assert [run.id for run in job.holding("matmul")] == ["20260101-000000-aaaa"]
    job.keep(matmul=room)
    assert [run.id for run in job.holding("matmul")] == [job.run.id, "20260101-000000-aaaa"]
    keep("20260105-000000-eeee")
    assert len(job.earlier) == 2  # the folder is read once


def test_the_gpus_that_cuda_shows_are_named_by_the_driver(job, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert job.cards().indices == (0, 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert job.cards().indices == (1,)
    card = Device(kind="cuda", name="", uuid=job.gpus[1].uuid, threads=1, memory_total_bytes=Absent("not read"))
    assert job.datasheet(card)["bf16"].value == 104.4e12
    assert job.datasheet(msgspec.structs.replace(card, uuid="GPU-elsewhere")) == {}
