"""GPTQ's container, as AutoGPTQ began it and GPTQModel goes on with it.

For a linear with K inputs, N outputs, b bits and groups of G inputs:

    qweight  int32   [K * b / 32, N]  q of w = (q - z) * s, along K as one stream of bits
    qzeros   int32   [K / G, N * b / 32]  z along N as one stream; version 1 (`gptq`) stores z - 1, `gptq_v2` z itself
    scales   float16 [K / G, N]
    g_idx    int32   [K]              the group of each input; with desc_act groups are of inputs of like activity

Version 1 has no way to say z = 0 that all programs read alike: z - 1 wraps round. AutoGPTQ's kernels and vLLM add 1 to
each value; GPTQModel lowers and raises whole words, so that a wrapped value borrows from its neighbour. What says that
GPTQModel wrote it is read its way, all else value by value (15 + 1 is 0). We write no z = 0 in version 1: a group that
leaves its highest level free is moved up by one, which is exact, and any other is refused; `gptq_v2` holds them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.bits import pack_bits, unpack_bits, words_for
from halfbyte.checkpoint.container import Shape, check_groups, checked_group_index, groups_text, resolve
from halfbyte.checkpoint.int4 import IntWeight, group_index, narrow_scales
from halfbyte.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "gptq"
V1, V2 = "gptq", "gptq_v2"  # checkpoint_format
BITS = (2, 3, 4, 8)
_INTEGERS = MappingProxyType({
    "qweight": (torch.int32,),
    "qzeros": (torch.int32,),
    "g_idx": (torch.int32, torch.int64),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class GptqConfig:
    """GPTQ's settings, and GPTQ as a `Container`."""

    bits: int = 4
    group_size: int = 128
    desc_act: bool = False
    sym: bool = False
    checkpoint_format: str = V1
    damp_percent: float | None = None  # how it was rounded: told, not used
    true_sequential: bool = True
    float_modules: frozenset[str] = frozenset()  # linears that are stored as they were
    borrowed: bool = False  # version 1's zero points were lowered as whole words

    @property
    def name(self) -> str:
        """See `Container`."""
        return NAME

    @property
    def integers(self) -> Mapping[str, tuple[torch.dtype, ...]]:
        """See `Container`."""
        return _INTEGERS

    @property
    def optional(self) -> frozenset[str]:
        """See `Container`. AutoGPTQ of 2023 wrote a bias of zeros beside linears that have none."""
        return frozenset({"g_idx", "bias"})

    def describe(self) -> str:
        """See `Container`."""
        version = "GPTQ" if self.checkpoint_format == V1 else "GPTQ v2"
        zeros = "symmetric" if self.sym else "asymmetric"
        order = ", activation order" if self.desc_act else ""
        return f"{version}, {self.bits} bits, {groups_text(self.group_size)}, {zeros}{order}"

    def converts(self, prefix: str) -> bool:
        """See `Container`."""
        return prefix not in self.float_modules

    def shapes(self, prefix: str, n: int, k: int) -> dict[str, Shape]:
        """See `Container`. K need not be a multiple of the group size: the last group is then smaller."""
        groups = -(-k // resolve(self.group_size, k))
        return {
            "qweight": (words_for(k, self.bits), n),
            "qzeros": (groups, words_for(n, self.bits)),
            "scales": (groups, n),
            "g_idx": (k,),
            "bias": (n,),
        }

    def pack(self, weight: IntWeight) -> dict[str, torch.Tensor]:
        """See `Container`."""
        self._check(weight)
        q, z = (weight.q, weight.z) if self.checkpoint_format == V2 else self._without_zero(weight)
        stored = z if self.checkpoint_format == V2 else z - 1
        return {
            "qweight": pack_bits(q, self.bits).T.contiguous(),
            "qzeros": pack_bits(stored.T, self.bits),
            "scales": weight.s.T.to(torch.float16).contiguous(),
            "g_idx": group_index(weight).to(torch.int32),
        }

    def unpack(self, prefix: str, tensors: Mapping[str, torch.Tensor], n: int, k: int) -> IntWeight:
        """See `Container`."""
        words = tensors["qzeros"]
        if self.checkpoint_format == V1 and self.borrowed:
            words = _raised(words, self.bits)
        z = unpack_bits(words, self.bits, n)
        if self.checkpoint_format == V1 and not self.borrowed:
            z = (z + 1) & (2**self.bits - 1)
        q = unpack_bits(tensors["qweight"].T, self.bits, k)
        s = narrow_scales(tensors["scales"]).T.contiguous()
        return IntWeight(q, s, z.T.contiguous(), self.bits, self._group_index(prefix, tensors.get("g_idx"), k))

    def config_block(self) -> dict[str, Any]:
        """See `Container`."""
        return {"quant_method": NAME, **self._settings(), "meta": {"quantizer": ["halfbyte"]}}

    def json_files(self) -> dict[str, dict[str, Any]]:
        """See `Container`: the file that GPTQ's own programs read."""
        names = {"model_name_or_path": None, "model_file_base_name": "model"}
        return {"quantize_config.json": {**self._settings(), **names}}

    def _settings(self) -> dict[str, Any]:
        told = {} if self.damp_percent is None else {"damp_percent": self.damp_percent}  # null is an error to GPTQModel
        return {
            "bits": self.bits,
            "group_size": self.group_size,
            "desc_act": self.desc_act,
            "static_groups": False,
            "sym": self.sym,
            "lm_head": False,
            "true_sequential": self.true_sequential,
            "checkpoint_format": self.checkpoint_format,
            **told,
        }

    def _check(self, weight: IntWeight) -> None:
        if weight.bits > self.bits:
            raise OutputError(f"a weight of {weight.bits} bits does not fit GPTQ with {self.bits}")
        check_groups(weight, self.group_size)
        if weight.g_idx is not None and not self.desc_act and weight.q.shape[1] % weight.s.shape[1] == 0:
            raise OutputError("its inputs are in an activation order, which GPTQ says with desc_act")
        if self.sym and (weight.z != 1 << (self.bits - 1)).any():
            raise OutputError("its zero points are not all in the middle, as sym says; write it with sym off")
        if narrow_scales(weight.s).dtype != torch.float16:
            raise OutputError("its scales do not fit float16, in which GPTQ's are")

    def _without_zero(self, weight: IntWeight) -> tuple[torch.Tensor, torch.Tensor]:
        """The same weight with no zero point of 0, for version 1."""
        at_zero = weight.z == 0
        if not at_zero.any():
            return weight.q, weight.z
        moved = at_zero[:, group_index(weight)]
        if full := int((moved & (weight.q == 2**self.bits - 1)).sum()):
            raise OutputError(
                f"{full} of its weights are at the highest level of a group with zero point 0, which {V1} cannot store "
                f"so that all programs read it alike; {V2} can (-v2 at the end of --format)"
            )
        return weight.q + moved.to(torch.uint8), weight.z + at_zero.to(torch.uint8)

    def _group_index(self, prefix: str, g_idx: torch.Tensor | None, k: int) -> torch.Tensor | None:
        """The group of each input; None where groups of equal size follow one another."""
        group_size = resolve(self.group_size, k)
        if g_idx is None or not g_idx.any():  # all zeros: made, but never filled
            return None if k % group_size == 0 else torch.arange(k) // group_size
        return checked_group_index(f"{prefix}.g_idx", g_idx, -(-k // group_size))


def _raised(words: torch.Tensor, bits: int) -> torch.Tensor:
    """1 added to each value of a word, carried from one into the next."""
    ones = sum(1 << i for i in range(0, 32, bits))
    total = (words.long() + ones) & 0xFFFFFFFF
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)
