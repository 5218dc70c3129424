"""Is a failure told by its kind and its cause, whoever raised it?"""

import subprocess

import pytest
import torch

from rigbench.core.failures import cause, is_out_of_memory, told

REFUSED = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of …"),
    "CUDA": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported …"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "NCCL": torch.distributed.DistBackendError(
        "NCCL error in: ProcessGroupNCCL.cpp:94, unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL "
        "version 2.29.7\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of "
        "memory'"
    ),
    "the host": RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    "Python": MemoryError(),
}
OTHERS = {
    "shapes": RuntimeError("shape mismatch"),
    "a kernel": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "Triton": RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
    "a person": ValueError("I ran out of memory"),
}


@pytest.mark.parametrize("whose", REFUSED)
def test_a_refused_allocation_is_one_whoever_refuses_it(whose):
    assert is_out_of_memory(REFUSED[whose])


@pytest.mark.parametrize("whose", OTHERS)
def test_what_only_sounds_like_it_is_not(whose):
    assert not is_out_of_memory(OTHERS[whose])


CUDA = """CUDA error: an illegal memory access was encountered
Search for `cudaErrorIllegalAddress' in CUDA's documentation for more information.
CUDA kernel errors might be asynchronously reported at some other API call.
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
REPLICA = """Caught RuntimeError in replica 1 on device 1.
Original Traceback (most recent call last):
  File "parallel_apply.py", line 97, in _worker
    output = module(*input, **kwargs)
RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 9x9)
and more of it
"""
COMPILER = """C++ compile error

Command:
g++ main.cpp -shared

Output:
main.cpp:1:10: fatal error: Python.h: No such file or directory
compilation terminated."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(CUDA), "CUDA error: an illegal memory access was encountered"),
        (RuntimeError(REPLICA), "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 9x9)"),
        (RuntimeError(COMPILER), "main.cpp:1:10: fatal error: Python.h: No such file or directory"),
        (
            subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c", "-O3"]),
            "gcc ended with code 1",
        ),
        (KeyError(), "KeyError"),
        (RuntimeError("\n\n"), "RuntimeError"),
        (REFUSED["NCCL"], None),
    ],
)
def test_of_many_lines_the_one_that_tells_is_quoted(error, said):
    if said is None:
        assert cause(error).endswith("NCCL version 2.29.7: Cuda failure 2 'out of memory'")
    else:
        assert cause(error) == said


def test_the_kind_is_said_once():
    assert told(ValueError("bad width\nand why")) == "ValueError: bad width"
    assert told(RuntimeError(REPLICA)).count("RuntimeError") == 1
    assert told(KeyError()) == "KeyError"
