"""How long 10,000 runs take, from their index."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from rigbench import store
from rigbench.core.progress import SILENT
from rigbench.fleet import verdict
from rigbench.index import Index

RUN = Path(__file__).parents[1] / "runs" / "schema-1.json"
RUNS, HOSTS = 10_000, 500
pytestmark = pytest.mark.bench


def test_ten_thousand_runs_take_under_five_seconds(tmp_path, capsys):
    home = store.Store(tmp_path)
    home.runs.mkdir(parents=True)
    small = store.read(RUN)
    absent = small.thermals
    slices = tuple(msgspec.structs.replace(it, precision_trials=(), telemetry=absent) for it in small.slices)
    small = msgspec.structs.replace(small, slices=slices, topology=absent, matmul=absent, budget=absent)
    for number in range(RUNS):
        name = f"20260101-{number:06}-aaaa"
        rig = msgspec.structs.replace(small.rig, fingerprint=f"{number % HOSTS:012x}")
        text = msgspec.json.encode(msgspec.structs.replace(small, id=name, rig=rig))
        (home.runs / f"{name}.json").write_bytes(text)
    began = time.perf_counter()
    Index(home.runs, store.read, SILENT)
    made, made_cpu = time.perf_counter(), time.process_time()
    fleet = verdict.judge(home.index().measured())
    took, busy = time.perf_counter() - made, time.process_time() - made_cpu
    with capsys.disabled():
        words = f"{fleet.runs:,} runs of {fleet.hosts} hosts in {took:.2f} s, {busy:.2f} s of processor time"
        print(f"\nindex made anew {made - began:.1f} s; {words}")
    assert (fleet.runs, fleet.hosts) == (RUNS, HOSTS)
    assert busy < 5.0  # the wall is whoever else works here
