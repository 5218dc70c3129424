"""A slice of several ranks of which the second dies, hangs or runs out of memory in its fourth step, as BROKEN says."""

import os
import time

from rigbench.train import probe as train
from rigbench.train.record import Options

__all__ = ["Options", "run"]


def run(options, report, world):
    if world.rank == 1:
        _break(os.environ["BROKEN"])
    return train.run(options, report, world)


def _break(how):
    import torch

    from rigbench.model.gpt import Decoder

    whole, calls = Decoder.forward, []

    def forward(self, tokens, targets):
        calls.append(1)
        if len(calls) == 4:
            if how == "dies":
                os._exit(7)
            if how == "hangs":
                time.sleep(600)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, tokens, targets)

    Decoder.forward = forward
