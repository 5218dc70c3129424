"""A driver library of our own making, built from fakenvml.c: drives the real pynvml, and whole rigbench processes.

Every NVML name that the installed pynvml may ask for and fakenvml.c does not serve becomes a stub that answers "not
supported", as on the real library, which exports them all; setters answer "no permission", as to an ordinary user.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pynvml

HERE = Path(__file__).parent
LIBRARY = "libnvidia-ml.so.1"
FAULT = "FAKE_NVML_FAULT"
# It has no soname: a test that loads it by its path must not make it what others find as libnvidia-ml.so.1.
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
NO_PERMISSION, NOT_SUPPORTED = 4, 3
SETTER = re.compile(r"nvml\w*(Set|Reset|Clear|Create|Destroy|Freeze|Modify|Remove|Discover)[A-Z]\w*")

NEEDS_COMPILER = "gcc is not installed: nothing is tested against a driver library in C; install gcc"


def has_compiler() -> bool:
    return shutil.which("gcc") is not None


@dataclass(frozen=True)
class FakeDriver:
    """The built library, and one recording after another for it to answer from."""

    library: Path

    def environment(self, recording: Path, log: Path | None = None) -> dict[str, str]:
        """What a process needs to find this driver."""
        found = {"LD_LIBRARY_PATH": str(self.library.parent), "FAKE_NVML_FILE": str(recording)}
        return found | ({"FAKE_NVML_LOG": str(log)} if log else {})

    def open(self, recording: Path, log: Path | None = None) -> ctypes.CDLL:
        """The library in this process, ready to be initialised with a recording."""
        opened = ctypes.CDLL(str(self.library))
        while opened.nvmlShutdown() == 0:
            pass  # whoever used it before: it reads the next recording only when all have left
        os.environ.pop("FAKE_NVML_LOG", None)
        os.environ |= {"FAKE_NVML_FILE": str(recording)} | ({"FAKE_NVML_LOG": str(log)} if log else {})
        return opened

    def run(
        self, *arguments: str, recording: Path, home: Path, log: Path | None = None, fault: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A real rigbench process that finds this driver."""
        environment = os.environ | self.environment(recording, log) | {"RIGBENCH_HOME": str(home)}
        environment.pop(FAULT, None)
        environment |= {FAULT: fault} if fault else {}
        return subprocess.run(
            [sys.executable, "-m", "rigbench", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def build(folder: Path, hidden: Sequence[str] = ()) -> FakeDriver:
    """Compiles the library into a folder. `hidden` names are not exported: a driver too old to have them."""
    stubs, exports, library = folder / "stubs.c", folder / "exports.map", folder / LIBRARY
    stubs.write_text(stubs_for(names_known_to_pynvml()))
    local = "".join(f"{name}; " for name in ("fakenvml_unserved", *hidden))
    exports.write_text(f"{{ global: nvml*; local: {local}}};\n")
    sources = (str(HERE / "fakenvml.c"), str(stubs))
    subprocess.run(
        ["gcc", *FLAGS, f"-Wl,--version-script={exports}", "-o", str(library), *sources, "-pthread"], check=True
    )
    return FakeDriver(library)


def names_known_to_pynvml() -> tuple[str, ...]:
    source = Path(pynvml.__file__).read_text()
    return tuple(sorted(set(re.findall(r'_nvmlGetFunctionPointer\("(nvml\w+)"', source))))


def stubs_for(names: Sequence[str]) -> str:
    """Weak functions: one of the same name in fakenvml.c wins."""
    lines = ["int fakenvml_unserved(const char *name, int code);"]
    for name in names:
        code = NO_PERMISSION if SETTER.fullmatch(name) else NOT_SUPPORTED
        lines.append(f'__attribute__((weak)) int {name}(void) {{ return fakenvml_unserved("{name}", {code}); }}')
    return "\n".join(lines) + "\n"


def calls_in(log: Path) -> list[tuple[str, str, int]]:
    """A call log's lines as (scope, call, code)."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(scope, call, int(code)) for scope, call, _arrow, code in map(str.split, lines)]
