"""How far off is the step-time model on cards and on sources that its constants have not seen?

    pytest tests/bench/test_bench_published.py -m bench -s

Of every left-out group the constants, and the 90 % interval, are made from the other rows alone. Sources count alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import published
import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(("what", "most"), [("card", 0.12), ("source", 0.20)])
def test_what_was_left_out_is_predicted(what: str, most: float) -> None:
    data, why = published.rows()
    groups = [getattr(row, what) for row in data]
    errors = np.expm1(-published.left_out(data, groups))  # predicted over measured seconds, less 1
    inside, shares = published.covered(data, groups), published.source_shares(data)
    median = published.quantile(np.abs(errors), shares, 0.5)
    print(f"\n{len(data)} rows of {len({row.source for row in data})} sources; not used: {dict(why)}")
    _print_table(what, groups, errors, inside)
    print(f"{what}-out: median error {median:.1%} (target {most:.0%}), plain {np.median(np.abs(errors)):.1%};")
    print(f"90 % interval holds {inside.mean():.1%} of rows, {np.average(inside, weights=shares):.1%} by source")
    assert median <= most
    assert 0.85 <= inside.mean() <= 0.97


def _print_table(what: str, groups: Sequence[str], errors: np.ndarray, inside: np.ndarray) -> None:
    print(f"{what:<44} rows   predicted/measured seconds: median, least, most    inside")
    for group in sorted(set(groups)):
        own = np.array([its == group for its in groups])
        part = errors[own]
        ends = f"{np.median(part):+.0%}  {part.min():+.0%}  {part.max():+.0%}"
        print(f"{group:<44} {own.sum():4}   {ends:<44} {inside[own].mean():.0%}")
