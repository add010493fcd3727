"""The networks, built from spans that the kernels compute and attention that the caller provides."""
