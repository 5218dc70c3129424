"""Are the steady steps of a real training as fast as the slice's, evaluations and checkpoints counted apart?

pytest tests/bench/test_bench_scaling.py -m bench -s
"""

import io

import msgspec
import numpy as np
import pytest

from rigbench.core import stats
from rigbench.model import shape
from rigbench.model.recipe import Recipe
from rigbench.scaling import probe as scaling
from rigbench.scaling.record import Options, Schedule
from rigbench.train import probe as train
from rigbench.work.process import Report

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
PAIRS = 20


@pytest.mark.parametrize(
    ("series", "name", "micro_batch", "seconds"), [("tiny", "280k", 16, 3.0), ("diy", "5M", 1, 4.0)]
)
def test_a_real_training_next_to_a_slice(series, name, micro_batch, seconds, tmp_path, benchmark, capsys):
    """In turn, each first in every other pair, with as many steps; a checkpoint or two in each."""
    model = next(it.model for it in shape.series(series).models if it.name == name)
    data = tmp_path / "ids.bin"
    ids = np.random.default_rng(0).integers(0, model.shape.vocabulary, 1 << 20)
    ids.astype("<u2").tofile(data)
    own = train.Options(
        model=model,
        data=str(data),
        data_dtype="uint16",
        device="cpu",
        seconds=seconds,
        recipe=Recipe(precision="fp32", micro_batch=micro_batch),
    )
    real, slices, apart = [], [], []

    def a_slice() -> int:
        its = train.run(own, Report(io.BytesIO()))
        slices.append(its.tokens_per_s.value)
        return len(its.steps.seconds)

    def a_training(steps: int) -> None:
        asked = Options(
            slice=own,
            schedule=Schedule(learning_rate=1e-3, warm_up_steps=2, steps=(steps,)),
            folder=str(tmp_path / str(len(real))),
            data_sha256="",
            held_out_tokens=8 * model.shape.sequence * micro_batch,  # few: an evaluation tells nothing of a step
            evaluations=1,
            checkpoint_seconds=seconds / 2,
        )
        its = scaling.run(asked, Report(io.BytesIO()))
        assert its.finished
        real.append(its.tokens_per_s.value)
        apart.append((its.checkpoint_seconds, sum(one.seconds for one in its.evaluations)))

    steps = max(12, a_slice())  # which also warms up
    slices.clear()

    def pair() -> None:
        if len(real) % 2:
            a_slice()
            a_training(steps)
        else:
            a_training(steps)
            a_slice()

    benchmark.pedantic(pair, rounds=PAIRS)
    ratio = stats.paired_ratio(real, slices)
    benchmark.extra_info.update(real=real, slice=slices, ratio=msgspec.to_builtins(ratio), steps=steps, apart=apart)
    with capsys.disabled():
        print(
            f"\n{name}: training over slice {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {PAIRS} pairs of "
            f"{steps} steps; apart from them {sum(it[0] for it in apart):.1f} s of checkpoints and "
            f"{sum(it[1] for it in apart):.1f} s of evaluations"
        )
    assert len(real) == len(slices) == PAIRS
