"""How far off are predictions on sources that the fit has not seen, and does their 90 % interval hold?

    pytest tests/bench/test_bench_published.py -m bench -s

The table that `rigbench explain accuracy` shows in short; its numbers are stored in tests/data/accuracy.csv. Each
source is left out in turn, and sources count alike; beside it two rivals.
"""

from __future__ import annotations

import published
import published_score
import pytest

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]


def test_sources_that_were_left_out() -> None:
    data = published.rows()[0]
    lines = published_score.table(published_score.left_out(data))
    for name, items in published_score.rivals(data).items():
        lines.append(published_score.line("rival", name, [it for it in items if published_score.plain(it)]))
    print(f"\n{len(data)} rows of {len({row.source for row in data})} sources, one left out at a time")
    print(published_score.shown(lines))
    published_score.store(lines)
    its = {(it.known, it.kind): it for it in lines}
    assert its["nothing", "without fp8 and toys"].alike <= 0.12
    assert its["a run on this card", "without fp8 and toys"].alike <= 0.05
    assert its["a run on this card", "without fp8 and toys"].within_90 <= 0.15
    assert 0.85 <= its["nothing", "all"].held <= 0.95
    assert its["nothing", "all"].held_alike >= 0.80
    for kind in ("compiled", "sharded", "by hand", "hand-written CUDA", "fp8"):
        assert its["nothing", kind].held_alike >= 0.80, kind
    for known, kind, width in (
        ("nothing", "without fp8 and toys", 0.75),
        ("a run on another card", "without fp8 and toys", 0.65),
        ("a run on this card", "without fp8 and toys", 0.45),
        ("a run on this card", "farther", 0.45),
        ("a run on this card", "within an e-fold", 0.25),
    ):
        assert round(its[known, kind].width, 2) <= width, (known, kind)
