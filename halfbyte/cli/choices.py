"""Words that options take."""

from __future__ import annotations

from enum import StrEnum


class Compute(StrEnum):
    """How products of 4-bit layers are computed."""

    AUTO = "auto"
    FLOAT32 = "float32"


class GroupSize(StrEnum):
    """How many weights share a scale."""

    AUTO = "auto"
    G128 = "128"
    G64 = "64"
    G32 = "32"


class Failure(StrEnum):
    """What a plan's run does when a step has failed."""

    STOP = "stop"
    SKIP = "skip"
    REPLAN = "replan"
