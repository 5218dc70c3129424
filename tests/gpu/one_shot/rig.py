"""What does this machine say of itself: its recording, which --replay shows anywhere, and what rigbench makes of it?"""

from __future__ import annotations

import shutil
import subprocess
import sys

from one_shot.piece import RIGBENCH, Piece, last

ASKED = (
    ("capture", ("capture", "--load", "--force", "-o")),
    ("topology", ("topology", "-v")),
    ("doctor", ("doctor", "-v")),
)


def main() -> int:
    piece = Piece("rig")
    for name, words in ASKED:
        folder = (str(piece.out / "rig"),) if name == "capture" else ()
        command = [sys.executable, *RIGBENCH, *words, *folder, "--home", str(piece.out / "home-rig")]
        done = subprocess.run(command, capture_output=True, text=True)
        piece.row(asked=name, exit=done.returncode, out=done.stdout, err=done.stderr)
        off = done.returncode not in (0, 1) or (name == "capture" and done.returncode != 0)
        piece.learn(f"rigbench {name}: exit {done.returncode}; {last(done.stderr or done.stdout)}", off=off)
    if shutil.which("nvidia-smi"):
        driver = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, check=False)
        piece.row(asked="nvidia-smi -q", exit=driver.returncode, out=driver.stdout, err=driver.stderr)
    return piece.end()


if __name__ == "__main__":
    sys.exit(main())
