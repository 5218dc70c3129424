"""Models of a series trained for real, and the points of loss that a scaling law is fitted to."""

from __future__ import annotations

from typing import Annotated, Literal

from rigbench.budget.record import Options as BudgetOptions
from rigbench.core import units
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN, TEXT, Option, Reader, number, one_of, seconds, whole
from rigbench.core.record import Absent, Device, Figure, Record, Some
from rigbench.core.stats import rate_estimate, steady_start
from rigbench.model.recipe import OPTIMIZERS, Optimizer, Recipe
from rigbench.model.record import AskedDtype, Model
from rigbench.train import record as train
from rigbench.train.record import LARGEST_MICRO_BATCH, Data

METHOD = 1
EVALUATIONS = 5  # of the trunk, evenly spread
NOT_REACHED = Absent("not reached")
NOT_BEGUN = "not begun"  # why a model of a series that was stopped is left out
COUNT = Reader(units.parse_count)


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


def _read_tokens(text: str, option: str) -> tuple[int, ...]:
    counts = sorted({int(units.parse_count(word.strip(), option)) for word in text.split(",")})
    if counts[0] < 1:
        raise RigbenchError(f"{option} {text[:40]!r} is less than one token", "give a number such as 1M")
    return tuple(counts)


class RunOptions(Record, frozen=True, kw_only=True):
    """Of scaling run, beside the recipe's."""

    series: Annotated[
        str,
        Option(
            Reader(lambda text, option: text, words=lambda: ("diy", "llama", "tiny")),
            "The models: diy, llama, tiny (bytes, minutes on a CPU), or FILE.toml of your own.",
            "NAME|FILE",
        ),
    ] = "diy"
    data: Annotated[str, Option(TEXT, "Token ids: .bin, .npy, a folder (`rigbench pack` makes them).", "FILE")] = ""
    data_dtype: Annotated[
        AskedDtype, Option(None, "The type of an id in --data. auto: by its header or packing, else uint16.")
    ] = "auto"
    tokens: Annotated[
        tuple[int, ...] | Absent,
        Option(
            Reader(_read_tokens),
            "What each model is trained on: one number or several, each a decay from one trunk. Default: 20 a "
            "parameter of the middle model, its half and its quarter.",
            "D,…",
        ),
    ] = NOT_GIVEN
    against: Annotated[
        Optimizer | Absent,
        Option(one_of(*OPTIMIZERS), "Train the series once more by this optimizer, from the same seeds.", "NAME"),
    ] = NOT_GIVEN
    seeds: Annotated[int, Option(whole(1, 100), "Train the series from so many seeds.", "N")] = 1
    learning_rate: Annotated[
        float | Absent,
        Option(number(1e-7, 1.0), "Of all models, in place of the rule's.", "RATE"),
    ] = NOT_GIVEN
    batch: Annotated[
        int | Absent, Option(whole(1, 1 << 20), "Sequences a step, in place of the rule's.", "N", panel="Advanced")
    ] = NOT_GIVEN
    micro_batch: Annotated[
        int | Absent,
        Option(whole(1, LARGEST_MICRO_BATCH), "Of those, as many at once. Default: up to 8,192 tokens.", "N"),
    ] = NOT_GIVEN
    save_every: Annotated[
        float, Option(seconds(1.0), "How often a checkpoint is written.", "TIME", panel="Advanced")
    ] = 600.0
    deterministic: Annotated[
        bool, Option(None, "Only kernels that give the same bits each time, which may be slower. A CPU's do anyway.")
    ] = False
    resume: Annotated[
        str | Absent, Option(TEXT, "Go on with this run, which was stopped or killed: its id.", "RUN")
    ] = NOT_GIVEN


class Tried(Record, frozen=True, kw_only=True):
    """A model that was trained for a moment, as the series will train it."""

    model: str
    flop_per_token: float
    tokens_per_s: Estimate
    step_seconds: tuple[float, ...]  # of all its steps


class Sized(Record, frozen=True, kw_only=True):
    """The sizes of a series as chosen at the start, by a rate measured on this machine, so that it ends in time."""

    within_seconds: float  # as the series says, for each optimizer and seed
    tried: tuple[Tried, ...]  # the smallest and the largest as written
    start_seconds: float  # of a process, until its first step
    as_written_seconds: float  # expected of the sizes as the series has them
    share: float  # of what each width is above the smallest's; 1: as written
    expected_seconds: float


class Schedule(Record, frozen=True, kw_only=True):
    """Warm-up, stable, decay: the trunk warms up and stays, and a branch decays to each number of tokens (rules.py)."""

    learning_rate: float  # of the stable part
    warm_up_steps: int
    steps: Some[int]  # at which each branch ends, rising


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


AS_WRITTEN = Absent("as the series has them")


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
    sizes: Sized | Absent = AS_WRITTEN

    @property
    def epochs(self) -> float:
        """How often its largest number of tokens goes through the file's own."""
        return self.schedule.steps[-1] * self.tokens_per_step / self.training_tokens

    @property
    def finished(self) -> bool:
        return len(self.branches) == len(self.schedule.steps) and isinstance(self.branches[-1].loss, float)

    @property
    def answers(self) -> bool:
        """Whether a loss came of it."""
        return bool(points(self))

    @property
    def tokens_per_s(self) -> Estimate | Absent:
        """Of the trunk's steady steps."""
        seconds = self.step_seconds
        if len(seconds) < 3 or min(seconds) <= 0:
            return Absent("fewer than three steps that took time")
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


FIT_METHOD = 1
Of = Literal["N", "D", "C"]


class FitOptions(Record, frozen=True, kw_only=True):
    """How a user's own losses are read, and what is asked of the law."""

    columns: Annotated[
        str, Option(TEXT, "Which column is what, as params=N,loss=val; unusual names only.", "ROLE=NAME,…")
    ] = ""
    tokens: Annotated[
        float | Absent, Option(COUNT, "Tokens that each model saw, where the file does not say.", "D")
    ] = NOT_GIVEN
    tokens_per_step: Annotated[
        float | Absent, Option(COUNT, "Tokens of a step, for logs that count steps alone.", "N")
    ] = NOT_GIVEN
    flops: Annotated[
        float | Absent,
        Option(Reader(units.parse_flops), "Of which the best model is wanted. Default: the most that was spent.", "C"),
    ] = NOT_GIVEN


class Floor(Record, frozen=True, kw_only=True):
    """L = E + K·x^-exponent."""

    irreducible: Estimate  # E, nats a token
    exponent: Estimate
    constant: float  # K
    r_squared: float  # of the losses' logarithms
    next_loss: Estimate  # as of Line


class Line(Record, frozen=True, kw_only=True):
    """L = K·x^-exponent, by least squares on logarithms."""

    of: Of
    among: str  # which of the points these are, as "each on 1.02M tokens"
    places: Some[int]  # of its points among the fit's
    exponent: Estimate  # of two sizes without an interval (level 0)
    constant: float  # K
    r_squared: float  # of the losses' logarithms
    deviation: float  # of the losses from the law, as a share
    next_x: float  # one step further, as the points are apart
    next_loss: Estimate | Absent  # with a prediction interval: where the loss of one run would lie
    floor: Floor | Absent


class Optimum(Record, frozen=True, kw_only=True):
    """The compute-optimal model for 6·N·D = flops."""

    flops: float
    parameters: Estimate
    tokens: Estimate
    loss: Estimate  # where the loss of one run would lie
    beyond: str = ""  # how far it lies from what was fitted


class Joint(Record, frozen=True, kw_only=True):
    """L = E + A/N^alpha + B/D^beta (Hoffmann 2022, eq. 2)."""

    places: tuple[int, ...]
    irreducible: Estimate  # E
    a: Estimate
    b: Estimate
    alpha: Estimate
    beta: Estimate
    size_exponent: Estimate  # of N in the optimum, N ∝ C^this
    r_squared: float
    deviation: float
    next_parameters: float  # one size further, on the most tokens
    next_tokens: float
    next_loss: Estimate  # as of Line
    optimum: Optimum


class IsoFlop(Record, frozen=True, kw_only=True):
    """Losses of several sizes on the same FLOP, and where their parabola over log N is lowest."""

    flops: float
    places: tuple[int, ...]
    parameters: float | Absent  # at its lowest
    loss: float | Absent


class Published(Record, frozen=True, kw_only=True):
    """What a published law expects of the very sizes and tokens of a fit, beside what they did."""

    law: str
    data: str  # its data and tokenizer
    of: str  # "L(N)", "L(D)", "L(C)", "alpha", "beta"
    exponent: float
    ours: Estimate

    @property
    def inside(self) -> bool:
        return self.ours.low <= self.exponent <= self.ours.high


class Paired(Record, frozen=True, kw_only=True):
    """The same runs with two optimizers: loss of `second` less that of `first`, each pair of one model and seed."""

    first: str
    second: str
    pairs: tuple[tuple[str, float, float], ...]  # the model, and the losses
    nats: Estimate | Absent  # the mean difference
    share: Estimate | Absent  # of the first's loss


class Fit(Record, frozen=True, kw_only=True):
    """Laws of the losses of one optimizer; `others` have those of further ones."""

    method: int = FIT_METHOD
    source: str  # a run's id or a file's name
    points: tuple[Point, ...]
    optimizer: str
    lines: tuple[Line, ...]
    joint: Joint | Absent
    isoflops: tuple[IsoFlop, ...] = ()
    published: tuple[Published, ...] = ()
    odd: tuple[str, ...] = ()  # runs and losses that do not fit; none is left out for it
    missing: tuple[str, ...] = ()  # which law cannot be told, and what it needs
    notes: tuple[str, ...] = ()  # how the points were read
    difference: Paired | Absent = Absent("one optimizer")
    others: tuple[Fit, ...] = ()


class Options(Record, frozen=True, kw_only=True):
    """For the process that trains one model."""

    slice: train.Options  # its model, recipe, data, seed and learning rate, as for a slice of it
    schedule: Schedule
    folder: str  # where its record and its checkpoints are
    data_sha256: str
    held_out_tokens: int
    evaluations: int = EVALUATIONS  # of the trunk
    checkpoint_seconds: float = 600.0
    deterministic: bool = False
    sizes: Sized | Absent = AS_WRITTEN


class Plan(Record, frozen=True, kw_only=True):
    """What a run was to train, in order: kept beside the models' records, so that it can be gone on with."""

    trainings: tuple[Options, ...]
    data: str  # the path of the ids


class PlanOptions(BudgetOptions, frozen=True, kw_only=True):
    """A budget's, forwards, of a series that is named on the line."""

    series: Annotated[str, Option(TEXT, "The series: diy (GPT-2 style) or llama.", "NAME", panel="Which models")] = (
        "diy"
    )


class PlannedModel(Record, frozen=True, kw_only=True):
    """How one model of a series is to be trained; hours, memory and money are the budget's."""

    model: str
    parameters: int
    tokens: float
    learning_rate: float  # of the stable part
    batch_tokens: int  # of a step, in all
    critical_batch_tokens: float  # Kaplan's, at the loss that he expects at the end
    steps: int
    warm_up_steps: int
    decay_steps: int
    micro_batch: int  # of each card; 0: not known
    memory: Figure | Absent  # bytes of the process at its peak, on each card
    beyond: str = ""  # how far the rule is stretched


class SeriesPlan(Record, frozen=True, kw_only=True):
    """A series as it is to be trained, each model on all of its tokens."""

    series: str  # its name, or those of the models
    models: tuple[PlannedModel, ...]
    sources: tuple[str, ...]  # of the rules
    branches: tuple[float, ...]  # shares of the tokens that a decay may end at as well, for L(N, D)
    branches_share: float  # what those decays cost, as a share of the steps
    hours: Estimate | Absent = NOT_REACHED  # of the budget and of those decays, each model's
