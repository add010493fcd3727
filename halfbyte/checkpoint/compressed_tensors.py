"""The `pack-quantized` container of compressed-tensors, which llm-compressor writes and vLLM reads.

For an [N, K] linear of b bits in groups of G inputs:

    weight_packed      int32 [N, ceil(K * b / 32)]   q of w = (q - z) * s, along K as one stream of bits
    weight_scale       float [N, K / G]              s
    weight_zero_point  int32 [ceil(N * b / 32), K/G] z, along N as one stream; absent where symmetric: z = 2^(b-1)
    weight_shape       int64 [2]                     N, K
    weight_g_idx       int32 [K]                     the group of each input, where an activation order moved them

Its own documents speak of signed values and add 2^(b-1) to store them, to q and z alike; that cancels here.
config.json says in `quantization_config.config_groups` which linears are stored how; `ignore` names those that are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.bits import pack_bits, unpack_bits, words_for
from halfbyte.checkpoint.container import PER_CHANNEL, Shape, check_groups, checked_group_index, groups_text, resolve
from halfbyte.checkpoint.int4 import IntWeight, narrow_scales
from halfbyte.errors import CheckpointError, ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.checkpoint.fields import Fields

NAME = "compressed-tensors"
FORMAT = "pack-quantized"
LINEAR = "Linear"  # the target that means every linear
_INTEGERS = MappingProxyType({
    "weight_packed": (torch.int32,),
    "weight_zero_point": (torch.int32,),
    "weight_shape": (torch.int64, torch.int32),
    "weight_g_idx": (torch.int32, torch.int64),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the linears that `targets` match are stored: names, "re:" with a regular expression, or "Linear"."""

    bits: int = 4
    group_size: int = 128
    symmetric: bool = False
    ordered: bool = False  # groups follow an activation order, and weight_g_idx says which
    targets: tuple[str, ...] = (LINEAR,)


@dataclass(frozen=True, slots=True)
class CompressedTensorsConfig:
    """compressed-tensors as a `Container`. The first scheme is what is written."""

    schemes: tuple[Scheme, ...] = (Scheme(),)
    ignore: tuple[str, ...] = ("lm_head",)

    @property
    def name(self) -> str:
        """See `Container`."""
        return NAME

    @property
    def bits(self) -> int:
        """See `Container`."""
        return max(scheme.bits for scheme in self.schemes)

    @property
    def group_size(self) -> int:
        """See `Container`."""
        return self.schemes[0].group_size

    @property
    def integers(self) -> Mapping[str, tuple[torch.dtype, ...]]:
        """See `Container`."""
        return _INTEGERS

    @property
    def optional(self) -> frozenset[str]:
        """See `Container`."""
        return frozenset({"weight_g_idx"})

    def describe(self) -> str:
        """See `Container`."""
        each = [
            f"{s.bits} bits, {groups_text(s.group_size)}, {'symmetric' if s.symmetric else 'asymmetric'}"
            for s in self.schemes
        ]
        return f"{NAME} {FORMAT}, {' and '.join(each)}"

    def converts(self, prefix: str) -> bool:
        """See `Container`."""
        return self.scheme_of(prefix) is not None

    def scheme_of(self, prefix: str) -> Scheme | None:
        """How a linear is stored; None: not quantized. A scheme that names it goes before one for all linears."""
        if any(matches(prefix, target) for target in self.ignore):
            return None
        by_name = (s for s in self.schemes if any(t != LINEAR and matches(prefix, t) for t in s.targets))
        by_kind = (s for s in self.schemes if LINEAR in s.targets)
        return next(by_name, None) or next(by_kind, None)

    def shapes(self, prefix: str, n: int, k: int) -> dict[str, Shape]:
        """See `Container`."""
        scheme = self._scheme(prefix)
        group_size = resolve(scheme.group_size, k)
        if k % group_size:
            raise ConfigError(f"{prefix} has {k} inputs, which groups of {group_size} do not divide")
        groups = k // group_size
        shapes: dict[str, Shape] = {
            "weight_packed": (n, words_for(k, scheme.bits)),
            "weight_scale": (n, groups),
            "weight_shape": (2,),
            "weight_g_idx": (k,),
        }
        return shapes if scheme.symmetric else shapes | {"weight_zero_point": (words_for(n, scheme.bits), groups)}

    def pack(self, weight: IntWeight) -> dict[str, torch.Tensor]:
        """See `Container`."""
        scheme = self.schemes[0]
        if weight.bits > scheme.bits:
            raise OutputError(f"a weight of {weight.bits} bits does not fit the {scheme.bits} that the config says")
        check_groups(weight, scheme.group_size)
        packed = {
            "weight_packed": pack_bits(weight.q, scheme.bits),
            "weight_scale": weight.s.contiguous(),
            "weight_shape": torch.tensor(weight.q.shape, dtype=torch.int64),
        }
        if weight.g_idx is not None and not scheme.ordered:
            raise OutputError("its inputs are in an activation order, which the config says with actorder")
        if weight.g_idx is not None:
            packed["weight_g_idx"] = weight.g_idx.to(torch.int32)
        if not scheme.symmetric:
            packed["weight_zero_point"] = pack_bits(weight.z.T, scheme.bits).T.contiguous()
        elif (weight.z != 1 << (scheme.bits - 1)).any():
            raise OutputError("its zero points are not all in the middle, as the symmetric form has them")
        return packed

    def unpack(self, prefix: str, tensors: Mapping[str, torch.Tensor], n: int, k: int) -> IntWeight:
        """See `Container`."""
        scheme = self._scheme(prefix)
        if tensors["weight_shape"].tolist() != [n, k]:
            raise CheckpointError(
                f"{prefix}.weight_shape says {tensors['weight_shape'].tolist()}, but the network has [{n}, {k}]"
            )
        s = narrow_scales(tensors["weight_scale"])
        if scheme.symmetric:
            z = torch.full(s.shape, 1 << (scheme.bits - 1), dtype=torch.uint8)
        else:
            z = unpack_bits(tensors["weight_zero_point"].T, scheme.bits, n).T.contiguous()
        g_idx = _group_index(prefix, tensors.get("weight_g_idx"), s.shape[1])
        return IntWeight(unpack_bits(tensors["weight_packed"], scheme.bits, k), s, z, scheme.bits, g_idx)

    def config_block(self) -> dict[str, Any]:
        """See `Container`."""
        return {
            "quant_method": NAME,
            "format": FORMAT,
            "quantization_status": "compressed",
            "config_groups": {f"group_{i}": _block_of(scheme) for i, scheme in enumerate(self.schemes)},
            "ignore": list(self.ignore),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def json_files(self) -> dict[str, dict[str, Any]]:
        """See `Container`: everything is in config.json."""
        return {}

    def _scheme(self, prefix: str) -> Scheme:
        scheme = self.scheme_of(prefix)
        assert scheme is not None, prefix
        return scheme


def read_compressed_tensors(block: Fields) -> CompressedTensorsConfig:
    """Read config.json's quantization_config. Raises ConfigError for what is not pack-quantized weights alone."""
    if block.has("kv_cache_scheme"):
        raise block.fail("kv_cache_scheme", "quantizes the key-value cache, which is not supported")
    groups = block.object("config_groups")
    if groups is None or not groups.values:
        raise block.fail("config_groups", "is missing or empty, so nothing says how the weights are stored")
    schemes = [_read_scheme(groups, name, block) for name in groups.values]
    ignore = block.strings("ignore") or []
    _check_patterns(block, "ignore", ignore)
    return CompressedTensorsConfig(tuple(schemes), tuple(ignore))


def matches(prefix: str, target: str) -> bool:
    """Whether a linear of this name is meant: by its name, by a regular expression from its start, or as a linear."""
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), prefix) is not None
    return target in (prefix, LINEAR)


def _read_scheme(groups: Fields, name: str, block: Fields) -> Scheme:
    group = groups.object(name)
    if group is None:
        raise groups.fail(name, "is null; it must be an object")
    place = group if group.has("format") else block
    if place.string("format") != FORMAT:
        raise place.fail("format", f"is {place.string('format')!r}, which cannot be read; only {FORMAT} can")
    for other in ("input_activations", "output_activations"):
        if group.has(other):
            raise group.fail(other, "quantizes activations, which is not supported; only weights may be")
    weights = group.object("weights")
    if weights is None:
        raise group.fail("weights", "is missing, so nothing says how the weights are stored")
    if weights.string("type", "int") != "int":
        raise weights.fail("type", f"is {weights.string('type')!r}, which cannot be read; only 'int' can")
    strategy = weights.string("strategy", "group" if weights.has("group_size") else "channel")
    if strategy not in ("group", "channel"):
        raise weights.fail("strategy", f"is {strategy!r}, which cannot be read; group and channel can")
    targets = group.strings("targets") or []
    _check_patterns(group, "targets", targets)
    return Scheme(
        bits=weights.integer("num_bits", 8, least=2, most=8),
        group_size=PER_CHANNEL if strategy == "channel" else weights.integer("group_size"),
        symmetric=weights.boolean("symmetric", True),
        ordered=weights.values.get("actorder") in ("group", "dynamic"),
        targets=tuple(targets),
    )


def _check_patterns(fields: Fields, name: str, patterns: list[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
        except re.error as error:
            raise fields.fail(name, f"has {pattern!r}, which is not a regular expression: {error}") from None


def _block_of(scheme: Scheme) -> dict[str, Any]:
    per_channel = scheme.group_size == PER_CHANNEL
    return {
        "targets": list(scheme.targets),
        "input_activations": None,
        "output_activations": None,
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "strategy": "channel" if per_channel else "group",
            "group_size": None if per_channel else scheme.group_size,
            "dynamic": False,
            "actorder": "group" if scheme.ordered else None,
        },
    }


def _group_index(prefix: str, g_idx: torch.Tensor | None, groups: int) -> torch.Tensor | None:
    """The stored group of each input; None where it says no more than that groups follow one another."""
    if g_idx is None or (g_idx == -1).all():  # -1: made, but never filled
        return None
    return checked_group_index(f"{prefix}.weight_g_idx", g_idx, groups)
