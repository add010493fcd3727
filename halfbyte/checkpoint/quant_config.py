"""The AWQ containers, and how a checkpoint says that it uses one, in both spellings.

config.json's block, which transformers, vLLM and SGLang read:

    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true,
                            "version": "gemm", "modules_to_not_convert": null}

The older quant_config.json, which TGI accepts only with the version in upper case:

    {"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from halfbyte.checkpoint.awq import pack_gemm, unpack_gemm
from halfbyte.checkpoint.awq_gemv import padded_groups, unpack_gemv, unpack_gemv_fast
from halfbyte.checkpoint.container import PER_CHANNEL, Shape, check_groups, groups_text, resolve
from halfbyte.checkpoint.expected import layer_of
from halfbyte.checkpoint.fields import Fields, parse_json_object
from halfbyte.errors import CheckpointError, ConfigError, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from halfbyte.checkpoint.int4 import IntWeight
    from halfbyte.checkpoint.source import Source

READABLE = "AWQ with 4 bits (gemm, gemv, gemv_fast), GPTQ, compressed-tensors pack-quantized, GGUF, unquantized weights"
VERSIONS = ("gemm", "gemv", "gemv_fast")
GEMV_GROUPS = "gemv pads its groups for sizes of 32, 64, 128 and multiples of 128 only"


@dataclass(frozen=True, slots=True)
class AwqConfig:
    """AWQ's settings, and AWQ as a `Container`; gemm is written, the other versions are only read.

    `modules_to_not_convert` holds parts of names; a linear whose name contains one stays float.
    """

    bits: int = 4
    group_size: int = 128  # PER_CHANNEL: as many as the linear has inputs
    zero_point: bool = True
    version: str = "gemm"
    modules_to_not_convert: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See `Container`."""
        return "awq"

    @property
    def integers(self) -> Mapping[str, tuple[torch.dtype, ...]]:
        """See `Container`."""
        if self.version == "gemv_fast":
            return MappingProxyType({"qweight": (torch.int16,)})
        return MappingProxyType({"qweight": (torch.int32,), "qzeros": (torch.int32,)})

    @property
    def optional(self) -> frozenset[str]:
        """See `Container`."""
        return frozenset()

    def describe(self) -> str:
        """See `Container`."""
        return f"AWQ {self.version}, {self.bits} bits, {groups_text(self.group_size)}"

    def converts(self, prefix: str) -> bool:
        """Whether a linear of this name is stored in 4 bits."""
        return not any(part in prefix for part in self.modules_to_not_convert)

    def shapes(self, prefix: str, n: int, k: int) -> dict[str, Shape]:
        """See `Container`."""
        group_size = resolve(self.group_size, k)
        if k % group_size or n % 8:
            raise ConfigError(
                f"{prefix} has {k} inputs and {n} outputs, which AWQ cannot hold with group size {group_size}: it "
                "needs a multiple of the group size and one of 8"
            )
        if self.version == "gemm":
            groups = k // group_size
            return {"qweight": (k, n // 8), "qzeros": (groups, n // 8), "scales": (groups, n)}
        if k % 64 or (group_size not in (32, 64) and group_size % 128):
            raise ConfigError(f"{prefix} has {k} inputs and group size {group_size}; {GEMV_GROUPS}, and inputs in 64s")
        padded = padded_groups(k, group_size)
        if self.version == "gemv":
            return {"qweight": (n, k // 8), "qzeros": (n, padded // 8), "scales": (n, padded)}
        return {"qweight": (n // 4, k), "qzeros": (padded, n), "scales": (padded, n)}

    def pack(self, weight: IntWeight) -> dict[str, torch.Tensor]:
        """See `Container`."""
        if self.version != "gemm":
            raise OutputError(f"AWQ's {self.version} layout is not written; gemm is, and every loader reads it")
        check_groups(weight, self.group_size)
        if weight.bits > 4 or weight.g_idx is not None:
            raise OutputError(
                "AWQ's gemm layout holds 4 bits a weight and groups of consecutive inputs, without an activation order"
                "; gptq and compressed-tensors hold more"
            )
        if (weight.q.shape[0] % 8) or not torch.equal(weight.s.to(torch.float16).float(), weight.s.float()):
            raise OutputError("AWQ's gemm layout needs a multiple of 8 outputs, and scales that fit float16")
        return pack_gemm(weight)

    def unpack(self, prefix: str, tensors: Mapping[str, torch.Tensor], n: int, k: int) -> IntWeight:
        """See `Container`."""
        qweight, qzeros = tensors["qweight"], tensors["qzeros"]
        scales = tensors["scales"].to(torch.float16)
        if beyond := int((~scales.isfinite()).sum()):
            raise CheckpointError(
                f"{prefix}.scales (layer {layer_of(prefix)}) has {beyond} values beyond float16, in which AWQ's are"
            )
        if self.version == "gemm":
            return unpack_gemm(qweight, qzeros, scales)
        if self.version == "gemv":
            return unpack_gemv(qweight, qzeros, scales, resolve(self.group_size, k))
        return unpack_gemv_fast(prefix, qweight, qzeros, scales, resolve(self.group_size, k))

    def config_block(self) -> dict[str, Any]:
        """See `Container`."""
        return config_json_block(self)

    def json_files(self) -> dict[str, dict[str, Any]]:
        """See `Container`."""
        return {"quant_config.json": legacy_json(self)}


def read_awq(source: Source) -> AwqConfig | None:
    """The AWQ settings of a source, or None if it is not quantized.

    Raises ConfigError for another method, version or width, or if the two files contradict each other.
    """
    where = f"config.json of {source.spec}"
    block = Fields(source.config, where).object("quantization_config")
    from_config = None if block is None else _parse(block)
    legacy = source.file("quant_config.json")
    if legacy is None:
        return from_config
    legacy_where = f"quant_config.json of {source.spec}"
    from_legacy = _parse(Fields(parse_json_object(legacy, legacy_where), legacy_where))
    if from_config is not None and _core(from_config) != _core(from_legacy):
        raise ConfigError(
            f"{legacy_where} and quantization_config in {where} contradict each other; correct one of them"
        )
    return from_config or from_legacy


def config_json_block(config: AwqConfig) -> dict[str, Any]:
    """The quantization_config block of config.json."""
    return {
        "quant_method": "awq",
        "bits": config.bits,
        "group_size": config.group_size,
        "zero_point": config.zero_point,
        "version": config.version.lower(),
        "modules_to_not_convert": list(config.modules_to_not_convert) or None,
    }


def legacy_json(config: AwqConfig) -> dict[str, Any]:
    """The contents of quant_config.json."""
    return {
        "zero_point": config.zero_point,
        "q_group_size": config.group_size,
        "w_bit": config.bits,
        "version": config.version.upper(),
    }


def _core(config: AwqConfig) -> tuple[int, int, bool, str]:
    return config.bits, config.group_size, config.zero_point, config.version


def _parse(fields: Fields) -> AwqConfig:
    method = fields.string("quant_method", "awq" if {"w_bit", "q_group_size"} & fields.values.keys() else "unnamed")
    if method != "awq":
        raise _unreadable(fields.where, method)
    version = _either(fields, "version", "format")
    version = "gemm" if version is None else version
    if not isinstance(version, str) or version.lower() not in VERSIONS:
        raise _unreadable(fields.where, f"awq in the {version} version")
    bits = fields.integer("w_bit" if fields.has("w_bit") else "bits", 4)
    if bits != 4:
        raise _unreadable(fields.where, f"awq with {bits} bits")
    group_size = fields.integer("q_group_size" if fields.has("q_group_size") else "group_size", 128, least=PER_CHANNEL)
    if group_size == 0:
        raise fields.fail("group_size", "must be positive, or -1 for one group per output channel; found 0")
    return AwqConfig(
        bits=bits,
        group_size=group_size,
        zero_point=fields.boolean("zero_point", True),
        version=version.lower(),
        modules_to_not_convert=tuple(fields.strings("modules_to_not_convert") or ()),
    )


def _either(fields: Fields, *names: str) -> Any:
    return next((fields.values[name] for name in names if fields.has(name)), None)


def _unreadable(where: str, what: str) -> ConfigError:
    return ConfigError(f"{where}: its weights are quantized ({what}), which cannot be read yet; what can: {READABLE}")
