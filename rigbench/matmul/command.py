"""The command matmul, and its order of work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rigbench.command import Common, command
from rigbench.matmul.record import Matmul, Options, ProbeOptions
from rigbench.model.named import ModelOptions

if TYPE_CHECKING:
    from rigbench.core.record import Skipped
    from rigbench.job import Job

PROBE = "rigbench.matmul.probe"
MARGIN_SECONDS = 300.0  # beyond the probe's own limit: loading torch, one long product, devices that take turns


@command("device", "keep_disturbed")
def matmul(common: Common, model: ModelOptions, options: Options) -> int:
    """How fast this device multiplies matrices: the ceiling, cold and hot, and the model's own products.

    Checked against float64, next to the datasheet.

        rigbench matmul
        rigbench matmul --params 350M --series llama    the products of another model
        rigbench matmul --seconds 20s                   a shorter look
    """
    from rigbench.model import named

    given = msgspec.structs.asdict(options)
    probe_options = ProbeOptions(model=named.choose(model), device=common.device or "auto", **given)
    return common.answer(lambda job: run(job, probe_options))


def run(job: Job, options: ProbeOptions) -> Matmul | Skipped:
    """The probe in its own process; a wrong product is a fault, and datasheet and sensors stand beside the result.

    Raises:
        Interrupted: the user said stop; what was measured is saved.
        RigbenchError: the options cannot be met.
    """
    from rigbench.matmul import verdict

    kind = "cuda" if job.gpus and options.device != "cpu" else "cpu"  # the probe alone knows what the device offers
    seconds = options.times(kind, len(options.dtypes_on(kind))).total
    job.progress.stage("matmul", seconds)

    def complete(result: Matmul) -> Matmul:
        job.faults += verdict.wrong(result)
        return verdict.beside_sensors(verdict.beside_datasheet(verdict.mended(result), job.datasheet(result.device)))

    return job.measure(
        PROBE,
        options,
        Matmul,
        limit_seconds=seconds + MARGIN_SECONDS,
        room="matmul",
        stands=lambda result: bool(verdict.wrong(result)),
        complete=complete,
    )
