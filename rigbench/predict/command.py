"""The command that says what fits: capacity."""

from __future__ import annotations

from rigbench.command import Common, command
from rigbench.model.named import SeriesOptions
from rigbench.predict.record import Options


@command("device", "on", "link", "p2p", "replay")
def capacity(common: Common, model: SeriesOptions, options: Options) -> int:
    """What fits: the largest model, micro-batch and sequence, and what fills the memory. Predicted, no GPU needed.

    Micro-batch and sequence are those of one model, the series' largest; with --params or --model of that one, and
    the largest model of the series is then not worked out.

        rigbench capacity --on 2xrtx-4080                   cards that you do not own
        rigbench capacity --params 500M --series llama      one model on this machine
        rigbench capacity --on rtx-4090 --inference         generating text instead
        rigbench capacity --on rtx-4090 --model mynet:make  a program of yours
    """
    import msgspec

    from rigbench.core import profiles
    from rigbench.core.errors import RigbenchError
    from rigbench.core.options import NOT_GIVEN
    from rigbench.core.record import Absent
    from rigbench.model import named, shape
    from rigbench.predict.capacity import predicted, predicted_program
    from rigbench.predict.recorded import rig_asked

    if options.context_tokens is not NOT_GIVEN and not options.inference:
        raise RigbenchError("--context is the length of an inference's cache", "add --inference, or give --seq")
    program = named.factory(model)
    if program is not None:
        on = rig_asked(common.on, common.replay)
        sizes = [0 if isinstance(it, Absent) else it for it in (model.vocabulary, model.sequence)]
        return common.answer(lambda job: predicted_program(job, program, sizes, options, on, common.device))
    series = shape.series(model.series_name)
    of_series = isinstance(model.params, Absent) and isinstance(model.model, Absent)
    if not isinstance(model.model, Absent):  # the series beside it is the one whose largest model is wanted
        model = msgspec.structs.replace(model, series=NOT_GIVEN)
    chosen = named.choose(model, series.models[-1].model)
    on = rig_asked(common.on, common.replay)
    if on is not None:
        profiles.rig_named(on)
    return common.answer(lambda job: predicted(job, chosen, series, options, on, common.device, of_series))
