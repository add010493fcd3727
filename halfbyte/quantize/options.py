"""What a user chooses when quantizing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halfbyte.errors import QuantizeError
from halfbyte.quantize.effort import RECIPES

FORMATS = ("awq", "compressed-tensors")
AUTO_GROUP_SIZES = (128, 64, 32)
INDIVISIBLE = ("error", "skip", "pad")
DEVICES = ("auto", "cpu", "cuda")
Effort = Literal["rtn", "awq", "gptq", "fast", "default", "best"]


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """Options of `quantize`, checked when they are made. Raises QuantizeError naming the option."""

    bits: int = 4
    group_size: int | Literal["auto"] = "auto"
    format: Literal["awq", "compressed-tensors"] = "awq"  # the container that 4-bit weights are written in
    effort: Effort = "default"  # see effort.RECIPES
    calib: str = "builtin"  # "builtin", "wikitext" (from the Hub) or the path of a UTF-8 text or of a .jsonl
    samples: int = 64
    seq_len: int = 512  # tokens a sample
    max_shard_size: int = 5_000_000_000  # bytes
    seed: int = 0
    overwrite: bool = False
    chat_template: str | None = None  # Jinja, or a name in halfbyte.prompts.templates; None keeps the source's own
    device: Literal["auto", "cpu", "cuda"] = "auto"
    memory: int | None = None  # bytes to stay within; None: three quarters of what is free
    skip: tuple[str, ...] = ()  # patterns (fnmatch) of linears that stay in 16 bits
    indivisible: Literal["error", "skip", "pad"] = "error"  # what to do with layers that no whole groups fit
    gate: float | None = None  # most that perplexity on held-out text may rise, 0.05 is 5 %

    def __post_init__(self) -> None:
        if self.bits != 4:
            raise QuantizeError(f"--bits {self.bits}: the AWQ gemm container holds 4-bit weights only")
        for name in ("samples", "seq_len", "max_shard_size"):
            if getattr(self, name) < 1:
                raise QuantizeError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.group_size != "auto" and (self.group_size < 1 and self.group_size != -1):
            raise QuantizeError(f"--group-size must be auto, -1 (one group a row) or positive, not {self.group_size}")
        for name, allowed in (
            ("format", FORMATS),
            ("effort", RECIPES),
            ("indivisible", INDIVISIBLE),
            ("device", DEVICES),
        ):
            if getattr(self, name) not in allowed:
                raise QuantizeError(f"--{name} {getattr(self, name)}: choose one of {', '.join(allowed)}")
        if self.memory is not None and self.memory < 1:
            raise QuantizeError(f"--memory must be a positive number of bytes, not {self.memory}")
        if self.gate is not None and not 0 <= self.gate < float("inf"):
            raise QuantizeError(f"--gate must be a share such as 5%, not {self.gate}")
