"""Is no share of any stored run above the whole, and no product above the ceiling of its run?"""

import json
from pathlib import Path

import msgspec
import pytest

from rigbench.core.record import Absent
from rigbench.document import Run
from rigbench.matmul import verdict
from rigbench.matmul.record import Matmul
from rigbench.train.record import Slice

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("reports", "tests/runs")
    for path in (ROOT / folder).rglob("*.json")
    if isinstance(held := json.loads(path.read_text()), dict) and isinstance(held.get("matmul"), dict)
)
RUNS = {str(path.relative_to(ROOT)): msgspec.json.decode(path.read_bytes(), type=Run) for path in FILES}
MEASURED = {name: run for name, run in RUNS.items() if isinstance(run.matmul, Matmul)}


def test_there_are_such_runs():
    assert len(MEASURED) >= 2


@pytest.mark.parametrize("name", MEASURED)
def test_no_product_is_above_its_ceiling_and_no_share_above_the_whole(name):
    run = MEASURED[name]
    matmul = verdict.mended(run.matmul)
    for it in matmul.shapes:
        if it.check.correct:
            assert it.flops_per_s.value <= matmul.best_flops_per_s[it.dtype].value
    for step in matmul.steps:
        if not isinstance(step.seconds, Absent):
            assert step.flop / step.seconds.value <= matmul.best_flops_per_s[step.dtype].value
    shares = [it.share_of_datasheet for it in matmul.ceilings]
    for its in run.slices:
        if isinstance(its, Slice):
            shares += [
                figure if isinstance(figure, Absent) else figure.value
                for figure in (its.mfu, its.share_of_measured_matmul)
            ]
    assert all(isinstance(share, Absent) or 0 < share <= 1 for share in shares)


@pytest.mark.parametrize("name", MEASURED)
def test_nor_where_the_search_ran_out_of_time(name):
    """The same products beside a search that found nothing, and beside a ceiling of a thousandth."""
    matmul = MEASURED[name].matmul
    nothing = Absent("not found: ran out of time; 1 shape tried")
    without = tuple(msgspec.structs.replace(it, hot=nothing) for it in matmul.ceilings)
    low = {dtype: rate * 0.001 for dtype, rate in matmul.best_flops_per_s.items()}
    for changed in (
        msgspec.structs.replace(matmul, ceilings=without, best_flops_per_s={}, best_product={}),
        msgspec.structs.replace(matmul, best_flops_per_s=low, best_product={}),
    ):
        mended = verdict.mended(changed)
        for it in matmul.shapes:
            if it.check.correct:
                assert it.flops_per_s.value <= mended.best_flops_per_s[it.dtype].value
                assert mended.best_product[it.dtype]
        assert verdict.mended(mended) == mended
