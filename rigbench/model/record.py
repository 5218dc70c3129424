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
