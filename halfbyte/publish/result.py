"""What is known of one member once it is made; the card's table is made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from halfbyte.publish.recipe import Member


@dataclass(slots=True)
class Tried:
    """A program that was run on the files: what it did, or how it failed."""

    program: str
    version: str
    works: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """The most that a process of a program held while it loaded the files on a CPU and answered once, in bytes."""

    program: str
    bytes: int


@dataclass(slots=True)
class MemberResult:
    """Sizes in bytes. What was not measured is None, and is left out of the card."""

    member: Member
    file: str | None  # the name of a GGUF file; None for a folder of safetensors
    size: int
    bits: float  # per weight
    group_size: int | None = None
    perplexity: float | None = None
    reference_perplexity: float | None = None
    kl_divergence: float | None = None
    memory: Memory | None = None
    tried: list[Tried] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
