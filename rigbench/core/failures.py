"""Tells what kind of failure an exception is, and what it says, in one line."""

from __future__ import annotations

import os
import subprocess
import traceback

# As libraries beneath torch say that an allocation was refused; torch's own allocators say so by type or in words:
# c10/core/CPUAllocator.cpp, c10/cuda/CUDAException ("CUDA error: out of memory"), at::cuda::blas::_cublasGetErrorEnum
# (CUBLAS_STATUS_ALLOC_FAILED, also of cublasCreate in the backward pass's own thread: pytorch 128601), cuDNN
# (CUDNN_STATUS_ALLOC_FAILED, from 9 on ..._INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED), and NCCL, which quotes the CUDA
# runtime ("Cuda failure 2 'out of memory'").
OUT_OF_MEMORY = ("out of memory", "_alloc_failed", "_allocation_failed", "defaultcpuallocator", "allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation was refused, by torch or by a library beneath it, whose memory is its own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


MOST_CHARACTERS = 300  # of a cause that is quoted
REPLICA, QUOTED, IN_A_COMPILER = "Original Traceback", "Last error:", "error:"
# Where torch.compile makes a program. A step of one that is made runs none of these.
COMPILING = (
    "torch/_dynamo/convert_frame.py",
    "torch/_inductor/compile_fx.py",
    "torch/_inductor/codecache.py",
    "torch/_inductor/async_compile.py",
)


def cause(error: BaseException) -> str:
    """What an exception says, in one line.

    Of several lines the last is seldom the one: CUDA's go on with how to debug. A replica's error and NCCL's come
    after what torch puts before them, a compiler's among its notes.
    """
    if isinstance(error, subprocess.CalledProcessError):
        command = error.cmd if isinstance(error.cmd, str) else error.cmd[0]
        return f"{os.path.basename(str(command).split(' ')[0])} ended with code {error.returncode}"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = lines[0].strip()
    if any(REPLICA in line for line in lines):  # torch/_utils.py, ExceptionWrapper: a traceback, then what was raised
        last = max(index for index, line in enumerate(lines) if line.startswith(" "))
        said = next(iter(lines[last + 1 :]), said)
    elif QUOTED in lines[:-1]:
        said = f"{said}: {lines[lines.index(QUOTED) + 1].strip()}"
    elif len(lines) > 1 and "compile error" in said.lower():
        said = next((line.strip() for line in lines if IN_A_COMPILER in line), said)
    return said[:MOST_CHARACTERS]


def told(error: BaseException) -> str:
    """Kind and cause: "ValueError: bad width"."""
    kind, said = type(error).__name__, cause(error)
    return said if said.startswith(kind) else f"{kind}: {said}"


def not_compiled(error: BaseException | None) -> str:
    """What kept torch.compile from making a program, in one line; "" where something else failed.

    Its own last line is always how to see more of it (torch/_dynamo/exc.py, `augment_exc_message`).
    """
    made = type(error).__mro__ if error else ()
    by_type = any(kind.__module__.startswith(("torch._dynamo.", "torch._inductor.")) for kind in made)
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)] if error else []
    if error is None or not (by_type or any(file.endswith(COMPILING) for file in files)):
        return ""
    while isinstance(inner := getattr(error, "inner_exception", None), BaseException):
        error = inner
    return cause(error)
