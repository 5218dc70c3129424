"""Is a refused allocation told from every other failure, whoever refused it?"""

import pytest
import torch

from rigbench.work.failures import is_out_of_memory

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
