"""What does a user's own shape say? One decoder in a FILE.toml, read and checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.profile_files import Count, Profile, Text

LIMIT_BYTES = 1 << 20  # of a file that holds eleven words


class ShapeFile(Profile, frozen=True, kw_only=True):
    """A decoder of the user's own, as `--model FILE.toml` reads it.

    `kv_heads` is `heads` unless stated; `ffn_width` four widths, or 8/3 for llama; `biases` as the style has them;
    `name` the file's.
    """

    style: Literal["gpt2", "neox", "llama"]
    layers: Count
    width: Count
    heads: Count
    vocabulary: Count
    sequence: Count
    name: Text | None = None
    kv_heads: Count | None = None
    ffn_width: Count | None = None
    tied_head: bool = True
    biases: bool | None = None


def read_shape(path: Path) -> ShapeFile:
    """The user's own shape.

    Raises:
        RigbenchError: it cannot be read, is not TOML, or does not say what such a file should.
    """
    where = f"--model {path}"
    try:
        with path.open("rb") as file:
            raw = tomllib.loads(file.read(LIMIT_BYTES).decode())
    except OSError as error:
        raise RigbenchError(f"{where}: cannot read it ({error.strerror})", "give the path of a FILE.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RigbenchError(f"{where} is not TOML: {error}", "mend that line") from None
    try:
        return msgspec.convert(raw, ShapeFile)
    except msgspec.ValidationError as error:
        needed = [field.name for field in msgspec.structs.fields(ShapeFile) if field.required]
        others = [field.name for field in msgspec.structs.fields(ShapeFile) if not field.required]
        cure = f"it needs {', '.join(needed)}, and may have {', '.join(others)}"
        raise RigbenchError(f"{where}: {error}", cure) from None
