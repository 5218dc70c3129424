"""Does a series train on CUDA devices, by the one way that gives the same bits, and go on there after a stop?"""

from pathlib import Path

import msgspec
import numpy as np

from rigbench.core.record import Skipped
from rigbench.scaling.record import Trained
from rigbench.store import Store

SERIES = """
name = "small"
about = "for tests"
source = "rigbench's tests"
shape = { style = "gpt2", vocabulary = 257, sequence = 32, tied_head = true, biases = true }
models = [{ name = "8k", layers = 1, width = 16, heads = 1 }, { name = "12k", layers = 1, width = 20, heads = 1 }]
"""


def test_a_series_trains_deterministically_on_both_cards_and_goes_on_with_the_same_losses(rig):
    series, data = rig.folder / "small.toml", rig.folder / "text.bin"
    series.write_text(SERIES)
    np.frombuffer(Path(__file__).read_bytes() * 20, np.uint8).astype("<u2").tofile(data)
    words = f"scaling run --series {series} --data {data} --tokens 2560,5120 --batch 4 --deterministic".split()
    run = rig.run(*words).ended(0).run
    assert all(isinstance(it, Trained) and it.finished for it in run.scaling)
    first, last = run.scaling
    assert (first.recipe.strategy, first.recipe.ranks, first.recipe.precision) == ("ddp", 2, "bf16")
    assert (first.conditions.device, first.conditions.ranks) == (first.device.name, 2)
    assert all(isinstance(loss, float) for it in run.scaling for loss in it.training_loss)

    folder = rig.home / "scaling" / run.id / "12k-adamw-0"
    record = folder / "record.json"
    for path in folder.iterdir():  # as if it had been stopped before its first checkpoint
        if path != record:
            path.rename(rig.folder / path.name)
    other = msgspec.structs.replace(last.conditions, torch="1.0", threads=99)
    record.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(last, branches=(), checkpoints=(), conditions=other))
    )
    store = Store(rig.home)
    store.save(msgspec.structs.replace(store.load(run.id), scaling=(first, Skipped("12k", "under way"))))
    again = rig.run("scaling", "run", "--resume", run.id).ended(0).run
    assert (again.id, again.scaling[0]) == (run.id, first)
    assert again.scaling[1].training_loss == last.training_loss
    assert [it.loss for it in again.scaling[1].branches] == [it.loss for it in last.branches]
    [changed] = [text for text in again.scaling[1].events if "other conditions" in text]
    assert "torch 1.0 → " in changed
    assert "threads 99 → " in changed
