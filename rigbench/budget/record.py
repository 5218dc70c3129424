"""A budget: what is asked of it, what it takes on one rig, and what the answer rests on."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Literal

from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.estimate import Estimate
from rigbench.core.options import NOT_GIVEN, TEXT, Option, Reader, number, one_of, seconds, whole, zero_or
from rigbench.core.record import NO_CARBON, Absent, Carbon, Device, Figure, Price, Record, Some
from rigbench.model.recipe import Recipe
from rigbench.train.record import HostAllocator
from rigbench.work.record import Power

AmountKind = Literal["flops", "tokens", "tokens per parameter", "hours", "kWh", "electricity", "rent"]
Split = Literal["equal tokens", "equal FLOP", "compute-optimal"]
OverheadName = Literal["hot steady state", "compile", "warm-up", "evaluation", "checkpoints", "restarts"]
SPLITS: dict[str, Split] = {
    "equal-tokens": "equal tokens",
    "equal-flops": "equal FLOP",
    "compute-optimal": "compute-optimal",
}
THIS_RIG, ONE_CARD, KNOWN_RUN = Absent("this rig"), Absent("one card"), "known run: "


class CardPrice(Record, frozen=True):
    """What one rented card costs an hour, and who says so."""

    per_hour: float
    currency: str
    name: str


class Due(Record, frozen=True):
    """When something is to be done."""

    at: str  # "2026-12-24 18:00", this machine's time
    hours: float  # from when it was asked


class RigPrice(Record, frozen=True):
    """What a rig cost."""

    price: Figure
    currency: str


def money(text: str, option: str, example: str, most: float = 1e6) -> tuple[float, str]:
    """ "0.30 EUR" or "3.50USD" as an amount and its currency."""
    words = text.strip()
    amount, currency = words[:-3].strip(), words[-3:]
    if not (currency.isascii() and currency.isalpha()) or amount[-1:].isalpha():
        raise RigbenchError(f"{option} {text!r} names no currency", f"write it as '{example}'")
    return units.parse_number(amount, option, low=0.0001, high=most), currency.upper()


def _price(text: str, option: str) -> Price:
    per_kwh, currency = money(text, option, "0.30 EUR", most=1000.0)
    today = datetime.now(UTC).date().isoformat()
    return Price(per_kwh, currency, place=f"declared with {option}", date=today, source="declared")


def _purchase(text: str, option: str) -> RigPrice:
    amount, currency = money(text, option, "2400 USD", most=1e10)
    return RigPrice(Figure(amount, "declared", option), currency)


def _hours(text: str, option: str) -> float:
    """A bare number is in hours."""
    bare = re.fullmatch(r"[+-]?[\d.,eE+]+", text.strip())
    return units.parse_seconds(f"{text.strip()}h" if bare else text, option) / 3600


def _due(text: str, option: str) -> Due:
    """So many hours from now, or a date, whose end counts where it says no time of day."""
    now = datetime.now().astimezone()
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            hours = _hours(text, option)
            at = now + timedelta(hours=hours)
        except (RigbenchError, OverflowError) as error:
            if isinstance(error, RigbenchError) and re.fullmatch(r"[\d.,eE+ ]+[a-zA-Z]*", text.strip()):
                raise
            what = f"{option} {text[:40]!r} is neither a duration nor a date"
            raise RigbenchError(what, "write it as 48h, 2026-12-24 or '2026-12-24 18:00'") from error
        return Due(f"{at:%Y-%m-%d %H:%M}", hours)
    try:
        if ":" not in text:
            at += timedelta(days=1, minutes=-1)
        hours = (at.astimezone() - now).total_seconds() / 3600
    except (ValueError, OverflowError):  # at an end of the calendar, moved by a time zone
        raise RigbenchError(f"{option} {text[:40]!r} is at an end of the calendar", "give a nearer one") from None
    if hours <= 0:
        raise RigbenchError(f"{option} {text[:40]!r} is past", "give a time to come")
    if hours * 3600 > units.LONGEST_SECONDS:
        raise RigbenchError(f"{option} {text[:40]!r} is more than 1000 years away", "give an earlier one")
    return Due(f"{at:%Y-%m-%d %H:%M}", hours)


Text = str | Absent
Amount = float | Absent
SPLIT = Reader(lambda text, option: SPLITS[one_of(*SPLITS).read(text, option)])
FLOP = Reader(units.parse_flops, lambda value: f"{value:g}".replace("+", ""))
COUNT, HOURS = Reader(units.parse_count), Reader(_hours)
DUE = Reader(_due, lambda value: value.at)
WHOLE = Reader(lambda text, option: round(units.parse_count(text, option)))
STEPS, TIME, START = zero_or(number(1, 1e12)), seconds(), zero_or(seconds())
PLACE = Reader(lambda text, option: text, words=lambda: [it.id for it in profiles.prices().electricity])
KEPT, CRASHES = whole(1, 10**6), zero_or(number(1e-6, 100))
PRICE, PURCHASE = Reader(_price), Reader(_purchase)
RENT = Reader(lambda text, option: CardPrice(*money(text.strip().removesuffix("/h"), option, "1.50 USD"), option))
DISK = Reader(lambda text, option: float(units.parse_bytes(text.strip().removesuffix("/s"), option)))


class PriceOptions(Record, frozen=True, kw_only=True):
    """Whose electricity: declared, or a place's price from the profiles, which carries its place and date."""

    panel: ClassVar = "Power and price"

    price: Annotated[
        Price | Absent,
        Option(PRICE, "Electricity per kWh. Default: the price of `place`.", "'0.30 EUR'", rivals=("place",)),
    ] = NOT_GIVEN
    place: Annotated[
        Text,
        Option(
            PLACE, "Whose electricity price; `rigbench profiles` lists them.", "ID", setting=True, rivals=("price",)
        ),
    ] = NOT_GIVEN

    @property
    def electricity(self) -> Price | Absent:
        place = None if isinstance(self.place, Absent) else self.place
        if isinstance(self.price, Absent):
            return profiles.electricity(place)
        if place is not None:
            raise RigbenchError("price and place exclude each other", "give the one that is your contract's")
        return self.price


class Options(Record, frozen=True, kw_only=True):
    """How much is to be trained, and what besides training steps it takes."""

    panel: ClassVar = "How much"

    flops: Annotated[Amount, Option(FLOP, "The budget in FLOP, as 1.2e18 or 1.2EFLOP. Default: 1.2e18.", "C")] = (
        NOT_GIVEN
    )
    params: Annotated[
        Text,
        Option(
            TEXT,
            "A model, a sweep as 5M,15M,60M, or a series: diy (GPT-2 style) or llama. Default: diy.",
            "SIZES",
            panel="Which models",
        ),
    ] = NOT_GIVEN
    model: Annotated[
        Text,
        Option(
            TEXT,
            "Instead of --params: a published model, its config.json, or a shape of your own (FILE.toml).",
            "NAME|FILE",
            panel="Which models",
        ),
    ] = NOT_GIVEN
    series: Annotated[
        str, Option(TEXT, "The series that sizes are of: diy (GPT-2 style) or llama.", "NAME", setting=True)
    ] = "diy"
    tokens: Annotated[Amount, Option(COUNT, "Instead of --flops: tokens for every model, as 2.5B.", "D")] = NOT_GIVEN
    tokens_per_param: Annotated[
        Amount,
        Option(
            number(0.01, 1e6), "Instead of --flops: tokens for every parameter, as 20 (about compute-optimal).", "N"
        ),
    ] = NOT_GIVEN
    hours: Annotated[
        Amount,
        Option(HOURS, "Backwards: what so many hours buy. With FLOP or tokens: what you were told it takes.", "T"),
    ] = NOT_GIVEN
    kwh: Annotated[
        Amount,
        Option(number(1e-6, 1e12), "Backwards: what so many kWh buy. With FLOP, tokens or hours: as --hours.", "E"),
    ] = NOT_GIVEN
    money: Annotated[
        Text, Option(TEXT, "Backwards: what so much electricity buys, or so much rent where `rent` is set.", "M")
    ] = NOT_GIVEN
    deadline: Annotated[
        Due | Absent,
        Option(
            DUE, "What is done by then: 48h or a date. Alone: what that buys. Else: is it done, how likely.", "WHEN"
        ),
    ] = NOT_GIVEN
    carbon: Annotated[
        Amount,
        Option(
            zero_or(number(1e-3, 5000)),
            "CO₂ of a kWh of your grid, in grams. Default: the yearly mean of `place`, where it is known.",
            "G",
            panel="Power and price",
            rivals=("place",),
        ),
    ] = NOT_GIVEN
    split: Annotated[
        Split | Absent,
        Option(
            SPLIT, "How models share a budget: equal-tokens, equal-flops, compute-optimal.", "HOW", panel="Which models"
        ),
    ] = NOT_GIVEN
    exact_flops: Annotated[
        bool,
        Option(None, "Count attention and matmuls exactly instead of 6·N·D.", names=("--exact-flops",), setting=True),
    ] = False
    batch_tokens: Annotated[
        int | Absent,
        Option(
            WHOLE, "Tokens in a step. Default: as the short runs had, or a micro-batch on each card.", "N", setting=True
        ),
    ] = NOT_GIVEN
    link_speed: Annotated[
        Amount,
        Option(
            DISK,
            "With --on: what an all_reduce moves between its cards, as 5.6GB. Default: a share of their slot's.",
            "B/S",
            setting=True,
        ),
    ] = NOT_GIVEN
    rent: Annotated[
        CardPrice | Absent,
        Option(RENT, "Rent of one card for an hour. Default: of prices.toml.", "'1.50 USD'", setting=True),
    ] = NOT_GIVEN
    purchase: Annotated[
        RigPrice | Absent,
        Option(
            PURCHASE, "What the rig cost. Default: the cards' launch price.", "'2400 USD'", setting=True, rivals=("on",)
        ),
    ] = NOT_GIVEN
    lifetime: Annotated[
        Amount, Option(TIME, "How long the rig will work in all. Default: 3 years.", "T", setting=True)
    ] = NOT_GIVEN
    compile_time: Annotated[
        Amount, Option(START, "Of each model. Default: as measured, else 60 s.", "T", setting=True)
    ] = NOT_GIVEN
    warm_up: Annotated[
        Amount, Option(START, "From a start to a steady pace. Default: as measured, else 30 s.", "T", setting=True)
    ] = NOT_GIVEN
    eval_every: Annotated[
        Amount, Option(STEPS, "Evaluate so often; 0: never. Default: every 50M tokens.", "STEPS", setting=True)
    ] = NOT_GIVEN
    eval_tokens: Annotated[Amount, Option(COUNT, "Tokens of an evaluation. Default: 1048576.", "N", setting=True)] = (
        NOT_GIVEN
    )
    write_every: Annotated[
        Amount,
        Option(
            STEPS, "Write so often; 0: at the end. Default: every hour.", "STEPS", ("--checkpoint-every",), setting=True
        ),
    ] = NOT_GIVEN
    keep_checkpoints: Annotated[
        int | Absent, Option(KEPT, "Of each model, on disk. Default: 2.", "N", setting=True)
    ] = NOT_GIVEN
    disk_speed: Annotated[
        Amount, Option(DISK, "To which checkpoints go, as 500MB. Default: 500MB.", "B/S", setting=True)
    ] = NOT_GIVEN
    restarts_per_day: Annotated[Amount, Option(CRASHES, "Crashes to expect. Default: 0.1.", "N", setting=True)] = (
        NOT_GIVEN
    )
    hot_over_cold: Annotated[
        Amount,
        Option(
            number(0.1, 1.0),
            "Throughput once hot, as 0.97. Default: as `thermals` measured it.",
            "SHARE",
            setting=True,
            rivals=("on",),
        ),
    ] = NOT_GIVEN


class Configuration(Record, frozen=True):
    """The one way in which every model of a plan is trained.

    `threads` of the device belong to it: the same processor with half its threads is another rig for this purpose.
    """

    device: Device
    recipe: Recipe  # whose micro-batch and accumulation say nothing: those are each model's own
    host_allocator: HostAllocator
    exports: tuple[str, ...] = ()  # settings of NCCL that its ranks need, as "NCCL_P2P_DISABLE=1"

    @property
    def words(self) -> str:
        """One line for people: the device first, then only the choices that are not the plain loop's."""
        plural = "" if self.device.threads == 1 else "s"
        threads = f", {self.device.threads} thread{plural}" if self.device.kind == "cpu" else ""
        allocator = ", allocator keeps memory" if self.host_allocator == "keeps memory" else ""
        count = f"{self.recipe.ranks} × " if self.recipe.ranks > 1 and self.device.kind == "cuda" else ""
        exports = f", with {' '.join(self.exports)}" if self.exports else ""
        return f"{self.device.kind} ({count}{self.device.name}{threads}), {self.recipe.words}{allocator}{exports}"


class Rate(Record, frozen=True):
    """Tokens per second of one model on one rig."""

    tokens_per_s: Estimate
    source: Literal["measured", "predicted"]  # "measured" where a stored slice of this very model is behind it
    rests_on: tuple[str, ...]  # the slices (run id and model) behind it
    widened_by: tuple[str, ...]  # what widened the interval, and by how much
    has_middle: bool = True  # whether slices of three steps and more are behind it: else it is a range
    history_factor: float = 1.0  # what the rig's back-tests multiplied its logarithmic half-width with
    known_from: str = ""  # in a few words, for people: "trained here 15 s", "between 5M and 30M"


class Scaling(Record, frozen=True, kw_only=True):
    """One model trained in the same way on one card and on all."""

    model: str
    cards: int
    one: Estimate  # tokens per second
    together: Estimate
    efficiency: Estimate  # of so many times the one card
    rests_on: tuple[str, ...]  # runs
    has_middle: bool = True  # as of Rate


class LawLoss(Record, frozen=True):
    """One law's loss, nats a token on its own data set, of one model after so many tokens."""

    law: str
    loss: float
    source: str


class PlanRow(Record, frozen=True):
    """One model of the plan. Hours are training steps alone; overheads are rows of their own."""

    model: str
    total_parameters: int
    tokens: float
    tokens_per_parameter: float
    flop_6n: float
    flop_exact: float
    rate: Rate
    hours: Estimate
    kwh: Figure | Absent
    money: Figure | Absent
    steps: float
    tokens_per_step: int
    batch: str  # what makes up a step
    losses: tuple[LawLoss, ...]  # laws' predictions
    micro_batch: int = 0  # sequences at once on each card; 0: not known
    memory: Figure | Absent = Absent("not known")  # bytes of the process at its peak, on each card


class Goal(Record, frozen=True):
    """What a budget was given as: so many FLOP, tokens, hours, kWh or so much money."""

    kind: AmountKind
    amount: float
    split: Split
    flops: Estimate  # what the amount comes to, with an interval where that depends on the rig
    currency: str | Absent  # the electricity's, where a price is known
    declared_hours: float | Absent  # what somebody says that it takes, to be checked
    declared_kwh: float | Absent = NOT_GIVEN


class NextSlice(Record, frozen=True):
    """The slice that would narrow the budget's interval most; half-widths are shares of `of`'s rate."""

    command: str
    of: str
    half_width_now: float
    half_width_then: float | Absent
    basis: str


class Refused(Record, frozen=True):
    """A rig that was asked about beside others, and why there is no answer for it."""

    rig: str
    reason: str


class Overhead(Record, frozen=True):
    """Hours over all models beyond the training steps; the figure's basis says what they rest on, and the option."""

    name: OverheadName
    hours: Figure


class Sum(Record, frozen=True):
    """Steps and overheads together, of all models: hours, kWh and the money that the electricity costs."""

    hours: Estimate
    kwh: Figure | Absent
    money: Figure | Absent
    co2_kg: Figure | Absent = NO_CARBON


class Deadline(Record, frozen=True, kw_only=True):
    """What is done by a point in time, and how surely: the ends of `flops` are a 90 % interval's."""

    at: str  # "2026-12-24 18:00", the time of the machine that was asked
    hours: float
    verdict: Literal["done", "not done", "unsure"]  # of the whole plan: even at the slow end, not even at the fast end
    probability: float  # that the plan is done, its error taken as log-normal
    flops: Estimate | Absent  # that are done by then, shared by the models as the plan shares them
    largest_surely: str | Absent  # model that alone sees 20 tokens a parameter by then, even at the slow end
    largest_likely: str | Absent  # and in the middle


class Written(Record, frozen=True):
    """Checkpoints on disk."""

    largest_bytes: int  # of one of the largest model
    kept_bytes: int  # of all that are kept at the end
    count: int
    basis: str


class Rent(Record, frozen=True):
    """What the same hours cost on rented cards. `name` says whose price it is; its date may be unknown."""

    per_hour: float
    currency: str
    name: str
    money: Figure


class Purchase(Record, frozen=True):
    """The share of a rig's price that these hours use up, `lifetime_hours` being all that it will ever work."""

    price: Figure
    currency: str
    lifetime_hours: float
    money: Figure


class BreakEven(Record, frozen=True):
    """After how many hours a bought rig is cheaper than the rented cards; its electricity is paid, the rented's not."""

    hours: Figure
    runs: float


class Sanity(Record, frozen=True):
    """What the plan comes to beside the datasheet."""

    peak_flops_per_s: Figure | Absent  # of all cards in the plan's precision
    share: Estimate | Absent
    flop_per_joule: Figure | Absent  # exact FLOP over the energy at the wall (or what is covered)
    sentence: str | Absent  # where hours were declared
    kwh_sentence: str | Absent = NOT_GIVEN  # where kWh were


class LawOptimum(Record, frozen=True):
    """One law's compute-optimal model for a budget."""

    law: str
    parameters: float
    tokens: float
    loss: float  # nats a token on the law's own data set
    counts: str  # which parameters and which FLOP the law means
    source: str
    beyond_fit: str | Absent  # how the answer leaves the fitted range


class ScalingLaws(Record, frozen=True):
    """Predictions of published fits, never measurements. The laws' spread is the honest interval: the published
    standard errors of one fit are correlated, and are not propagated.

    `critical_batch_tokens` is Kaplan's, at the lowest and the highest of the laws' losses (high loss, small batch).
    """

    flops: float
    optima: tuple[LawOptimum, ...]
    parameters_low: float
    parameters_high: float
    tokens_low: float
    tokens_high: float
    critical_batch_tokens_low: float
    critical_batch_tokens_high: float
    caveat: str


class Budget(Record, frozen=True, kw_only=True):
    """What a budget takes on one rig: for its models together, and for each alone with all of its FLOP.

    `series` rows share the FLOP as the goal's split says. Sums named series_… are of training steps alone.
    """

    method: int
    started_at: str
    rig: str | Absent = THIS_RIG  # a name where the rig is not this one: then nothing was measured
    goal: Goal
    deadline: Deadline | Absent = NOT_GIVEN
    flops: float
    configuration: Configuration
    remark: str = ""  # which of the rig's cards are not counted, or that so many were not measured together, and why
    scaling: Scaling | Absent = ONE_CARD
    series_name: str
    series: Some[PlanRow]
    series_flop_6n: float
    series_flop_exact: float
    series_hours: Estimate
    series_model_flops_per_s: Estimate
    series_kwh: Figure | Absent
    series_money: Figure | Absent
    overheads: tuple[Overhead, ...]
    whole: Sum  # with every overhead in it
    alone: tuple[PlanRow, ...]
    written: Written
    power: Power | Absent
    price: Price | Absent
    carbon: Carbon | Absent = NO_CARBON
    rent: Rent | Absent
    purchase: Purchase | Absent
    break_even: BreakEven | Absent
    sanity: Sanity
    laws: ScalingLaws
    next_slice: NextSlice | Absent
    decides: tuple[str, ...] = ()  # what is assumed of a rig elsewhere that decides most
    assumptions: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # which stored slices were not used, and why
    warnings: tuple[str, ...] = ()
    others: tuple[Budget, ...] = ()  # the same goal's answers for further rigs
    refused: tuple[Refused, ...] = ()
