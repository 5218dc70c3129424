"""What is in a file of token ids, and how was it made?"""

from __future__ import annotations

from typing import Literal

from rigbench.core.record import Absent, Record


class Packed(Record, frozen=True, kw_only=True):
    """The document beside a packed file (FILE.bin.json): who made its ids, from what, and how many they are.

    `tokenizer` is "bytes" or the base name of its tokenizer.json, `tokenizer_sha256` of that file. `vocabulary` is one
    more than the highest id that the tokenizer can give, the end-of-text id included; `largest_id` is the highest that
    is in the file. `sources` are base names, never folders. `bad_lines` were left out (--skip-bad). `cut_documents`
    were too long to be tokenized whole: a token that spans one of the cuts became two.
    """

    rigbench: str
    made_at: str
    file: str
    dtype: Literal["uint16", "uint32"]
    tokens: int
    documents: int
    tokenizer: str
    tokenizer_sha256: str | Absent
    vocabulary: int
    largest_id: int
    end_of_text: int | Absent
    sources: tuple[str, ...]
    source_bytes: int
    bad_lines: int
    cut_documents: int


class Shape(Record, frozen=True):
    """A decoder's shape: L layers, width d, H heads, V vocabulary, T sequence."""

    style: Literal["gpt2", "neox", "llama"]
    layers: int
    width: int
    heads: int
    kv_heads: int
    ffn_width: int
    vocabulary: int
    sequence: int
    tied_head: bool
    biases: bool


class Model(Record, frozen=True):
    """What was trained: nominal name, true counts. Tied weights count once.

    `matmul_parameters` are those that enter a matrix product: the N of 6·N + 12·L·d·T. `flop_per_token` is that exact
    closed form with full (not causally halved) attention; `flop_per_token_6n` is the field's 6·N_total.
    """

    name: str
    shape: Shape
    total_parameters: int
    non_embedding_parameters: int
    matmul_parameters: int
    flop_per_token: float
    flop_per_token_6n: float
