"""Plans which arms of a model are trained: what the options ask for, and why an arm cannot run here."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import msgspec

from rigbench.core import profiles
from rigbench.core.errors import NOTHING, RigbenchError
from rigbench.core.record import Absent
from rigbench.machine.cuda_map import Cards
from rigbench.model import named
from rigbench.model.counts import adapted
from rigbench.model.named import ModelOptions
from rigbench.model.recipe import LOSS_CHUNKS, SEVERAL_GPUS, STRATEGIES, Recipe, RecipeOptions
from rigbench.model.record import Model
from rigbench.predict.posterior import NOTHING_TOLD, Told
from rigbench.predict.record import Options as CapacityOptions
from rigbench.predict.record import ToldOptions
from rigbench.train.record import Factor, Options, OwnModel, ProbeOptions, TrialOptions
from rigbench.work.ranks import World
from rigbench.work.record import NOTHING_DECLARED, WattOptions

Mode = Literal["usual", "one", "all"]
ONE_PROCESS = ("single", "data-parallel")
NOT_IN_A_TABLE = Absent("not timed in a table of variants; `--variants one` times one rank alone")
# The fields that --cross names, and what it and `--variants all` go through, the plain choice first.
VALUES: dict[Factor, tuple[str, tuple[Any, ...]]] = {
    "optimizer": ("optimizer", ("adamw", "adamw8bit", "paged-adamw8bit", "muon")),
    "checkpointing": ("checkpoint_every", (0, 1, 2)),
    "precision": ("precision", ("bf16", "bf16-pure", "fp16", "fp32", "tf32")),
    "compile": ("compiled", (False, True)),
    "loss": ("loss_chunks", (1, LOSS_CHUNKS)),
    "strategy": ("strategy", STRATEGIES),
    "accumulation": ("accumulation", (1, 4)),
}
# Its replicas are shallow copies (nn.Module._replicate_for_data_parallel), and a compiled module calls the original.
NOT_REPLICATED = "nn.DataParallel copies modules in each step, and cannot copy what torch.compile has made"
USUAL = {"optimizer": ("adamw", "adamw8bit"), "checkpoint_every": (0, 1)}
# At least and at most so long, where several arms are to be compared.
SHORTEST_SECONDS, LONGEST_SECONDS = {"usual": 12.0, "one": 25.0, "all": 4.0}, {"usual": 45.0, "one": 80.0, "all": 7.0}


class Program(NamedTuple):
    """A slice of a program of the user's, whose facts are known once it was tried."""

    trial: TrialOptions
    facts: dict[str, Any]

    def options(self, model: OwnModel) -> Options:
        its = self.trial
        return Options(model=model, folder=its.folder, vocabulary=its.vocabulary, sequence=its.sequence, **self.facts)


@dataclass(frozen=True)
class Plan:
    """The arms of one decoder."""

    options: Options  # what all arms share
    base: Recipe  # that the others are compared with
    mode: Mode = "one"
    cross: tuple[Factor, ...] = ()
    find_micro_batch: bool = False
    share: bool = False
    on: str | None = None
    choices: RecipeOptions = field(default_factory=RecipeOptions)  # what of the base was said
    world: World | None = None  # that torchrun has put this process into
    cards: Cards | None = None  # that train together where no strategy was said, since a full run would use them
    watts: WattOptions = NOTHING_DECLARED
    told: Told = NOTHING_TOLD  # of the code, with --on

    @property
    def model(self) -> Model:
        assert isinstance(self.options.model, Model)
        return self.options.model

    @property
    def strategy_given(self) -> bool:
        return "strategy" in self.choices.said

    @property
    def several(self) -> bool:
        return self.mode != "one" or bool(self.cross) or self.find_micro_batch

    def options_of(self, recipe: Recipe, mode: Mode | None = None) -> Options:
        """For the process of an arm."""
        mode = mode or ("all" if self.cross else self.mode)
        return msgspec.structs.replace(
            self.options,
            recipe=recipe,
            shortest_seconds=SHORTEST_SECONDS[mode],
            longest_seconds=LONGEST_SECONDS[mode],
            alone=NOT_IN_A_TABLE if self.several else True,
            micro_batch_by=self._micro_batch_by,
        )

    @property
    def _micro_batch_by(self) -> str:
        if self.find_micro_batch:
            return "--micro-batch auto"
        return "--micro-batch" if self.base.micro_batch else "by what is predicted to fit"

    def as_a_full_run(self, its: Cards) -> Plan:
        """By ddp on these alike cards, with one card as a row; as it is where there are fewer than two, or where a
        strategy was said."""
        if len(its.gpus) < 2 or self.strategy_given or self.world or self.on is not None:
            return self
        return replace(self, base=msgspec.structs.replace(self.base, strategy="ddp"), cards=its)

    @property
    def recipes(self) -> list[Recipe]:
        """Of the arms to run, the base first and none twice."""
        return recipes(self.base, self.mode, self.cross, one_card=self.cards is not None)


def of(
    model: ModelOptions,
    choices: RecipeOptions,
    options: ProbeOptions,
    watts: WattOptions = NOTHING_DECLARED,
    *,
    device: str | None = None,
    on: str | None = None,
    world: World | None = None,
) -> Plan | Program:
    """One arm or several of a decoder, or a slice of a program of the user's.

    Raises:
        RigbenchError: options that contradict each other, or are not for a program.
    """
    if options.cross and options.arms != "auto":
        raise RigbenchError(f"--cross and --variants {options.arms} exclude each other", "give one of them")
    if on is not None:
        profiles.rig_named(on)
        given = {"--seconds": not isinstance(options.seconds, Absent), "--data": options.data, "--share": options.share}
        for option in (option for option, value in given.items() if value):
            raise RigbenchError(f"--on and {option} exclude each other", "--on predicts; nothing is measured")
    else:
        choices.refuse_unmeasured()
    find, micro_batch = options.micro_batch == "auto", options.micro_batch
    base = choices.over(Recipe(micro_batch=micro_batch if isinstance(micro_batch, int) else 0))
    facts: dict[str, Any] = {
        "recipe": base,
        "device": device or "auto",
        "data": options.data,
        "data_dtype": options.data_dtype,
        "seconds": 0.0 if isinstance(options.seconds, Absent) else options.seconds,
    }
    if (program := named.factory(model)) is not None:
        _refuse_for_a_program(program, choices, options, watts, on)
        vocabulary, sequence = (0 if isinstance(it, Absent) else it for it in (model.vocabulary, model.sequence))
        return Program(TrialOptions(program, os.getcwd(), vocabulary, sequence, device or "auto"), facts)
    decoder = named.choose(model)
    if on is None:
        named.refuse_to_train((decoder,))
    choices.refuse_beyond(decoder.shape)
    decoder = adapted(decoder, base)
    if world is not None:
        if options.arms not in ("auto", "one") or options.cross or find or on is not None:
            raise RigbenchError("under torchrun one variant is trained at a time", "give --variants one, --strategy")
        if base.strategy in ONE_PROCESS:
            what = f"--strategy {base.strategy} is one process's, and torchrun has started several"
            raise RigbenchError(what, "use --strategy ddp or fsdp2", exit_code=NOTHING)
    guessed: Mode = "one" if find or choices.said.keys() - {"precision", "accumulation"} else "usual"
    return Plan(
        options=Options(model=decoder, **facts),
        base=base,
        mode=guessed if options.arms == "auto" else options.arms,
        cross=options.cross,
        find_micro_batch=find,
        share=options.share,
        on=on,
        choices=choices,
        world=world,
        watts=watts,
    )


def _refuse_for_a_program(
    name: str, choices: RecipeOptions, options: ProbeOptions, watts: WattOptions, on: str | None
) -> None:
    """What it decides itself."""
    decided = {
        "--variants": options.arms not in ("auto", "one"),
        "--cross": options.cross,
        "--checkpointing": "checkpoint_every" in choices.said,
        "--loss": "loss_chunks" in choices.said,
        "--strategy": "strategy" in choices.said and not on,
        "--adapter": "adapter" in choices.said,
        "--micro-batch auto": options.micro_batch == "auto",
        "--accumulation": on and "accumulation" in choices.said,
        "--wall-watts": not isinstance(watts.wall_watts, Absent),
        "--host-watts": not isinstance(watts.host, Absent),
    }
    for option in (option for option, value in decided.items() if value):
        raise RigbenchError(f"{option} is not for a program, and --model {name} is one", f"leave {option} out")


def as_capacity(choices: RecipeOptions, told: ToldOptions, program: str) -> CapacityOptions:
    """What is said of a program of the user's that is only predicted, as `capacity` takes it.

    Raises:
        RigbenchError: something that is not predicted of programs.
    """
    given = {
        "--program": not isinstance(told.program, Absent),
        "--known": not isinstance(told.known, Absent),
        "--precision fp8": choices.precision == "fp8",
    }
    for option in (option for option, value in given.items() if value):
        raise RigbenchError(f"{option} is not for a program, and --model {program} is one", f"leave {option} out")
    names = ("optimizer", "precision", "compiled", "strategy", "attention")
    said: dict[str, Any] = {name: value for name, value in choices.said.items() if name in names}
    return CapacityOptions(**said)


def recipes(base: Recipe, mode: Mode, cross: Sequence[Factor], one_card: bool = False) -> list[Recipe]:
    """Of the arms to run, the base first and none twice; with `one_card` also the base's choices on a single one."""
    values = dict(VALUES[factor] for factor in cross) if cross else USUAL
    if mode == "one" and not cross:
        changes: list[dict[str, Any]] = []
    elif mode == "all":
        changes = [{field: value} for field, several in VALUES.values() for value in several]
    else:
        changes = [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
    if one_card and (cross or mode != "one"):
        changes.append({"strategy": "single"})
    return list(dict.fromkeys([base, *(msgspec.structs.replace(base, **change) for change in changes)]))


def label(arm: Recipe, base: Recipe) -> str:
    """In which choices an arm differs from the base arm; the base arm's own label names its choices."""
    if arm == base:
        return base.words
    same = f"micro-batch {arm.micro_batch}" if arm.micro_batch else "the same"
    return ", ".join(arm.differences(base).values()) or same


def why_not(arm: Recipe, base: Recipe, kind: str, gpus: int, why_fewer: str = "", here: bool = True) -> str:
    """Why an arm cannot run on this kind of device, or `here` with what is installed; "" where nothing speaks against.

    `why_fewer`: why there are no more GPUs.
    """
    if kind == "cpu":
        if arm.precision == "fp16" != base.precision:
            return "a CPU emulates fp16, tens of times slower; `--variants one --precision fp16` measures it"
        if arm.precision == "tf32":
            return "a CPU has no tf32"
        if arm.optimizer.startswith("paged"):
            return "paged states move between a GPU and the host, and here a CPU trains"
        if arm.strategy == "data-parallel":
            return "DataParallel splits batches over GPUs, and here a CPU trains"
    elif gpus < 2 and arm.strategy in SEVERAL_GPUS:
        return f"{arm.strategy} is for several GPUs, and {why_fewer or 'here is one'}"
    if arm.contradiction:
        return arm.contradiction
    if arm.compiled and arm.strategy == "data-parallel":
        return NOT_REPLICATED
    if not here:
        return ""
    if arm.optimizer.endswith("8bit") and importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed: pip install bitsandbytes"
    if arm.compiled and (lacking := compiling_lacks(kind)):
        return ": ".join(lacking)
    if arm.strategy == "accelerate" and importlib.util.find_spec("accelerate") is None:
        return "accelerate is not installed: pip install 'rigbench[accelerate]'"
    return ""


def compiling_lacks(kind: str) -> tuple[str, str] | None:
    """What torch.compile needs and does not find, and the cure; None where it finds all.

    Extensions of Python are built at run time: on a CPU by inductor, with $CXX or g++ (torch/_inductor/config.py,
    cpp.cxx; codecache.py includes Python.h), on a GPU by Triton, with $CC, gcc or clang (triton/runtime/build.py).
    """
    variable, names = ("CXX", ("g++",)) if kind == "cpu" else ("CC", ("gcc", "clang"))
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme  # as Triton reads it, on Debian
    needs, packages = [], []
    if not any(map(shutil.which, [os.environ[variable]] if os.environ.get(variable) else names)):
        needs.append(f"a {'C++' if kind == 'cpu' else 'C'} compiler ({', '.join(names)} or ${variable})")
        packages.append(names[0])
    if not os.path.exists(os.path.join(sysconfig.get_path("include", scheme), "Python.h")):
        needs.append("Python.h")
        packages.append(f"python3.{sys.version_info.minor}-dev")
    if not needs:
        return None
    return f"torch.compile needs {' and '.join(needs)}, and finds none", f"apt install {' '.join(packages)}"
