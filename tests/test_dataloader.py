"""Is every way of loading timed as a training loop would wait for it, and every bad one refused in a line?"""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent
from rigbench.dataloader import disk, loading, sources
from rigbench.dataloader import probe as dataloader
from rigbench.dataloader.record import Dataloader, Loading
from rigbench.dataloader.sources import JsonlBlocks, LoaderSource, count_tokens
from rigbench.work.process import Report

T = 32
TEXTS = [f"line {number} of a text" for number in range(300)]


@pytest.fixture
def options(tmp_path):
    return dataloader.Options(
        device="cpu", cache=str(tmp_path / "cache"), micro_batch=2, sequence=T, workers=(0, 1), seconds=0.15
    )


@pytest.fixture
def ids(tmp_path):
    path = tmp_path / "ids.bin"
    np.random.default_rng(0).integers(0, 500, 200_000).astype("<u2").tofile(path)
    return path


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def loaded(options, **changes) -> Dataloader:
    return dataloader.run(msgspec.structs.replace(options, **changes), Report(io.BytesIO()))


def rows_of(result: Dataloader) -> list[tuple]:
    return [(sweep.path, sweep.of, row.workers) for sweep in result.sweeps for row in sweep.rows]


def test_a_token_file_is_loaded_by_every_path_and_every_rate_follows_from_its_samples(options, ids):
    result = loaded(options, data=str(ids))
    assert rows_of(result) == [
        ("own loader", "the data", 0),
        ("memory map", "the data", 0),
        ("memory map", "the data", 1),
    ]
    assert (result.data.kind, result.data.tokens, result.data.item_bytes) == ("tokens", 200_000, 2)
    for sweep in result.sweeps:
        for row in sweep.rows:
            assert set(row.tokens) == {2 * T * row.batches_per_sample}
            steady = slice(row.steady_from, None)
            rate = math.fsum(row.tokens[steady]) / math.fsum(row.seconds[steady])
            assert row.tokens_per_s.value == pytest.approx(rate)
            assert (row.temperature, row.pinned, row.to_device) == ("warm", False, False)
    assert isinstance(result.sweeps[1].unpinned, Absent)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Dataloader) == result


def test_a_cold_number_is_verified_cold_or_says_why_there_is_none(options, ids):
    result = loaded(options, data=str(ids))
    cold = result.sweeps[0].cold
    if isinstance(disk.made_cold(ids), Absent):
        assert isinstance(cold, Absent)
        pytest.skip(f"this file system keeps its files in memory: {cold.reason}")
    assert cold.temperature == "cold"
    assert cold.cached_share <= disk.COLD_SHARE
    assert cold.tokens_per_s.value < result.sweeps[0].rows[0].tokens_per_s.value


def test_without_data_a_generated_file_is_loaded(options):
    result = loaded(options, workers=(0,))
    assert (result.data.kind, result.data.tokens) == ("generated", 4_000_000)
    assert Path(options.cache, result.data.name).is_file()


def test_jsonl_is_loaded_on_the_fly_and_next_to_a_packed_sample(options, lines):
    result = loaded(options, data=str(lines))
    assert rows_of(result) == [
        ("jsonl", "the data", 0),
        ("jsonl", "the data", 1),
        ("own loader", "a packed sample", 0),
        ("memory map", "a packed sample", 0),
    ]
    assert (result.data.tokenizer, result.data.bad_lines) == ("bytes", 0)
    assert os.listdir(options.cache) == []  # the sample is gone


def test_a_bad_line_is_named_or_counted(options, lines):
    lines.write_text(lines.read_text() + "nope\n")
    with pytest.raises(RigbenchError, match=r"lines.jsonl, line 301: is not JSON"):
        loaded(options, data=str(lines))
    result = loaded(options, data=str(lines), skip_bad=True, workers=(0,))
    assert result.data.bad_lines == 1


@pytest.mark.parametrize(
    ("content", "changes", "said"),
    [
        ('{"text": ""}\n', {}, "holds no text in the field 'text'"),
        ('{"body": "x"}\n', {}, "line 1: has no field 'text'"),
        ("", {}, "is empty"),
        ('{"text": "x"}\n', {"tokenizer": "none.json"}, "--tokenizer: cannot read none.json"),
    ],
)
def test_bad_jsonl_is_one_line(options, lines, content, changes, said):
    lines.write_text(content)
    with pytest.raises(RigbenchError, match=said) as caught:
        loaded(options, data=str(lines), **changes)
    assert caught.value.exit_code == 2


def blocks_of(path: Path, **how) -> JsonlBlocks:
    return JsonlBlocks(path, path.stat().st_size, "text", "bytes", None, T, **how)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 1000])
def test_workers_share_the_lines_of_a_file_without_a_gap_or_a_double(lines, parts):
    blocks = blocks_of(lines, endless=False)
    found = [ids for part in range(parts) for ids in blocks.ids(part, parts)]
    assert [bytes(ids[:-1].astype(np.uint8)).decode() for ids in found] == TEXTS
    assert {int(ids[-1]) for ids in found} == {256}


def test_a_worker_without_a_line_of_its_own_reads_them_all(lines):
    lines.write_text('{"text": "only"}\n')
    ids = blocks_of(lines).ids(5, 6)
    assert [next(ids)[:-1].tolist() for _ in range(3)] == [list(b"only")] * 3


def test_blocks_are_the_ids_in_order_with_labels_one_token_later(lines):
    once = blocks_of(lines, endless=False)
    everything, blocks = np.concatenate(list(once.ids(0, 1))), list(once)
    assert len(blocks) == (everything.size - 1) // T
    assert torch.cat([x for x, _ in blocks]).tolist() == everything[: len(blocks) * T].tolist()
    assert torch.cat([y for _, y in blocks]).tolist() == everything[1 : len(blocks) * T + 1].tolist()


# What the user's own factory may give, good and bad; each is a module of its own.
HEAD = """
import os, torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
class Good(Dataset):
    def __len__(self): return 50
    def __getitem__(self, place): return {"w": torch.rand(3), "input_ids": torch.arange(8), "labels": torch.arange(8)}
def batch(): return torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 8, dtype=torch.int64)
"""
GOOD = {
    "def make(): return Good()": [0, 1],
    "def make(): return DataLoader(Good(), batch_size=2, num_workers=1)": [1],
    "def make(): return [batch()] * 5": [0],
    "def make(): return (batch() for _ in range(2000))": [0],
    "class Lines(IterableDataset):\n def __iter__(self): return iter([torch.arange(8)] * 40)\nmake = Lines": [0, 1],
}  # fmt: skip
BAD = {
    "make = 3": "has no function make",
    "import nowhere\ndef make(): return Good()": "ModuleNotFoundError: No module named 'nowhere'",
    "def make(): raise ValueError('no corpus')": "it raised ValueError: no corpus; fix the factory",
    "def make(): raise SystemExit(3)": "it raised SystemExit: 3",
    "def make(): return None": "the factory returned nothing; return a torch Dataset",
    "def make(): return 42": "the factory returned int; return a torch Dataset",
    "def make(): return 'text'": "the factory returned str",
    "def make(): return []": "it yields no batches",
    "def make(): return [batch()]": "it ends after one batch, which is too few to time",
    "def make(): return ['a', 'b']": "it yields a str, with no tensor in it",
    "def make(): return [None] * 3": r"it yields nothing \(None\), with no tensor in it",
    "def make(): return [torch.rand(2, 3)] * 9": r"it yields torch.float32 \(2×3\) and not token ids",
    "def make(): return [torch.zeros(0, dtype=torch.int64)] * 9": "it yields a tensor with nothing in it",
    "class Empty(Good):\n def __len__(self): return 0\ndef make(): return Empty()": "the dataset is empty",
    "class Broken(Good):\n def __getitem__(self, place): raise KeyError('sample 7')\nmake = Broken":
        "it raised KeyError: 'sample 7'; fix the dataset",
    "class Ragged(Good):\n def __getitem__(self, place): return torch.arange(place % 7 + 1)\nmake = Ragged":
        "it raised RuntimeError: stack expects each tensor to be equal size",
    "class Dying(Good):\n def __getitem__(self, place): os._exit(1)\nmake = lambda: DataLoader(Dying(), num_workers=1)":
        r"it raised RuntimeError: DataLoader worker \(pid",
}  # fmt: skip


@pytest.fixture
def of_user(options, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))

    def load(source: str) -> Dataloader:
        name = f"mine_{abs(hash(source))}"
        (tmp_path / f"{name}.py").write_text(HEAD + source)
        return loaded(options, dataset=f"{name}:make", folder=str(tmp_path))

    return load


@pytest.mark.parametrize("source", GOOD)
def test_a_factorys_batches_are_counted_in_input_tokens(of_user, source):
    result = of_user(source)
    assert [row.workers for row in result.sweeps[0].rows] == GOOD[source]
    for row in result.sweeps[0].rows:
        assert set(row.tokens) == {16 * row.batches_per_sample}  # 2 sequences of 8, labels and weights not counted
    assert result.data.kind == "dataset"
    assert isinstance(result.sweeps[0].cold, Absent)


@pytest.mark.parametrize("source", BAD)
def test_a_bad_factory_is_one_line(of_user, source):
    with pytest.raises(RigbenchError, match=BAD[source]) as caught:
        of_user(source)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mine", "mine:", ":make", "mine:two words"])
def test_a_factory_that_is_not_named_right_is_refused(name):
    with pytest.raises(RigbenchError, match=r"is not package.module:factory; write it as mydata.loading:make"):
        sources.find_factory(name, "/")


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        (torch.zeros(4, 16, dtype=torch.int32), 64),
        ((torch.zeros(4, 16, dtype=torch.int64), torch.zeros(4, 16)), 64),
        ({"mask": torch.zeros(4, 99), "input_ids": torch.zeros(4, 16, dtype=torch.int64)}, 64),
        ([["a", "b"], {"ids": torch.zeros(7, dtype=torch.uint8)}], 7),
    ],
)
def test_tokens_are_the_elements_of_the_inputs(batch, tokens):
    assert count_tokens("it", batch) == tokens


class Scripted:
    """A clock, and a source whose every batch takes as long as it is told."""

    def __init__(self, costs):
        self.now, self.costs = 0.0, iter(costs)
        self.untimed_seconds, self.restarts = 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def take(self) -> int:
        tokens, seconds = next(self.costs)
        self.now += seconds
        return tokens


FACTS = {
    "path": "dataset", "workers": 0, "temperature": "warm", "pinned": False, "to_device": False, "cached_share": 1.0,
}  # fmt: skip


def scripted(monkeypatch, costs, **how):
    source = Scripted(costs)
    monkeypatch.setattr(loading, "time", source)
    defaults = {"limit_seconds": 1.0, "target_half_width": 0.01, "finish": lambda: None}
    return loading.timed(source, **{**defaults, **FACTS, **how})


def test_the_start_and_what_workers_had_made_by_then_are_in_no_rate(monkeypatch):
    made_ahead = [(100, 0.0)] * 4
    result = scripted(monkeypatch, [(100, 5.0), *made_ahead, *[(100, 0.02)] * 1000], workers=2)
    assert result.startup_seconds == 5.0
    assert result.tokens_per_s.value == pytest.approx(5000)
    assert list(result.seconds) == pytest.approx([0.02] * len(result.seconds))


def test_fast_batches_share_a_sample_and_slow_ones_have_their_own(monkeypatch):
    fast = scripted(monkeypatch, [(10, 1e-5)] * 200_000)
    assert fast.batches_per_sample == pytest.approx(200, abs=2)  # a 500th of a second
    assert len(fast.seconds) <= loading.MOST_SAMPLES + 1
    slow = scripted(monkeypatch, [(10, 0.1)] * 1000)
    assert slow.batches_per_sample == 1


def test_a_source_that_ends_too_soon_is_not_timed(monkeypatch):
    assert scripted(monkeypatch, [(10, 0.1)] * 4) is None
    assert scripted(monkeypatch, [(10, 0.1)] * 6).ended_by == "finished"


def test_starting_over_is_not_in_the_rate(monkeypatch):
    """Three batches, then two seconds until the next: as when workers are started again."""
    monkeypatch.setattr(sources, "time", clock := Scripted([]))
    monkeypatch.setattr(loading, "time", clock)

    class Epochs:
        def __iter__(self):
            clock.now += 2.0
            for _ in range(3):
                clock.now += 0.01
                yield torch.zeros(1, 50, dtype=torch.int64)

    source = LoaderSource("it", Epochs(), "cpu", False)
    result = loading.timed(source, limit_seconds=30.0, target_half_width=0.0, finish=lambda: None, **FACTS)
    assert result.restarts > 5
    assert result.tokens_per_s.value == pytest.approx(5000)
    assert result.startup_seconds == pytest.approx(2.01)


def test_a_rate_of_samples_of_unlike_size_is_total_over_total():
    random = np.random.default_rng(0)
    tokens = random.integers(50, 150, 400).tolist()
    seconds = [count / 1000 + noise for count, noise in zip(tokens, random.normal(0, 1e-3, 400), strict=True)]
    result = loading.rate(tokens, seconds)
    assert result.value == pytest.approx(sum(tokens) / sum(seconds))
    # the ratio estimator's error by the textbook formula, from the same data
    residuals = np.array(seconds) - np.array(tokens) * (sum(seconds) / sum(tokens))
    error = math.sqrt((residuals**2).sum() / 399 / 400) / np.mean(seconds)
    assert result.half_width == pytest.approx(1.645 * error, rel=0.5)  # batch means estimate the same spread
    assert result.low < 1000 < result.high


def row(workers: int, value: float, half: float) -> Loading:
    return Loading(
        path="memory map", workers=workers, temperature="warm", pinned=False, to_device=False, cached_share=1.0,
        startup_seconds=0.1, batches_per_sample=1, tokens=(8,), seconds=(0.1,), steady_from=0, restarts=0,
        tokens_per_s=Estimate(value, value - half, value + half, 0.9, "made up", 9), ended_by="interval",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "knee"),
    [
        ([row(0, 10, 1)], 0),
        ([row(0, 10, 1), row(1, 20, 1), row(2, 21, 1), row(4, 21.5, 1)], 1),
        ([row(0, 10, 1), row(1, 20, 1), row(2, 30, 1), row(4, 25, 1)], 2),
        ([row(0, 30, 1), row(1, 20, 1)], 0),
        ([row(0, 20, 15), row(8, 30, 1)], 0),
    ],
)
def test_the_knee_is_the_fewest_workers_within_the_noise_of_the_best(rows, knee):
    assert loading.knee(rows) == knee


def test_a_file_is_put_out_of_memory_and_that_is_verified(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4 << 20))
    disk.read_through(path, 4 << 20)
    assert disk.cached_share(path) == 1.0
    left = disk.made_cold(path)
    if isinstance(left, Absent):
        pytest.skip(f"this file system keeps its files in memory: {left.reason}")
    assert left <= disk.COLD_SHARE
    disk.read_through(path, 1 << 20)
    assert 0.2 < disk.cached_share(path) < 0.8  # a quarter, and what was read ahead
    assert disk.cached_share(path, 1 << 20) == 1.0
    held = np.memmap(path, dtype=np.uint8, mode="r")
    assert int(held.sum()) > 0
    assert "stayed in memory" in disk.made_cold(path).reason


def test_what_cannot_be_told_of_a_cache_is_absent(tmp_path):
    assert isinstance(disk.cached_share(tmp_path / "none"), Absent)
    (tmp_path / "empty").touch()
    assert isinstance(disk.cached_share(tmp_path / "empty"), Absent)


def test_direct_reads_are_whole_and_timed_or_absent_with_the_reason(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (13 << 20))
    reads = disk.direct_reads(path, 0.05, lambda: False)
    if not isinstance(reads, Absent):
        assert [(one.order, one.block_bytes) for one in reads] == [("in order", 4 << 20), ("at random", 16 << 10)]
        for one in reads:
            rate = one.block_bytes * len(one.seconds) / math.fsum(one.seconds)
            assert one.bytes_per_s.value == pytest.approx(rate)
    path.write_bytes(b"x")
    assert isinstance(disk.direct_reads(path, 0.05, lambda: False), Absent)

    def refused(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "open", refused)
    assert disk.direct_reads(path, 0.05, lambda: False) == Absent("this file system does not allow direct reads")


def test_too_little_shared_memory_leaves_a_row_out_with_the_cure(options, ids, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1000, f_frsize=1))
    result = loaded(options, data=str(ids))
    assert rows_of(result) == [("own loader", "the data", 0), ("memory map", "the data", 0)]
    assert result.not_run == (
        "memory map, 1 worker: /dev/shm has 1,000 B free, and 1 worker holds up to 3 KiB in it; "
        "give it more (docker run --shm-size 2g, or mount -o remount,size=2g /dev/shm)",
    )


def test_workers_that_find_no_shared_memory_are_said_with_the_cure(tmp_path):
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small /dev/shm needs root and mount namespaces")
    (tmp_path / "mine.py").write_text(
        "import torch\ndef make(): return torch.utils.data.TensorDataset(torch.zeros(64, 65536, dtype=torch.int64))"
    )
    script = f"mount -t tmpfs -o size=64k none /dev/shm && exec {sys.executable} -m rigbench dataloader"
    words = f"{script} --dataset mine:make --workers 1 --seconds 200ms --device cpu --home {tmp_path}/home"
    done = subprocess.run(["unshare", "-m", "sh", "-c", words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3
    assert "no room in /dev/shm" in done.stderr
    assert "docker run --shm-size" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_shrinks_under_its_workers_is_named(ids):
    """DataLoader can only say that a worker is gone."""

    class Dying:
        def __iter__(self):
            yield torch.zeros(1, 8, dtype=torch.int64)
            os.truncate(ids, 4096)
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")

    source = LoaderSource("ids.bin", Dying(), "cpu", False, file=ids, file_bytes=400_000)
    assert source.take() == 8
    with pytest.raises(RigbenchError, match=r"ids.bin shrank from 400,000 to 4,096 bytes while it was being read"):
        source.take()


def test_told_to_stop_it_keeps_the_rows_it_has(options, ids):
    class Stopping(Report):
        def partial(self, record) -> None:
            self._stop.set()

    result = dataloader.run(msgspec.structs.replace(options, data=str(ids)), Stopping(io.BytesIO()))
    assert rows_of(result) == [("own loader", "the data", 0)]
    assert result.ended_by == "interrupted"
