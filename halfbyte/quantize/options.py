"""What a user chooses when quantizing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halfbyte.errors import QuantizeError

AUTO_GROUP_SIZES = (128, 64, 32)


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """Options of `quantize`, checked when they are made. Raises QuantizeError naming the option."""

    bits: int = 4
    group_size: int | Literal["auto"] = "auto"
    calib: str = "builtin"  # "builtin", "wikitext" (from the Hub) or the path of a UTF-8 text
    samples: int = 64
    seq_len: int = 512  # tokens a sample
    max_shard_size: int = 5_000_000_000  # bytes
    seed: int = 0
    overwrite: bool = False
    chat_template: str | None = None  # Jinja, or a name in halfbyte.prompts.templates; None keeps the source's own

    def __post_init__(self) -> None:
        if self.bits != 4:
            raise QuantizeError(f"--bits {self.bits}: the AWQ gemm container holds 4-bit weights only")
        for name in ("samples", "seq_len", "max_shard_size"):
            if getattr(self, name) < 1:
                raise QuantizeError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.group_size != "auto" and (self.group_size < 1 and self.group_size != -1):
            raise QuantizeError(f"--group-size must be auto, -1 (one group a row) or positive, not {self.group_size}")
