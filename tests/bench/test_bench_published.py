"""How far off are predictions on sources that the fit has not seen, and does their 90 % interval hold?

    pytest tests/bench/test_bench_published.py -m bench -s

The table that `rigbench explain accuracy` shows in short; its numbers are stored in tests/data/accuracy.csv. Each
source is left out in turn, and sources count alike; beside it two rivals.
"""

from __future__ import annotations

import published
import published_score
import pytest
import set_aside

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]


def test_sources_that_were_left_out() -> None:
    data = [row for row in published.rows()[0] if row.source not in set_aside.SOURCES]
    lines = published_score.table(published_score.left_out(data))
    for name, items in published_score.rivals(data).items():
        lines.append(published_score.line("rival", name, [it for it in items if published_score.plain(it)]))
    print(f"\n{len(data)} rows of {len({row.source for row in data})} sources, one left out at a time")
    print(published_score.shown(lines))
    published_score.store(lines)
    its = {(it.known, it.kind): it for it in lines}
    assert its["nothing", "without fp8 and toys"].alike <= 0.12
    assert its["a run on this card", "without fp8 and toys"].alike <= 0.05
    assert 0.85 <= its["nothing", "all"].held <= 0.95
    assert its["nothing", "all"].held_alike >= 0.80
    assert its["nothing", "compiled"].width <= 0.76
