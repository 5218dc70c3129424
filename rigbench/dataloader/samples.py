"""What would this text be as a file of ids? A sample of it, packed and kept for as long as it is measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rigbench.core.errors import RigbenchError
from rigbench.core.record import Absent
from rigbench.model import text
from rigbench.model.tokenizer import Tokenizer
from rigbench.model.tokens import ITEM_BYTES, Dtype
from rigbench.store import reason

if TYPE_CHECKING:
    from rigbench.model.tokens import Tokens

MOST_TEXT_BYTES = 8 << 20


def first_ids(path: Path, field: str, tokenizer: Tokenizer, dtype: Dtype, skip_bad: bool, seconds: float) -> Tokens:
    """The ids of the first lines of a JSONL file, as many as that time and a few MiB give.

    Raises:
        RigbenchError: unreadable, or a bad line that is not to be skipped.
    """
    import numpy as np

    tally = text.Tally(skip_bad)
    ending = np.array([] if isinstance(tokenizer.end_of_text, Absent) else [tokenizer.end_of_text], np.uint32)
    until = time.perf_counter() + seconds
    parts = []
    for line in text.jsonl_texts(path, field, tally):
        parts += [*tokenizer.encode([line]), ending]
        if tally.bytes > MOST_TEXT_BYTES or time.perf_counter() > until:
            break
    ids: Tokens = np.concatenate(parts).astype(f"<u{ITEM_BYTES[dtype]}")
    return ids


@contextlib.contextmanager
def written(path: Path, ids: Tokens) -> Iterator[None]:
    """A file of these ids, for as long as this lasts.

    Raises:
        RigbenchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ids.tobytes())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RigbenchError(
            f"cannot write a packed sample to {path.parent} ({reason(error)})", "free space, or choose --home DIR"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
