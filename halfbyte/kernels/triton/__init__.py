"""Triton kernels. Import only where triton is there: with CUDA, or on a CPU under TRITON_INTERPRET=1."""
