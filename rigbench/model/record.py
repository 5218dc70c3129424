"""A model, its shape, and the document beside a packed file of token ids."""

from __future__ import annotations

from typing import Literal

from rigbench.core import units
from rigbench.core.record import Absent, Positive, Record

Dtype = Literal["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]  # of an id in a file
PackedDtype = Literal["uint16", "uint32"]  # that `rigbench pack` writes
AskedDtype = Literal["auto", "uint16", "uint32", "int32", "int64"]
ALL_ACTIVE = Absent("every token meets them all")


class Packed(Record, frozen=True, kw_only=True):
    """The document beside a packed file (FILE.bin.json): who made its ids, from what, and how many they are."""

    rigbench: str
    made_at: str
    file: str
    dtype: PackedDtype
    tokens: int
    documents: int
    tokenizer: str  # "bytes", or the base name of its tokenizer.json
    tokenizer_sha256: str | Absent  # of that file
    vocabulary: int  # one more than the highest id that the tokenizer can give, the end-of-text id included
    largest_id: int  # that is in the file
    end_of_text: int | Absent
    sources: tuple[str, ...]  # base names, never folders
    source_bytes: int
    bad_lines: int  # left out (--skip-bad)
    cut_documents: int  # too long to be tokenized whole: a token that spans one of the cuts became two
    unsplit: tuple[str, ...] = ()  # ends of documents that stand within the text, and how often


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
    window: int = 0  # tokens that a layer with a sliding window sees, 0: all
    windowed_layers: int = 0  # how many layers have it
    head_dim: int = 0  # of each head; 0: width / heads
    qkv_biases: bool = False  # where nothing else has biases, as Qwen2
    qk_norms: bool = False  # RMS norms of each head's queries and keys, as Qwen3
    post_norms: bool = False  # norms after attention and MLP too, as Gemma 2
    experts: int = 0  # gated MLPs of `ffn_width`, of which `active_experts` see each token; 0: one MLP for all
    active_experts: int = 0
    shared_width: int = 0  # of the expert that sees every token, and has a gate of its own

    @property
    def head_width(self) -> int:
        return self.head_dim or self.width // self.heads

    @property
    def query_width(self) -> int:
        """All heads together; the width of most."""
        return self.heads * self.head_width

    @property
    def active_width(self) -> int:
        """The feed-forward width that a token meets."""
        return self.active_experts * self.ffn_width + self.shared_width if self.experts else self.ffn_width

    @property
    def plain(self) -> bool:
        """Whether it is of the kinds that rigbench's own series are of."""
        return self.query_width == self.width and not (
            self.qkv_biases or self.qk_norms or self.post_norms or self.experts
        )


class Model(Record, frozen=True):
    """What was trained: nominal name, true counts. Tied weights count once."""

    name: str
    shape: Shape
    total_parameters: int
    non_embedding_parameters: int
    matmul_parameters: int  # those that enter a matrix product: the N of 6·N + 12·L·d·T
    flop_per_token: Positive  # that exact closed form, with full (not causally halved) attention
    flop_per_token_6n: float  # the field's 6·N_total; of experts those that a token meets
    active_parameters: int | Absent = ALL_ACTIVE  # those that a token meets, of a mixture of experts
    trainable_parameters: int | Absent = Absent("all of them")  # an adapter's, which `total_parameters` has in it

    @property
    def trained(self) -> int:
        """Parameters that get gradients and states."""
        return self.total_parameters if isinstance(self.trainable_parameters, Absent) else self.trainable_parameters

    @property
    def trains(self) -> str:
        """What of it an adapter's training trains, in words; "" where that is everything."""
        if isinstance(self.trainable_parameters, Absent):
            return ""
        trained, total = (units.format_count(count) for count in (self.trained, self.total_parameters))
        return f"{trained} of {total} parameters; the others are frozen: 4 FLOP a token, not 6"
