"""Does our own loader give the blocks that are in the file, the same ones again, and an error where others die?"""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from rigbench.core.errors import RigbenchError
from rigbench.model import batches as making
from rigbench.model.batches import Batches, Gatherer

COUNT = 5000
STRESS = """
import sys
import numpy as np
from rigbench.core.errors import RigbenchError
from rigbench.model.batches import Batches
tokens = np.memmap(sys.argv[1], dtype="<u2", mode="r")
with Batches(tokens, "uint16", 1 << 16, 16, 1024, "cpu", "t.bin", ahead=sys.argv[2] == "ahead") as batches:
    print("ready", flush=True)
    try:
        while True:
            batches.next()
    except RigbenchError as error:
        print(error, flush=True)
"""


@pytest.fixture
def file(tmp_path):
    """Ids that tell their own place, so that every block can be checked."""
    path = tmp_path / "places.bin"
    np.arange(COUNT, dtype="<u2").tofile(path)
    return path


def mapped(path, dtype="<u2"):
    return np.memmap(path, dtype=dtype, mode="r")


def batches_of(path, **how):
    return Batches(mapped(path), "uint16", COUNT, 4, 16, "cpu", "places.bin", **how)


@pytest.mark.parametrize("ahead", [False, True])
def test_every_batch_is_blocks_of_the_file_with_labels_one_token_later(file, ahead):
    with batches_of(file, ahead=ahead) as batches:
        firsts = []
        for _ in range(200):
            inputs, targets = batches.next()
            assert inputs.dtype == targets.dtype == torch.int64
            assert inputs.shape == targets.shape == (4, 16)
            assert torch.equal(inputs, inputs[:, :1] + torch.arange(16))
            assert torch.equal(targets, inputs + 1)
            firsts += inputs[:, 0].tolist()
    assert 0 <= min(firsts) < 50  # 800 starts, drawn evenly from 0 to the last that has a whole block
    assert COUNT - 17 - 50 < max(firsts) <= COUNT - 17


def test_the_seed_decides_the_batches_whether_or_not_a_thread_makes_them(file):
    def drawn(**how):
        with batches_of(file, **how) as batches:
            return [batches.next()[0].tolist() for _ in range(30)]

    assert drawn() == drawn(ahead=True) == drawn(seed=1)
    assert drawn(seed=2) != drawn(seed=1)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_batch_is_its_callers_to_keep(file, ahead):
    with batches_of(file, ahead=ahead) as batches:
        kept = [batches.next()[0] for _ in range(20)]
        copies = [inputs.clone() for inputs in kept]
        for _ in range(20):
            batches.next()
    assert all(torch.equal(inputs, copy) for inputs, copy in zip(kept, copies, strict=True))


def test_the_thread_is_gone_once_closed(file):
    before = threading.active_count()
    with batches_of(file, ahead=True) as batches:
        batches.next()
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_gpus_thread_waits_on_the_card_of_its_rank(file, monkeypatch):
    """A thread begins on the first card: an event of another's would make a second context there."""
    chosen, waited = {}, []

    class Event:
        def synchronize(self) -> None:
            waited.append(chosen.get(threading.get_ident()))

    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.update({threading.get_ident(): device}))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    with Batches(mapped(file), "uint16", COUNT, 4, 16, "cuda:1", "places.bin", pinned=False) as batches:
        for made in batches._ahead:
            made.result()
    assert waited == ["cuda:1"] * len(batches._ahead)


def test_no_thread_is_started_for_a_cpu(file):
    before = threading.active_count()
    with batches_of(file) as batches:
        batches.next()
        assert threading.active_count() == before


@pytest.mark.parametrize("ahead", [False, True])
def test_an_id_beyond_the_vocabulary_is_refused_in_the_batch_that_has_it(file, ahead):
    def draw(batches) -> None:
        for _ in range(50):
            batches.next()

    said = r"places.bin \(a batch of it\) has the id 4,\d\d\d .* vocabulary of 4,000"
    with (
        Batches(mapped(file), "uint16", 4000, 64, 16, "cpu", "places.bin", ahead=ahead) as batches,
        pytest.raises(RigbenchError, match=said),
    ):
        draw(batches)


@pytest.mark.parametrize("forbidden", [False, True])
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_gathered_rows_are_the_files(tmp_path, monkeypatch, dtype, forbidden):
    if forbidden:  # as in a sandbox without the system call
        monkeypatch.setattr(making, "_process_vm_readv", lambda: None)
    path = tmp_path / "t.bin"
    ids = np.random.default_rng(0).integers(0, 60000, 9000).astype(dtype)
    ids.tofile(path)
    windows = 3000  # more than one call takes
    starts = np.random.default_rng(1).integers(0, 9000 - 33 + 1, windows)
    rows = Gatherer([mapped(path, dtype)], "t.bin", windows, 33)(starts)
    assert rows.tolist() == [ids[start : start + 33].tolist() for start in starts]


@pytest.mark.parametrize("forbidden", [False, True])
@pytest.mark.parametrize("left", [0, 4096, 5001, 2 * COUNT - 2])
def test_a_file_that_shrank_is_an_error_and_never_zeros(file, monkeypatch, left, forbidden):
    if forbidden:
        monkeypatch.setattr(making, "_process_vm_readv", lambda: None)
    batches = batches_of(file)
    batches.next()
    os.truncate(file, left)
    with pytest.raises(RigbenchError, match=f"places.bin shrank from 10,000 to {left:,} bytes while it was being read"):
        batches.next()


def test_a_file_that_shrank_before_the_first_batch_is_an_error(file):
    tokens = mapped(file)
    os.truncate(file, 100)
    with pytest.raises(RigbenchError, match="shrank from 10,000 to 100 bytes"):
        Batches(tokens, "uint16", COUNT, 4, 16, "cpu", "places.bin").next()


@pytest.mark.parametrize("mode", ["ahead", "alone"])
def test_a_file_cut_short_under_full_load_does_not_kill_the_process(tmp_path, mode):
    path = tmp_path / "t.bin"
    np.zeros(4_000_000, "<u2").tofile(path)
    process = subprocess.Popen([sys.executable, "-c", STRESS, str(path), mode], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.truncate(path, 4096)
    said, _ = process.communicate(timeout=60)
    assert said.startswith("t.bin shrank from 8,000,000 to 4,096 bytes while it was being read; let nothing rewrite it")
    assert process.returncode == 0  # -7 would be SIGBUS


def test_an_unreadable_page_is_an_error_with_the_systems_words(file, monkeypatch):
    batches = batches_of(file)
    monkeypatch.setattr(batches._gather, "_call", lambda *_: -1)
    with pytest.raises(RigbenchError, match=r"places.bin could not be read midway \(.*\); check the disk"):
        batches.next()
