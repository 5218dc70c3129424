"""What do the published training speeds say of the step-time model's constants? Fits them; `python -m tests.published`.

Of tests/data/published_training.csv: decoder language models trained in a precision that rigbench trains in, on cards
that have a profile, with a stated shape. Robust least squares on the logarithm of the seconds a token, around physical
values; a source counts for at most SOURCE_ROWS rows, a card of a source for at most CARD_ROWS.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rigbench.core import profiles
from rigbench.core.record import Absent
from rigbench.model.counts import describe
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model, Shape
from rigbench.predict import ceilings, steptime

FILE = Path(__file__).parent / "data" / "published_training.csv"
SOURCE_ROWS, CARD_ROWS = 2.0, 3.0
SIGMA, FREEDOM, ROUNDS = 0.12, 3.0, 40  # of one row's logarithm; Student t's, for rows that are simply otherwise
# Physical values, and how far (in logarithms) each may lie from them; see steptime.Constants for the order. A good copy
# reaches 80 % of a datasheet's bandwidth; eager code finds some of what it wrote last in the cache.
PRIOR = np.log([0.75, 0.25, 2.0, 1.2, 0.9, 0.3, 1.2, 0.4])
PRIOR_SPREAD = np.array([0.2, 0.4, 0.4, 0.25, 0.25, 0.7, 0.25, 0.4])
HAND_WRITTEN_SPREAD = 0.1  # llm.c and LLMQ: their own CUDA beside torch's compiled code, a factor on the whole
# Attention in plain products, eager (HF GPT-2 before 2.0's kernel, book code, minGPT): each score is written and read
# about 12 times forward and 18 backward, in two and four bytes.
UNFUSED_BYTES = {2: 76.0, 4: 100.0}
UNFUSED = ("minGPT", "163M untied")
KV_HEADS = {14: 2, 12: 2, 16: 2, 28: 4}  # Qwen2.5's 0.5B to 7B, by query heads
UNSTATED_BATCH, UNSTATED_ACCUMULATION = 8, 8
QUANTILES = 0.05, 0.95

Row = dict[str, str]
Floats = np.ndarray[Any, Any]


class Published(NamedTuple):
    """One row: `terms` are seconds a token at the ceilings, a column a constant; `seconds` what was published."""

    id: str
    source: str
    card: str
    terms: Floats
    hand_written: bool
    seconds: float


def rows() -> tuple[list[Published], Counter[str]]:
    """The rows that can be put to the model, and why the others cannot."""
    found, left_out = [], Counter[str]()
    with FILE.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            made = _published(row)
            if isinstance(made, str):
                left_out[made] += 1
            else:
                found.append(made)
    return found, left_out


def fit(data: Sequence[Published]) -> Floats:
    """Logarithms of the constants, and of hand-written code's factor at the end."""
    terms = np.array([row.terms for row in data])
    level = np.array([[float(row.hand_written)] for row in data])
    truth = np.log([row.seconds for row in data])
    start = np.append(PRIOR, 0.0)
    precision = np.diag(1 / np.append(PRIOR_SPREAD, HAND_WRITTEN_SPREAD) ** 2)
    theta, counts = start.copy(), _weights(data) / SIGMA**2
    for _ in range(ROUNDS):
        weighted = terms * np.exp(theta[:-1])
        total = weighted.sum(axis=1)
        slopes = np.concatenate([weighted / total[:, None], level], axis=1)
        residual = truth - np.log(total) - level[:, 0] * theta[-1]
        weights = counts * (FREEDOM + 1) / (FREEDOM + (residual / SIGMA) ** 2)
        pulled = slopes.T * weights
        step = np.linalg.solve(pulled @ slopes + precision, pulled @ residual - precision @ (theta - start))
        theta = theta + np.clip(step, -0.4, 0.4)
    return theta


def residuals(theta: Floats, data: Sequence[Published]) -> Floats:
    """ln(measured / predicted) seconds."""
    predicted = [np.log(row.terms @ np.exp(theta[:-1])) + row.hand_written * theta[-1] for row in data]
    return np.log([row.seconds for row in data]) - np.array(predicted)


def left_out(data: Sequence[Published], groups: Sequence[str]) -> Floats:
    """Residuals of every row by constants that have not seen its group."""
    found = np.zeros(len(data))
    for group in sorted(set(groups)):
        theta = fit([row for row, its in zip(data, groups, strict=True) if its != group])
        inside = [index for index, its in enumerate(groups) if its == group]
        found[inside] = residuals(theta, [data[index] for index in inside])
    return found


def source_shares(data: Sequence[Published]) -> Floats:
    """Every source counts alike."""
    counts = Counter(row.source for row in data)
    return np.array([1 / counts[row.source] for row in data])


def quantile(values: Floats, weights: Floats, share: float) -> float:
    """The smallest value that at least this share of the weight is at or below."""
    order = np.argsort(values)
    upto = np.cumsum(weights[order])
    return float(values[order][min(len(order) - 1, int(np.searchsorted(upto, share * upto[-1])))])


def interval(data: Sequence[Published]) -> tuple[float, float]:
    """The 90 % interval of a residual, by the sources that were left out one after the other."""
    found, shares = left_out(data, [row.source for row in data]), source_shares(data)
    return quantile(found, shares, QUANTILES[0]), quantile(found, shares, QUANTILES[1])


def covered(data: Sequence[Published], groups: Sequence[str]) -> Floats:
    """Which rows lie inside of the interval that is made without their group, by constants made without it."""
    found = np.zeros(len(data))
    for group in sorted(set(groups)):
        training = [row for row, its in zip(data, groups, strict=True) if its != group]
        low, high = interval(training)
        inside = [index for index, its in enumerate(groups) if its == group]
        errors = residuals(fit(training), [data[index] for index in inside])
        found[inside] = (errors >= low) & (errors <= high)
    return found


def _weights(data: Sequence[Published]) -> Floats:
    cells = Counter((row.source, row.card) for row in data)
    own = np.array([1 / (1 + (cells[row.source, row.card] - 1) / CARD_ROWS) for row in data])
    totals: dict[str, float] = defaultdict(float)
    for row, weight in zip(data, own, strict=True):
        totals[row.source] += weight
    shares = [1 / (1 + (totals[row.source] - 1) / SOURCE_ROWS) for row in data]
    return own * np.array(shares)


def _published(row: Row) -> Published | str:
    gpus = {name: gpu for gpu in profiles.gpus() for name in gpu.names}
    if any(word in row["model"] for word in ("BERT", "SDXL")):
        return "no decoder"
    if not row["tokens_per_s_per_gpu"] or not row["n_layers"] or not row["d_model"]:
        return "no speed or no shape"
    if "fp8" in row["precision"] or "float8" in row["precision"]:
        return "fp8, which rigbench does not train in"
    if row["gpu"] not in gpus:
        return "no profile of the card"
    model, recipe = _trained(row)
    card = ceilings.of_gpu(gpus[row["gpu"]], row["gpu"], recipe.ranks)
    assert not isinstance(card, Absent)
    found = steptime.terms(model, recipe, card)
    tokens = recipe.micro_batch * model.shape.sequence * recipe.accumulation
    terms = np.sum(list(found.parts.values()), axis=0) / tokens
    if any(word in row["model"] for word in UNFUSED) or row["framework"] == "HF Trainer":
        shape = model.shape
        moved = UNFUSED_BYTES[4 if recipe.precision == "fp32" else 2] * shape.layers * shape.heads * shape.sequence
        terms[4] += moved / card.memory_bytes_per_s.value
    seconds = 1 / float(row["tokens_per_s_per_gpu"])
    return Published(row["id"], _source(row), gpus[row["gpu"]].id, terms, _hand_written(row), seconds)


def _source(row: Row) -> str:
    """A repository is one source, whatever file or issue of it."""
    named = re.match(r"[\w.-]+/[\w.-]+", row["source"])
    return named[0] if named else row["source"][:28]


def _hand_written(row: Row) -> bool:
    return "llm.c" in row["framework"] or "CUDA" in row["framework"]


def _trained(row: Row) -> tuple[Model, Recipe]:
    shape, ranks = _shape(row), int(row["gpu_count"])
    batch = int(row["micro_batch"] or UNSTATED_BATCH)
    accumulation = int(row["grad_accum"] or (1 if row["micro_batch"] else UNSTATED_ACCUMULATION))
    if not row["grad_accum"] and row["micro_batch"] and row["tokens_per_step"]:
        accumulation = max(1, round(float(row["tokens_per_step"]) / (batch * shape.sequence * ranks)))
    checkpointing, chunks = row["act_ckpt"], re.search(r"chunks=(\d+)", row["act_ckpt"])
    whole = checkpointing in ("full", "yes") or "block" in checkpointing
    every = 1 if whole else 2 if "selective" in checkpointing else 0
    sharded = "FSDP" in row["framework"] or ("DeepSpeed" in row["framework"] and float(row["params"]) > 2e9)
    strategy = "single" if ranks == 1 else "fsdp2" if sharded else "ddp"
    recipe = Recipe(
        micro_batch=batch,
        accumulation=accumulation,
        checkpoint_every=every,
        precision=_precision(row),
        loss_chunks=int(chunks[1]) if chunks else 1,
        strategy=strategy,
        ranks=ranks,
        compiled=row["compile"] == "yes" or _hand_written(row),
    )
    return describe(shape, row["model"]), recipe


def _precision(row: Row) -> Any:
    if "weights+states" in row["precision"]:
        return "bf16-pure"
    if "FSDP" in row["framework"]:  # gathers weights in bf16, so that the residual stream is bf16 as well
        return "bf16-pure"
    if row["precision"].startswith("fp32") or row["precision"] == "unstated":
        return "fp32"
    return "fp16" if "TF32+AMP" in row["precision"] else "bf16"


def _shape(row: Row) -> Shape:
    width, model = int(row["d_model"]), row["model"]
    heads = int(row["n_heads"] or width // 64)
    llama, mpt = model.startswith(("Qwen", "Llama")), model.startswith("MPT")
    kv_heads = heads if not llama else 8 if model.startswith("Llama") else KV_HEADS[heads]
    return Shape(
        style="llama" if llama else "gpt2",
        layers=int(row["n_layers"]),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        ffn_width=int(row["d_ff"] or 4 * width),
        vocabulary=int(row["vocab"] or 50304),
        sequence=int(row["seq_len"] or 1024),
        tied_head=not model.startswith("Llama") and "untied" not in model and not (llama and "7B" in model),
        biases=not llama and not mpt,
    )


def main() -> None:
    data, why = rows()
    theta = fit(data)
    print(f"{len(data)} rows, {len({row.source for row in data})} sources; left out: {dict(why)}")
    print("PUBLISHED =", steptime.Constants(*(round(float(value), 3) for value in np.exp(theta[:-1]))))
    print(f"hand-written code: {np.exp(theta[-1]):.3f}")
    low, high = interval(data)
    print(f"LEFT_OUT = ({low:.2f}, {high:.2f})")
    print("LEFT_OUT_SOURCES =", len({row.source for row in data}))


if __name__ == "__main__":
    main()
