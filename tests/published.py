"""The published runs of tests/data as trainings that the model of a step can be asked about.

Decoder language models on cards that have a profile, with a stated shape. What they were is read from the tables'
columns, and where those are silent from the words of a row; why a row is not used is counted.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from rigbench.core import profiles
from rigbench.core.errors import RigbenchError
from rigbench.core.profiles import GpuProfile
from rigbench.core.record import Absent
from rigbench.model.counts import describe
from rigbench.model.recipe import Recipe
from rigbench.model.record import Model, Shape
from rigbench.predict import ceilings, posterior
from rigbench.predict.posterior import Case
from rigbench.predict.terms import terms

DATA = Path(__file__).parent / "data"
TABLES = "published_training.csv", "published_training2.csv", "own_training.csv"
SWEEP = "sweep_naive_attention.csv"
KV_HEADS = {14: 2, 12: 2, 16: 2, 28: 4}  # Qwen2.5's 0.5B to 7B, by query heads
UNSTATED_BATCH, UNSTATED_ACCUMULATION = 8, 8
LARGE = 2e9  # parameters from which DeepSpeed is taken to shard
TORCH_2, TORCH_PACE = 2023.2, 0.29  # 2.0 came in March 2023, 2.8 in August 2025
# The software's year where a row bears neither a date nor a version of torch.
YEARS = {
    "sweep": 2023,
    "llm-foundry": 2023,
    "llmq": 2025,
    "llm.c": 2024,
    "torchtitan": 2025,
    "fms-fsdp": 2024,
    "nanochat": 2025,
    "modded-nanogpt": 2024.7,
    "book code": 2025,
    "hf trainer": 2024,
    "mingpt": 2023,
}
# The code that ran, by a word of the row.
PROGRAMS = (
    ("sweep", "sweep"),
    ("rigbench", "rigbench"),
    ("llm-foundry", "llm-foundry"),
    ("composer", "llm-foundry"),
    ("llmq", "llmq"),
    ("surogate", "llmq"),
    ("llm.c", "llm.c"),
    ("thunderkittens", "llm.c"),
    ("torchtitan", "torchtitan"),
    ("titan-", "torchtitan"),
    ("fms-fsdp", "fms-fsdp"),
    ("nanochat", "nanochat"),
    ("modded", "modded-nanogpt"),
    ("rasbt", "book code"),
    ("raschka", "book code"),
    ("nanogpt", "nanogpt"),
    ("gpt2-124m-runpod", "nanogpt"),
    ("nano-gpt", "nanogpt"),
    ("hf trainer", "hf trainer"),
    ("llama-factory", "hf trainer"),
    ("mingpt", "mingpt"),
)

Row = dict[str, str]


class Published(NamedTuple):
    """One row: what was trained, and how fast and in how much memory it was said to be."""

    id: str
    source: str
    model: Model
    recipe: Recipe
    gpu: GpuProfile
    case: Case
    seconds: float  # of a step
    row: Row


def rows() -> tuple[list[Published], Counter[str]]:
    """The rows with a speed that can be put to the model, and why the others cannot."""
    found, left_out = [], Counter[str]()
    for row in [*(it for table in TABLES for it in read(table)), *sweep()]:
        made = training(row)
        if isinstance(made, str):
            left_out[made] += 1
        else:
            found.append(made)
    return found, left_out


def read(name: str) -> list[Row]:
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sweep(out_of_memory: bool = False) -> list[Row]:
    """The sweep of batch sizes in the other tables' columns; `held_mib`: what the program keeps beside its weights."""
    own = read(SWEEP)
    held = {
        (row["device"], row["model"]): max(0.0, float(row["model_alloc_mib"]) - 4 * float(row["params"]) / 2**20)
        for row in own
        if row["oom"] != "True"
    }
    same = ("n_layers", "d_model", "n_heads", "d_ff", "vocab", "seq_len", "params")
    return [
        {
            **dict.fromkeys(("kv", "tokens_per_step", "notes", "peak_vram_mib", "vram_kind"), ""),
            **{name: row[name] for name in same},
            "id": f"sweep-{row['model']}-b{row['batch']}-{row['device'][-12:]}",
            "model": f"sweep GPT {row['model']}",
            "gpu": row["device"],
            "gpu_count": "1",
            "precision": "fp16 autocast",
            "framework": "naive sweep 2023",
            "compile": "yes" if row["compile"] == "default" else "no",
            "attention": "naive",
            "micro_batch": row["batch"],
            "grad_accum": "1",
            "act_ckpt": "no",
            "optimizer": "foreach",
            "tokens_per_s_per_gpu": row["tokens_per_s"],
            "source": "sweep",
            "held_mib": str(held.get((row["device"], row["model"]), 0.0)),
        }
        for row in own
        if (row["oom"] == "True") == out_of_memory
    ]


def training(row: Row) -> Published | str:
    """A row as a training, or why it is none."""
    cards = {name: gpu for gpu in profiles.gpus() for name in gpu.names}
    if any(word in row["model"] for word in ("BERT", "SDXL")):
        return "no decoder"
    if re.search(r"\bTP ?\d|\+TP", row["framework"]):
        return "tensor parallel"
    if not row["tokens_per_s_per_gpu"] or not row["n_layers"] or not row["d_model"]:
        return "no speed or no shape"
    if row["gpu"] not in cards:
        return "no profile of the card"
    model, recipe = trained(row)
    card = ceilings.of_gpu(cards[row["gpu"]], row["gpu"], recipe.ranks)
    if isinstance(card, Absent):
        return card.reason
    name = program(row)
    try:
        found = terms(model, recipe, card)
    except RigbenchError as error:
        return error.what_happened.partition(" has ")[2] or str(error)
    asked = posterior.case(model, recipe, card, found, name or source(row), year(row))
    kind = posterior.kind(recipe, "llm.c" if hand_written(row) else "")
    asked = asked._replace(
        source=source(row),
        kind=kind,
        recipe=(*asked.recipe, row["attention"], row["framework"], dated(row)),
        noisy=not row["micro_batch"] or kind == "fp8",
    )
    tokens = recipe.tokens_per_step(model) / recipe.ranks
    gpu = cards[row["gpu"]]
    return Published(
        row["id"], source(row), model, recipe, gpu, asked, tokens / float(row["tokens_per_s_per_gpu"]), row
    )


def source(row: Row) -> str:
    """A repository is one source, whatever file or issue of it; a report that is kept by number is its own."""
    named = re.match(r"[\w.-]+/[\w.-]+", row["source"])
    if named:
        return named[0]
    kept = re.search(r"(?:id |file )(P?\d+)", row["source"])
    return f"{row['source'].split(' ')[0]} {kept[1]}" if kept else row["source"][:28]


def program(row: Row) -> str:
    """ "" where no word of the row names one."""
    words = " ".join((row["id"], row["model"], row["framework"], row["source"])).lower()
    return next((name for word, name in PROGRAMS if word in words), "")


def year(row: Row) -> float:
    """Of the software: by a date or a version of torch in the row, else by the program."""
    words = f"{row['id']} {row['framework']} {row['source']} {row['notes']}"
    found = re.search(r"\b(?:torch|pytorch) ?(\d)\.(\d+)", words)
    if found:
        return TORCH_2 + TORCH_PACE * (int(found[2]) if found[1] == "2" else -2)
    stamped = re.search(r"\b(202[2-6])[-_ .]?\d*", words)
    return float(stamped[1]) + 0.5 if stamped else YEARS.get(program(row), 2024)


def dated(row: Row) -> str:
    found = re.search(r"20\d\d-\d\d-\d\d", row["id"])
    return found[0] if found else ""


def hand_written(row: Row) -> bool:
    """In CUDA, that is."""
    return "llm.c" in row["framework"] or "CUDA" in row["framework"]


def by_hand(row: Row) -> bool:
    """Attention, that is."""
    words = row["attention"].lower()
    known = any(it in row["model"] for it in ("minGPT", "163M untied")) or row["framework"] == "HF Trainer"
    return "naive" in words or "eager" in words or known


def trained(row: Row) -> tuple[Model, Recipe]:
    its, ranks = shape(row), int(row["gpu_count"] or 1)
    batch = int(row["micro_batch"] or UNSTATED_BATCH)
    accumulation = int(row["grad_accum"] or (1 if row["micro_batch"] else UNSTATED_ACCUMULATION))
    if not row["grad_accum"] and row["micro_batch"] and row["tokens_per_step"]:
        accumulation = max(1, round(float(row["tokens_per_step"]) / (batch * its.sequence * ranks)))
    kept, chunks = row["act_ckpt"].lower(), re.search(r"chunks=(\d+)", row["act_ckpt"])
    every = 1 if kept in ("full", "yes") or "block" in kept else 2 if "selective" in kept else 0
    large = bool(row["params"]) and float(row["params"]) > LARGE
    frame, optimizer = row["framework"], row["optimizer"].lower()
    sharded = "FSDP" in frame or "nanotron" in frame or ("DeepSpeed" in frame and large)
    eight = "8bit" in optimizer or "8-bit" in optimizer
    return describe(its, row["model"][:40]), Recipe(
        micro_batch=batch,
        accumulation=accumulation,
        checkpoint_every=every,
        precision=precision(row),
        loss_chunks=int(chunks[1]) if chunks else 1,
        optimizer="adamw8bit" if eight else "adamw-foreach" if "foreach" in optimizer else "adamw",
        strategy="single" if ranks == 1 else "fsdp2" if sharded else "ddp",
        ranks=ranks,
        compiled=row["compile"] == "yes" or hand_written(row),
        attention="naive" if by_hand(row) else "fused",
    )


def precision(row: Row) -> Any:
    words = row["precision"].lower()
    if ("fp8" in words or "float8" in words) and "fp8 head" not in words:
        return "fp8"
    if any(it in words for it in ("weights+states", "pure", "bf16 weights")) or "FSDP" in row["framework"]:
        return "bf16-pure"  # FSDP gathers weights in bf16, so that the residual stream is bf16 as well
    if words.startswith("tf32") and "amp" not in words:
        return "tf32"
    if words.startswith(("fp32", "unstated")):
        return "fp32"
    return "fp16" if words.startswith("fp16") or "tf32+amp" in words else "bf16"


def shape(row: Row) -> Shape:
    width, name = int(row["d_model"]), row["model"].lower()
    own = dict(re.findall(r"(kv|tied|style)=(\w+)", row["notes"]))
    llama = any(word in name for word in ("llama", "qwen", "smollm", "mistral", "gemma", "forgelm"))
    neox = any(word in name for word in ("nanochat", "pythia", "rope", "neox", "modded"))
    style: Any = own.get("style") or ("llama" if llama else "neox" if neox else "gpt2")
    heads = int(row["n_heads"] or max(1, width // (128 if "nanochat" in name else 64)))
    of_family = 8 if name.startswith("llama 3") else KV_HEADS.get(heads, heads) if "qwen2" in name else heads
    tied = not name.startswith("llama") and "untied" not in name and not (llama and "7b" in name) and style != "neox"
    layers, sequence = int(row["n_layers"]), int(row["seq_len"] or 1024)
    windows = "SSSL" in row["notes"]  # three of four layers see half of the sequence
    return Shape(
        style=style,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=int(own.get("kv", of_family)),
        ffn_width=int(row["d_ff"] or (round(8 / 3 * width / 128) * 128 if style == "llama" else 4 * width)),
        vocabulary=int(row["vocab"] or 50304),
        sequence=sequence,
        tied_head=own["tied"] == "yes" if "tied" in own else tied,
        biases=style == "gpt2" and not name.startswith(("mpt", "sweep")),
        window=sequence // 2 if windows else 0,
        windowed_layers=layers * 3 // 4 if windows else 0,
    )
