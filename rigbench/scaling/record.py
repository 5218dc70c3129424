"""Models of a series trained for real, and the points of loss that a scaling law is fitted to."""

from __future__ import annotations

from rigbench.core.estimate import Estimate
from rigbench.core.record import Absent, Device, Record
from rigbench.core.stats import rate_estimate, steady_start
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model
from rigbench.train.record import Data

METHOD = 1
NOT_REACHED = Absent("not reached")


class Point(Record, frozen=True, kw_only=True):
    """One loss of one model: what a law of N, D and C is fitted to."""

    model: str
    params: int  # N, all of them; tied weights once
    embedding_params: int  # of those, the tables of tokens and positions
    tokens: int  # D, seen in training; those seen twice count twice
    flops: float  # C = 6·N·D, as the field counts (Kaplan 2020, §2.1), N being `params`
    loss: float  # on the held-out tokens, nats a token
    seed: int
    optimizer: str
    note: str = ""


class Schedule(Record, frozen=True, kw_only=True):
    """Warm-up, stable, decay: the trunk warms up and stays, and a branch decays to each number of tokens (rules.py)."""

    learning_rate: float  # of the stable part
    warm_up_steps: int
    steps: tuple[int, ...]  # at which each branch ends, rising


class Evaluation(Record, frozen=True, kw_only=True):
    """The loss on the held-out tokens after a step of the trunk."""

    step: int
    tokens: int
    loss: float | Absent  # nats a token; Absent where it was not finite
    seconds: float


class Branch(Record, frozen=True, kw_only=True):
    """A decay from the stable trunk down to nothing: what a run of that many tokens ends with."""

    from_step: int  # of the trunk
    tokens: int  # seen at its end, the trunk's included
    steps: int  # at its end, the trunk's included
    training_loss: tuple[float | Absent, ...] = ()  # of each of its own steps
    step_seconds: tuple[float, ...] = ()
    loss: float | Absent = NOT_REACHED  # on the held-out tokens at its end, nats a token
    evaluation_seconds: float = 0.0


class Checkpoint(Record, frozen=True, kw_only=True):
    """A folder of torch.distributed.checkpoint, beside the record."""

    folder: str  # its name alone
    step: int
    branch: int | Absent  # the place of the branch that it is of; of the trunk none
    sha256: dict[str, str]  # by file
    bytes: int
    seconds: float  # to write, sync and hash it


class Conditions(Record, frozen=True, kw_only=True):
    """What must be the same for a resumed training to give the same losses to the last bit."""

    torch: str
    device: str
    threads: int
    ranks: int
    data_sha256: str  # of the ids, of all files in order


class Trained(Record, frozen=True, kw_only=True):
    """One model's real training: the trunk, and a branch for each number of tokens."""

    method: int = METHOD
    started_at: str
    seconds: float  # of all processes that trained it
    device: Device
    model: Model
    recipe: Recipe
    data: Data
    conditions: Conditions
    training_tokens: int  # in the file, without those held out
    held_out_tokens: int  # evaluated each time, from blocks that are spread over the file
    seed: int
    schedule: Schedule
    clip_norm: float
    tokens_per_step: int
    training_loss: tuple[float | Absent, ...] = ()  # of each step of the trunk, nats a token; Absent: not finite
    step_seconds: tuple[float, ...] = ()  # of the trunk's steps, without evaluations and checkpoints
    evaluations: tuple[Evaluation, ...] = ()
    branches: tuple[Branch, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()  # those that are on the disk
    checkpoint_seconds: float = 0.0  # of all that were written
    starts: tuple[int, ...] = (0,)  # the trunk's step at which each process went on
    events: tuple[str, ...] = ()
    stopped: str = ""  # why it ended before its last branch did

    @property
    def epochs(self) -> float:
        """How often its largest number of tokens goes through the file's own."""
        return self.schedule.steps[-1] * self.tokens_per_step / self.training_tokens

    @property
    def finished(self) -> bool:
        return len(self.branches) == len(self.schedule.steps) and isinstance(self.branches[-1].loss, float)

    @property
    def tokens_per_s(self) -> Estimate | Absent:
        """Of the trunk's steady steps."""
        seconds = self.step_seconds
        if len(seconds) < 3:
            return Absent("fewer than three steps")
        return rate_estimate(self.tokens_per_step, seconds[1 + steady_start(seconds[1:]) :])


def points(trained: Trained) -> tuple[Point, ...]:
    """A point for each branch that came to its end."""
    its = trained.model
    return tuple(
        Point(
            model=its.name,
            params=its.total_parameters,
            embedding_params=its.total_parameters - its.non_embedding_parameters,
            tokens=branch.tokens,
            flops=6.0 * its.total_parameters * branch.tokens,
            loss=branch.loss,
            seed=trained.seed,
            optimizer=trained.recipe.optimizer,
        )
        for branch in trained.branches
        if isinstance(branch.loss, float)
    )
