"""Weights into ggml's block formats: float rows in, the bytes of a GGUF tensor out."""

from halfbyte.checkpoint.ggml.encode import TYPES, BlockFormat, encode, row_bytes

__all__ = ["TYPES", "BlockFormat", "encode", "row_bytes"]
