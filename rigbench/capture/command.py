"""The command that records this rig: capture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rigbench.command import Common, command, say

if TYPE_CHECKING:
    from rigbench.capture.record import CaptureSummary
    from rigbench.machine.rig import Rig

LOAD_FILE = "load.nvml.txt"
# What rigbench does not read, and who looks at somebody else's capture may want to know: the VBIOS, what the card alone
# could do in another slot, its other limits, its power averaged over a second.
ALSO_RECORDED = (
    *("nvmlDeviceGetVbiosVersion", "nvmlDeviceGetGpuMaxPcieLinkGeneration"),
    *("nvmlDeviceGetTemperatureThreshold/0", "nvmlDeviceGetTemperatureThreshold/3"),
    *(f"nvmlDeviceGetFieldValues/{number}/0" for number in (185, 193, 195, 196)),
)


@command("replay")
def capture(
    common: Common,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write.")],
    load: Annotated[
        bool, typer.Option("--load", help="Also read the GPUs while they copy, so that their links are awake.")
    ] = False,
    pasted: Annotated[
        list[Path],
        typer.Option(
            "--from", metavar="FILE", help="Make it from what somebody pasted: nvidia-smi, lspci, a bug report, NCCL."
        ),
    ] = [],  # noqa: B006 - typer's form of an option that may be repeated
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> int:
    """Record this rig, redacted, so that --replay DIR shows it anywhere; attach the folder to a bug report.

    rigbench capture -o myrig
    rigbench capture -o myrig --load       with the links awake
    rigbench --replay myrig topology       look at it again
    rigbench capture -o theirs --from smi.txt --from lspci.txt
    """
    from rigbench.core import units
    from rigbench.core.errors import FINE
    from rigbench.core.record import Absent
    from rigbench.core.screen import grid, headline
    from rigbench.store import encode

    summary = from_pasted(output, pasted, force) if pasted else record(output, common.replay, load, force)
    if summary.made_from:
        say(f"{output}: made from {', '.join(summary.made_from)}; what that does not say is absent")
    if common.json:
        sys.stdout.write(encode(summary).decode())
    else:
        console = common.console()
        what = "what was pasted" if pasted else "the replayed rig" if common.replay else "this rig"
        headline("capture", ("ok", f"{what} is recorded, redacted, in {summary.folder}"), console)
        files = ", ".join(f"{name} {units.format_bytes(size)}" for name, size in summary.files.items())
        next_ = [] if common.quiet else [("next", f"rigbench --replay {summary.folder} doctor (works anywhere)")]
        console.print(grid([("files", files), *next_]))
    counts = ", ".join(f"{times} {kind}" for kind, times in summary.redacted.items())
    left_out = f"; read but left out: {', '.join(summary.left_out)}" if summary.left_out else ""
    say(f"redacted: {counts or 'nothing was there to redact'}{left_out}")
    if load and isinstance(summary.load, Absent):
        say(f"no load was recorded: {summary.load.reason}")
    return FINE


def from_pasted(folder: Path, paths: list[Path], force: bool) -> CaptureSummary:
    """
    Raises:
        RigbenchError: a file cannot be read or is nothing that is known, or the folder cannot be written.
    """
    from rigbench.capture import pasted
    from rigbench.capture.record import CaptureSummary
    from rigbench.core.record import Absent
    from rigbench.machine import capture

    capture.check_folder(folder, force, None)
    made = pasted.capture_of(paths)
    capture.write(folder, made.files)
    return CaptureSummary(
        folder=str(folder),
        files={name: len(text.encode()) for name, text in made.files.items()},
        gpus=made.gpus,
        redacted=made.redacted,
        left_out=(),
        load=Absent("not asked for"),
        made_from=made.kinds,
    )


def record(folder: Path, replayed: Path | None, load: bool, force: bool) -> CaptureSummary:
    """Reads the rig, live or replayed, and writes what was read, redacted.

    Raises:
        RigbenchError: the recording cannot be read, or the folder not be written.
    """
    from rigbench.capture.record import CaptureSummary
    from rigbench.core.errors import RigbenchError
    from rigbench.core.record import Absent
    from rigbench.machine import capture
    from rigbench.machine.replay import Recording, ReplayedDriver
    from rigbench.machine.rig import PASTED, Rig, require_linux
    from rigbench.work.load import under_load

    capture.check_folder(folder, force, replayed)
    if not replayed:
        require_linux()
    rig = Rig.replay(replayed) if replayed else Rig.live()
    if any(note.startswith(PASTED) for note in rig.notes):
        raise RigbenchError(f"{replayed} was made from pasted text, and not by a machine", "copy the folder as it is")

    def read_busy(rig: Rig) -> Recording | Absent:
        if replayed:
            driver = rig.load.driver
            return driver.recording if isinstance(driver, ReplayedDriver) else Absent("the recording holds none")
        return under_load(rig, read_everything) if load else Absent("not asked for")

    captured = capture.record(rig, read_everything, read_busy)
    capture.write(folder, captured.files)
    count = rig.nvml.gpu_count()
    if rig.nvml.trouble:
        say(f"warning: {rig.nvml.trouble_line}")
    return CaptureSummary(
        folder=str(folder),
        files={name: len(text.encode()) for name, text in captured.files.items()},
        gpus=0 if isinstance(count, Absent) else count,
        redacted=captured.redacted,
        left_out=captured.left_out,
        load=captured.no_load or LOAD_FILE,
    )


def read_everything(rig: Rig) -> None:
    """Every reading that rigbench takes of a machine at rest, and a few more."""
    from rigbench.core import profiles
    from rigbench.monitor.readings import SlowBeat
    from rigbench.monitor.record import SLOW_SECONDS
    from rigbench.topology import survey
    from rigbench.work.sensors import Sampler

    for gpu in survey.run(rig, profiles.match_gpu).gpus:
        rig.nvml.ask(gpu.index, *ALSO_RECORDED)
    Sampler(rig).tick()
    SlowBeat(rig, SLOW_SECONDS).read_once()
