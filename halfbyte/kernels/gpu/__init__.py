"""What a CUDA machine computes with: Triton kernels, and CUDA C++ where it is faster."""
