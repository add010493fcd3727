"""What a user chooses when quantizing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halfbyte.errors import QuantizeError
from halfbyte.quantize.effort import RECIPES
from halfbyte.quantize.rounding import Levels

FORMATS = ("awq", "compressed-tensors", "gptq", "gptq_v2")
GPTQ_BITS = (2, 3, 4, 8)
AUTO_GROUP_SIZES = (128, 64, 32)
INDIVISIBLE = ("error", "skip", "pad")
DEVICES = ("auto", "cpu", "cuda")
Effort = Literal["rtn", "awq", "gptq", "fast", "default", "best"]


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """Options of `quantize`, checked when they are made. Raises QuantizeError naming the option."""

    bits: int = 4
    group_size: int | Literal["auto"] = "auto"
    format: Literal["awq", "compressed-tensors", "gptq", "gptq_v2"] = "awq"  # the container that is written
    sym: bool = False  # zero in the middle of the levels; GPTQ only
    act_order: bool = False  # groups of inputs of like activity instead of neighbours; GPTQ only
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
        self._check_gptq()
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

    @property
    def levels(self) -> Levels:
        """What weights are rounded to. GPTQ's first version has no way to say a zero point of 0."""
        return Levels(self.bits, self.sym, least_zero=1 if self.format == "gptq" else 0)

    def _check_gptq(self) -> None:
        if self.format not in ("gptq", "gptq_v2"):
            if self.bits != 4:
                raise QuantizeError(f"{self.bits} bits: {self.format} is written with 4; gptq holds 2, 3, 4 or 8")
            if self.sym or self.act_order:
                raise QuantizeError(f"{self.format} is written asymmetric and without activation order; gptq can")
        elif self.bits not in GPTQ_BITS:
            raise QuantizeError(f"--bits {self.bits}: GPTQ holds {', '.join(map(str, GPTQ_BITS))}")
        elif self.effort == "best" and (self.bits != 4 or self.act_order):
            raise QuantizeError("--effort best tunes 4-bit weights without activation order; use default for others")
