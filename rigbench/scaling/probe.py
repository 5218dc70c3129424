"""Trains one model of a series for real, by the slices' own loop: a trunk, and a decay for each number of tokens."""

from __future__ import annotations

import contextlib
import glob
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist

from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.failures import is_out_of_memory, not_compiled
from rigbench.core.files import reason, write_whole
from rigbench.core.record import Absent
from rigbench.model.batches import Batches, Gatherer
from rigbench.model.record import Model
from rigbench.model.tokens import check_ids
from rigbench.scaling import state
from rigbench.scaling.kept import RECORD, read
from rigbench.scaling.record import (
    Branch,
    Checkpoint,
    Conditions,
    Evaluation,
    Options,
    Schedule,
    Trained,
)
from rigbench.scaling.rules import decay_of, share_of_rate
from rigbench.store import now
from rigbench.train import parallel
from rigbench.train.probe import Slicing
from rigbench.train.steps import StepLoop, without_collection
from rigbench.work.process import Report
from rigbench.work.ranks import World

BLOCK_WINDOWS = 8  # sequences of a block that is held out: neighbours in one text, so many blocks are better than few
WRITE_SECONDS, TIMES_TO_WRITE = 5.0, 50  # the record is written so often at most, and takes a fiftieth at most
AT_ONCE_BYTES = 50 << 20  # a checkpoint up to this is also written where the user says stop, within its second
WEIGHTS = "weights-"  # folders of what a branch ended with, which stay
MOST_EVENTS = 100
TRUNK = Absent("the trunk's")


def run(options: Options, report: Report, world: World | None = None) -> Trained:
    """One model, from its beginning or its last checkpoint, in this process or as one of several ranks.

    Raises:
        RigbenchError: bad token data, no device or too little memory; to go on: other data or ranks than before, or a
            checkpoint that is not what was written.
    """
    return _Training(options, report, world).run()


class _Ended(Exception):
    """Why it ends before its last branch did; `interrupted` where the user said so."""

    def __init__(self, reason: str, interrupted: bool = False) -> None:
        super().__init__(reason)
        self.interrupted = interrupted


class Loop(StepLoop):
    """The slices' loop at the rates of a schedule; the loss of several ranks is the mean of theirs."""

    schedule: Schedule
    step = end = 0  # steps made since the model's first, and at which the branch ends; 0: the trunk

    def _step(self) -> tuple[list[Any], torch.Tensor]:
        its, steps, decay = self.schedule, self.end or self.step + 2, decay_of(self.end) if self.end else 1
        rate = its.learning_rate * share_of_rate(self.step, steps, its.warm_up_steps, decay)
        for group in self.trained.optimizer.param_groups:
            group["lr"] = rate
        self.step += 1
        return super()._step()

    def _keep(self, marks: list[Any], losses: list[torch.Tensor], clock: float) -> Any:
        if dist.is_initialized():
            every = torch.stack(losses)
            dist.all_reduce(every)
            losses = list(every / dist.get_world_size())
        return super()._keep(marks, losses, clock)

    def taken(self, first: int) -> tuple[list[float | Absent], list[float]]:
        """Losses and seconds of the steps that this process made from that one on."""
        return self._loss[first:], self._seconds[first:]

    @property
    def made_here(self) -> int:
        return len(self._loss)


class Line(NamedTuple):
    """The trunk or a branch, as it grows: of each step its loss and its seconds."""

    losses: list[float | Absent]
    seconds: list[float]


class _Training:
    def __init__(self, options: Options, report: Report, world: World | None) -> None:
        self.options, self.report, self.world = options, report, world
        self.started_at, self.started = now(), time.perf_counter()
        self.schedule = options.schedule
        self.leads = world is None or world.rank == 0
        self.size = world.size if world else 1
        assert isinstance(options.slice.model, Model)
        self.model = options.slice.model
        self.sequence, self.vocabulary = self.model.shape.sequence, self.model.shape.vocabulary
        if options.deterministic:
            torch.use_deterministic_algorithms(True)
        self.its = Slicing(options.slice, report, world)
        # Of torchrun's ranks the first one alone knows the run that is gone on with, or begun.
        own = (options.folder, read(Path(options.folder)) if self.leads else None)
        folder, self.before = parallel.gathered(own, tuple[str, Trained | None])[0] if world else own
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        tokens, self.data = self.its.tokens
        self.parts, self.held_out = _split(tokens, options.held_out_tokens, self.sequence)
        self.rows = self.its.recipe.micro_batch
        self.gather = Gatherer(self.held_out, self.data.name, self.rows, self.sequence + 1)
        self.windows = self._windows()
        self.conditions = Conditions(
            torch=str(torch.__version__),
            device=self.its.accelerator.device.name,
            threads=torch.get_num_threads(),
            ranks=self.size,
            data_sha256=options.data_sha256,
        )
        self.trunk, self.evaluations, self.branches = Line([], []), list[Evaluation](), list[Branch]()
        self.half: Line | None = None  # the branch under way, which is the last one
        self.source: Batches | None = None
        self.redone: list[float | Absent] = []  # losses after the last checkpoint, of the process that was killed
        self.checkpoints: list[Checkpoint] = []
        self.checkpoint_seconds, self.seconds_before, self.starts, self.events = 0.0, 0.0, list[int](), list[str]()
        self.unsaved: dict[str, tuple[str, int]] = {}  # by the reason, the first checkpoint that failed and how many
        self.stopped = ""
        self.wrote_at = self.saved_at = time.perf_counter()
        self.write_seconds = 0.0

    def run(self) -> Trained:
        self.report.check()
        self.report.progress(0.0, "building the model")
        try:
            return self._run()
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                what = f"{self.options.slice.model.name} at micro-batch {self.its.recipe.micro_batch} does not fit"
                cure = "try a smaller --micro-batch, or --checkpointing on"
                raise RigbenchError(f"{what} (out of memory)", cure, NOTHING) from None
            if self.its.recipe.compiled and (refusal := not_compiled(error)):
                raise RigbenchError(
                    f"torch.compile cannot be used here ({refusal})", "use --compile off", NOTHING
                ) from None
            raise

    def _run(self) -> Trained:
        its, tokens = self.its, self.rows * self.its.recipe.accumulation * self.sequence * self.size
        trained = its.trained(its.recipe)
        self.loop = Loop(its.accelerator, trained, None, self.options.slice, tokens)  # type: ignore[arg-type]
        self.loop.schedule = self.schedule
        try:
            with without_collection():
                self._go_on()
                self.starts.append(len(self.trunk.losses))
                while len(self.branches) < len(self.schedule.steps) or self.half:
                    self._to_the_end_of_a_branch()
        except _Ended as ended:
            self.stopped = str(ended)
            if ended.interrupted and sum(it.nbytes for it in state.held(trained).values()) < AT_ONCE_BYTES:
                self._save()
        finally:
            if self.source:
                self.source.close()
        if not self.stopped:
            self._remove([it for it in self.checkpoints if not it.folder.startswith(WEIGHTS)])
        return self._write()

    # Going on after a kill

    def _go_on(self) -> None:
        """Put the last checkpoint's state in place: that of the trunk, then of the branch that it was in."""
        before = self.before
        self._open(0)
        if before is None:
            return
        self._refuse_or_name_changes(before)
        self.started_at, self.seconds_before = before.started_at, before.seconds
        self.events += before.events
        self.starts, self.checkpoint_seconds = list(before.starts), before.checkpoint_seconds
        for path in self.folder.iterdir() if self.leads else ():
            if path.is_dir() and path.name not in {it.folder for it in before.checkpoints}:
                state.remove(path)  # unfinished, or of which the record does not know
        trunk = next((it for it in reversed(before.checkpoints) if isinstance(it.branch, Absent)), None)
        if trunk is None:
            self.redone = list(before.training_loss)
            return
        state.load(self.loop.trained, trunk, self.folder)
        self._open(trunk.step)
        self.trunk = Line(list(before.training_loss[: trunk.step]), list(before.step_seconds[: trunk.step]))
        self.evaluations = [it for it in before.evaluations if it.step <= trunk.step]
        self.branches = [it for it in before.branches if isinstance(it.loss, float) and it.from_step <= trunk.step]
        place = len(self.branches)
        own = next((it for it in reversed(before.checkpoints) if it.branch == place), None)
        weights = [it for it in before.checkpoints if it.folder.startswith(WEIGHTS)]
        self.checkpoints = [*weights, trunk]
        if own is not None:
            self.kept = state.copied(state.held(self.loop.trained))
            state.load(self.loop.trained, own, self.folder)
            self._open(own.step)
            self.checkpoints.append(own)
            half = before.branches[place]
            made = own.step - half.from_step
            self.redone = list(half.training_loss[made:])
            self.half = Line(list(half.training_loss[:made]), list(half.step_seconds[:made]))
            self.branches.append(msgspec.structs.replace(half, training_loss=(), step_seconds=()))
        elif under_way := [it for it in before.branches[place:] if it.from_step == trunk.step]:
            self.redone = list(under_way[0].training_loss)
        else:
            self.redone = list(before.training_loss[trunk.step :])

    def _refuse_or_name_changes(self, before: Trained) -> None:
        """What must be as it was is refused where it is not; what may change the last bits is named."""
        was, now_ = before.conditions, self.conditions
        if was.data_sha256 != now_.data_sha256:
            what = f"{self.data.name} holds other tokens than when this run began"
            raise RigbenchError(what, "give the file that it began with, or begin a new run")
        if was.ranks != now_.ranks:
            raise RigbenchError(f"this run began on {was.ranks} ranks, and here are {now_.ranks}", "start as many")
        changed = [
            f"{name} {getattr(was, name)} → {getattr(now_, name)}"
            for name in ("torch", "device", "threads")
            if getattr(was, name) != getattr(now_, name)
        ]
        if changed:
            self.events.append(f"went on under other conditions, so that last digits may differ: {', '.join(changed)}")

    # Training

    def _open(self, step: int) -> None:
        """The batches from a step on: those of a trunk that never stopped."""
        if self.source:
            self.source.close()
        rank = self.world.rank if self.world else 0
        self.source = self.loop.source = Batches(
            self.parts,
            self.data.dtype,
            self.vocabulary,
            self.rows,
            self.sequence,
            self.its.device,
            self.data.name,
            seed=self.options.slice.seed * 65_536 + 1 + rank,
            skip=step * self.its.recipe.accumulation,
        )
        self.loop.step = step

    def _to_the_end_of_a_branch(self) -> None:
        """On along the trunk to where the next branch leaves, then the branch, and back."""
        if self.half is None:
            end = self.schedule.steps[len(self.branches)]
            fork = end - decay_of(end)
            self._train(self.trunk, fork)
            self.kept = state.copied(state.held(self.loop.trained))
            self._save()
            self.half = Line([], [])
            self.branches.append(Branch(from_step=fork, tokens=end * self.loop.items_per_step, steps=end))
        branch, line = self.branches[-1], self.half
        self._train(line, branch.steps, branch.steps)
        loss, seconds = self._evaluate()
        done = {"training_loss": tuple(line.losses), "step_seconds": tuple(line.seconds)}
        self.branches[-1] = msgspec.structs.replace(branch, **done, loss=loss, evaluation_seconds=seconds)
        self.half = None
        if isinstance(loss, Absent):
            raise _Ended(f"the held-out loss is {loss.reason} after step {branch.steps}")
        self._saved(f"{WEIGHTS}{branch.steps}", state.weights(self.loop.trained), len(self.branches) - 1)
        state.restore(self.loop.trained, self.kept)
        self._open(branch.from_step)
        self._write()

    def _train(self, line: Line, to: int, end: int = 0) -> None:
        """Up to a step, in the branch that ends at `end` or in the trunk."""
        loop, chunk = self.loop, 1
        loop.end = end
        while loop.step < to:
            stops = [it for it in self._evaluated_at if it > loop.step and not end]
            first = loop.made_here
            loop.make(min([chunk, to - loop.step, *(it - loop.step for it in stops)]))
            losses, seconds = loop.taken(first)
            line.losses.extend(losses)
            line.seconds.extend(seconds)
            if self.redone and losses:
                self._say_how_far_apart(self.redone[0], losses[0], loop.step - len(losses) + 1)
                self.redone = []
            for place, loss in enumerate(losses):
                if isinstance(loss, Absent):
                    raise _Ended(f"the loss is {loss.reason} at step {loop.step - len(losses) + place + 1}")
            if loop.step in self._evaluated_at and not end:
                loss, took = self._evaluate()
                tokens = loop.step * loop.items_per_step
                self.evaluations.append(Evaluation(step=loop.step, tokens=tokens, loss=loss, seconds=took))
            now_ = time.perf_counter()
            due = now_ - self.saved_at > self.options.checkpoint_seconds
            chunk, stop, due = self._agreed(loop.next_chunk(), self.report.should_stop(), due)
            self.report.progress(self.share, self._words(line))
            if stop:
                raise _Ended("interrupted", interrupted=True)
            if due:
                self._save()
            elif now_ - self.wrote_at > max(WRITE_SECONDS, TIMES_TO_WRITE * self.write_seconds):
                self._write()

    def _say_how_far_apart(self, before: float | Absent, again: float | Absent, step: int) -> None:
        """The first step that was made twice: its loss then and now, and what two seeds differ by there."""
        if not (self.leads and isinstance(before, float) and isinstance(again, float)):
            return
        to_the_bit = self.options.deterministic or self.its.accelerator.device.kind == "cpu"
        if before == again and to_the_bit:
            return  # as it should be
        apart = []
        for path in self.folder.parent.glob(f"{glob.escape(self.folder.name.rpartition('-')[0])}-*"):
            other = None
            with contextlib.suppress(RigbenchError):  # what cannot be read of another seed stops no training
                other = read(path) if path != self.folder else None
            lines = [(0, other.training_loss)] if other and not self.loop.end else []
            if other and self.loop.end:
                lines = [(it.from_step, it.training_loss) for it in other.branches if it.steps == self.loop.end]
            losses = [loss for first, its in lines for loss in its[step - 1 - first : step - first]]
            apart += [abs(before - loss) for loss in losses if isinstance(loss, float)]
        seeds = f"another seed's is {min(apart):.2g} off" if apart else "how far another seed's is off, --seeds 2 tells"
        how = "" if to_the_bit else " without --deterministic"
        said = f"went on{how}: the loss of step {step} is {abs(before - again):.2g} off what it was before the stop"
        self.events.append(f"{said}; {seeds}")

    @property
    def _evaluated_at(self) -> set[int]:
        """Steps of the trunk, evenly spread, after which it is evaluated."""
        end, count = self.schedule.steps[-1] - decay_of(self.schedule.steps[-1]), self.options.evaluations
        return {round(end * number / count) for number in range(1, count + 1)} if count else set()

    def _agreed(self, chunk: int, stop: bool, due: bool) -> tuple[int, bool, bool]:
        """The same on every rank: as rank 0 has it, and a stop that any of them was told."""
        if not self.world:
            return chunk, stop, due
        own = [chunk if self.leads else 0, int(stop), int(due and self.leads)]
        word = torch.tensor(own, device=self.its.device)
        dist.all_reduce(word, dist.ReduceOp.MAX)
        chunk, *flags = word.tolist()
        return chunk, bool(flags[0]), bool(flags[1])

    @property
    def share(self) -> float:
        """Of all steps of trunk and branches."""
        ends = self.schedule.steps
        made = len(self.trunk.losses) + sum(it.steps - it.from_step for it in self.branches)
        if self.half:
            made += len(self.half.losses) - decay_of(self.branches[-1].steps)
        return made / (ends[-1] - decay_of(ends[-1]) + sum(map(decay_of, ends)))

    def _words(self, line: Line) -> str:
        loss, seconds, loop = line.losses[-1], line.seconds[-20:], self.loop
        rate = loop.items_per_step * len(seconds) / math.fsum(seconds)
        where = f"decay to {loop.end}" if loop.end else f"of {self.schedule.steps[-1]}"
        return f"loss {loss:.2f}, {rate:,.0f} tokens/s, step {loop.step} {where}"

    def _evaluate(self) -> tuple[float | Absent, float]:
        """The mean loss of all held-out sequences, in nats a token, and what it took."""
        began, losses = time.perf_counter(), []
        with torch.no_grad():
            for starts in self.windows:
                block = self.gather(starts)
                check_ids(block.reshape(-1), self.vocabulary, f"{self.data.name} (held out)", self.data.dtype)
                ids = torch.from_numpy(block.astype("int64")).to(self.its.device)
                losses.append(self.loop.trained.loss(ids[:, :-1], ids[:, 1:]).detach().double())
        total = torch.stack(losses).sum().reshape(1)
        if self.world:
            dist.all_reduce(total)
        loss = float(total) / (len(losses) * self.size)
        took = time.perf_counter() - began
        return (loss if math.isfinite(loss) else Absent(f"not finite ({loss})")), took

    def _windows(self) -> list[Any]:
        """Starts of this rank's held-out sequences, in batches; as many for each rank."""
        import numpy as np

        starts: list[int] = []
        first = 0
        for part in self.held_out:
            starts += range(first, first + int(part.size) - self.sequence, self.sequence)
            first += int(part.size) - self.sequence
        batches = len(starts) // self.rows // self.size * self.size
        if not batches:
            what = f"{len(starts)} held-out sequences are fewer than one batch of {self.rows * self.size}"
            raise RigbenchError(what, "give a smaller --micro-batch, or more text")
        every = np.array(starts[: batches * self.rows], np.int64).reshape(batches, self.rows)
        return list(every[self.world.rank if self.world else 0 :: self.size])

    # Keeping

    def _save(self) -> None:
        """A checkpoint of where it is; where the disk will not have it, that is said, and the last one stays."""
        step, place = self.loop.step, len(self.branches) - 1 if self.half else None
        name = f"trunk-{step}" if place is None else f"branch-{self.loop.end}-{step}"
        trunk = [it for it in self.checkpoints if isinstance(it.branch, Absent)]
        leaves = place is None or any(it.step == self.branches[-1].from_step for it in trunk)  # or none could come back
        if step == 0 or not leaves or any(it.folder == name for it in self.checkpoints):
            return
        self._saved(name, state.held(self.loop.trained), TRUNK if place is None else place)
        keep = (WEIGHTS, name) if place is None else (WEIGHTS, name, "trunk-")
        self._remove([it for it in self.checkpoints if not it.folder.startswith(keep)] if self._has(name) else [])

    def _unsaved(self) -> Iterator[str]:
        for why, (first, count) in self.unsaved.items():
            yield f"no checkpoint {first}{f', nor {count - 1} more' if count > 1 else ''}: {why}"

    def _has(self, name: str) -> bool:
        return any(it.folder == name for it in self.checkpoints)

    def _saved(self, name: str, held: state.State, branch: int | Absent) -> None:
        self.report.progress(self.share, f"checkpoint {name}")
        try:
            made = state.save(held, self.folder / name, self.loop.step, branch)
        except OSError as error:
            first, count = self.unsaved.get(why := str(error.strerror or error), (name, 0))
            self.unsaved[why] = first, count + 1
        else:
            self.checkpoint_seconds += made.seconds
            self.checkpoints.append(made)
        self.saved_at = time.perf_counter()

    def _remove(self, old: list[Checkpoint]) -> None:
        """First from the record, then from the disk."""
        self.checkpoints = [it for it in self.checkpoints if it not in old]
        self._write()
        for it in old if self.leads else ():
            state.remove(self.folder / it.folder)

    def _write(self) -> Trained:
        """The record as it is now, to its file and to the parent."""
        began, branches = time.perf_counter(), self.branches
        if self.half:
            line = self.half
            its = {"training_loss": tuple(line.losses), "step_seconds": tuple(line.seconds)}
            branches = [*branches[:-1], msgspec.structs.replace(branches[-1], **its)]
        record = Trained(
            started_at=self.started_at,
            seconds=self.seconds_before + began - self.started,
            device=self.its.accelerator.device,
            model=self.model,
            recipe=self.its.recipe,
            data=self.data,
            conditions=self.conditions,
            training_tokens=sum(int(part.size) for part in self.parts),
            held_out_tokens=sum(len(starts) for starts in self.windows) * self.sequence * self.size,
            seed=self.options.slice.seed,
            schedule=self.schedule,
            clip_norm=self.options.slice.clip_norm,
            tokens_per_step=self.loop.items_per_step,
            training_loss=tuple(self.trunk.losses),
            step_seconds=tuple(self.trunk.seconds),
            evaluations=tuple(self.evaluations),
            branches=tuple(branches),
            checkpoints=tuple(self.checkpoints),
            checkpoint_seconds=self.checkpoint_seconds,
            starts=tuple(self.starts),
            events=tuple(dict.fromkeys((*self.its.events, *self.events, *self._unsaved())))[:MOST_EVENTS],
            stopped=self.stopped,
            sizes=self.options.sizes,
        )
        if self.leads:
            try:
                write_whole(self.folder / RECORD, msgspec.json.encode(record))
            except OSError as error:
                self.events.append(f"the record could not be written ({reason(error)})")
        self.report.partial(record)
        self.wrote_at = time.perf_counter()
        self.write_seconds = self.wrote_at - began
        return record


def _split(parts: list[Any], held_out: int, sequence: int) -> tuple[list[Any], list[Any]]:
    """The ids to train on, and those held out: blocks of neighbouring sequences, evenly spread over each file.

    Raises:
        RigbenchError: there are too few ids.
    """
    block = BLOCK_WINDOWS * sequence + 1
    total = sum(int(part.size) for part in parts)
    training, out = [], []
    for part in parts:
        count = max(1, round(held_out * part.size / total / block))
        stride = int(part.size) // count
        if stride < 2 * block:
            what = f"{total:,} tokens are too few to train on and to hold {held_out:,} of them out"
            raise RigbenchError(what, "give more text")
        for place in range(count):
            begin = place * stride + (stride - block) // 2
            end = (place + 1) * stride + (stride - block) // 2 if place + 1 < count else int(part.size)
            out.append(part[begin : begin + block])
            training += [part[:begin]] if place == 0 else []
            training.append(part[begin + block : end])
    return [part for part in training if part.size > sequence], out
