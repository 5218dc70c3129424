"""What do the tests of tests/gpu say in the time that is left? Quick ones come first."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from one_shot.piece import Piece

HERE = Path(__file__).parents[1]
ORDER = (
    "test_cuda_p2p", "test_cuda_collectives", "test_cuda_loader", "test_cuda.py", "test_cuda_bandwidth",
    "test_cuda_matmul", "test_cuda_train_ranks", "test_cuda_thermals", "test_cuda_energy", "test_cuda_arms",
    "test_vram",
)  # fmt: skip
TINY = "test_the_switches_are_put_back or test_the_drivers_own_peer_copy or True-True"
RESERVE_SECONDS = 5.0


class Reporter:
    """pytest's hooks: a row a test, as it ends; once time is up, the others are not begun."""

    def __init__(self, piece: Piece) -> None:
        self.piece, self.counts = piece, {"passed": 0, "failed": 0, "skipped": 0, "not reached": 0}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        def place(item: Any) -> int:
            return next((index for index, name in enumerate(ORDER) if name in item.nodeid), len(ORDER))

        items.sort(key=place)

    def pytest_runtest_protocol(self, item: Any) -> bool | None:
        import pytest

        left = self.piece.left_seconds() - RESERVE_SECONDS
        if left < 1.0:
            self.counts["not reached"] += 1
            return True
        item.add_marker(pytest.mark.timeout(left), append=False)
        return None

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        late = report.outcome == "failed" and self.piece.left_seconds() < RESERVE_SECONDS + 1.0
        outcome = "not reached" if late else report.outcome
        self.counts[outcome] += 1
        reason = "" if outcome == "passed" else str(report.longrepr)[-2000:]
        self.piece.row(test=report.nodeid, outcome=outcome, seconds=round(report.duration, 2), reason=reason)
        if outcome == "failed":
            self.piece.learn(f"{report.nodeid}: {reason.strip().splitlines()[-1] if reason else 'failed'}", off=True)


def main() -> int:
    piece = Piece("suite")
    missing = [name for name in ("pytest", "pytest_timeout") if importlib.util.find_spec(name) is None]
    if missing:
        piece.learn(f"not run: {' and '.join(missing)} not installed (pip install -e 'CHECKOUT[test]')")
        return piece.end()
    import pytest

    reporter = Reporter(piece)
    words = [str(HERE), "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", *(["-k", TINY] if piece.tiny else [])]
    ended = pytest.main(words, plugins=[reporter])
    piece.keep(exit=int(ended))
    piece.learn(", ".join(f"{count} {name}" for name, count in reporter.counts.items()))
    if int(ended) > 1:
        piece.learn(f"pytest ended with {int(ended)}", off=True)
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
