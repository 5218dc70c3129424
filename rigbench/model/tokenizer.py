"""Turns text into ids: by the user's own tokenizer.json, or its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular, reason
from rigbench.core.record import Absent

if TYPE_CHECKING:
    import numpy as np

    Ids = np.ndarray[Any, np.dtype[np.uint32]]

BYTES = "bytes"
NO_END = "none"
BYTE_END = 256  # the first id that no byte has
# What the tokenizers people download call the end of a document, in the order in which they are looked for.
KNOWN_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


class Tokenizer(NamedTuple):
    """`vocabulary` is one more than the highest id. `encode` gives an array of ids for each text, without the end."""

    name: str
    sha256: str | Absent
    vocabulary: int
    end_of_text: int | Absent
    encode: Callable[[Sequence[str]], list[Ids]]


def open_tokenizer(wanted: str, end: str | None = None) -> Tokenizer:
    """ "bytes", or the path of a tokenizer.json; `end` names the token that ends a document, or is "none"."""
    if wanted == BYTES:
        if end not in (None, NO_END):
            raise RigbenchError(f"--eot {end!r}: bytes have no such token", "leave --eot out, or --eot none")
        ends: int | Absent = Absent("--eot none") if end else BYTE_END
        return Tokenizer(BYTES, Absent("bytes need no file"), BYTE_END + (not end), ends, _bytes)
    return _from_file(Path(wanted), end)


def _bytes(texts: Sequence[str]) -> list[Ids]:
    import numpy as np

    return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]


def _from_file(path: Path, end: str | None) -> Tokenizer:
    try:
        content = read_regular(path)
    except OSError as error:
        what = f"--tokenizer: cannot read {path} ({reason(error)})"
        raise RigbenchError(what, "give the path of a tokenizer.json, or bytes") from None
    try:
        from tokenizers import Tokenizer as Library
    except ImportError:
        raise RigbenchError(
            "--tokenizer needs the package tokenizers, which is not installed",
            "pip install 'rigbench[tokenizers]', or use --tokenizer bytes",
        ) from None
    try:
        library = Library.from_str(content.decode())
    except Exception as error:  # the library raises Exception itself and nothing narrower
        if type(error) not in (Exception, UnicodeDecodeError):
            raise
        words = " ".join(str(error).split())[:120]
        raise RigbenchError(f"{path} is not a tokenizer.json ({words})", "export it again from its model") from None
    ids = library.get_vocab(with_added_tokens=True)
    library.no_truncation()
    library.no_padding()

    def encode(texts: Sequence[str]) -> list[Ids]:
        import numpy as np

        found = library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.uint32) for one in found]

    vocabulary = max(ids.values(), default=-1) + 1
    return Tokenizer(path.name, hashlib.sha256(content).hexdigest(), vocabulary, _end_of_text(path, ids, end), encode)


def _end_of_text(path: Path, ids: dict[str, int], end: str | None) -> int | Absent:
    if end == NO_END:
        return Absent("--eot none")
    if end is not None:
        if end not in ids:
            raise RigbenchError(f"--eot {end!r}: {path.name} has no such token", "name one that it has, or --eot none")
        return ids[end]
    for known in KNOWN_ENDS:
        if known in ids:
            return ids[known]
    what = f"{path.name} has no end-of-text token that I know"
    raise RigbenchError(what, "name the token with --eot TOKEN, or --eot none")
