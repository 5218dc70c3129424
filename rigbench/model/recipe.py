"""The one way of saying how a model is trained: what a slice ran, what a prediction is for, what a budget rests on."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

import msgspec

from rigbench.core import units
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.options import NOT_GIVEN, Option, Reader, one_of, whole
from rigbench.core.record import Absent, Record
from rigbench.model.record import Model, Shape

Optimizer = Literal["adamw", "adamw-foreach", "adamw8bit", "paged-adamw8bit", "muon"]
Precision = Literal["bf16", "bf16-pure", "fp16", "fp32", "tf32", "fp8"]
Strategy = Literal["single", "ddp", "fsdp2", "fsdp2-offload", "data-parallel", "accelerate"]
Attention = Literal["fused", "naive"]
Adapter = Literal["none", "lora", "qlora"]
Targets = Literal["all", "attention"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
ADAPTERS: tuple[Adapter, ...] = get_args(Adapter)
SEVERAL_GPUS: tuple[Strategy, ...] = ("ddp", "fsdp2", "data-parallel", "accelerate")  # where GPUs train
LOSS_CHUNKS = 8  # of the chunked loss, unless a number is given
USUAL_RANK, MOST_RANK = 16, 1 << 16
MOST_CHUNKS, MOST_BLOCKS, MOST_ACCUMULATION = 1 << 10, 1 << 12, 1 << 16


class Recipe(Record, frozen=True, kw_only=True):
    """How a model is trained. A way that is added later is a field whose default is what was done before."""

    optimizer: Optimizer = "adamw"
    checkpoint_every: int = 0  # 0: no block is recomputed, 1: all, k: every k-th
    precision: Precision | Literal["auto"] = "auto"  # bf16, fp16: autocast, weights in fp32; bf16-pure: none is;
    # fp8: the blocks' products, the rest as bf16; predicted only
    compiled: bool = False
    loss_chunks: int = 1  # into how many parts the sequence goes for head and loss
    strategy: Strategy = "single"
    ranks: int = 1  # that train together, each with `micro_batch` sequences
    accumulation: int = 1  # micro-batches a step
    micro_batch: int = 0  # sequences at once; 0: the device's default, still to be chosen
    attention: Attention = "fused"  # naive: written out, its scores in memory; predicted only
    adapter: Adapter = "none"  # what is trained in the place of the weights, which are frozen; qlora: in 4 bits
    adapter_rank: int = 0
    adapter_targets: Targets = "all"  # which linear layers of a block have one

    @property
    def replicated(self) -> bool:
        """Whether every rank has the whole model, as DDP's, DataParallel's and Accelerate's have."""
        return self.strategy in ("ddp", "data-parallel", "accelerate")

    @property
    def adapted(self) -> bool:
        return self.adapter != "none"

    @property
    def dtype(self) -> str:
        """What its matrices are multiplied in."""
        return self.precision.removesuffix("-pure")

    @property
    def weight_bytes(self) -> int:
        """Of each weight, gradient and moment."""
        return 2 if self.precision == "bf16-pure" else 4

    @property
    def sharded(self) -> bool:
        return self.strategy.startswith("fsdp2")

    def tokens_per_step(self, model: Model) -> int:
        """Of all ranks together."""
        return self.micro_batch * model.shape.sequence * self.accumulation * self.ranks

    @property
    def choices(self) -> dict[str, str]:
        """Each choice in words, by the name of its field; micro-batch and accumulation say how much, not how."""
        ranks = f" on {self.ranks}" if self.ranks > 1 else ""
        return {
            "optimizer": self.optimizer,
            "precision": self.precision,
            "checkpoint_every": checkpoint_words(self.checkpoint_every),
            "compiled": "compiled" if self.compiled else "eager",
            "loss_chunks": f"loss in {self.loss_chunks} chunks" if self.loss_chunks > 1 else "plain loss",
            "strategy": f"{self.strategy}{ranks}",
            "accumulation": f"accumulation {self.accumulation}",
            "attention": "fused attention" if self.attention == "fused" else "attention by hand",
            "adapter": self.adapter if self.adapted else "all weights",
            "adapter_rank": f"rank {self.adapter_rank}",
            "adapter_targets": "adapters of attention" if self.adapter_targets == "attention" else "adapters of all",
        }

    @property
    def words(self) -> str:
        """ "adamw, bf16, compiled": optimizer and precision, then what differs from the plain loop."""
        plain = Recipe(optimizer=self.optimizer, precision=self.precision)
        return ", ".join([self.optimizer, self.precision, *self.differences(plain).values()])

    @property
    def contradiction(self) -> str:
        """Which of its choices exclude each other, whatever trains it; "" where none do."""
        if self.sharded and self.optimizer == "muon":
            return "muon steps whole matrices, and fsdp2 has shards"
        if self.sharded and self.optimizer.endswith("8bit"):
            return "bitsandbytes steps whole weights, and fsdp2 has shards"
        if self.adapter == "qlora" and self.sharded:
            return "qlora's 4-bit weights are whole, and fsdp2 has shards"
        if self.adapter == "qlora" and self.precision not in ("auto", "bf16-pure", "fp32"):
            return f"qlora multiplies in bf16-pure or fp32, not in {self.precision} under autocast"
        if self.adapter == "qlora" and self.compiled:
            return "qlora unpacks its weights in kernels of bitsandbytes, which torch.compile leaves out"
        if self.adapted and self.precision == "fp8":
            return "adapters are not trained in fp8"
        return ""

    def refuse_contradiction(self) -> None:
        """
        Raises:
            RigbenchError: two of its choices exclude each other.
        """
        if self.contradiction:
            raise RigbenchError(self.contradiction, "leave one of the two out", NOTHING)

    def differences(self, other: Recipe) -> dict[str, str]:
        """In which choices this differs from another, in words."""
        return {name: said for name, said in self.choices.items() if getattr(self, name) != getattr(other, name)}


def checkpoint_words(every: int) -> str:
    if every < 2:
        return "checkpointing" if every else "no checkpointing"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(every % 10 if every % 100 not in (11, 12, 13) else 0, "th")
    return f"checkpointing every {every}{ending}"


def _word_or_number(words: dict[str, int], most: int, cure: str) -> Reader:
    def read(text: str, option: str) -> int:
        if text in words:
            return words[text]
        try:
            return units.parse_whole(text, option, 1, most)
        except RigbenchError:
            what = f"{option} {text[:40]!r} is neither {' nor '.join(words)} nor a number from 1 to {most:,}"
            raise RigbenchError(what, cure) from None

    return Reader(read)


CHECKPOINTING = _word_or_number({"off": 0, "on": 1}, MOST_BLOCKS, "use off, on, or K for every K-th block")
CHUNKS = _word_or_number({"plain": 1, "chunked": LOSS_CHUNKS}, MOST_CHUNKS, "use plain, chunked, or a number of chunks")
ADAPTER = Option(
    one_of(*ADAPTERS), "none: all weights are trained. lora: low-rank matrices beside them. qlora: weights in 4 bits.",
    "NAME",
)  # fmt: skip
RANK = Option(whole(1, MOST_RANK), f"The adapter's rank. Default: {USUAL_RANK}.", "N", ("--rank",))
TARGETS = Option(
    one_of(*get_args(Targets)), "Which linear layers have an adapter: all of a block, or attention's. Default: all.",
    "NAME", ("--targets",),
)  # fmt: skip
SWITCH = Reader(lambda text, option: one_of("off", "on").read(text, option) == "on")


class RecipeOptions(Record, frozen=True, kw_only=True):
    """What of a recipe was said on the command line."""

    panel: ClassVar = "How it is trained"

    optimizer: Annotated[Optimizer | Absent, Option(one_of(*OPTIMIZERS), f"{', '.join(OPTIMIZERS)}.", "NAME")] = (
        NOT_GIVEN
    )
    checkpoint_every: Annotated[
        int | Absent,
        Option(CHECKPOINTING, "Activation checkpointing; K: every K-th block.", "off|on|K", ("--checkpointing",)),
    ] = NOT_GIVEN
    precision: Annotated[
        Precision | Literal["auto"] | Absent,
        Option(
            one_of("auto", *PRECISIONS),
            f"auto, {', '.join(PRECISIONS)}. auto: bf16 where a GPU has it; on a CPU the faster of fp32 and bf16, "
            "measured.",
            "NAME",
        ),
    ] = NOT_GIVEN
    compiled: Annotated[bool | Absent, Option(SWITCH, "torch.compile.", "off|on", ("--compile",))] = NOT_GIVEN
    loss_chunks: Annotated[
        int | Absent, Option(CHUNKS, "The loss at once, or in 8 or N chunks.", "plain|chunked|N", ("--loss",))
    ] = NOT_GIVEN
    strategy: Annotated[Strategy | Absent, Option(one_of(*STRATEGIES), f"{', '.join(STRATEGIES)}.", "NAME")] = NOT_GIVEN
    accumulation: Annotated[
        int | Absent, Option(whole(1, MOST_ACCUMULATION), "Micro-batches a step. Default: 1.", "N")
    ] = NOT_GIVEN
    attention: Annotated[
        Attention | Absent,
        Option(one_of(*ATTENTIONS), "fused, or naive: written by hand, T × T scores in memory (predicted).", "NAME"),
    ] = NOT_GIVEN

    adapter: Annotated[Adapter | Absent, ADAPTER] = NOT_GIVEN
    adapter_rank: Annotated[int | Absent, RANK] = NOT_GIVEN
    adapter_targets: Annotated[Targets | Absent, TARGETS] = NOT_GIVEN

    @property
    def adapter_kind(self) -> Adapter:
        return "none" if isinstance(self.adapter, Absent) else self.adapter

    @property
    def said(self) -> dict[str, object]:
        return {name: it for name in self.__struct_fields__ if not isinstance(it := getattr(self, name), Absent)}

    def over(self, base: Recipe) -> Recipe:
        """The base with what was said in its place."""
        recipe = msgspec.structs.replace(base, **self.said)
        usual = USUAL_RANK if recipe.adapted and not recipe.adapter_rank else recipe.adapter_rank
        return msgspec.structs.replace(recipe, adapter_rank=usual)

    def refuse_beyond(self, shape: Shape) -> None:
        """Every K-th block of a model with fewer; an adapter that is no smaller than what it is beside."""
        layers = shape.layers
        for field, option in (("adapter_rank", "--rank"), ("adapter_targets", "--targets")):
            if field in self.said and self.adapter not in ADAPTERS[1:]:
                raise RigbenchError(f"{option} is an adapter's", "add --adapter lora, or leave it out")
        rank = self.over(Recipe()).adapter_rank
        if rank > shape.width:
            raise RigbenchError(f"--rank {rank:,} is larger than the width of {shape.width:,}", "give a smaller one")
        if rank and shape.experts:
            raise RigbenchError("adapters of experts are not modelled", "leave --adapter out, or name another model")
        if isinstance(self.checkpoint_every, int) and self.checkpoint_every > layers:
            what = f"--checkpointing '{self.checkpoint_every}' is not a whole number from 1 to {layers}"
            raise RigbenchError(what, f"use off, on, or K of 2 to {layers} for every K-th block")

    def refuse_unmeasured(self) -> None:
        """What is predicted only, with --on, where something is to be trained."""
        for option, only in (
            ("--attention naive", self.attention == "naive"),
            ("--precision fp8", self.precision == "fp8"),
        ):
            if only:
                raise RigbenchError(f"{option} is only predicted, not trained", "add --on NAME, or leave it out")

    def allows(self, recipe: Recipe) -> bool:
        """Whether a recipe is one of those that were asked for."""
        adapter = recipe.adapter if "adapter" in self.said else "none"  # that of all weights is no training of a few
        return recipe.adapter == adapter and all(getattr(recipe, name) == value for name, value in self.said.items())
