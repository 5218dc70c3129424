"""Tells what kind of failure an exception is, and what it says, in one line."""

from __future__ import annotations

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
