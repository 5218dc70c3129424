"""The matmul probe on a device that multiplies wrongly: one element in a thousand of every product is off."""

from rigbench.matmul import probe as matmul
from rigbench.matmul.record import ProbeOptions as Options
from rigbench.matmul.search import Search

__all__ = ["Options", "run"]


def run(options, report):
    import torch

    right = torch.mm

    def wrong(a, b, *, out):
        right(a, b, out=out)
        out[:, ::100] += 100.0 * out.abs().mean()
        return out

    torch.mm = wrong
    Search._short_of = lambda *_: ""  # however busy the machine, the load goes on
    return matmul.run(options, report)
