"""Reads what was written of a model beside its checkpoints."""

from __future__ import annotations

from pathlib import Path

import msgspec

from rigbench.core.errors import RigbenchError
from rigbench.core.files import read_regular
from rigbench.scaling.record import Trained

RECORD = "record.json"


def read(folder: Path) -> Trained | None:
    """What is known of a model that was trained, or begun, in a folder; None where nothing is.

    Raises:
        RigbenchError: it cannot be read.
    """
    path = folder / RECORD
    try:
        return msgspec.json.decode(read_regular(path), type=Trained)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RigbenchError(f"{path} cannot be read ({error})", f"remove {folder} to train it anew") from None
