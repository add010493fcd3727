"""How a checkpoint says that its weights are AWQ, in both spellings.

config.json's block, which transformers, vLLM and SGLang read:

    "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true,
                            "version": "gemm", "modules_to_not_convert": null}

The older quant_config.json, which TGI accepts only with the version in upper case:

    {"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halfbyte.checkpoint.fields import Fields, parse_json_object
from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from halfbyte.checkpoint.source import Source

READABLE = "AWQ with 4 bits in the gemm version, GGUF, and unquantized weights"
PER_CHANNEL = -1  # the group size that means one group for all inputs


@dataclass(frozen=True, slots=True)
class AwqConfig:
    """AWQ's settings. `modules_to_not_convert` holds parts of names; a linear whose name contains one stays float."""

    bits: int = 4
    group_size: int = 128  # PER_CHANNEL: as many as the linear has inputs
    zero_point: bool = True
    version: str = "gemm"
    modules_to_not_convert: tuple[str, ...] = ()

    def converts(self, prefix: str) -> bool:
        """Whether a linear of this name is stored in 4 bits."""
        return not any(part in prefix for part in self.modules_to_not_convert)


def read_quant_config(source: Source) -> AwqConfig | None:
    """The AWQ settings of a source, or None if it is not quantized.

    Raises ConfigError for another method, version or width, or if the two files contradict each other.
    """
    where = f"config.json of {source.spec}"
    block = Fields(source.config, where).object("quantization_config")
    from_config = None if block is None else _parse(block)
    if from_config is None and source.file("quantize_config.json") is not None:
        raise _unreadable(f"quantize_config.json of {source.spec}", "gptq")
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
    if not isinstance(version, str) or version.lower() != "gemm":
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
        modules_to_not_convert=tuple(fields.strings("modules_to_not_convert") or ()),
    )


def _either(fields: Fields, *names: str) -> Any:
    return next((fields.values[name] for name in names if fields.has(name)), None)


def _unreadable(where: str, what: str) -> ConfigError:
    return ConfigError(f"{where}: its weights are quantized ({what}), which cannot be read yet; what can: {READABLE}")
