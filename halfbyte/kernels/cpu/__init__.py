"""Kernels for a CPU: onnxruntime for 4-bit products, torch for the rest."""
