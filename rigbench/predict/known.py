"""Reads what is known of the code that a prediction is for: its program's name, its year, runs whose speed is known.

A known run is a stored run of rigbench's, a CSV file, or a row in words: "rtx-4090, gpt2-124m, bf16, compiled,
micro-batch 16, 104000 tokens/s", in which a training log may stand for the speed, a watched run for speed and cards.
It becomes one more row of the posterior.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rigbench.core import profiles, units
from rigbench.core.errors import RigbenchError
from rigbench.core.files import opened
from rigbench.core.profiles import RigProfile
from rigbench.core.record import Absent
from rigbench.logs import rules, scan, source, stretches
from rigbench.model import named
from rigbench.model.counts import describe
from rigbench.model.recipe import OPTIMIZERS, PRECISIONS, STRATEGIES, Recipe
from rigbench.model.record import Model, Shape
from rigbench.model.shape import model_named
from rigbench.predict import cards, ceilings, compiled, posterior
from rigbench.predict.posterior import NOTHING_TOLD, Known, Told
from rigbench.predict.record import PROGRAMS, Ceilings, ToldOptions
from rigbench.predict.terms import terms

EXAMPLE = "rtx-4090, gpt2-124m, bf16, compiled, micro-batch 16, 104000 tokens/s"
CURE = f"say it as '{EXAMPLE}'"
RUN_ID = re.compile(r"\d{8}-\d{6}-")
MICRO_BATCH = 8  # of a row that does not say
MOST_TOKENS = 1 << 20  # of a sequence, and sequences of a micro-batch
LEAST_SHARE = 1 / 16  # of what compiled code takes at the low end: LLMQ ran in a seventh, with all it could offloaded
LARGEST_CSV_BYTES, MOST_ROWS = 1 << 20, 200
RATE = re.compile(r"([\d.]+ ?[kKM]?) ?(?:tokens?|tok)(?:/s| per second)")
NUMBERS = (
    ("micro_batch", re.compile(r"(?:micro[- ]batch|mb|batch) ?(\d+)")),
    ("accumulation", re.compile(r"(?:accumulation|accum) ?(\d+)")),
    ("sequence", re.compile(r"(?:seq|sequence|t) ?(\d+)")),
)
WORDS: dict[str, dict[str, Any]] = {
    "compiled": {"compiled": True},
    "eager": {"compiled": False},
    "naive": {"attention": "naive"},
    "fused": {"attention": "fused"},
    "checkpointing": {"checkpoint_every": 1},
    **{word: {"precision": word} for word in PRECISIONS},
    **{word: {"optimizer": word} for word in OPTIMIZERS},
    **{word: {"strategy": word} for word in STRATEGIES},
}
COLUMNS = {"gpu": "card", "gpu_count": "cards", "compile": "compiled", "grad_accum": "accumulation", "seq_len": "seq"}


def told(options: ToldOptions, asked: Model, find: Callable[[str | None], Path]) -> Told:
    """What was said, read. `asked` is the model of a row that names none; `find` finds a stored run.

    Raises:
        RigbenchError: a row that cannot be read, a run that is none of a known card, or a speed above the card's peak.
    """
    program = "" if isinstance(options.program, Absent) else options.program
    its = NOTHING_TOLD._replace(program=program, year=options.software_year)
    if isinstance(options.known, Absent):
        return its
    found: list[Known] = []
    for one in (part.strip() for part in options.known.split(";") if part.strip()):
        if "," in one or " " in one:
            found.append(_row(one, asked, its, find))
        elif one.endswith(".csv"):
            found += _file(Path(one), asked, its, find)
        else:
            found += _stored(find(one), its)
    if not found:
        raise RigbenchError("--known names no run", CURE)
    return its._replace(known=tuple(found))


def refuse_alone(options: ToldOptions) -> None:
    """Without --on nothing is predicted from published runs."""
    given = {"--program": options.program, "--known": options.known}
    for name, value in given.items():
        if not isinstance(value, Absent):
            raise RigbenchError(f"{name} is for a prediction, and here training is measured", "add --on NAME")


def _row(text: str, asked: Model, its: Told, find: Callable[[str | None], Path]) -> Known:
    """A row in words, in any order, with commas between them."""
    facts: dict[str, Any] = {"micro_batch": MICRO_BATCH, "compiled": True, "precision": "bf16"}
    rig: RigProfile | None = None
    model, rate, program, sequence = asked, 0.0, its.program, 0
    log: Path | None = None
    for word in (part.strip() for part in text.split(",")):
        key = word.lower()
        if match := RATE.fullmatch(word):
            rate = units.parse_count(match[1].replace(" ", ""), "--known")
        elif key in WORDS:
            facts |= WORDS[key]
        elif log is None and Path(word).is_file():
            log = Path(word)
        elif numbered := next(((name, it) for name, form in NUMBERS if (it := form.fullmatch(key))), None):
            name, it = numbered
            count = units.parse_whole(it[1], f"--known: {name.replace('_', '-')}", 1, MOST_TOKENS)
            if name == "sequence":
                sequence = count
            else:
                facts[name] = count
        elif key in PROGRAMS or key.startswith("program "):
            program = key.removeprefix("program ")
        elif (card := _rig(word)) and rig is None:
            rig = card
        elif RUN_ID.match(word):
            rig, rate = _of_watched(find(word))
        else:
            model = _model(word)
    if log and rig and not rate:
        rate = _of_log(log, rig.count)
    if rig is None or not rate:
        raise RigbenchError(f"--known {text[:60]!r} names no {'card' if rig is None else 'tokens/s'}", CURE)
    if sequence:
        model = describe(msgspec.structs.replace(model.shape, sequence=sequence), model.name)
    facts.setdefault("strategy", "ddp" if rig.count > 1 else "single")
    recipe = Recipe(**facts, ranks=1 if facts["strategy"] == "single" else rig.count)
    limits = ceilings.from_rig(rig)
    if isinstance(limits, Absent):
        raise RigbenchError(f"--known: {limits.reason}", "name another card")
    return known(model, recipe, limits, rate, its._replace(program=program))


def _of_log(path: Path, cards: int) -> float:
    """Tokens/s of all cards, steady, by a training log."""
    text, _ = source.read(path)
    reading = rules.read(scan.scan(text, path.name), {}, None, path.name)
    if reading.in_doubt:
        raise RigbenchError(f"--known: {path.name}: {reading.in_doubt}", "give its tokens/s in place of the log")
    rate = stretches.steady(stretches.between_rows(reading), path.name).rate.value
    return rate * (cards if reading.of_one_device else 1)


def _of_watched(path: Path) -> tuple[RigProfile, float]:
    """The cards and the tokens/s of a training that was watched."""
    from rigbench import store
    from rigbench.watch.record import Training

    run = store.read(path)
    its = run.watched
    if not isinstance(its, Training):
        raise RigbenchError(f"--known: run {run.id} watched no training", "give its id alone, or a row in words")
    if isinstance(its.steps, Absent) or isinstance(its.steps.rate, Absent) or its.steps.unit != "tokens":
        raise RigbenchError(f"--known: run {run.id} knows no tokens/s", "watch it with --tokens-per-step N")
    cards = [it for it in its.monitor.gpus if it.device in its.gpus]
    names = {
        profiles.match_gpu(None, it.name if isinstance(it.name, str) else None,
                           it.memory_total_bytes if isinstance(it.memory_total_bytes, int) else None)
        for it in cards
    }  # fmt: skip
    card = next(iter(names), Absent("no GPU"))
    if len(names) != 1 or isinstance(card, Absent):
        raise RigbenchError(f"--known: run {run.id} was not seen on GPUs of one known card", "say a row in words")
    return profiles.rig_named(f"{len(cards)}x{card}"), its.steps.rate.value


def known(model: Model, recipe: Recipe, limits: Ceilings, tokens_per_s: float, its: Told) -> Known:
    """One run as a row of the posterior; `tokens_per_s` of all its cards."""
    found = terms(model, recipe, limits)
    words = f"{limits.name} {model.name} {recipe.words}, {units.format_rate(tokens_per_s)}"
    peak = limits.matmul_flops_per_s.get(recipe.dtype) or max(limits.matmul_flops_per_s.values(), key=lambda f: f.value)
    its_shape = model.shape
    causal = (
        model.flop_per_token - 6 * its_shape.layers * its_shape.width * its_shape.sequence
    )  # the least it multiplies
    flop = tokens_per_s / recipe.ranks * causal
    if flop > peak.value:
        raise RigbenchError(
            f"--known {words}: that is {units.format_flops_per_s(flop)} a card, and its {recipe.dtype} peak is"
            f" {units.format_flops_per_s(peak.value)}",
            "check its tokens/s (of all cards), model and card",
        )
    target = cards.of_profile(profiles.gpu(limits.gpu), limits.name, recipe.ranks)
    least = LEAST_SHARE * compiled.prediction(model, recipe, target).process.ends[0]
    if least > target.usable.value:
        raise RigbenchError(
            f"--known {words}: micro-batch {recipe.micro_batch} takes {units.format_bytes(least)} with all that can be"
            f" offloaded, and {units.format_bytes(target.usable.value)} are usable",
            "check its micro-batch, model and card",
        )
    case = posterior.case(model, recipe, limits, found, its.program, its.year)
    return Known(words, case, math.log(recipe.tokens_per_step(model) / tokens_per_s))


def _rig(word: str) -> RigProfile | None:
    try:
        return profiles.rig_named(word)
    except RigbenchError:
        return None


def _model(word: str) -> Model:
    try:
        return named.published(word).model
    except RigbenchError:
        pass
    try:
        return model_named(word)
    except RigbenchError:
        raise RigbenchError(f"--known: {word[:40]!r} is neither a card, a model nor a choice", CURE) from None


def _file(path: Path, asked: Model, its: Told, find: Callable[[str | None], Path]) -> list[Known]:
    """Rows under a header: card, cards, model (or the shape's columns), precision, compiled, micro_batch, tokens_per_s
    of all cards, or tokens_per_s_per_gpu.
    """
    try:
        with opened(path) as file:
            text = file.read(LARGEST_CSV_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines()))[:MOST_ROWS]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RigbenchError(f"--known {path}: cannot read it ({error})", CURE) from None
    if rows and "card" not in {COLUMNS.get(name, name) for name in rows[0]}:
        raise RigbenchError(f"--known {path}: its first line names no column card", "put commas between the columns")
    found = []
    for row in rows:
        its_row = {COLUMNS.get(name, name): (value or "").strip() for name, value in row.items() if name}
        rate = its_row.get("tokens_per_s") or ""
        try:
            count = units.parse_whole(its_row.get("cards") or "1", "cards", 1, 1 << 16)
            if not rate and (of_one := its_row.get("tokens_per_s_per_gpu")):
                rate = str(units.parse_number(of_one, "tokens_per_s_per_gpu", 0.0, 1e12) * count)
        except RigbenchError as error:
            raise RigbenchError(f"--known {path}: {error}", CURE) from None
        words = [f"{count}x{its_row.get('card', '')}" if count > 1 else its_row.get("card", ""), f"{rate} tokens/s"]
        words += [it for it in (its_row.get("precision", "").split(",")[0].split(" ")[0],) if it in WORDS]
        words += ["compiled" if its_row.get("compiled", "yes") in ("yes", "true", "on", "compiled") else "eager"]
        words += [f"micro-batch {its_row['micro_batch']}"] if its_row.get("micro_batch") else []
        words += [f"accumulation {its_row['accumulation']}"] if its_row.get("accumulation") else []
        words += ["naive"] if its_row.get("attention") == "naive" else []
        words += [f"program {its_row['program']}"] if its_row.get("program") else []
        model = asked
        if its_row.get("n_layers"):
            model = _shaped(its_row)
        elif its_row.get("model"):
            model = _model(its_row["model"])
        words += [f"seq {its_row['seq']}"] if its_row.get("seq") else []
        found.append(_row(", ".join(words), model, its, find))
    return found


def _shaped(row: dict[str, str]) -> Model:
    def whole(name: str, field: str, otherwise: int = 0) -> int:
        return units.parse_whole(row.get(name) or str(otherwise), f"--known: {name}", *named.BOUNDS[field])

    try:
        layers, width = whole("n_layers", "layers"), whole("d_model", "width")
        heads = whole("n_heads", "heads", max(1, width // 64))
        shape = Shape(
            style="gpt2",
            layers=layers,
            width=width,
            heads=heads,
            kv_heads=heads,
            ffn_width=whole("d_ff", "ffn_width", 4 * width),
            vocabulary=whole("vocab", "vocabulary", 50304),
            sequence=whole("seq", "sequence", 1024),
            tied_head=True,
            biases=True,
        )
        return describe(shape, row.get("model") or f"{layers} layers of width {width}")
    except (KeyError, ValueError, ZeroDivisionError) as error:
        what = f"--known: a shape that cannot be read ({error})"
        raise RigbenchError(what, "give n_layers, d_model, n_heads") from None


def _stored(path: Path, its: Told) -> Sequence[Known]:
    from rigbench import store
    from rigbench.train.record import Slice
    from rigbench.watch.record import Training

    run = store.read(path)
    found = []
    if isinstance(run.watched, Training):
        what = f"--known: run {run.id} watched a training, and does not know its model and recipe"
        raise RigbenchError(what, f"say them beside it, as --known '{run.id}, gpt2-124m, bf16, compiled'")
    for it in run.slices:
        if not isinstance(it, Slice) or it.device.kind != "cuda":
            continue
        memory = it.device.memory_total_bytes
        card = profiles.match_gpu(None, it.device.name, None if isinstance(memory, Absent) else memory)
        if isinstance(card, Absent):
            continue
        limits = ceilings.of_gpu(profiles.gpu(card), card, it.recipe.ranks)
        if isinstance(limits, Ceilings):
            found.append(known(it.model, it.recipe, limits, it.tokens_per_s.value, its))
    if not found:
        what = f"--known: run {run.id} has no short training run that was made on a GPU with a profile"
        raise RigbenchError(what, "name a run of train-probe on a card, or say a row in words")
    return found
