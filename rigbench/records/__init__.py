"""Every result that rigbench can produce: frozen, with units in the names."""

from rigbench.records.base import Absent, EndedBy, Estimate, Figure, Record, Skipped, Source, Timing
from rigbench.records.budget import Budget, PlanRow, Power, Price, Rate
from rigbench.records.finding import Cost, Explanation, Finding, Severity, Unchecked
from rigbench.records.gpu import Gpu, GpuProcess, MigDevice
from rigbench.records.matmul import Matmul, MatmulCheck, MatmulShape
from rigbench.records.pci import GpuPair, Isolation, NcclChoice, PciDevice, PciHop, PciPath
from rigbench.records.probe import Device, Energy, SensorSeries, Telemetry
from rigbench.records.rig import Cpu, Disk, Memory, NumaNode, RigId, Software, Topology
from rigbench.records.run import SCHEMA, Run
from rigbench.records.slices import Arm, Data, Model, PrecisionTrial, Shape, Slice, Steps, Vram

__all__ = [
    "SCHEMA",
    "Absent",
    "Arm",
    "Budget",
    "Cost",
    "Cpu",
    "Data",
    "Device",
    "Disk",
    "EndedBy",
    "Energy",
    "Estimate",
    "Explanation",
    "Figure",
    "Finding",
    "Gpu",
    "GpuPair",
    "GpuProcess",
    "Isolation",
    "Matmul",
    "MatmulCheck",
    "MatmulShape",
    "Memory",
    "MigDevice",
    "Model",
    "NcclChoice",
    "NumaNode",
    "PciDevice",
    "PciHop",
    "PciPath",
    "PlanRow",
    "Power",
    "PrecisionTrial",
    "Price",
    "Rate",
    "Record",
    "RigId",
    "Run",
    "SensorSeries",
    "Severity",
    "Shape",
    "Skipped",
    "Slice",
    "Software",
    "Source",
    "Steps",
    "Telemetry",
    "Timing",
    "Topology",
    "Unchecked",
    "Vram",
]
