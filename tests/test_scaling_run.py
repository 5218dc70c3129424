"""Does a training that was killed go on to the last bit, and does nothing that happens to one model stop the others?"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import random
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._dynamo.exc import TorchDynamoException
from torch.distributed.checkpoint.api import CheckpointException

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.model.counts import describe
from rigbench.model.recipe import Recipe
from rigbench.model.shape import shape_of
from rigbench.scaling import probe, state, training
from rigbench.scaling.kept import RECORD, read
from rigbench.scaling.record import Options, Schedule, Trained, points
from rigbench.train.record import Options as SliceOptions
from rigbench.work import process, ranks
from rigbench.work.process import Report

MODEL = describe(shape_of("gpt2", 1, 16, 1, 257, 32), "8k")
SERIES = """
name = "two"
about = "for tests"
source = "rigbench's tests"
shape = { style = "gpt2", vocabulary = 257, sequence = 32, tied_head = true, biases = true }
models = [{ name = "8k", layers = 1, width = 16, heads = 1 }]
"""


SLOW = (pytest.mark.slow, pytest.mark.timeout(1200))


class Killed(BaseException):
    pass


class Killing(Report):
    """Ends the training at the n-th word of a kind, as a kill would between two of its instructions."""

    def __init__(self, word: str = "", at: int = 1) -> None:
        super().__init__(io.BytesIO())
        self.word, self.left = word, at

    def progress(self, share: float, text: str) -> None:
        assert 0.0 <= share <= 1.0
        if self.word and self.word in text:
            self.left -= 1
            if not self.left:
                raise Killed


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Bytes of the standard library's os.py."""
    path = tmp_path_factory.mktemp("text") / "text.bin"
    np.frombuffer(Path(os.__file__).read_bytes(), np.uint8).astype("<u2").tofile(path)
    return path


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    # Collecting what all tests left, before and after each training, is half of what they take; real workers do it.
    monkeypatch.setattr(probe, "without_collection", contextlib.nullcontext)
    logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.ERROR)  # a line for each tensor
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options(folder: Path, data: Path, recipe: Recipe | None = None, **changes) -> Options:
    recipe = recipe or Recipe(precision="fp32", micro_batch=2)
    own = {name: changes.pop(name) for name in ("learning_rate", "seed") if name in changes}
    asked = Options(
        slice=SliceOptions(model=MODEL, recipe=recipe, device="cpu", data=str(data), **{"learning_rate": 5e-3, **own}),
        schedule=Schedule(learning_rate=own.get("learning_rate", 5e-3), warm_up_steps=5, steps=(10, 20)),
        folder=str(folder),
        data_sha256=training.digest_of(data),
        held_out_tokens=1024,
        evaluations=2,
        checkpoint_seconds=0.0,
    )
    return msgspec.structs.replace(asked, **changes)


def losses(trained: Trained) -> tuple:
    branches = [(it.from_step, it.tokens, it.training_loss, it.loss) for it in trained.branches]
    return trained.training_loss, [(it.step, it.loss) for it in trained.evaluations], branches


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data) -> Trained:
    torch.set_num_threads(1)
    return probe.run(options(tmp_path_factory.mktemp("whole"), data), Killing())


def test_the_record_holds_every_loss_and_a_branch_for_each_number_of_tokens(whole, data):
    assert whole.finished
    assert [(it.from_step, it.steps, it.tokens) for it in whole.branches] == [(8, 10, 10 * 64), (16, 20, 20 * 64)]
    assert [len(it.training_loss) for it in whole.branches] == [2, 4]
    assert len(whole.training_loss) == len(whole.step_seconds) == 16
    assert [it.step for it in whole.evaluations] == [8, 16]
    first, last = points(whole)
    assert (first.tokens, last.tokens, last.flops) == (640, 1280, 6.0 * MODEL.total_parameters * 1280)
    assert (last.params, last.embedding_params) == (MODEL.total_parameters, 16 * (257 + 32))
    assert last.loss < first.loss < np.log(257) + 0.1
    assert [it.folder for it in whole.checkpoints] == ["weights-10", "weights-20"]
    assert whole.training_tokens <= data.stat().st_size // 2 - whole.held_out_tokens


def test_its_steps_are_those_that_a_plain_loop_makes(whole, data):
    """The first steps written out: the same batches, warm-up and clipping."""
    from rigbench.model import optim
    from rigbench.model.batches import Batches
    from rigbench.model.gpt import Decoder

    torch.manual_seed(0)
    model = Decoder(MODEL.shape)
    optimizer = optim.build("adamw", model, learning_rate=5e-3)
    ids = np.memmap(data, "<u2", "r")
    parts, _ = probe._split([ids], 1024, 32)
    with Batches(parts, "uint16", 257, 2, 32, "cpu", "text", seed=1) as source:
        for step in range(8):
            for group in optimizer.param_groups:
                group["lr"] = 5e-3 * min(1.0, (step + 1) / 5)
            loss = model(*source.next())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            assert float(loss) == whole.training_loss[step]


def test_held_out_blocks_are_trained_on_by_no_window():
    ids = np.arange(10_000, dtype=np.uint16)
    parts, held_out = probe._split([ids], 1000, 32)
    assert len(held_out) == round(1000 / 257)
    together = np.concatenate([*parts, *held_out])
    assert len(together) == len(set(together)) == 10_000


@pytest.mark.parametrize(
    ("word", "at"),
    [
        ("step", 2),
        ("checkpoint weights-10", 1),
        pytest.param("checkpoint trunk-8", 1, marks=SLOW),
        pytest.param("decay to 10", 1, marks=SLOW),
        pytest.param("decay to 20", 2, marks=SLOW),
    ],
)
def test_what_was_killed_goes_on_with_the_same_losses_to_the_last_bit(word, at, whole, data, tmp_path):
    asked = options(tmp_path, data)
    with pytest.raises(Killed):
        probe.run(asked, Killing(word, at))
    (tmp_path / ".trunk-99").mkdir()  # as one that was not finished
    again = probe.run(asked, Killing())
    assert losses(again) == losses(whole)
    assert len(again.starts) == (2 if read(tmp_path) else 1)
    folders = {path.name for path in tmp_path.iterdir()}
    assert folders == {RECORD, "weights-10", "weights-20"}


@pytest.mark.slow
def test_a_worker_that_was_killed_with_9_goes_on_with_the_same_losses(whole, data, tmp_path):
    asked = options(tmp_path, data)
    child = process.Child("rigbench.scaling.probe", asked, {"OMP_NUM_THREADS": "1"})
    try:
        told = (line for line in child._process.stdout if b"checkpoint branch-20" in line)
        next(told)
        os.kill(child._process.pid, signal.SIGKILL)
    finally:
        process.end([child])
    assert read(tmp_path).training_loss[:8] == whole.training_loss[:8]
    assert losses(probe.run(asked, Killing())) == losses(whole)


OTHERS = {
    "muon, fp16, two micro-steps": Recipe(precision="fp16", micro_batch=1, accumulation=2, optimizer="muon"),
    "fsdp2": Recipe(precision="fp32", micro_batch=2, strategy="fsdp2"),
}
SLOWER = {
    "8-bit, fp16": Recipe(precision="fp16", micro_batch=2, optimizer="adamw8bit"),
    "unfused": Recipe(precision="fp32", micro_batch=2, optimizer="adamw-foreach"),
    "bf16, checkpointing, chunked loss": Recipe(precision="bf16", micro_batch=2, checkpoint_every=1, loss_chunks=2),
    "ddp": Recipe(precision="fp32", micro_batch=2, strategy="ddp"),
    "compiled": Recipe(precision="fp32", micro_batch=2, compiled=True),
    "compiled, bf16": Recipe(precision="bf16", micro_batch=2, compiled=True),
}


@pytest.mark.parametrize("name", [*OTHERS, *(pytest.param(name, marks=SLOW) for name in SLOWER)])
def test_every_recipe_goes_on_to_the_last_bit(name, data, tmp_path):
    recipe = (OTHERS | SLOWER)[name]
    world = None if recipe.strategy == "single" else ranks.World(0, 1, 0, ranks.HERE, 0)

    def run(folder: Path, report: Report) -> Trained:
        own = world and msgspec.structs.replace(world, master_port=ranks.free_port())
        try:
            return probe.run(options(folder, data, recipe), report, own)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    straight = run(tmp_path / "straight", Killing())
    with pytest.raises(Killed):
        run(tmp_path / "killed", Killing("decay to 20", 2))
    assert losses(run(tmp_path / "killed", Killing())) == losses(straight)


def test_a_loss_that_is_no_number_stops_the_model_and_says_where(data, tmp_path):
    its = probe.run(options(tmp_path, data, learning_rate=1e30), Killing())
    assert not its.finished
    assert its.stopped.startswith("the loss is not finite (nan) at step ")
    assert points(its) == ()
    assert any(isinstance(loss, Absent) for loss in its.training_loss)


class Full:
    def __init__(self, *failure: BaseException) -> None:
        self.failure = failure

    def __call__(self, *_given: object, **_named: object) -> None:
        raise self.failure[0]


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_checkpoints_and_no_losses(whole, data, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "save_to", Full(CheckpointException("write", {0: (NO_SPACE, None)})))
    with pytest.raises(Killed):
        probe.run(options(tmp_path, data), Killing("decay to 20"))
    its = probe.run(options(tmp_path, data), Killing())
    assert losses(its) == losses(whole)
    assert (its.checkpoints, its.starts) == ((), (0, 0))
    first, again = (text for text in its.events if text.startswith("no checkpoint"))  # a line for each process
    assert re.fullmatch(r"no checkpoint trunk-\d+(, nor \d more)?: no space left on device", first)
    assert re.fullmatch(r"no checkpoint trunk-\d+, nor \d more: no space left on device", again)
    assert {path.name for path in tmp_path.iterdir()} == {RECORD}
    monkeypatch.setattr(state, "save_to", Full(RuntimeError("[enforce fail] PytorchStreamWriter failed\nat frame")))
    monkeypatch.setattr(probe, "write_whole", Full(NO_SPACE))
    its = probe.run(options(tmp_path / "no record", data), Killing())
    assert losses(its) == losses(whole)
    assert "[enforce fail] PytorchStreamWriter failed" in next(text for text in its.events if "no checkpoint" in text)
    assert "the record could not be written (no space left on device)" in its.events


@pytest.mark.parametrize(("free", "says"), [(3, "no space left on device: 4 B are to be written"), (4, "it failed")])
def test_torchs_writer_is_told_from_a_full_disk_by_what_is_free(free, says, tmp_path, monkeypatch):
    """Of a full disk it says "unexpected pos 704 vs 598", seen on a disk of 2 MiB."""
    monkeypatch.setattr(state, "save_to", Full(RuntimeError("it failed\nat frame")))
    monkeypatch.setattr(state.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=f"^{says}$"):
        state.save({"weight/a": torch.zeros(1)}, tmp_path / "trunk-1", 1, 0)


class Stopping(Killing):
    def should_stop(self) -> bool:
        return True


def test_ctrl_c_keeps_the_step_that_it_came_after(whole, data, tmp_path):
    asked = options(tmp_path, data, checkpoint_seconds=1e9, deterministic=True)
    for starts in ((0,), (0, 1)):
        its = probe.run(asked, Stopping())
        assert (its.stopped, its.starts) == ("interrupted", starts)
    torch.use_deterministic_algorithms(False)
    again = probe.run(msgspec.structs.replace(asked, deterministic=False), Killing())
    assert (again.stopped, losses(again)) == ("", losses(whole))


REFUSED = {
    "out of memory": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        "8k at micro-batch 2 does not fit",
    ),
    "compiler": (TorchDynamoException("no"), "torch.compile cannot be used here"),
    "other": (RuntimeError("something else"), "something else"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_why_a_model_cannot_be_trained_is_one_line(name, data, tmp_path, monkeypatch):
    error, words = REFUSED[name]
    monkeypatch.setattr(probe.Slicing, "trained", Full(error))
    with pytest.raises((RigbenchError, RuntimeError), match=words):
        probe.run(options(tmp_path, data, Recipe(precision="fp32", micro_batch=2, compiled=True)), Killing())


def test_a_held_out_loss_that_is_no_number_ends_the_model(data, tmp_path, monkeypatch):
    monkeypatch.setattr(probe._Training, "_evaluate", lambda self: (Absent("not finite (inf)"), 0.1))
    its = probe.run(options(tmp_path, data, evaluations=0), Killing())
    assert its.stopped == "the held-out loss is not finite (inf) after step 10"
    assert points(its) == ()


def test_a_record_that_is_cut_short_and_a_batch_beyond_the_held_out_text_are_refused(data, tmp_path):
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(RigbenchError, match="cannot be read"):
        probe.run(options(tmp_path, data), Killing())
    with pytest.raises(RigbenchError, match="32 held-out sequences are fewer than one batch of 64"):
        probe.run(options(tmp_path / "other", data, Recipe(precision="fp32", micro_batch=64)), Killing())


def killed(folder: Path, data: Path) -> Options:
    asked = options(folder, data)
    with pytest.raises(Killed):
        probe.run(asked, Killing("decay to 20", 2))
    return asked


def test_a_checkpoint_that_is_not_what_was_written_is_not_read(data, tmp_path):
    asked = killed(tmp_path, data)
    folder = next(path for path in tmp_path.iterdir() if path.name.startswith("trunk"))
    with (folder / ".metadata").open("ab") as file:
        file.write(b"!")
    with pytest.raises(RigbenchError, match=r"is not what was written \(\.metadata differs\); restore it"):
        probe.run(asked, Killing())
    (folder / ".metadata").unlink()
    with pytest.raises(RigbenchError, match="is not what was written"):
        probe.run(asked, Killing())
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(RigbenchError, match="is gone"):
        probe.run(asked, Killing())


def test_other_data_and_ranks_are_refused_and_other_conditions_named(whole, data, tmp_path):
    asked = killed(tmp_path, data)
    before = read(tmp_path)
    with pytest.raises(RigbenchError, match="holds other tokens than when this run began"):
        probe.run(msgspec.structs.replace(asked, data_sha256="0" * 64), Killing())
    for name, value in (("ranks", 2), ("torch", "1.0")):
        changed = msgspec.structs.replace(before.conditions, **{name: value})
        record = msgspec.structs.replace(before, conditions=changed)
        (tmp_path / RECORD).write_bytes(msgspec.json.encode(record))
        if name == "ranks":
            with pytest.raises(RigbenchError, match="began on 2 ranks, and here are 1") as refusal:
                probe.run(asked, Killing())
            assert refusal.value.exit_code == 2  # so with every model: nothing is gone on with
    again = probe.run(asked, Killing())
    said = f"went on under other conditions, so that last digits may differ: torch 1.0 → {torch.__version__}"
    assert said in again.events
    assert losses(again) == losses(whole)


def test_a_step_that_comes_out_otherwise_the_second_time_is_said_beside_what_a_seed_does(whole, data, tmp_path):
    """As on CUDA without --deterministic: the step after the checkpoint was made before the kill, and is made again."""
    folder = tmp_path / "8k-adamw-0"
    (tmp_path / "8k-adamw-2").mkdir()
    (tmp_path / "8k-adamw-2" / RECORD).write_text("cut sho")
    for change in (1e-3, 0.0):
        asked = killed(folder, data)
        before = read(folder)
        [own] = [it for it in before.checkpoints if it.branch == 1]
        half = before.branches[1]
        loss = whole.branches[1].training_loss[own.step - half.from_step] + change
        made = (*half.training_loss[: own.step - half.from_step], loss)
        half = msgspec.structs.replace(half, training_loss=made, step_seconds=(0.1,) * len(made))
        record = msgspec.structs.replace(before, branches=(*before.branches[:1], half))
        (folder / RECORD).write_bytes(msgspec.json.encode(record))
        if change:
            seed = probe.run(options(tmp_path / "8k-adamw-1", data, seed=1), Killing())
            off = abs(loss - seed.branches[1].training_loss[own.step - half.from_step])
        events = probe.run(asked, Killing()).events
        said = (
            f"the loss of step {own.step + 1} is 0.001 off what it was before the stop; another seed's is {off:.2g} off"
        )
        assert events == ((f"went on: {said}",) if change else ())
        shutil.rmtree(folder)


def test_too_little_text_is_refused(tmp_path):
    np.arange(400, dtype="<u2").tofile(tmp_path / "short.bin")
    with pytest.raises(RigbenchError, match="400 tokens are too few to train on and to hold 2,048 of them out"):
        probe._split([np.arange(400)], 2048, 32)


def test_the_command_trains_keeps_and_goes_on(rigbench, data, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other on a busy machine spin
    series = tmp_path / "two.toml"
    series.write_text(SERIES)
    words = ("--series", str(series), "--data", str(data), "--tokens", "1280,2560", "--batch", "2")
    code, out, err = rigbench("scaling", "run", *words, "--device", "cpu", "--quiet")
    assert (code, err) == (0, "")
    run = next((tmp_path / "home" / "runs").glob("*.json")).stem
    [row] = [line.split() for line in out.splitlines() if line.split()[:1] == ["8k"]]
    assert row[1:4] == ["7,936", "1,280", "20"]
    code, again, err = rigbench("scaling", "run", "--resume", run, "--quiet")
    assert (code, again, err) == (0, out, "")
    assert rigbench("report", run)[0] == 0
    short = f"scaling run --series {series} --data {data} --tokens 1280 --batch 2 --device cpu"
    for wrong in ("--strategy fsdp2 --optimizer muon", "--strategy data-parallel --compile on"):
        code, out, err = rigbench(*short.split(), *wrong.split(), "--quiet")
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert [path.name for path in (tmp_path / "home" / "scaling").iterdir()] == [run]
    for wrong, said in {
        f"{short} --accumulation 3": "give a --batch that is a multiple of 3",
        "scaling run --series tiny": "--data FILE is missing",
        f"scaling run --series {series} --data {data} --tokens 64": "64 tokens are 2 steps of 32 for 8k",
        f"scaling run --series {series} --data {data} --tokens 64,5k": "--tokens 64 are 2 steps of 32 for 8k",
        "scaling run --resume 19990101 --tokens 5M --seeds 2": "--resume takes no --tokens and no --seeds: what was",
        "scaling run --resume 19990101": "no stored run is called",
        f"scaling run --resume {tmp_path / 'elsewhere.json'}": f"is not among the runs in {tmp_path / 'home' / 'runs'}",
    }.items():
        code, out, err = rigbench(*wrong.split())
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("recipe", [Recipe(precision="fp32", micro_batch=2)], ids=["eager"])
def test_ten_random_kills_cost_no_bit(count, recipe, data, tmp_path):
    """kill -9 of every rank at random moments, until ten of them met a training under way."""
    recipe = msgspec.structs.replace(recipe, strategy="ddp" if count > 1 else "single", ranks=count)
    longer = Schedule(learning_rate=5e-3, warm_up_steps=5, steps=(300, 600, 1200))  # enough for ten
    environment = {"OMP_NUM_THREADS": "1"}

    def run(folder: Path, report: Callable[[float, str], None]) -> process.Outcome[Trained]:
        asked = options(folder, data, recipe, schedule=longer)
        if count == 1:
            call = functools.partial(process.call, limit_seconds=300.0)
        else:
            call = functools.partial(ranks.call, limit_seconds=300.0, world_size=count)
        return call("rigbench.scaling.probe", asked, Trained, on_progress=report, environment=environment)

    straight = run(tmp_path / "straight", lambda share, text: None).result
    chance, kills = random.Random(0), 0
    while kills < 10:
        left = chance.randrange(1, 12)

        def kill(share: float, text: str) -> None:
            nonlocal left
            left -= text.startswith(("loss", "checkpoint"))
            if left == 0:
                for pid in list(process.RUNNING):
                    os.kill(pid, signal.SIGKILL)

        outcome = run(tmp_path / "killed", kill)
        if outcome.ended == "finished":
            break
        kills += 1
    again = run(tmp_path / "killed", lambda share, text: None).result
    assert kills == 10
    assert losses(again) == losses(straight)
    assert len(again.starts) > 5
