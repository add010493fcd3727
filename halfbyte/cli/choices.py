"""Words that options take."""

from __future__ import annotations

from enum import StrEnum


class Compute(StrEnum):
    """How products of 4-bit layers are computed."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class GroupSize(StrEnum):
    """How many weights share a scale."""

    AUTO = "auto"
    G128 = "128"
    G64 = "64"
    G32 = "32"


class Container(StrEnum):
    """How quantized weights are stored."""

    AWQ = "awq"
    COMPRESSED_TENSORS = "compressed-tensors"


class Effort(StrEnum):
    """How much is done for the quality of quantized weights."""

    RTN = "rtn"
    AWQ = "awq"
    GPTQ = "gptq"
    FAST = "fast"
    DEFAULT = "default"
    BEST = "best"


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Indivisible(StrEnum):
    """What to do with layers that no whole groups fit."""

    ERROR = "error"
    SKIP = "skip"
    PAD = "pad"


class Failure(StrEnum):
    """What a plan's run does when a step has failed."""

    STOP = "stop"
    SKIP = "skip"
    REPLAN = "replan"
