"""The cards whose results lie in reports/*/one_shot, as rigbench/doctor/real_cards.json names them.

python tests/gpu/real_cards.py > rigbench/doctor/real_cards.json      (a test holds the file against this)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def real_cards(root: Path) -> list[dict[str, Any]]:
    """In the order of their folders; a tiny run is one on a fake card."""
    found = []
    for path in sorted(root.glob("reports/*/one_shot/summary.json")):
        told = json.loads(path.read_text())
        if told["tiny"]:
            continue
        card = told["card"]
        found.append(
            {
                "name": card["name"],
                "driver": card["driver"],
                "torch": told["software"]["torch"],
                "date": told["started_at"][:10],
                "folder": path.parent.relative_to(root).as_posix(),
                "groups": {one["name"]: one["status"] for one in told["groups"]},
            }
        )
    return found


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    print(json.dumps(real_cards(root), indent=1))
