"""Kernels in CUDA C++, compiled at run time: where measurement showed that Triton falls short of the machine."""
