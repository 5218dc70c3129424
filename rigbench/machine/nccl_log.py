"""Which way did NCCL really take? What its log says of the channels between ranks.

The lines of transport/p2p.cc, shm.cc and net.cc, 2.13 to 2.30, at NCCL_DEBUG=INFO: "Channel 00/0 : 0[0] -> 1[1] via
P2P/CUMEM/read", "Channel 00 : 0[0] -> 1[1] via SHM/direct/direct", "… [send] via NET/Socket/0".
"""

from __future__ import annotations

import re
from collections import Counter

CHANNEL = re.compile(r"Channel \d+(?:/\d+)? : \S+ -> \S+ (?:\[send\] )?via ([A-Z0-9]+)/([^/\n]+)")


def transports(log: str) -> dict[str, int]:
    """{"P2P/CUMEM": 4}: channels by transport, each counted where it is sent from; empty where the log names none."""
    found = Counter(f"{match[1]}/{match[2].strip()}" for match in CHANNEL.finditer(log))
    return dict(sorted(found.items()))
