"""What would this PCI tree look like as real files? Writes a recording's pci.json as a folder of /sys.

It is written independently of rigbench's own replay, so that each can be tested against the other.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

BAR_COUNT = 13
BAR_BASE = 0x3F000000000


def expand_recording(recording: Path, root: Path) -> None:
    """`recording/pci.json` and the NUMA nodes of its rig.json, below `root`."""
    host = json.loads((recording / "rig.json").read_text())
    expand(json.loads((recording / "pci.json").read_text()), root, host.get("nodes", {}))


def expand(functions: dict[str, dict[str, Any]], root: Path, nodes: dict[str, str] | None = None) -> None:
    nodes = nodes or {}
    for bus_id, function in functions.items():
        folder = root / "sys/devices" / _place(functions, bus_id)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in _files(function, nodes).items():
            (folder / name).write_text(text + "\n")
        _link(root / "sys/bus/pci/devices" / bus_id, folder)
        if function.get("iommu_group") is not None:
            group = root / "sys/kernel/iommu_groups" / str(function["iommu_group"])
            _link(group / "devices" / bus_id, folder)
            _link(folder / "iommu_group", group)
    for number, cpus in nodes.items():
        write(root, {f"sys/devices/system/node/node{number}/cpulist": cpus})


def write(root: Path, files: dict[str, str]) -> None:
    """Files by their path without the leading slash."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")


def _place(functions: dict[str, dict[str, Any]], bus_id: str) -> str:
    parent = functions[bus_id].get("parent")
    return f"{_place(functions, parent) if parent else functions[bus_id]['root']}/{bus_id}"


def _files(function: dict[str, Any], nodes: dict[str, str]) -> dict[str, str]:
    node = function.get("numa", -1)
    files = {name: function[name] for name in ("class", "vendor", "device") if name in function}
    files |= {"numa_node": str(node), "local_cpulist": nodes.get(str(node), "")}
    files["resource"] = "\n".join(_bars(function.get("bars", {})))
    if function.get("max_speed"):
        files["max_link_speed"] = f"{function['max_speed']:.1f} GT/s PCIe"
        files["current_link_speed"] = f"{function.get('cur_speed', function['max_speed']):.1f} GT/s PCIe"
        files["max_link_width"] = str(function["max_width"])
        files["current_link_width"] = str(function.get("cur_width", function["max_width"]))
    return files


def _bars(sizes: dict[str, int]) -> list[str]:
    """The lines of `resource`: start, end and flags of each base address register."""
    lines, base = [], BAR_BASE
    for number in range(BAR_COUNT):
        size = sizes.get(str(number), 0)
        lines.append(
            f"0x{base:016x} 0x{base + size - 1:016x} 0x{0x40200:016x}" if size else " ".join(["0x" + "0" * 16] * 3)
        )
        base += size
    return lines


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
