"""Reads a model's shape from a Hugging Face config.json, family by family.

Fields and their defaults are those of transformers' configuration classes (src/transformers/models/*/configuration_*).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason
from rigbench.model.record import Shape

LARGEST_FILE_BYTES = 1 << 20
LONGEST_USUAL_SEQUENCE = 4096  # published models allow more positions than they are trained at; --seq says otherwise
NEEDED = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
    "vocabulary": "vocab_size",
    "sequence": "max_position_embeddings",
}
GPT2 = {
    "layers": "n_layer",
    "width": "n_embd",
    "heads": "n_head",
    "vocabulary": "vocab_size",
    "sequence": "n_positions",
}


class Family(NamedTuple):
    """What a family has beyond a Llama's block; `fixed` are keys that may not say anything else."""

    tied: bool = False  # unless it says otherwise
    qkv_biases: bool = False
    qk_norms: bool = False
    post_norms: bool = False
    head_dim: int = 0  # unless it says otherwise; 0: width / heads
    full_every: int = 0  # every so-manieth layer sees the whole sequence, the others a window; 0: all do
    experts: str = ""  # the key that counts them
    fixed: tuple[tuple[str, Any], ...] = ()


NO_BIASES = (("attention_bias", False), ("mlp_bias", False))
EVERY_LAYER: tuple[tuple[str, Any], ...] = (("decoder_sparse_step", 1), ("mlp_only_layers", []))
FAMILIES = {
    "llama": Family(fixed=NO_BIASES),
    "mistral": Family(full_every=1 << 12, fixed=NO_BIASES),
    "qwen2": Family(qkv_biases=True),
    "qwen3": Family(qk_norms=True, head_dim=128, fixed=NO_BIASES),
    "gemma": Family(tied=True, head_dim=256, fixed=NO_BIASES),
    "gemma2": Family(tied=True, full_every=2, head_dim=256, post_norms=True, fixed=NO_BIASES),
    "gemma3_text": Family(tied=True, full_every=6, head_dim=256, qk_norms=True, post_norms=True, fixed=NO_BIASES),
    "mixtral": Family(full_every=1 << 12, experts="num_local_experts"),
    "qwen2_moe": Family(qkv_biases=True, experts="num_experts", fixed=EVERY_LAYER),
    "qwen3_moe": Family(qk_norms=True, head_dim=128, experts="num_experts", fixed=NO_BIASES + EVERY_LAYER),
}
KNOWN = ("gpt2", "gpt_neox", *FAMILIES)
# What may be missing, or null; of other families some of these mean something else, and are not read.
OPTIONAL = {
    **dict.fromkeys(("n_inner", "num_key_value_heads", "head_dim", "sliding_window"), "int"),
    "shared_expert_intermediate_size": "int",
    "tie_word_embeddings": "bool",
}
LARGEST_NUMBER = 1 << 24


def read(path: Path, where: str) -> tuple[str, Shape]:
    """A model's name and shape. A config of several parts (as Gemma 3 with its eyes) is read for its text alone.

    Raises:
        RigbenchError: it is no such file, lacks fields, or is of a family that is not known.
    """
    try:
        config = json.loads(read_regular(path, LARGEST_FILE_BYTES))
    except OSError as error:
        raise RigbenchError(f"{where}: cannot read it ({reason(error)})", "give the path of a config.json") from error
    except (ValueError, RecursionError) as error:
        raise RigbenchError(f"{where} is not JSON: {error}", "give a model's config.json") from error
    if isinstance(config, dict) and isinstance(config.get("text_config"), dict):
        config = config["text_config"]
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise RigbenchError(f"{where} names no model_type", "give a model's config.json, as its authors publish it")
    named = str(config.get("_name_or_path") or "").strip("/").rpartition("/")[2]
    folder = path.resolve().parent.name
    name = named or (path.stem if path.stem != "config" else folder) or config["model_type"]
    kind = config["model_type"]
    shape_of = _gpt2 if kind == "gpt2" else _neox if kind == "gpt_neox" else _llama
    return name, shape_of(config, where)


def _numbers(config: dict[str, Any], keys: dict[str, str], where: str) -> dict[str, Any]:
    lacking = [key for key in keys.values() if not isinstance(config.get(key), int) or isinstance(config[key], bool)]
    if config["model_type"] not in KNOWN:
        what = f"{where}: model_type {config['model_type'][:40]!r} is not known ({', '.join(KNOWN)} are)"
        lacks = f"as a Llama it would lack {', '.join(lacking)}" if lacking else "it has a Llama's fields"
        raise RigbenchError(f"{what}; {lacks}", "write its shape as a FILE.toml (`rigbench explain models`)")
    if lacking:
        raise RigbenchError(f"{where}: {', '.join(lacking)} missing or no whole number", "give the authors' own file")
    for key, kind in OPTIONAL.items():
        value: Any = config.get(key)
        if value is not None and (type(value).__name__ != kind or not 0 <= value <= LARGEST_NUMBER):
            wanted = f"a whole number from 0 to {LARGEST_NUMBER:,}" if kind == "int" else "true or false"
            what = f"{where}: {key} = {str(value)[:40]} is not {wanted}"
            raise RigbenchError(what, "give the authors' own file")
    found = {field: config[key] for field, key in keys.items()}
    return found | {"sequence": min(found["sequence"], LONGEST_USUAL_SEQUENCE)}


def _gpt2(config: dict[str, Any], where: str) -> Shape:
    its = _numbers(config, GPT2, where)
    return Shape(
        style="gpt2",
        kv_heads=its["heads"],
        ffn_width=config.get("n_inner") or 4 * its["width"],
        tied_head=config.get("tie_word_embeddings", True),
        biases=True,
        **its,
    )


def _neox(config: dict[str, Any], where: str) -> Shape:
    its = _numbers(config, NEEDED, where)
    _fixed(config, (("use_parallel_residual", True), ("attention_bias", True)), where)
    tied = config.get("tie_word_embeddings", False)
    return Shape(style="neox", kv_heads=its["heads"], tied_head=tied, biases=True, **its)


def _llama(config: dict[str, Any], where: str) -> Shape:
    family = FAMILIES.get(config["model_type"], Family())
    keys = NEEDED | ({"experts": family.experts, "active_experts": "num_experts_per_tok"} if family.experts else {})
    if family.experts == "num_experts":
        keys |= {"ffn_width": "moe_intermediate_size"}
    its = _numbers(config, keys, where)
    _fixed(config, family.fixed, where)
    shared = config.get("shared_expert_intermediate_size") or 0 if config["model_type"] == "qwen2_moe" else 0
    head_dim = config.get("head_dim") or family.head_dim
    windowed = its["layers"] - its["layers"] // family.full_every if family.full_every else 0
    windowed = windowed if config.get("sliding_window") else 0
    return Shape(
        style="llama",
        kv_heads=config.get("num_key_value_heads") or its["heads"],
        tied_head=config.get("tie_word_embeddings", family.tied),
        biases=False,
        head_dim=0 if head_dim * its["heads"] == its["width"] else head_dim,
        qkv_biases=family.qkv_biases,
        qk_norms=family.qk_norms,
        post_norms=family.post_norms,
        shared_width=shared,
        window=config["sliding_window"] if windowed else 0,
        windowed_layers=windowed,
        **its,
    )


def _fixed(config: dict[str, Any], keys: tuple[tuple[str, Any], ...], where: str) -> None:
    for key, value in keys:
        if config.get(key, value) not in (value, None):
            what = f"{where}: {key} = {str(config[key])[:40]} is not what rigbench's model can be"
            raise RigbenchError(what, f"it can be {value}")
