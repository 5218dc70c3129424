"""Every result that rigbench can produce: frozen, with units in the names."""

from rigbench.records.base import Absent, EndedBy, Estimate, Figure, Record, Skipped, Source, Timing
from rigbench.records.budget import Budget, PlanRow, Power, Price, Rate
from rigbench.records.matmul import Matmul, MatmulCheck, MatmulShape
from rigbench.records.probe import Device, Energy, SensorSeries, Telemetry
from rigbench.records.rig import Cpu, Disk, Gpu, Memory, NumaNode, PciDevice, RigId, Software, Topology
from rigbench.records.run import SCHEMA, Run
from rigbench.records.slices import Arm, Data, Model, PrecisionTrial, Shape, Slice, Steps, Vram

__all__ = [
    "SCHEMA",
    "Absent",
    "Arm",
    "Budget",
    "Cpu",
    "Data",
    "Device",
    "Disk",
    "EndedBy",
    "Energy",
    "Estimate",
    "Figure",
    "Gpu",
    "Matmul",
    "MatmulCheck",
    "MatmulShape",
    "Memory",
    "Model",
    "NumaNode",
    "PciDevice",
    "PlanRow",
    "Power",
    "PrecisionTrial",
    "Price",
    "Rate",
    "Record",
    "RigId",
    "Run",
    "SensorSeries",
    "Shape",
    "Skipped",
    "Slice",
    "Software",
    "Source",
    "Steps",
    "Telemetry",
    "Timing",
    "Topology",
    "Vram",
]
